"""Exact rank of given starts, and what follows from it: log det M = −∞ only where that is shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rankfall as rf
from rankfall._rank import exact_rank
from small import PROBLEM


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_rank_of_products_of_whole_numbers(rows, columns, inner, seed):
    """A product of small whole numbers is exact, so its rank is that of the factors, which numpy finds."""
    rng = np.random.default_rng(seed)
    left, right = rng.integers(-3, 4, (rows, inner)), rng.integers(-3, 4, (inner, columns))
    product = (left @ right).astype(float)
    expected = np.linalg.matrix_rank(product) if product.any() else 0
    assert exact_rank(product) == expected
    assert exact_rank(product * 2.0**-300) == expected


def test_rounding_is_not_taken_for_dependence():
    rng = np.random.default_rng(0)
    third = rng.standard_normal((1, 8))
    dependent = np.concatenate([third, 2.0 * third, rng.standard_normal((1, 8))])
    assert exact_rank(dependent) == 2  # doubling is exact
    nearly = dependent.copy()
    nearly[1, 3] = np.nextafter(nearly[1, 3], np.inf)
    assert exact_rank(nearly) == 3  # though its smallest singular value is rounding noise
    assert np.linalg.matrix_rank(nearly) == 2


def starts(*ranks):
    W1, W2 = rf.LinearNetwork.gaussian(3, 7, 2).draw(len(ranks), seed=0)
    for i, rank in enumerate(ranks):
        for row in range(5 - rank):
            W1[i, row] = 0.0
    return W1, W2


@pytest.mark.parametrize(("ranks", "found"), [((5,), 5), ((4,), 4), ((5, 5), 5), ((3, 4), 4), ((5, 4), None)])
def test_start_rank(ranks, found):
    W1, W2 = starts(*ranks)
    assert rf.LinearNetwork.from_weights(W1, W2).start_rank == found
    if len(ranks) == 1:
        assert rf.LinearNetwork.from_weights(W1[0], W2[0]).start_rank == found


def test_a_deficient_start_keeps_its_rank_and_its_balance_ledger():
    network = rf.LinearNetwork.from_weights(*starts(3, 4))
    run = rf.simulate(PROBLEM, network, rf.LabelNoiseDescent(0.01, 1.0), steps=500, replicates=2, save_points=5)
    assert np.isneginf(run.log_det).all() and "−inf: det M = 0 at all times" in run.log_det.note
    smallest = run.singular_values_Z[:, :, -1] / run.singular_values_Z[:, :, 0]
    assert (smallest < 1e-13).all()
    (verdict,) = rf.laws.check(run)
    assert verdict.law == "balance ledger" and verdict.passed and "no determinant verdict" in verdict.note


def test_where_starts_differ_the_determinant_is_computed_and_noted():
    network = rf.LinearNetwork.from_weights(*starts(5, 4))
    run = rf.simulate(PROBLEM, network, rf.LabelNoiseDescent(0.01, 1.0), steps=500, replicates=2, save_points=5)
    assert run.log_det.note.startswith("1 of 2 starts are rank-deficient to rounding")
    assert np.isfinite(run.log_det[0]).all() and run.attrs["start_rank"] == -1


@pytest.mark.parametrize("points", [[1.0, 2.0, 3.0], [0.0, 3.0], [3.0]])
def test_laws_hold_from_any_first_save_point(points):
    white = rf.Problem.from_statistics(np.eye(3), PROBLEM.cross_covariance)
    network = rf.LinearNetwork.gaussian(3, 7, 2)
    for problem in (PROBLEM, white):
        for method in (
            rf.GradientFlow(),
            rf.StochasticGradientFlow(2.0, 0.02),
            rf.StochasticGradientFlow(2.0, 0.02, integrator="euler"),
            rf.GradientDescent(0.01, weight_decay=0.1),
            rf.LabelNoiseDescent(0.01, 1.0),
        ):
            kept = "auto" if isinstance(method, rf.GradientFlow) else "both"
            run = rf.simulate(problem, network, method, save_points=points, replicates=3, ledger=kept)
            np.testing.assert_allclose(run.time, points, rtol=1e-2)
            verdicts = rf.laws.check(run)
            assert verdicts
            for verdict in verdicts:
                assert verdict.passed is not False, verdict
