"""Exponential of the entropy of the singular values."""

from __future__ import annotations

from typing import Any

from rankfall.ranks._arrays import Array
from rankfall.ranks._entropy import perplexity
from rankfall.ranks._values import read

__all__ = ["effective_rank"]


def effective_rank(singular_values: Any) -> Array:
    """Return exp(−Σ p ln p) with p = σ/Σσ: the effective rank of Roy & Vetterli.

    O. Roy & M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007. Between 1 and the
    rank. Some libraries give the entropy itself, or this on energies (`energy_effective_rank`). Differentiable; the
    derivative with respect to a singular value that is exactly zero, +∞ in the limit, is returned as 0.

    Args:
        singular_values: Shape (..., n), in any order.

    Returns:
        Shape (...); 0 for a zero matrix, NaN where a singular value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values.

    Example:
        >>> from rankfall import ranks
        >>> round(float(ranks.effective_rank([3.0, 1.0, 0.1, 0.01])), 4)
        1.9714
    """
    values = read(singular_values)
    # Zeros enter as constants: by way of Σσ they would have a derivative that says nothing, of either sign.
    parts = values.xp.where(values.scaled == 0, values.xp.zeros_like(values.scaled), values.scaled)
    return values.finish(perplexity(values, values.share(parts)))
