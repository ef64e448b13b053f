"""How many singular values carry nearly all of the energy."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rankfall._checks import real_number
from rankfall.errors import InvalidInput
from rankfall.ranks._arrays import Array
from rankfall.ranks._cover import covering
from rankfall.ranks._values import read

__all__ = ["energy_rank"]


def energy_rank(singular_values: Any, *, q: float = 0.99) -> Array:
    """Return the least k with λ₁ + … + λ_k ≥ q Σλ, λ = σ² descending.

    The number of principal components that explain the fraction q of the variance (e.g. arXiv 2305.16292); the best
    approximation of that rank is off by √(1 − q) or less in relative Frobenius norm. A sum that misses the threshold
    by no more than its own rounding counts as reaching it. No gradient.

    Args:
        singular_values: Shape (..., n), in any order.
        q: Fraction of the energy, between 0 and 1.

    Returns:
        Whole numbers in the floating type (NaN has no integer), shape (...); 0 for a zero matrix, NaN where a singular
        value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values, or q not strictly between 0 and 1.

    Example:
        >>> from rankfall import ranks
        >>> float(ranks.energy_rank([3.0, 1.0, 0.1, 0.01])), float(ranks.energy_rank([3.0, 1.0, 0.1, 0.01], q=0.8))
        (2.0, 1.0)
    """
    values = read(singular_values)
    fraction = real_number(q, "q")
    if not 0.0 < fraction < 1.0:
        raise InvalidInput(f"q must lie strictly between 0 and 1, got {fraction:g}. For q = 1, use numerical_rank.")
    # The decimal that was typed is meant: 1 − 0.9 in floating point is not 0.1, and ten equal values would need ten.
    return covering(values, values.scaled**2, float(1 - Decimal(repr(fraction))))
