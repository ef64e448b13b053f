"""Energy in units of the largest."""

from __future__ import annotations

from typing import Any

from rankfall.ranks._arrays import Array
from rankfall.ranks._values import read

__all__ = ["stable_rank"]


def stable_rank(singular_values: Any) -> Array:
    """Return Σλ/λ₁ = ‖M‖_F²/‖M‖₂² with λ = σ².

    M. Rudelson & R. Vershynin, "Sampling from large matrices: an approach through geometric functional analysis",
    J. ACM 54(4), 2007. Between 1 and the rank; a small change of the matrix changes it little. Differentiable, except
    where the largest singular value is repeated (autograd takes the mean over them). `stable_rank_from_matrix` needs no
    SVD.

    Args:
        singular_values: Shape (..., n), in any order.

    Returns:
        Shape (...); 0 for a zero matrix, NaN where a singular value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values.

    Example:
        >>> from rankfall import ranks
        >>> round(float(ranks.stable_rank([3.0, 1.0, 0.1, 0.01])), 4)
        1.1122
    """
    values = read(singular_values)
    return values.finish(values.total(values.scaled**2))
