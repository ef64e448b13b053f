"""Singular values of one matrix of a checkpoint, within the memory of the matrix, and how far they may be off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankfall.ranks import numerical_rank
from rankfall.scan._gram import GramEnds, GramSpectrum, gram_in_memory, gram_of_rows
from rankfall.scan._lapack import overwriting_r_factor, overwriting_singular_values, triangular_factor

__all__ = [
    "METHODS",
    "Ends",
    "Method",
    "Route",
    "Spectrum",
    "ends",
    "ends_of",
    "ends_of_rows",
    "product_spectrum",
    "spectrum",
    "spectrum_of_rows",
]

Method = Literal["auto", "svd", "gram"]
Route = Literal["svd", "gram"]
METHODS: tuple[Method, ...] = ("auto", "svd", "gram")

# Taller than this many times its width, a matrix is first reduced to its triangular factor, a block of rows at a time.
_TALL = 8
_FLOAT32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Spectrum:
    """What was found out about the singular values of a matrix.

    Attributes:
        values: Descending.
        error: Bound on the error of each by the model of the method.
        precision: eps of the numbers that the matrix was given in (of float32 for shorter ones), from which the
            threshold of the numerical rank follows.
        route: How they were found.
    """

    values: np.ndarray
    error: float
    precision: float
    route: Route

    @property
    def largest(self) -> float:
        """σ₁."""
        return float(self.values[0])

    @property
    def norm(self) -> float:
        """‖A‖_F."""
        largest = self.largest or 1.0  # its square could overflow
        scaled = self.values.astype(np.float64, copy=False) / largest
        return largest * float(np.sqrt(scaled @ scaled))

    def rank(self, shape: tuple[int, int]) -> int:
        """How many values are above the error of the method, and above max(m, n)·eps·σ₁ as usual."""
        return int(numerical_rank(self.values, rtol=max(shape) * self.precision, atol=self.error))


@dataclass(frozen=True)
class Ends:
    """What can be said without the singular values in between.

    Attributes:
        largest: σ₁.
        norm: ‖A‖_F.
        rank: As `Spectrum.rank`.
        error: Bound on the error of σ₁.
        route: How σ₁ was found.
    """

    largest: float
    norm: float
    rank: int
    error: float
    route: Route

    @property
    def values(self) -> np.ndarray:
        """None were computed."""
        return np.empty(0)


def spectrum(matrix: np.ndarray, method: Method = "auto", *, overwrite: bool = False) -> Spectrum | None:
    """Return the singular values of a matrix of float32 or float64, None if it is not finite.

    `overwrite` allows to work in the memory of the matrix, which destroys it.

    `svd`: LAPACK's, in the precision of the matrix, as `ranks.singular_values`; of a much longer than wide matrix,
    those of its triangular factor. Both are backward stable: each value is off by at most p·eps·σ₁ with a modest p, for
    which max(m, n) stands here, as in the threshold of `ranks.numerical_rank`.

    `gram`: square roots of the eigenvalues of the smaller Gram matrix in float64 (`rankfall.scan._gram`).

    `auto`: of float32, `gram`, which then is closer than `svd`; but where a singular value is too close to the
    threshold of the numerical rank to tell on which side it is, `svd` in float64. Of float64, `svd`.

    Raises:
        numpy.linalg.LinAlgError: An iteration did not converge.
    """
    single = matrix.dtype == np.float32
    if method == "gram" or (method == "auto" and single):
        found, scale = gram_in_memory(matrix)
        if found is None:
            return None
        assert isinstance(found, GramSpectrum)
        if method == "gram" or _is_enough(found, matrix.shape):
            return _of_gram(found, matrix.dtype, scale)
        return _by_svd(matrix.astype(np.float64), _FLOAT32)
    if not np.isfinite(matrix).all():
        return None
    if matrix.shape[0] <= _TALL * matrix.shape[1] and not (
        overwrite and matrix.flags.c_contiguous and matrix.flags.writeable
    ):
        matrix = np.array(matrix, order="C")
    return _by_svd(matrix, float(np.finfo(matrix.dtype).eps))


def spectrum_of_rows(blocks: Iterable[np.ndarray], shape: tuple[int, int], method: Method) -> Spectrum | None:
    """Return the same, bit for bit, of a float32 matrix that comes in blocks of `block_length` rows.

    Returns:
        None where the whole matrix is needed: it is not finite, or `auto` cannot tell its numerical rank.

    Raises:
        numpy.linalg.LinAlgError: The iteration did not converge.
    """
    found = gram_of_rows(blocks, *shape)
    assert found is None or isinstance(found, GramSpectrum)
    if found is None or not (method == "gram" or _is_enough(found, shape)):
        return None
    return _of_gram(found, np.dtype(np.float32), 1.0)


def ends(matrix: np.ndarray, method: Method, *, overwrite: bool = False) -> Ends | None:
    """Return σ₁, ‖A‖_F and the numerical rank of a matrix, None if it is not finite; arguments as of `spectrum`."""
    if matrix.dtype == np.float32 and method != "svd":
        found, _ = gram_in_memory(matrix, max(matrix.shape) * _FLOAT32)
        if found is None:
            return None
        known = _known_ends(found, matrix.shape, method)
        if known is not None:
            return known
        everything: Spectrum | None = _by_svd(matrix.astype(np.float64), _FLOAT32)
    else:
        everything = spectrum(matrix, method, overwrite=overwrite)
    return None if everything is None else ends_of(everything, (matrix.shape[0], matrix.shape[1]))


def ends_of_rows(blocks: Iterable[np.ndarray], shape: tuple[int, int], method: Method) -> Ends | None:
    """Return the same of a float32 matrix in blocks of rows, as `spectrum_of_rows`."""
    found = gram_of_rows(blocks, *shape, full_rank=max(shape) * _FLOAT32)
    return None if found is None else _known_ends(found, shape, method)


def ends_of(found: Spectrum, shape: tuple[int, int]) -> Ends:
    """Forget the values in between."""
    error = found.error
    if found.route == "gram" and found.largest > error:
        error *= error / found.largest
    return Ends(found.largest, found.norm, found.rank(shape), error, found.route)


def product_spectrum(left: np.ndarray, right: np.ndarray) -> Spectrum:
    """Return the singular values of left @ right, m×r times r×n, without forming the product.

    With left = Q₁R₁ and rightᵀ = Q₂R₂ they are those of R₁R₂ᵀ, r×r. In float64: two factors and their product, each
    with errors of its own.
    """
    first = overwriting_r_factor(left.T.astype(np.float64, order="C", copy=True))
    second = overwriting_r_factor(right.astype(np.float64, order="C", copy=True))
    values = np.linalg.svd(first @ second.T, compute_uv=False)
    # What is lost is relative to the norms of the factors, which may cancel in the product.
    # The smallest ones lose up to 2.7·eps of them, from three steps with rounding of their own.
    size = max(left.shape[0], right.shape[1]) + 4
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    precision = float(np.finfo(np.float64).eps)
    return Spectrum(values, float(size * precision * norms), precision, "svd")


def _known_ends(found: GramSpectrum | GramEnds, shape: tuple[int, ...], method: Method) -> Ends | None:
    """None where `auto` has to decompose the matrix."""
    rows, columns = shape
    if isinstance(found, GramEnds):
        largest = float(np.sqrt(found.largest))
        return Ends(largest, float(np.sqrt(found.energy)), min(shape), found.error / largest, "gram")
    if method == "gram" or _is_enough(found, shape):
        return ends_of(_of_gram(found, np.dtype(np.float32), 1.0), (rows, columns))
    return None


def _is_enough(found: GramSpectrum, shape: tuple[int, ...]) -> bool:
    return found.rank_is_certain(max(shape) * _FLOAT32)


def _of_gram(found: GramSpectrum, dtype: np.dtype, scale: float) -> Spectrum:
    error = scale * float(np.sqrt(found.error))
    return Spectrum(scale * np.sqrt(found.eigenvalues), error, float(np.finfo(dtype).eps), "gram")


def _by_svd(matrix: np.ndarray, precision: float) -> Spectrum:
    """Of a finite matrix, which is destroyed unless it is tall."""
    longest = max(matrix.shape)
    if matrix.shape[0] > _TALL * matrix.shape[1]:
        matrix = triangular_factor(matrix)
    values = overwriting_singular_values(matrix)
    return Spectrum(values, float(longest * np.finfo(values.dtype).eps * values[0]), precision, "svd")
