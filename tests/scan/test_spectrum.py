"""Spectra of single matrices against planted ones and exact arithmetic."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from rankfall.scan._lapack import overwriting_r_factor, overwriting_singular_values, triangular_factor
from rankfall.scan._spectrum import product_spectrum, spectrum
from scan.files import planted

SHAPES = [(12, 12), (40, 12), (12, 40), (300, 12), (12, 300), (49, 12), (48, 12), (7, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["svd", "gram", "auto"])
def test_within_its_stated_error(shape, dtype, method):
    """Values planted down to 1e-5 of the largest; rounding the matrix to its type moves them by at most eps/2·‖A‖_F."""
    truth = np.geomspace(3.0, 3e-5, min(shape))
    matrix = planted(truth, *shape).astype(dtype)
    found = spectrum(matrix, method)
    assert found.values.dtype == (dtype if method == "svd" else "float64") and (np.diff(found.values) <= 0).all()
    assert found.precision == np.finfo(dtype).eps
    assert found.route == (method if method != "auto" else "gram" if dtype == "float32" else "svd")
    # Planting in float64 is itself off by a few eps·σ₁.
    planting = np.finfo(dtype).eps / 2 * np.linalg.norm(truth) + 20 * np.finfo(np.float64).eps * truth[0]
    assert np.abs(found.values - truth).max() <= found.error + planting


def test_gram_is_off_by_no_less_than_its_kind_of_error():
    """In float64 a value of 1e-10·σ₁ drowns: the bound of the Gram matrix is not the SVD's."""
    matrix = planted([1.0, 1e-10], 30, 2)
    svd, gram = spectrum(matrix, "svd"), spectrum(matrix, "gram")
    assert abs(svd.values[1] - 1e-10) < 1e-14
    assert abs(gram.values[1] - 1e-10) > 1e-12
    assert abs(gram.values[1] - 1e-10) <= gram.error < 1e-6


def test_large_values_of_gram_are_much_closer_than_the_bound():
    """|σ̂ − σ| ≤ δ/σ with δ = error²: here of the order of rounding."""
    truth = np.linspace(2.0, 1.0, 20)
    found = spectrum(planted(truth, 60, 20), "gram")
    assert np.abs(found.values - truth).max() <= found.error**2 / truth.min() + 1e-14


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_gram_neither_overflows_nor_underflows(scale):
    truth = np.array([3.0, 2.0, 1.0])
    found = spectrum(planted(truth, 9, 3) * scale, "gram")
    assert np.allclose(found.values, truth * scale, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(30, 20, 4), (4, 4, 4), (3, 20, 5), (20, 3, 5), (40, 50, 1)])
def test_products_against_exact_arithmetic(shape):
    """Singular values of B·A with 50 digits; LoRA's B·A need not be formed."""
    m, n, rank = shape
    generator = np.random.default_rng(3)
    left, right = generator.normal(size=(m, rank)), generator.normal(size=(rank, n))
    found = product_spectrum(left, right)
    with mpmath.workdps(50):
        product = mpmath.matrix(left.tolist()) * mpmath.matrix(right.tolist())
        exact = sorted((float(value) for value in mpmath.svd_r(product, compute_uv=False)), reverse=True)
    kept = min(shape)
    assert len(found.values) == kept
    assert np.abs(found.values - exact[:kept]).max() <= found.error
    assert max(exact[kept:], default=0.0) < 1e-40


@pytest.mark.parametrize("seed", [1841, 630, 895])
def test_products_of_the_smallest_factors_stay_within_the_bound(seed):
    """The worst of 6000: more than max(m, n)·eps·‖B‖·‖A‖ off, against 40 digits."""
    generator = np.random.default_rng(seed)
    side, rank = (int(generator.integers(1, 4)) for _ in range(2))
    left, right = (generator.normal(size=shape).astype(np.float32) for shape in ((side, rank), (rank, side)))
    found = product_spectrum(left, right)
    with mpmath.workdps(40):
        product = mpmath.matrix(left.astype(float).tolist()) * mpmath.matrix(right.astype(float).tolist())
        squares = sorted(mpmath.eigsy(product.T * product, eigvals_only=True), reverse=True)
        values = zip(found.values.tolist(), squares, strict=True)
        off = [abs(mpmath.mpf(each) - mpmath.sqrt(abs(square))) for each, square in values]
    assert max(off) <= found.error < 1e-13


def test_product_that_cancels_is_within_its_error():
    """A tall B whose columns nearly cancel: the error is relative to the factors, not to the product."""
    left = planted([1.0, 1e-9], 30, 2)
    right = planted([1.0, 1e-9], 2, 30, seed=1)
    found = product_spectrum(left, right)
    exact = np.linalg.svd((left.astype(np.longdouble) @ right.astype(np.longdouble)).astype(float), compute_uv=False)
    assert np.abs(found.values - exact[:2]).max() <= found.error


def test_zero_matrix():
    for method in ("svd", "gram", "auto"):
        found = spectrum(np.zeros((30, 3), dtype=np.float32), method)
        assert found.values.tolist() == [0.0, 0.0, 0.0] and found.error == 0.0


@pytest.mark.parametrize("shape", [(9, 9), (200, 9), (9, 200), (20, 9)])
def test_only_what_may_be_destroyed_is(shape):
    matrix = np.random.default_rng(2).normal(size=shape)
    kept = matrix.copy()
    plain = spectrum(matrix)
    assert plain.route == "svd"
    assert np.array_equal(matrix, kept)
    matrix.setflags(write=False)
    assert np.array_equal(spectrum(matrix, overwrite=True).values, plain.values)  # read-only memory is copied
    assert np.array_equal(spectrum(kept, overwrite=True).values, plain.values)
    assert np.array_equal(spectrum(np.asfortranarray(matrix)).values, plain.values)


@pytest.mark.parametrize(
    "matrix",
    [
        np.ones((3, 3), dtype=np.float16),
        np.ones((3, 3), dtype=np.int32),
        np.ones((0, 3)),
        np.ones(3),
        np.ones((3, 4)).T,
        np.broadcast_to(np.ones(3), (3, 3)),
        np.frombuffer(bytes(8 * 9 + 1), dtype=np.uint8)[1:].view(np.float64).reshape(3, 3),
    ],
)
def test_memory_that_lapack_must_not_get(matrix):
    with pytest.raises(ValueError, match=r"wanted a matrix|must be C-ordered"):
        overwriting_singular_values(matrix)


@pytest.mark.parametrize(
    "dtype, scale", [("float32", 1e-30), ("float32", 1e30), ("float64", 1e-250), ("float64", 1e250)]
)
@pytest.mark.parametrize("shape", [(6, 6), (100, 6), (6, 100)])
def test_values_far_from_one(shape, dtype, scale):
    """Squares of these overflow or vanish; scaling by such a factor is off by one rounding per entry."""
    truth = np.array([3.0, 2.0, 1.5, 1.0, 0.5, 0.1])
    found = spectrum((planted(truth, *shape) * scale).astype(dtype))
    assert np.abs(found.values / scale - truth).max() <= 2 * found.error / scale


@pytest.mark.parametrize("shape", [(1, 1), (9, 9), (200, 9), (9, 200), (200, 70), (33, 32)])
def test_r_factor_keeps_the_gram_matrix(shape):
    """AᵀA = RᵀR; rounding of products of entries of order one."""
    matrix = np.random.default_rng(shape[0]).normal(size=shape)
    factor = overwriting_r_factor(np.ascontiguousarray(matrix.T))
    assert factor.shape == (min(shape), shape[1]) and np.array_equal(factor, np.triu(factor))
    assert (
        np.abs(factor.T @ factor - matrix.T @ matrix).max() <= 20 * shape[0] * 2.3e-16 * np.linalg.norm(matrix, 2) ** 2
    )
    with pytest.raises(ValueError, match="must be C-ordered"):
        overwriting_r_factor(np.ones((4, 3)).T)
    with pytest.raises(ValueError, match="wanted a matrix of float64"):
        overwriting_r_factor(np.ones((4, 3), dtype=np.float32))


@pytest.mark.parametrize("rows", [9, 44, 45, 46, 81, 82, 500])
def test_triangular_factor_keeps_the_gram_matrix(rows):
    """AᵀA = RᵀR at every remainder of the blocks; rounding of m·n products of entries of order one."""
    matrix = np.random.default_rng(rows).normal(size=(rows, 9))
    factor = triangular_factor(matrix)
    assert factor.shape == (9, 9) and np.array_equal(factor, np.tril(factor))
    assert np.abs(factor @ factor.T - matrix.T @ matrix).max() <= 20 * rows * 2.3e-16 * np.linalg.norm(matrix, 2) ** 2
