import mpmath
import numpy as np
import pytest

import oracles
import rankfall as rf
from laws import oracle_runs as c
from rankfall.laws import gradient_flow

TIMES = np.array([0.0, 0.1, 0.5, 1.0, 3.0, 8.0])


def start(problem, width, scale=0.3, seed=3):
    network = rf.LinearNetwork.balanced(problem.n_inputs, width, problem.n_outputs, scale)
    return (weights[0] for weights in network.draw(replicates=1, seed=seed))


def stacked(W1, W2):
    Z = oracles.stack(W1, W2)
    return Z @ np.swapaxes(Z, -1, -2)


@pytest.mark.parametrize(
    ("p", "k", "width", "rank"),
    [(5, 2, 10, 2), (2, 5, 7, 2), (3, 3, 3, 3), (4, 4, 2, 4), (6, 3, 2, 3), (3, 2, 8, 1), (3, 3, 4, 0), (1, 1, 1, 1)],
)
def test_the_closed_form_is_the_flow(p, k, width, rank):
    problem = c.white_problem(p, k, rank=rank)
    W1, W2 = start(problem, width)
    expected = stacked(*oracles.gradient_flow(problem, W1, W2, TIMES))
    closed = gradient_flow.balanced_flow(problem, W1, W2, TIMES)
    assert closed == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())
    product = gradient_flow.balanced_product(problem, W1, W2, TIMES)
    assert np.array_equal(product, closed[:, :p, p:])


def closed_form_in_many_digits(problem, W1, W2, time):
    """The formula as it stands, in enough digits for e^{2Ft} to do no harm."""
    p, k = problem.cross_covariance.shape
    mpmath.mp.dps = 60 + int(2 * np.linalg.norm(problem.cross_covariance, 2) * time)
    F = mpmath.matrix(oracles.symmetric(problem.cross_covariance).tolist())
    values, vectors = mpmath.eigsy(F)
    Z = mpmath.matrix(oracles.stack(W1, W2).tolist())
    variance = mpmath.mpf(float(problem.covariance[0, 0]))
    integrals = [
        mpmath.mpf(time) if abs(f) < mpmath.mpf(10) ** -30 else (mpmath.e ** (2 * f * time) - 1) / (2 * f)
        for f in values
    ]
    S = vectors * mpmath.diag(integrals) * vectors.T
    E = vectors * mpmath.diag([mpmath.e ** (f * time) for f in values]) * vectors.T
    inner = mpmath.eye(Z.cols) + variance * (Z.T * S * Z)
    return np.array((E * Z * inner**-1 * Z.T * E).tolist(), dtype=float).reshape(p + k, p + k)


@pytest.mark.parametrize(
    ("p", "k", "width", "scale"), [(3, 2, 4, 1.0), (2, 3, 1, 1.0), (2, 2, 5, 1e-6), (2, 1, 2, 30.0)]
)
@pytest.mark.parametrize("time", [1e-8, 0.3, 20.0])
def test_the_closed_form_keeps_its_digits(p, k, width, scale, time):
    problem = c.white_problem(p, k)
    W1, W2 = start(problem, width, scale)
    W1, W2 = np.round(W1 * 2**20) / 2**20, np.round(W2 * 2**20) / 2**20  # short numbers, exact in both
    imbalance = np.linalg.norm(oracles.balance(W1, W2)) / np.linalg.norm(oracles.stack(W1, W2)) ** 2
    if imbalance > 1e-10:  # rounding spoilt the balance: use the unrounded start
        W1, W2 = start(problem, width, scale)
    expected = closed_form_in_many_digits(problem, W1, W2, time)
    closed = gradient_flow.balanced_flow(problem, W1, W2, [time])[0]
    assert np.abs(closed - expected).max() < 2e-13 * np.abs(expected).max()


def test_it_arrives_at_the_best_product_and_stays_there_however_late():
    problem = c.white_problem(4, 2)
    W1, W2 = start(problem, 6)
    late = gradient_flow.balanced_product(problem, W1, W2, [1e3, 1e6, 1e12])
    assert np.isfinite(late).all()
    assert late == pytest.approx(np.broadcast_to(problem.solution, late.shape), abs=1e-13)


def test_a_narrow_network_arrives_at_the_best_product_of_its_rank():
    problem = c.white_problem(4, 3)
    W1, W2 = start(problem, 1)
    left, strengths, right = np.linalg.svd(problem.solution)
    best = strengths[0] * np.outer(left[:, 0], right[0])
    assert gradient_flow.balanced_product(problem, W1, W2, [1e4])[0] == pytest.approx(best, abs=1e-12)


def test_modes_that_the_start_does_not_contain_stay_away():
    problem = rf.Problem.from_statistics(np.eye(2), np.diag([2.0, 1.0]))
    W1, W2 = np.array([[0.0, 0.0], [0.5, 0.0]]), np.array([[0.0, 0.5], [0.0, 0.0]])
    late = gradient_flow.balanced_product(problem, W1, W2, [1e3])[0]
    assert late == pytest.approx(np.diag([0.0, 1.0]), abs=1e-14)


def test_times_come_in_any_order():
    problem = c.white_problem(2, 2)
    W1, W2 = start(problem, 2)
    forth, back = (gradient_flow.balanced_flow(problem, W1, W2, times) for times in ([1.0, 2.0], [2.0, 1.0]))
    assert np.array_equal(forth, back[::-1])


def test_what_it_cannot_solve():
    W1, W2 = start(c.white_problem(3, 2), 4)
    with pytest.raises(rf.LawNotApplicable, match="whitened"):
        gradient_flow.balanced_flow(c.gaussian_problem(3, 2), W1, W2, [1.0])
    with pytest.raises(rf.LawNotApplicable, match="balanced start"):
        gradient_flow.balanced_flow(c.white_problem(3, 2), W1, 2 * W2, [1.0])
    with pytest.raises(rf.InvalidInput, match="shapes"):
        gradient_flow.balanced_flow(c.white_problem(2, 2), W1, W2, [1.0])
    with pytest.raises(rf.InvalidInput, match="times"):
        gradient_flow.balanced_flow(c.white_problem(3, 2), W1, W2, [-1.0])


@pytest.mark.parametrize("target", [1.7, 0.0, -0.8])
def test_one_mode_is_logistic(target):
    problem = rf.Problem.from_statistics([[1.4]], [[1.4 * target]])
    weight = np.array([[0.3]])
    product = np.prod(oracles.gradient_flow(problem, weight, weight, TIMES), axis=0).ravel()
    assert gradient_flow.logistic_mode(target, 0.09, TIMES, variance=1.4) == pytest.approx(
        product, rel=1e-10, abs=1e-13
    )
    closed = gradient_flow.balanced_product(problem, weight, weight, TIMES).ravel()
    assert closed == pytest.approx(product, rel=1e-10, abs=1e-13)


def test_the_logistic_curve_never_overflows():
    late = gradient_flow.logistic_mode([2.0, 0.0, -2.0], [1e-300, 1.0, 1.0], [0.0, 1e6])
    assert late[:, 1] == pytest.approx([2.0, 1 / (1 + 2e6), 0.0])
    with pytest.raises(rf.InvalidInput, match="at least 0"):
        gradient_flow.logistic_mode(1.0, -1.0, [0.0])
    with pytest.raises(rf.InvalidInput, match="variance"):
        gradient_flow.logistic_mode(1.0, 1.0, [0.0], variance=0.0)


def test_a_run_conserves_both(gradient_flow_run, flow_run):
    assert [verdict.passed for verdict in gradient_flow.check(gradient_flow_run)] == [True, True]
    narrow = c.simulate(c.gaussian_problem(3, 2), 2, rf.GradientFlow(), steps=20, dt=0.01)
    assert [verdict.law for verdict in gradient_flow.check(narrow)] == ["balance law"]
    with pytest.raises(rf.LawNotApplicable, match="not gradient flow"):
        gradient_flow.check(flow_run)
