"""Stable rank and participation ratio straight from the matrix, and what the power iteration promises."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats

import rankfall as rf

EPS = 2.0**-52


def matrix_of(values, rows, columns, seed):
    generator = np.random.default_rng(seed)
    count = len(values)
    left, _ = np.linalg.qr(generator.normal(size=(rows, count)))
    right, _ = np.linalg.qr(generator.normal(size=(columns, count)))
    return (left * np.asarray(values)) @ right.T


def exact_participation(matrix):
    """From the entries at 50 digits: (tr G)²/tr G² with G = MᵀM."""
    with mpmath.workdps(50):
        rows = mpmath.matrix(matrix.tolist())
        gram = rows.T * rows
        trace = mpmath.fsum(gram[i, i] for i in range(gram.rows))
        return trace**2 / mpmath.fsum(entry**2 for entry in gram)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rows, columns", [(1, 1), (1, 6), (6, 1), (4, 9), (9, 4), (8, 8)])
def test_participation_ratio(rows, columns, dtype):
    for seed in range(3):
        matrix = np.random.default_rng(seed).normal(size=(rows, columns)).astype(dtype)
        result = rf.ranks.participation_ratio_from_matrix(matrix)
        right = exact_participation(matrix)
        assert result.dtype == dtype
        # The bound of the docstring for G, and the two sums of squares with up to m·n terms.
        bound = (max(rows, columns) * math.sqrt(right) + 2 * rows * columns + 4) * float(np.finfo(dtype).eps)
        assert abs(mpmath.mpf(float(result)) - right) <= bound * right


@pytest.mark.parametrize("scale", [1.0, 1e-170, 1e170])
def test_participation_ratio_is_that_of_the_singular_values(scale):
    matrix = scale * np.random.default_rng(4).normal(size=(3, 2, 20, 7))
    result = rf.ranks.participation_ratio_from_matrix(matrix)
    assert result.shape == (3, 2)
    right = rf.ranks.participation_ratio(np.linalg.svd(matrix, compute_uv=False))
    np.testing.assert_allclose(result, right, rtol=20 * 4 * EPS)


def estimate(matrix, **arguments):
    seed = arguments.pop("seed", 0)
    return rf.ranks.stable_rank_from_matrix(matrix, rf.ranks.random_start(matrix, seed), **arguments)


SHAPES = [(1, 1), (1, 7), (5, 1), (4, 9), (30, 12), (25, 25)]


@pytest.mark.parametrize("rows, columns", SHAPES)
@pytest.mark.parametrize("decay", [0.0, 0.3, 3.0])
def test_the_stable_rank_lies_between_the_bounds(rows, columns, decay):
    """Whatever the spectrum, the start and the number of iterations."""
    side = min(rows, columns)
    for seed in range(4):
        matrix = matrix_of(np.exp(-decay * np.arange(side)), rows, columns, seed)
        right = float(rf.ranks.stable_rank(np.linalg.svd(matrix, compute_uv=False)))
        # A product with G and a norm round at most about m+n times.
        slack = 1.0 + 4 * (rows + columns) * EPS
        for iterations in (1, 2, 5, 40):
            found = estimate(matrix, seed=seed, iterations=iterations)
            assert found.lower <= right * slack, iterations
            assert right <= found.value * slack, iterations
            assert found.value <= side * slack
            assert found.error >= 0.0
            assert found.lower * slack >= 1.0
            assert float(np.linalg.norm(found.vector)) == pytest.approx(1.0, abs=10 * EPS)
            # For these seeds a lower bound that fails once in a million starts does not fail either.
            likely = estimate(matrix, seed=seed, iterations=iterations, failure=1e-6)
            assert found.lower <= likely.lower <= right * slack
            assert likely.value == found.value


def test_value_converges_and_the_sharp_bound_with_the_square_of_the_residual():
    values = [1.0, 0.5, 0.5, 0.1]  # stable rank 1.51, gap 4 in λ
    matrix = matrix_of(values, 40, 10, 1)
    right = 1.51
    errors = [float(estimate(matrix, iterations=n).error) for n in range(4, 16)]
    assert abs(float(estimate(matrix, iterations=40).value) - right) < 100 * EPS
    # A residual shrinks with λ₂/λ₁ = 1/4 per product, its square with 1/16.
    rates = np.diff(np.log(errors[2:9]))
    np.testing.assert_allclose(rates, -math.log(16.0), rtol=0.05)


def test_flat_spectra_need_the_random_bound():
    """Stable rank 20: the certain bound says nearly nothing, the random one closes in like ln(k/failure²)/2q."""
    matrix = matrix_of(np.ones(20), 50, 20, 2)
    certain = estimate(matrix, iterations=30)
    assert certain.value == pytest.approx(20.0)
    assert certain.lower == pytest.approx(20.0 / 19.0, rel=1e-6)
    for iterations in (10, 100, 1000):
        width = math.log(2 * 20 / (math.pi * 0.01**2)) / (2 * iterations)
        likely = estimate(matrix, iterations=iterations, failure=0.01)
        assert math.log(likely.value / likely.lower) == pytest.approx(width, rel=1e-6)


def test_the_random_bound_fails_as_rarely_as_it_says_and_no_rarer_than_it_must():
    """One product with a matrix of rank one fails exactly if the start is that orthogonal to it.

    False-alarm rate: 4.5 standard errors of 40000 starts, 7e-6; 5 % of the probability are over 6 standard errors.
    """
    side, failure, number = 10, 0.3, 40_000
    matrix = np.zeros((side, side))
    matrix[0, 0] = 2.0
    starts = np.random.default_rng(5).normal(size=(number, side))
    batch = np.broadcast_to(matrix, (number, side, side))
    found = rf.ranks.stable_rank_from_matrix(batch, starts, iterations=1, failure=failure)
    failed = np.mean(found.lower > 1.0 + 1e-9)
    # The square of one coordinate of a random unit vector follows Beta(1/2, (k−1)/2).
    probability = scipy.stats.beta(0.5, (side - 1) / 2).cdf(math.pi * failure**2 / (2 * side))
    error = math.sqrt(probability * (1 - probability) / number)
    assert abs(failed - probability) < 4.5 * error
    assert 6.0 * error < 0.05 * probability
    assert 0.9 * failure < probability < failure


def test_random_starts_are_uniform_on_the_sphere():
    """The square of each coordinate follows Beta(1/2, 5/2), mean 1/6; 10000 fixed seeds.

    False-alarm rates: means 4.5 standard errors for six coordinates, 4e-5; Kolmogorov–Smirnov 1e-3 for all six. The
    means catch one coordinate that is 5 % too wide.
    """
    matrix, number = np.zeros((6, 9)), 10_000
    law = scipy.stats.beta(0.5, 2.5)

    def deviation(starts):
        return np.abs(np.mean(starts**2, axis=0) - 1 / 6) / (law.std() / math.sqrt(number))

    starts = np.stack([rf.ranks.random_start(matrix, seed) for seed in range(number)])
    np.testing.assert_allclose(np.linalg.norm(starts, axis=1), 1.0, rtol=4 * EPS)
    assert deviation(starts).max() < 4.5
    assert min(scipy.stats.kstest(column**2, law.cdf).pvalue for column in starts.T) > 1e-3 / 6
    assert abs(np.mean(np.sign(starts))) < 4.5 / math.sqrt(starts.size)
    wrong = starts * [1.05, 1, 1, 1, 1, 1]
    assert deviation(wrong / np.linalg.norm(wrong, axis=1, keepdims=True))[0] > 4.5


def test_same_seed_same_start_in_every_precision():
    start = rf.ranks.random_start(np.zeros((8, 5)), 3)
    np.testing.assert_array_equal(start, rf.ranks.random_start(np.zeros((2, 5, 8)), 3))
    narrow = rf.ranks.random_start(np.zeros((8, 5), dtype=np.float16), 3)
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(narrow, start.astype(np.float32))
    assert np.abs(start - rf.ranks.random_start(np.zeros((8, 5)), 4)).max() > 0.1


def test_warm_start_follows_a_changing_matrix():
    generator = np.random.default_rng(7)
    matrix = matrix_of([1.0, 0.5, 0.3, 0.2], 30, 20, 7)
    vector = estimate(matrix, iterations=30).vector
    for _ in range(20):
        matrix = matrix + 1e-3 * generator.normal(size=matrix.shape)
        found = rf.ranks.stable_rank_from_matrix(matrix, vector, iterations=1)
        vector = found.vector
        right = rf.ranks.stable_rank(np.linalg.svd(matrix, compute_uv=False))
        assert found.lower <= right * (1 + 200 * EPS) and right <= found.value * (1 + 200 * EPS)
        # The start is off by about ‖change‖/gap ≈ 1e-2, the bound by the square of that.
        assert found.error < 1e-2 * right
    cold = estimate(matrix, iterations=1)
    assert cold.error > 10 * found.error


def test_many_calls_are_one_long_call():
    matrix = matrix_of([1.0, 0.9, 0.8], 9, 7, 8)
    long = estimate(matrix, iterations=12)
    vector = rf.ranks.random_start(matrix, 0)
    for _ in range(4):
        found = rf.ranks.stable_rank_from_matrix(matrix, vector, iterations=3)
        vector = found.vector
    np.testing.assert_allclose(vector, long.vector, atol=1e-13)
    assert found.value == pytest.approx(float(long.value), rel=1e-13)


def test_batches():
    matrices = np.random.default_rng(9).normal(size=(2, 3, 8, 5))
    start = rf.ranks.random_start(matrices, 0)
    together = rf.ranks.stable_rank_from_matrix(matrices, start, iterations=4, failure=0.01)
    assert together.value.shape == together.lower.shape == together.error.shape == (2, 3)
    assert together.vector.shape == (2, 3, 5)
    again = rf.ranks.stable_rank_from_matrix(matrices, together.vector, iterations=4)
    for place in np.ndindex(2, 3):
        alone = rf.ranks.stable_rank_from_matrix(matrices[place], start, iterations=4, failure=0.01)
        assert float(alone.value) == pytest.approx(float(together.value[place]), rel=1e-12)
        assert float(alone.lower) == pytest.approx(float(together.lower[place]), rel=1e-12)
        more = rf.ranks.stable_rank_from_matrix(matrices[place], alone.vector, iterations=4)
        assert float(more.value) == pytest.approx(float(again.value[place]), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(scale):
    matrix = matrix_of([1.0, 0.5], 6, 4, 10)
    found = estimate(scale * matrix, failure=0.01)
    assert float(found.value) == pytest.approx(1.25, rel=1e-12)
    assert float(found.error) < 1e-12


def test_edges():
    zero = estimate(np.zeros((4, 3)), failure=0.1)
    assert zero.value == zero.lower == zero.error == 0.0
    # normalised a second time: the sum of squares is rounded by one place or not, as BLAS finds it aligned
    np.testing.assert_allclose(zero.vector, rf.ranks.random_start(np.zeros((4, 3)), 0), rtol=1e-15)
    assert rf.ranks.participation_ratio_from_matrix(np.zeros((4, 3))) == 0.0
    batch = np.stack([np.eye(3), np.full((3, 3), np.nan), np.zeros((3, 3)), np.diag([1.0, np.inf, 1.0])])
    found = estimate(batch)
    np.testing.assert_allclose(found.value, [3.0, np.nan, 0.0, np.nan], rtol=1e-12)
    assert np.isnan(found.lower[[1, 3]]).all() and found.lower[2] == 0.0
    np.testing.assert_allclose(rf.ranks.participation_ratio_from_matrix(batch), [3.0, np.nan, 0.0, np.nan], rtol=1e-12)
    # A start in the kernel finds nothing: the value is the side, the bound says that nothing is certain.
    lost = rf.ranks.stable_rank_from_matrix(np.diag([1.0, 0.0]), np.array([0.0, 1.0]))
    assert lost.value == 2.0 and lost.lower == 1.0
    assert estimate(np.array([[3, 0], [0, 1]])).value == pytest.approx(10 / 9)


def test_refused():
    matrix = np.ones((5, 3))
    call = rf.ranks.stable_rank_from_matrix
    for start, message in (
        (np.ones(5), r"must have shape \(3,\)"),
        (np.ones((2, 3)), r"must have shape \(3,\)"),
        (np.zeros(3), "start must not be zero"),
        (np.ones(3) * 1j, "start must be real"),
        (None, "start must be a numeric array"),
    ):
        with pytest.raises(rf.InvalidInput, match=message):
            call(matrix, start)
    with pytest.raises(rf.InvalidInput, match="iterations must be at least 1"):
        call(matrix, np.ones(3), iterations=0)
    for failure in (0.0, 1.0, math.nan):
        with pytest.raises(rf.InvalidInput, match="failure"):
            call(matrix, np.ones(3), failure=failure)
    with pytest.raises(rf.InvalidInput, match="matrix must have at least two dimensions"):
        call(np.ones(3), np.ones(3))
    with pytest.raises(rf.InvalidInput, match="seed must be at least 0"):
        rf.ranks.random_start(matrix, -1)
