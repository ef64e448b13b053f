"""Singular values of one matrix of a checkpoint, within the memory of the matrix, and how far they may be off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankfall.scan._lapack import overwriting_singular_values, triangular_factor

__all__ = ["Method", "Spectrum", "product_spectrum", "spectrum"]

Method = Literal["svd", "gram"]

# Taller than this many times its width, a matrix is first reduced to its triangular factor, a block of rows at a time.
_TALL = 8


@dataclass(frozen=True)
class Spectrum:
    """Singular values, descending, and a bound on the error of each by the model of the method."""

    values: np.ndarray
    error: float


def spectrum(matrix: np.ndarray, method: Method = "svd", *, overwrite: bool = False) -> Spectrum:
    """Return the singular values of a finite matrix of float32 or float64.

    `overwrite` allows to work in the memory of the matrix, which destroys it.

    `svd`: LAPACK's, in the precision of the matrix, as `ranks.singular_values`; of a much longer than wide matrix,
    those of its triangular factor. Both are backward stable: each value is off by at most p·eps·σ₁ with a modest p, for
    which max(m, n) stands here, as in the threshold of `ranks.numerical_rank`.

    `gram`: square roots of the eigenvalues of AᵀA (n ≤ m) in float64. With u = 2⁻⁵³, forming it is off by at most
    m·u·‖A‖_F² in spectral norm (|E| ≤ m·u·|Aᵀ||A|: N. Higham, Accuracy and Stability of Numerical Algorithms, section
    3.5), the eigenvalues by n·u·‖A‖_F² more, again with n for a modest factor. Together δ; by Weyl's theorem and
    |√a − √b| ≤ √|a − b| each value is off by at most √δ, and by less than δ/σ where σ is large. Of a float32 matrix of
    ordinary size that is no more than its own SVD may lose; of a float64 matrix, half of the digits.
    """
    longest = max(matrix.shape)
    if method == "gram":
        return _by_gram(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    if matrix.shape[0] > _TALL * matrix.shape[1]:
        matrix = triangular_factor(matrix)
    elif not (overwrite and matrix.flags.c_contiguous and matrix.flags.writeable):
        matrix = np.array(matrix, order="C")
    values = overwriting_singular_values(matrix)
    return Spectrum(values, float(longest * np.finfo(values.dtype).eps * values[0]))


def product_spectrum(left: np.ndarray, right: np.ndarray) -> Spectrum:
    """Return the singular values of left @ right, m×r times r×n, without forming the product.

    With left = Q₁R₁ and rightᵀ = Q₂R₂ they are those of R₁R₂ᵀ, r×r. In float64: two factors and their product, each
    with errors of its own.
    """
    first = _r_factor(left.astype(np.float64, copy=False))
    second = _r_factor(right.T.astype(np.float64, copy=False))
    values = np.linalg.svd(first @ second.T, compute_uv=False)
    # What is lost is relative to the norms of the factors, which may cancel in the product.
    size = max(left.shape[0], right.shape[1])
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return Spectrum(values, float(size * np.finfo(np.float64).eps * norms))


def _r_factor(matrix: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.qr(matrix, mode="r"))


def _by_gram(tall: np.ndarray) -> Spectrum:
    m, n = tall.shape
    # The largest entry divided out: squares of float64 could overflow, those of float32 in float64 cannot.
    scale = max(float(tall.max()), -float(tall.min())) or 1.0
    gram = np.zeros((n, n))
    rows = max(1, min(m, 4 * n))
    for begin in range(0, m, rows):
        block = tall[begin : begin + rows].astype(np.float64) / scale
        gram += block.T @ block
    eigenvalues = np.linalg.eigvalsh(gram)[::-1]
    values = scale * np.sqrt(np.maximum(eigenvalues, 0.0))
    error = scale * float(np.sqrt((m + n) * 2.0**-53 * np.trace(gram)))
    return Spectrum(values.astype(tall.dtype), error)
