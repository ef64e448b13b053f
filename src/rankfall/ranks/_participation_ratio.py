"""Inverse participation of the energies, from singular values or straight from the matrix."""

from __future__ import annotations

from typing import Any

from rankfall.ranks._arrays import Array, plain_matmul
from rankfall.ranks._gram import read_scaled
from rankfall.ranks._values import read

__all__ = ["participation_ratio", "participation_ratio_from_matrix"]


def participation_ratio(singular_values: Any) -> Array:
    """Return (Σλ)²/Σλ² with λ = σ².

    P. Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262, 2017, where λ
    are the eigenvalues of a covariance: pass the singular values of the centred data for those. Between 1 and the rank.
    Differentiable.

    Args:
        singular_values: Shape (..., n), in any order.

    Returns:
        Shape (...); 0 for a zero matrix, NaN where a singular value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values.

    Example:
        >>> from rankfall import ranks
        >>> round(float(ranks.participation_ratio([3.0, 1.0, 0.1, 0.01])), 4)
        1.222
    """
    values = read(singular_values)
    energies = values.scaled**2
    return values.finish(values.total(energies) ** 2 / values.or_one(values.total(energies**2)))


def participation_ratio_from_matrix(matrix: Any) -> Array:
    """Return the participation ratio as ‖M‖_F⁴/‖G‖_F², G the smaller of MᵀM and MMᵀ: no SVD, and exact.

    Σλ = ‖M‖_F² and Σλ² = ‖G‖_F², so only rounding separates the result from that of the singular values: an entry of G
    is off by at most max(m, n)·eps/2 times the norms of its two rows, and the result R by max(m, n)·√R·eps relative to
    itself, in practice by a few eps. Differentiable, also at zero and repeated singular values.

    Cost: m·n·min(m, n) multiplications in one matrix product, which is many times faster than an SVD.

    Args:
        matrix: Shape (..., m, n), at least 1 by 1.

    Returns:
        Shape (...); 0 for a zero matrix, NaN where an entry is NaN or infinite.

    Raises:
        InvalidInput: Not a real array, fewer than two dimensions, or no rows or columns.

    Example:
        >>> from rankfall import ranks
        >>> float(ranks.participation_ratio_from_matrix([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        2.0
    """
    scaled = read_scaled(matrix)
    xp = scaled.xp
    gram = plain_matmul(xp, scaled.matrix, xp.matrix_transpose(scaled.matrix))
    spread = xp.sum(gram**2, axis=(-2, -1), keepdims=True)
    spread = xp.where(scaled.is_zero, xp.ones_like(spread), spread)
    return scaled.finish(scaled.energy**2 / spread)
