"""Gradient flow of deep networks against SciPy's solvers, and the stochastic flow against its determinant law."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

import deep_oracle
import rankfall as rf
from deep.networks import NETWORK, PROBLEM
from rankfall import _stability
from simulate.injected import problem_with_data

TIMES = np.array([0.0, 0.3, 2.0])


def weights_of(run, depth, index):
    return [[run[f"W{i}"].values[r, index] for i in range(1, depth + 1)] for r in range(run.sizes["replicate"])]


@pytest.mark.parametrize("size", [(3, [8, 5], 2), (2, [3, 9, 3, 4, 3], 2), (2, [4, 3], 4), (1, [1, 1, 1], 1)], ids=str)
def test_takes_the_path_of_scipy(size):
    p, hidden, k = size
    problem = problem_with_data(p, k)
    network = rf.LinearNetwork.gaussian(p, hidden, k, 1.0 / np.sqrt(max(hidden)))
    run = rf.simulate(problem, network, rf.GradientFlow(), save_points=TIMES, replicates=3, seed=2, weights=True)
    starts = network.draw(3, 2)
    for r in range(3):
        states = deep_oracle.flow(problem, [start[r] for start in starts], TIMES)
        for index, state in enumerate(states):
            # both at a relative tolerance of 1e-12 per step and a few hundred steps
            for i, layer in enumerate(state, start=1):
                np.testing.assert_allclose(run[f"W{i}"].values[r, index], layer, rtol=0, atol=1e-9)


def test_agrees_with_an_implicit_solver():
    layers = [start[0] for start in NETWORK.draw(1, 2)]
    run = rf.simulate(PROBLEM, NETWORK, rf.GradientFlow(), save_points=TIMES, seed=2, weights=True)
    state = deep_oracle.flow(PROBLEM, layers, TIMES, solver="Radau")[-1]
    for i, layer in enumerate(state, start=1):
        np.testing.assert_allclose(run[f"W{i}"].values[0, -1], layer, rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", ["logistic", "cross_entropy"])
def test_follows_other_losses(loss):
    rng = np.random.default_rng(1)
    inputs, chosen = rng.standard_normal((30, 3)), rng.integers(0, 2, 30)
    labels = np.eye(2)[chosen] if loss == "cross_entropy" else rng.integers(0, 2, (30, 2)).astype(float)
    problem = rf.Problem.from_data(inputs, labels, loss=loss)

    def field(layers):
        scores = inputs @ deep_oracle.chain(layers, 3)
        link = scipy.special.expit(scores) if loss == "logistic" else scipy.special.softmax(scores, axis=1)
        return inputs.T @ (labels - link) / 30

    run = rf.simulate(problem, NETWORK, rf.GradientFlow(), save_points=TIMES, seed=2, weights=True)
    state = deep_oracle.flow(problem, [start[0] for start in NETWORK.draw(1, 2)], TIMES, field=field)[-1]
    for i, layer in enumerate(state, start=1):
        np.testing.assert_allclose(run[f"W{i}"].values[0, -1], layer, rtol=0, atol=1e-9)
    assert all(verdict.passed for verdict in rf.laws.check(run))
    assert rf.rerun(run).identical(run)


def test_given_steps_have_order_8():
    """Errors of 16 steps of 1.6/sharpness and of 32 of half of it: a factor of 2^8 = 256 for small steps."""
    layers = [start[0] for start in NETWORK.draw(1, 5)]
    network = rf.LinearNetwork.from_weights(*layers)
    dt = 1.6 / _stability.sharpness(PROBLEM, *(layer[None] for layer in layers))
    end = 16 * dt
    exact = deep_oracle.flow(PROBLEM, layers, np.array([end]))[0]
    errors = []
    for steps in (16, 32):
        run = rf.simulate(
            PROBLEM, network, rf.GradientFlow(), duration=end, dt=end / steps, save_points=2, weights=True
        )
        assert run.steps_taken.values.tolist() == [steps]
        errors.append(max(np.abs(run[f"W{i}"].values[0, -1] - layer).max() for i, layer in enumerate(exact, start=1)))
    assert errors[1] > 1e-11  # above the oracle's own error
    assert errors[0] / errors[1] > 2**7.5, errors


def test_tolerance_bounds_the_local_errors():
    """The tolerance bounds every step's estimated error relative to all weights, so their sum over the steps too."""
    for tolerance in (1e-6, 1e-10):
        run = rf.simulate(PROBLEM, NETWORK, rf.GradientFlow(tolerance), duration=2.0, replicates=4, seed=1)
        assert "DOP853" in run.attrs["integrator"]
        norms = np.sqrt(sum((run[f"singular_values_W{i}"] ** 2).sum(f"mode_W{i}") for i in (1, 2, 3))).max("time")
        assert (run.integration_error[:, -1] <= tolerance * norms * run.steps_taken).all()
        assert (run.integration_error[:, 0] == 0).all() and (np.diff(run.integration_error, axis=1) >= 0).all()


def stochastic_change(dt, replicates=100):
    """Change of log det M_1 under Euler–Maruyama, and −2σ² Σ ‖LᵀA‖²‖B‖² dt along the same path."""
    method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.05)
    steps = round(0.4 / dt)
    run = rf.simulate(
        PROBLEM,
        NETWORK,
        method,
        duration=0.4,
        dt=dt,
        save_points=np.arange(steps + 1) * dt,
        replicates=replicates,
        seed=4,
        weights=True,
    )
    # pair 1: A_1 = I and B_2 = W3
    rates = np.trace(PROBLEM.covariance) * (run.W3.values**2).sum((-2, -1))
    predicted = -2 * method.intensity * rates[:, :-1].sum(-1) * dt
    return run.log_det.values[:, -1, 0] - run.log_det.values[:, 0, 0], predicted


def test_determinant_law_of_the_stochastic_flow():
    """d log det M_i = −2σ²‖LᵀA_i‖_F²‖B_{i+1}‖_F² dt along every path as dt → 0, with strong order 1/2."""
    spread = []
    for dt in (0.4 / 100, 0.4 / 400, 0.4 / 1600):
        change, predicted = stochastic_change(dt)
        spread.append(np.sqrt(np.mean((change - predicted) ** 2)))
    slopes = np.diff(np.log(spread)) / np.log(1 / 4)
    assert (np.abs(slopes - 0.5) < 0.15).all(), (spread, slopes)
    # The mean over 100 replicates: 4 standard errors (false alarm 6e-5 at this fixed seed) and the bias of order dt,
    # which is that of log(1 − σ²) ≈ −σ² and of the drift: below 1 % at this step.
    error, size = change - predicted, -predicted.mean()
    allowed = 4 * error.std() / np.sqrt(len(error)) + 0.01 * size
    assert abs(error.mean()) < allowed
    assert abs((change - 1.05 * predicted).mean()) > allowed and abs((change - 0.95 * predicted).mean()) > allowed
