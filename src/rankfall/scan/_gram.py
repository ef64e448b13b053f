"""Singular values through the smaller Gram matrix in float64, and how far they may be off.

Let A be m×n, L and S the longer and the shorter of m and n, u = 2⁻⁵³. Forming the Gram matrix is off by at most
L·u·‖A‖_F² in spectral norm, in whatever order the products are added (|E| ≤ L·u·|Aᵀ||A| to first order: N. Higham,
Accuracy and Stability of Numerical Algorithms, section 3.5), its eigenvalues λ by (S + 20)·u·‖A‖_F² more, which stands
for the modest factor of a backward stable method: LAPACK's iteration moves the eigenvalues of graded matrices of three
or four rows by up to 15·u·‖A‖_F², which S alone does not cover. Together, by Weyl's theorem, every λ is off by at most

    δ = (m + n + 20)·u·‖A‖_F²,

σ = √λ by at most √δ, because |√a − √b| ≤ √|a − b|, and by at most δ/σ where σ is large.

Of a matrix of float32 or shorter numbers that is less than its own SVD may lose: with ‖A‖_F² ≤ S·σ₁² and m + n ≤ 2L,

    √δ ≤ √(2·L·S·u·(1 + 10/L))·σ₁ ≤ √(1 + 10/L)·2⁻²⁶·L·σ₁ = √(1 + 10/L)·L·eps(float32)·σ₁ / 8,

an eighth of the threshold τ = L·eps(float32)·σ₁ of `ranks.numerical_rank`, which is the error of the SVD in float32;
where L is as small as ten, less than a fifth, and never half. Near the threshold itself δ/σ is a 64th of it, or those
squared. Where a value lies closer than that to it, the rank is open (`rank_is_certain`). In float64, half of the digits
are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rankfall.scan._ends import ABOVE, all_above, largest_eigenvalue
from rankfall.scan._lapack import add_gram, overwriting_eigenvalues

__all__ = ["GramEnds", "GramSpectrum", "block_length", "gram_in_memory", "gram_of_rows"]

_UNIT = 2.0**-53
_SMALLEST = 20  # units that the eigenvalues of the smallest matrices may be off besides
_LEAST_BLOCK = 512  # rows in a product, enough for BLAS to be at its speed
_BLOCK_NUMBERS = 2**18  # 2 MB


@dataclass(frozen=True)
class GramSpectrum:
    """Eigenvalues of a Gram matrix.

    Attributes:
        eigenvalues: Of AᵀA or AAᵀ, descending, none negative.
        error: δ, a bound on the error of each of them.
    """

    eigenvalues: np.ndarray
    error: float

    def rank_is_certain(self, relative: float) -> bool:
        """Whether #{i : σ_i > relative·σ₁} is the same for all matrices whose eigenvalues are as near as `error`."""
        largest, square = float(self.eigenvalues[0]), relative**2
        surely = self.eigenvalues > square * (largest + self.error) + self.error
        possibly = self.eigenvalues > square * (largest - self.error) - self.error
        return bool(np.array_equal(surely, possibly)) or largest == 0.0


@dataclass(frozen=True)
class GramEnds:
    """What is known of a Gram matrix of full rank without all of its eigenvalues.

    Attributes:
        largest: λ₁.
        energy: ‖A‖_F².
        error: Bound on the error of λ₁, and of ‖A‖_F² too.
    """

    largest: float
    energy: float
    error: float


def gram_of_rows(
    blocks: Iterable[np.ndarray], rows: int, columns: int, full_rank: float | None = None
) -> GramSpectrum | GramEnds | None:
    """Return the spectrum of a matrix with no fewer rows than columns that comes in blocks of rows.

    Args:
        blocks: Of float32, columns as given; each is used before the next is asked for.
        rows: Of all blocks together.
        columns: Of each.
        full_rank: If given, the ends of the spectrum will do where every singular value is shown to be above so many
            times the largest.

    Returns:
        None if an entry is NaN or infinite: float32 has no numbers whose squares float64 does not hold.

    Raises:
        numpy.linalg.LinAlgError: The eigenvalues were not found.
    """
    gram = np.zeros((columns, columns))
    wide = np.empty((min(rows, block_length(columns)), columns))
    for block in blocks:
        part = wide[: len(block)]
        part[...] = block
        add_gram(part, gram)
    return _finish(gram, rows + columns, full_rank)


def gram_in_memory(matrix: np.ndarray, full_rank: float | None = None) -> tuple[GramSpectrum | GramEnds | None, float]:
    """Return the spectrum of matrix / scale, and the scale, a power of two; `full_rank` as above.

    Returns:
        None and 1 if an entry is NaN or infinite.
    """
    scale = 1.0
    if matrix.dtype != np.float32:
        # Squares of float64 could overflow or vanish. A power of two rounds nothing.
        largest = max(float(matrix.max()), -float(matrix.min()))
        if not np.isfinite(largest):
            return None, 1.0
        scale = 2.0 ** int(np.frexp(largest)[1] - 1) if largest else 1.0
    rows, columns = matrix.shape
    if rows >= columns:
        return gram_of_rows(_scaled_rows(matrix, scale), rows, columns, full_rank), scale
    gram = np.zeros((rows, rows))
    length = min(columns, block_length(rows))
    for begin in range(0, columns, length):
        block = matrix[:, begin : begin + length]
        part = np.empty(block.shape)
        np.divide(block, scale, out=part)
        add_gram(part, gram, of_rows=True)
    return _finish(gram, rows + columns, full_rank), scale


def block_length(side: int) -> int:
    """How many rows of so many numbers go into one product: a fixed number, so that rounding is too."""
    return max(_LEAST_BLOCK, _BLOCK_NUMBERS // side)


def _scaled_rows(matrix: np.ndarray, scale: float) -> Iterator[np.ndarray]:
    length = block_length(matrix.shape[1])
    for begin in range(0, len(matrix), length):
        block = matrix[begin : begin + length]
        yield block if scale == 1.0 else block / scale


def _finish(gram: np.ndarray, sides: int, full_rank: float | None) -> GramSpectrum | GramEnds | None:
    energy = float(np.trace(gram))
    if not np.isfinite(energy):
        return None
    error = (sides + _SMALLEST) * _UNIT * energy
    if full_rank is not None and energy > 0.0:
        ends = _ends(gram, energy, error, full_rank)
        if ends is not None:
            return ends
    eigenvalues = overwriting_eigenvalues(gram)[::-1]
    return GramSpectrum(np.maximum(eigenvalues, 0.0), error)


def _ends(gram: np.ndarray, energy: float, error: float, full_rank: float) -> GramEnds | None:
    work = np.empty_like(gram)
    largest = largest_eigenvalue(gram, work)
    if largest is None:
        return None
    # Beside δ, what `largest_eigenvalue` leaves open.
    off = error + (ABOVE + 2 * len(gram) ** 2 * _UNIT) * largest
    # δ for how the matrix was formed, and δ again, which is more than the rounding of the factorisation.
    shown = all_above(gram, full_rank**2 * (largest + off) + 2 * error, work)
    return GramEnds(largest, energy, off) if shown else None
