"""What holds for every matrix."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rankfall as rf
from rankfall.ranks import COUNTS, MEASURES
from ranks.oracle import SMOOTH, tolerance

EPS = 2.0**-52

# Singular values of all sizes, zero among them, not all zero.
VALUES = st.lists(
    st.one_of(
        st.just(0.0),
        st.floats(1e-140, 1e140),
        st.floats(1e-3, 1.0),
        st.sampled_from([1.0, 0.5, 1e-8]),
    ),
    min_size=1,
    max_size=40,
).filter(lambda values: max(values) > 0)

# In this order none is larger than the next. With p = σ/Σσ, w = λ/Σλ and the Rényi entropies H_a, which fall with a:
# stable = exp H_∞(w), participation = exp H_2(w), energy effective = exp H_1(w), nuclear = exp H_2(p), effective =
# exp H_1(p), and the number of non-zero values is exp H_0. Between the third and the fourth: φ(a) = ln Σ p^a is convex,
# φ(1) = 0, and H_1(w) = φ(2) − 2φ'(2) ≤ φ(2) − 2φ(2) = −φ(2) = H_2(p) since φ'(2) ≥ φ(2) − φ(1).
CHAIN = ("stable_rank", "participation_ratio", "energy_effective_rank", "nuclear_rank", "effective_rank")


@given(VALUES)
@example([3.0, 1.0, 0.1, 0.01])
@example([1.0] * 40)
@settings(deadline=None, max_examples=300)
def test_chain(values):
    measured = [1.0, *(float(MEASURES[measure](values)) for measure in CHAIN), float(np.count_nonzero(values))]
    slack = 1.0 + 2 * tolerance(len(values), EPS)
    for smaller, larger in itertools.pairwise(measured):
        assert smaller <= larger * slack
    # The second moment is at least the largest term's, so participation cannot be far above.
    assert measured[2] <= measured[1] ** 2 * slack


@given(VALUES, st.sampled_from(["0.5", "0.9", "0.99", "0.999"]))
@settings(deadline=None, max_examples=200)
def test_energies_are_covered_sooner(values, part):
    """The energies are more concentrated than the values: their partial sums are larger."""
    covered = rf.ranks.energy_rank(values, q=float(part))
    assert 1 <= covered <= rf.ranks.srank(values, delta=round(1 - float(part), 6)) <= np.count_nonzero(values)


@given(VALUES, st.integers(-200, 200))
@settings(deadline=None, max_examples=200)
def test_powers_of_two_change_no_bit(values, exponent):
    moved = [math.ldexp(value, exponent) for value in values]
    for measure in (*SMOOTH, *COUNTS):
        assert MEASURES[measure](moved) == MEASURES[measure](values), measure


@given(VALUES, st.floats(1e-100, 1e100))
@settings(deadline=None, max_examples=200)
def test_scale(values, factor):
    moved = [value * factor for value in values]
    for measure in SMOOTH:
        # Each product rounds once more.
        expected = pytest.approx(float(MEASURES[measure](values)), rel=3 * tolerance(len(values), EPS))
        assert float(MEASURES[measure](moved)) == expected, measure
    if min(values) > 0:
        grown = rf.ranks.log_determinant(values) + 2 * len(values) * math.log(factor)
        size = sum(2 * abs(math.log(value)) + 2 * abs(math.log(factor)) for value in values)
        assert float(rf.ranks.log_determinant(moved)) == pytest.approx(
            float(grown), abs=3 * (len(values) + 2) * EPS * (size + 1)
        )


@given(VALUES, st.integers(0, 20), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_zeros_and_order_do_not_matter(values, zeros, random):
    longer = [*values, *[0.0] * zeros]
    random.shuffle(longer)
    for measure in CHAIN:
        expected = pytest.approx(float(MEASURES[measure](values)), rel=2 * tolerance(len(longer), EPS))
        assert float(MEASURES[measure](longer)) == expected, measure
    shape = (len(longer), len(longer))
    assert rf.ranks.numerical_rank(longer, shape=shape) == rf.ranks.numerical_rank(sorted(longer), shape=shape)
    assert rf.ranks.numerical_rank(longer, rtol=1e-9) == rf.ranks.numerical_rank(values, rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_orthogonal_transformations(seed, rows, columns):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(rows, columns))
    rank = generator.integers(1, min(rows, columns) + 1)
    left, _ = np.linalg.qr(generator.normal(size=(rows, rows)))
    right, _ = np.linalg.qr(generator.normal(size=(columns, columns)))
    # Values between 1 and 2, and zeros: no threshold of a count is near, the SVD's errors are some eps.
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    values = np.where(np.arange(len(vt)) < rank, generator.uniform(1.0, 2.0, size=len(vt)), 0.0)
    matrix = (u * values) @ vt
    for turned in (left @ matrix, matrix @ right, left @ matrix @ right, matrix.T, -matrix):
        before, after = rf.ranks.report(matrix, rtol=1e-10), rf.ranks.report(turned, rtol=1e-10)
        for measure in (*SMOOTH, "numerical_rank"):
            # The products and the SVD leave some tens of eps in each value; a zero that becomes 1e-15 adds
            # 1e-15·ln 1e15 to an entropy. All that, twelve times, is below 1e-12.
            assert after[measure] == pytest.approx(before[measure], rel=1e-12), measure
        assert before["numerical_rank"] == rank
