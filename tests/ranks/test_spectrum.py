"""Singular values of matrices, and the numerical rank against NumPy's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import rankfall as rf


def low_rank(shape, rank, seed, dtype=np.float64):
    generator = np.random.default_rng(seed)
    *batch, rows, columns = shape
    product = generator.normal(size=(*batch, rows, rank)) @ generator.normal(size=(*batch, rank, columns))
    return product.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "shape, rank", [((6, 4), 2), ((4, 60), 4), ((50, 50), 20), ((3, 5, 8), 5), ((1, 9), 1), ((7, 1), 1)]
)
def test_numerical_rank_is_that_of_numpy(shape, rank, dtype):
    for seed in range(5):
        matrix = low_rank(shape, rank, seed, dtype)
        values = rf.ranks.singular_values(matrix)
        assert values.dtype == dtype and values.shape == (*shape[:-2], min(shape[-2:]))
        counted = rf.ranks.numerical_rank(values, shape=shape)
        np.testing.assert_array_equal(counted, np.linalg.matrix_rank(matrix))
        np.testing.assert_array_equal(counted, rank)
        for rtol in (1e-3, 0.3):
            np.testing.assert_array_equal(
                rf.ranks.numerical_rank(values, rtol=rtol),
                # NumPy's relative tolerance is new in 2.0.
                np.linalg.matrix_rank(matrix, tol=rtol * np.linalg.norm(matrix, 2, axis=(-2, -1))),
            )
        np.testing.assert_array_equal(
            rf.ranks.numerical_rank(values, rtol=0.0, atol=2.0), np.linalg.matrix_rank(matrix, tol=2.0)
        )


def test_values_of_a_known_matrix():
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.normal(size=(9, 4)))
    right, _ = np.linalg.qr(generator.normal(size=(6, 4)))
    known = np.array([3.0, 1.0, 0.1, 0.01, 0.0, 0.0])
    values = rf.ranks.singular_values((left * known[:4]) @ right.T)
    # Backward stable: every value is off by a modest multiple of eps·σ₁.
    np.testing.assert_allclose(values, known, rtol=0, atol=20 * 2.3e-16 * 3.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_matrix_leaves_the_batch_alone(bad):
    matrices = low_rank((4, 5, 3), 3, 1)
    alone = rf.ranks.singular_values(matrices)
    matrices[2, 1, 1] = bad
    values = rf.ranks.singular_values(matrices)
    assert np.isnan(values[2]).all()
    np.testing.assert_array_equal(values[[0, 1, 3]], alone[[0, 1, 3]])


def test_half_precision_is_not_rounded_further():
    matrix = low_rank((6, 5), 5, 2, np.float16)
    values = rf.ranks.singular_values(matrix)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, rf.ranks.singular_values(matrix.astype(np.float32)))
    large = np.full((300, 300), 6e4, dtype=np.float16)  # σ₁ = 1.8e7, above the range of half precision
    assert rf.ranks.singular_values(large)[0] == pytest.approx(300 * 6e4, rel=1e-3)


def test_whole_numbers_and_zeros():
    assert rf.ranks.singular_values([[3, 0], [0, -4]]).tolist() == [4.0, 3.0]
    assert rf.ranks.singular_values(np.zeros((2, 3, 4))).tolist() == [[0.0] * 3] * 2
    assert rf.ranks.singular_values(np.ones((0, 3, 4))).shape == (0, 3)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.ones(3), r"at least two dimensions, got shape \(3,\)"),
        (np.ones((0, 3)), r"at least one row and one column, got shape \(0, 3\)"),
        (np.ones((3, 0)), "at least one row and one column"),
        (np.eye(2) * 1j, "must be real, got complex128"),
        ([[1.0], [2.0, 3.0]], "must be a numeric array"),
    ],
)
@pytest.mark.parametrize(
    "entrance", [rf.ranks.singular_values, rf.ranks.report, rf.ranks.participation_ratio_from_matrix]
)
def test_refused(entrance, bad, message):
    with pytest.raises(rf.InvalidInput, match=message):
        entrance(bad)


def test_imports_stay_light():
    code = (
        "import sys, rankfall; assert 'rankfall.ranks' not in sys.modules\n"
        "import numpy; print(rankfall.ranks.report(numpy.eye(2))['stable_rank'])\n"
        "sys.exit(' '.join({'torch', 'numba', 'xarray', 'scipy', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "2.0"
    assert "ranks" in dir(rf)
