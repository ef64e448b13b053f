"""How many singular values carry nearly all of the nuclear norm."""

from __future__ import annotations

from typing import Any

from rankfall._checks import real_number
from rankfall.errors import InvalidInput
from rankfall.ranks._arrays import Array
from rankfall.ranks._cover import covering
from rankfall.ranks._values import read

__all__ = ["srank"]


def srank(singular_values: Any, *, delta: float = 0.01) -> Array:
    """Return the least k with σ₁ + … + σ_k ≥ (1 − δ) Σσ, σ descending.

    A. Kumar, R. Agarwal, D. Ghosh & S. Levine, "Implicit under-parameterization inhibits data-efficient deep
    reinforcement learning", ICLR 2021 (arXiv 2010.14498). Not the stable rank, although the letters suggest it. A sum
    that misses the threshold by no more than its own rounding counts as reaching it. No gradient.

    Args:
        singular_values: Shape (..., n), in any order.
        delta: Part of Σσ that may be left out, between 0 and 1.

    Returns:
        Whole numbers in the floating type (NaN has no integer), shape (...); 0 for a zero matrix, NaN where a singular
        value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values, or delta not strictly between 0 and 1.

    Example:
        >>> from rankfall import ranks
        >>> float(ranks.srank([3.0, 1.0, 0.1, 0.01]))
        3.0
    """
    values = read(singular_values)
    left_out = real_number(delta, "delta")
    if not 0.0 < left_out < 1.0:
        raise InvalidInput(
            f"delta must lie strictly between 0 and 1, got {left_out:g}. For delta = 0, count with numerical_rank."
        )
    return covering(values, values.scaled, left_out)
