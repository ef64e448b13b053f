"""Whatever the sizes, the method and the seed: what a run says about itself is consistent."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracles
import rankfall as rf
from simulate.injected import REPLICATES, problem_with_data

METHODS = {
    "gradient flow": (rf.GradientFlow(tolerance=1e-10), {"duration": 0.4}),
    "geometric": (rf.StochasticGradientFlow(2.0, 0.05), {"duration": 0.4, "dt": 0.01}),
    "euler": (rf.StochasticGradientFlow(2.0, 0.05, integrator="euler"), {"duration": 0.4, "dt": 0.01}),
    "label noise": (rf.LabelNoiseDescent(0.01, 2.0, batch_size=2), {"steps": 40}),
    "descent": (rf.GradientDescent(0.01), {"steps": 40}),
    "mini-batch": (rf.StochasticGradientDescent(0.01, 3, label_noise=1.0), {"steps": 40}),
}
# A kernel is compiled for each method, ledger and size with p·k ≤ 20 (larger sizes share one): so few of them here, and
# those of the other tests where that is possible.
FEW = ["gradient flow", "geometric", "label noise"]
SIZES = {
    (1, 1): list(METHODS),
    (3, 2): list(METHODS),
    (2, 3): [*FEW, "euler", "descent"],
    (1, 4): FEW,
    (6, 1): FEW,
    (4, 6): [*FEW, "euler"],
    (6, 6): [*FEW, "euler"],
    (5, 5): FEW,
}
CASES = [(p, k, name) for (p, k), names in SIZES.items() for name in names]
U = 2.0**-53


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    case=st.sampled_from(CASES),
    width=st.integers(1, 14),
    seed=st.integers(0, 2**64 - 1),
    start=st.sampled_from(["gaussian", "balanced"]),
    dependent=st.booleans(),
    shared=st.booleans(),
)
def test_a_run_is_consistent(case, width, seed, start, dependent, shared):
    p, k, name = case
    method, length = METHODS[name]
    problem = problem_with_data(p, k, n=8, dependent=int(dependent and p > 1))
    network = getattr(rf.LinearNetwork, start)(p, width, k, 0.6)
    run = rf.simulate(
        problem,
        network,
        method,
        **length,
        replicates=REPLICATES,
        seed=seed,
        save_points=5,
        weights=True,
        start="shared" if shared else "independent",
        ledger="none" if name == "gradient flow" else "balance",
        threads=1,
    )
    assert (run.outcome == "completed").all()
    W1, W2 = run.W1.values, run.W2.values
    Z = oracles.stack(W1, W2)
    spectra = {key: run[f"singular_values_{key}"].values for key in ("W1", "W2", "Z")}
    largest = spectra["Z"].max()
    # Rounding of a basis change, a product or a spectrum of matrices of at most 12×14: 50 places at most, relative to
    # the largest singular value (its square where a quantity is quadratic).
    close = 50 * U * largest
    for key, matrices in (("W1", W1), ("W2", W2), ("Z", Z)):
        values = spectra[key]
        assert values.shape[2] == min(matrices.shape[2:])
        assert (values >= 0).all() and (np.diff(values, axis=2) <= 0).all()
        assert np.abs(values - np.linalg.svd(matrices, compute_uv=False)).max() < close
    Q = oracles.balance(W1, W2)
    assert (run.balance >= 0).all() and (run.balance_drift >= 0).all()
    quadratic = 4 * close * largest
    assert np.abs(run.balance - np.linalg.norm(Q, axis=(2, 3))).max() < quadratic
    assert np.abs(run.balance_drift - np.linalg.norm(Q - Q[:, :1], axis=(2, 3))).max() < quadratic

    if width < p + k or start == "balanced":
        assert np.isneginf(run.log_det).all() and run.log_det.attrs["note"].startswith("−inf")
    else:
        # a sum of p + k logarithms, each rounded relative to its own size
        logarithms = np.log(spectra["Z"])
        room = 8 * U * np.abs(logarithms).sum(-1) + 4 * U
        assert (np.abs(run.log_det - 2 * logarithms.sum(-1)) <= room).all()

    for replicate in range(REPLICATES):
        for time in range(5):
            product = W1[replicate, time] @ W2[replicate, time]
            # the gap W − Σ⁺C is known to `quadratic` per entry: L changes by that times ‖ΣΔ‖ plus its square
            slope = np.abs(oracles.gradient(problem, W1[replicate, time], W2[replicate, time])).sum() + 1e-6
            room = quadratic * slope + 50 * U * problem.label_second_moment
            assert abs(run.loss[replicate, time] - problem.evaluate(product)) < room
    assert (run.loss >= problem.minimum_loss * (1 - 50 * U)).all()

    first, second = network.draw(1 if shared else REPLICATES, seed)
    assert np.abs(W1[:, 0] - first).max() < close and np.abs(W2[:, 0] - second).max() < close
    distinct = {weights.tobytes() for weights in W1[:, -1]}
    assert len(distinct) == (1 if shared and name in ("gradient flow", "descent") else REPLICATES)

    verdicts = rf.laws.check(run, problem)
    assert verdicts
    for verdict in verdicts:
        assert verdict.passed in (True, None), str(verdict)
        assert verdict.passed is True or "nothing could be checked" in verdict.note
    moved = np.abs(Z[:, -1] - Z[:, 0]).max(axis=(1, 2))
    assert (moved > 1e-4 * largest).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_laws_are_not_empty(name):
    """Of the verdicts above, those that were reached: one at least for every method, and it can fail."""
    method, length = METHODS[name]
    problem = problem_with_data(3, 2, n=8)
    options = {} if name == "gradient flow" else {"ledger": "balance"}
    network = rf.LinearNetwork.gaussian(3, 8, 2, 0.6)
    run = rf.simulate(
        problem, network, method, **length, replicates=REPLICATES, seed=1, save_points=5, threads=1, **options
    )
    verdicts = rf.laws.check(run, problem)
    assert [verdict.passed for verdict in verdicts] == [True] * (2 if name in ("gradient flow", "geometric") else 1)
    if name == "gradient flow":
        wrong = run.assign(balance_drift=run.balance_drift + 1e-8)
    else:
        wrong = run.assign(ledger_balance_error=run.ledger_balance_error + 1e-8)
    assert not all(verdict.passed for verdict in rf.laws.check(wrong, problem))
