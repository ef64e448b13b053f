"""Logarithm of the determinant of the smaller Gram matrix."""

from __future__ import annotations

from typing import Any

from rankfall.ranks._arrays import Array
from rankfall.ranks._values import read

__all__ = ["log_determinant"]


def log_determinant(singular_values: Any) -> Array:
    """Return 2 Σ ln σ_i, the log determinant of ZZᵀ from the singular values of Z.

    Of a Z with more rows than columns this is log det ZᵀZ; ZZᵀ is singular then. Never form the Gram matrix for it:
    squaring loses half of the digits. Not a rank: it is not invariant to scale, c·Z has 2n ln c more. Differentiable;
    the derivative with respect to a singular value that is exactly zero is returned as 0.

    Args:
        singular_values: Of Z, shape (..., n), in any order.

    Returns:
        Shape (...), natural logarithm; −inf where a singular value is zero, NaN where one is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values.

    Example:
        >>> import math
        >>> from rankfall import ranks
        >>> math.isclose(ranks.log_determinant([2.0, 0.5, 3.0]), math.log(9.0))
        True
    """
    values = read(singular_values)
    xp = values.xp
    # Otherwise ∞ − ∞ on the way to NaN would warn.
    given = xp.where(xp.isnan(values.top), xp.ones_like(values.values), values.values)
    positive = given > 0
    logarithms = xp.where(
        positive, xp.log(xp.where(positive, given, xp.ones_like(given))), -xp.full_like(given, float("inf"))
    )
    return values.drop(xp.where(xp.isnan(values.top), values.top, 2.0 * values.total(logarithms)))
