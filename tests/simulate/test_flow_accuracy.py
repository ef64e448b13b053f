"""Gradient flow against SciPy's DOP853, against closed forms, and its order.

The integrator promises weights within 1e-8 of the exact flow, relative to the largest one, with its default tolerance.
DOP853 at a relative tolerance of 1e-12 is good to about 1e-11 on these runs, so it can tell.
"""

import numpy as np
import pytest
import scipy.linalg

import oracles
import rankfall as rf
from simulate.injected import problem_with_data

PROMISED = 1e-8


def distance(run, replicate, W1, W2):
    """Largest difference of a weight at every save point, relative to the largest weight there."""
    differences = [np.abs(run[name][replicate].values - weights) for name, weights in (("W1", W1), ("W2", W2))]
    largest = [np.abs(weights).max(axis=(1, 2)) for weights in (W1, W2)]
    return np.maximum(*(d.max(axis=(1, 2)) for d in differences)) / np.maximum(*largest)


def flow(problem, network, duration, save_points=6, replicates=2, method=None, **options):
    return rf.simulate(
        problem,
        network,
        method or rf.GradientFlow(),
        duration=duration,
        replicates=replicates,
        seed=3,
        save_points=save_points,
        weights=True,
        threads=1,
        **options,
    )


def reference(problem, network, times, replicate=0, replicates=2):
    W1, W2 = network.draw(replicates, seed=3)
    return oracles.gradient_flow(problem, W1[replicate], W2[replicate], times)


@pytest.mark.parametrize(
    ("p", "k", "width", "scale", "duration", "dependent"),
    [
        (1, 1, 1, 1.0, 5.0, 0),
        (3, 2, 8, 0.5, 30.0, 0),
        (3, 2, 5, 2.0, 0.01, 0),
        (3, 2, 2, 1e-3, 40.0, 0),  # from next to the saddle at 0, through its plateaus, to the minimum
        (2, 3, 6, 2.0, 20.0, 0),
        (3, 2, 8, 0.5, 30.0, 1),
        (5, 2, 10, 1.0, 100.0, 0),
        (6, 4, 12, 1e-2, 10.0, 0),
        (6, 4, 3, 1.0, 10.0, 0),
        (12, 3, 4, 0.5, 5.0, 3),
    ],
)
def test_weights_are_those_of_dop853(p, k, width, scale, duration, dependent):
    problem = problem_with_data(p, k, n=30, dependent=dependent)
    network = rf.LinearNetwork.gaussian(p, width, k, scale)
    run = flow(problem, network, duration)
    for replicate in range(2):
        exact = reference(problem, network, run.time.values, replicate)
        assert distance(run, replicate, *exact).max() < PROMISED
    # the problem is not one in which nothing happens
    assert (np.abs(run.loss[:, -1] / run.loss[:, 0] - 1) > 0.01).all()
    assert (run.steps_taken > 10).all() and (run.outcome == "completed").all()


def test_the_whole_trajectory_is_that_of_dop853():
    """At save points close together and far apart, that cut the steps short, the first of them after the start."""
    problem, network = problem_with_data(3, 2), rf.LinearNetwork.gaussian(3, 8, 2, 0.1)
    times = [1e-6, 1e-3, 0.5, 0.5001, 0.50011, 4.0, 5.0]
    run = flow(problem, network, None, save_points=times)
    exact = reference(problem, network, np.array(times))
    np.testing.assert_array_equal(run.time, times)
    assert distance(run, 0, *exact).max() < PROMISED


def test_the_error_follows_the_tolerance():
    """The local error allowed is what the error of the run follows: a thousandth of one, about a thousandth of it."""
    problem, network = problem_with_data(3, 2), rf.LinearNetwork.gaussian(3, 8, 2, 0.1)
    exact = reference(problem, network, [0.0, 2.0])
    found = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        run = flow(problem, network, 2.0, save_points=2, method=rf.GradientFlow(tolerance=tolerance))
        error = distance(run, 0, *exact)[1]
        # As many local errors as there are steps, here ten to a hundred, add up; Ĝ amplifies them until the minimum.
        assert error < 100 * tolerance
        found.append(error)
    assert found[0] > 30 * found[1] > 30 * 30 * found[2] > 0


def test_order_four_and_conservation_whatever_the_step():
    problem, network = problem_with_data(3, 2), rf.LinearNetwork.gaussian(3, 8, 2, 0.8)
    exact = reference(problem, network, [0.0, 0.5])
    steps = np.array([32, 64, 128, 256])
    found = []
    for count in steps:
        run = flow(problem, network, 0.5, save_points=2, dt=0.5 / count)
        assert (run.step_length, *run.steps_taken) == (0.5 / count, count, count)
        found.append(distance(run, 0, *exact)[1])
        # Six standard deviations of at most 512 exponentials that round in p + k + 2 = 7 places: 12 u √(7/3) √512 =
        # 5e-14, times κ < 12 for log det M and σ₁ ‖Z‖ < 20 for Q.
        assert np.abs(run.log_det - run.log_det[:, :1]).max() < 1e-12
        assert run.balance_drift.max() < 1e-12
    # The next order leaves a tenth of the error at the coarsest step, DOP853 a tenth at the finest: 0.2 in the slope.
    assert found[0] > 1e-6 and found[-1] > 1e-10
    slope = -np.polyfit(np.log(steps), np.log(found), 1)[0]
    assert abs(slope - 4) < 0.3, found
    assert abs(np.log2(found[-2] / found[-1]) - 4) < 0.2, found


def riccati(problem, W1, W2, times):
    """M = ZZᵀ of a balanced network on inputs of covariance s I, by Radon's lemma.

    With F = offdiag(C) the flow is dM = F M + M F − s M² (Q = 0 makes M J M vanish). If X' = F X, Y' = s X − F Y and
    X = M, Y = I at the start, then M = X Y⁻¹ throughout: one matrix exponential. It is taken over pieces so short that
    e^{‖F‖h} < 2 and nothing cancels.
    """
    F, s = oracles.symmetric(problem.cross_covariance), problem.covariance[0, 0]
    n, identity = len(F), np.eye(len(F))
    Z = oracles.stack(W1, W2)
    M, now, found = Z @ Z.T, 0.0, []
    for time in times:
        pieces = max(1, int(np.ceil((time - now) * np.linalg.norm(F, 2) / 0.6)))
        generator = np.block([[F, np.zeros((n, n))], [s * identity, -F]]) * (time - now) / pieces
        propagator = scipy.linalg.expm(generator)
        for _ in range(pieces):
            X, Y = np.split(propagator @ np.concatenate([M, identity]), 2)
            M = np.linalg.solve(Y.T, X.T).T
        now = time
        found.append(M)
    return np.array(found)


@pytest.mark.parametrize(
    ("p", "k", "width", "rank"), [(3, 2, 8, 2), (2, 3, 6, 1), (3, 3, 2, 3), (1, 1, 1, 1), (6, 4, 12, 2)]
)
@pytest.mark.parametrize("scale", [1e-3, 0.7])
def test_balanced_whitened_flow_is_the_closed_form(p, k, width, rank, scale):
    rng = np.random.default_rng([p, k, rank])
    target = rng.standard_normal((p, rank)) @ rng.standard_normal((rank, k))
    problem = rf.Problem.from_statistics(1.3 * np.eye(p), 1.3 * target / np.linalg.norm(target, 2))
    network = rf.LinearNetwork.balanced(p, width, k, scale)
    run = flow(problem, network, 12.0)
    for replicate in range(2):
        W1, W2 = (weights[replicate] for weights in network.draw(2, seed=3))
        M = riccati(problem, W1, W2, run.time.values)
        Z = oracles.stack(run.W1[replicate].values, run.W2[replicate].values)
        # M is quadratic in the weights: twice their relative error
        largest = np.abs(M).max(axis=(1, 2))
        assert (np.abs(Z @ np.swapaxes(Z, 1, 2) - M).max(axis=(1, 2)) < 2 * (p + k) * PROMISED * largest).all()
        # and the two closed forms in the library are this one, to the rounding of some hundred matrix products
        product = rf.laws.gradient_flow.balanced_product(problem, W1, W2, run.time.values)
        assert (np.abs(product - M[:, :p, p:]).max(axis=(1, 2)) < 1e-12 * largest).all()
    assert (run.singular_values_W1.values[:, -1, 0] > 0.9).all()  # the leading mode was learned


def test_aligned_modes_are_logistic():
    """Modes that start aligned with Σ = d I and C move on their own, ds/dt = 2 d s (s* − s): written out here."""
    variance, targets, starts = 0.7, np.array([2.0, 0.6]), np.array([1e-4, 0.3])
    left, right = (np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0] for seed, n in ((1, 3), (2, 2)))
    hidden = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 2)))[0]
    problem = rf.Problem.from_statistics(variance * np.eye(3), variance * (left[:, :2] * targets) @ right.T)
    network = rf.LinearNetwork.from_weights(
        (left[:, :2] * np.sqrt(starts)) @ hidden.T, hidden @ (right * np.sqrt(starts)).T
    )
    run = flow(problem, network, 8.0, save_points=9, replicates=1)
    modes = left[:, :2].T @ (run.W1[0].values @ run.W2[0].values) @ right
    grown = np.exp(2 * variance * np.multiply.outer(run.time.values, targets))
    logistic = targets * starts * grown / (targets + starts * (grown - 1))
    expected = np.zeros_like(modes)
    expected[:, [0, 1], [0, 1]] = logistic
    assert np.abs(modes - expected).max() < PROMISED * targets.max()
    assert (np.abs(logistic[-1] / targets - 1) < 1e-2).all()
