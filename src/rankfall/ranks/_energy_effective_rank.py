"""Exponential of the entropy of the energies."""

from __future__ import annotations

from typing import Any

from rankfall.ranks._arrays import Array
from rankfall.ranks._entropy import perplexity
from rankfall.ranks._values import read

__all__ = ["energy_effective_rank"]


def energy_effective_rank(singular_values: Any) -> Array:
    """Return exp(−Σ w ln w) with w = λ/Σλ, λ = σ²: the formula of the effective rank on energies.

    A common variant, often called effective rank too; it is never larger than `effective_rank`, and smaller wherever
    the non-zero singular values are not all equal. Of covariance matrices (λ their eigenvalues) it is the usual one.
    Differentiable; the derivative with respect to σ_i tends to 0 with σ_i and is 0 there.

    Args:
        singular_values: Shape (..., n), in any order.

    Returns:
        Shape (...); 0 for a zero matrix, NaN where a singular value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values.

    Example:
        >>> from rankfall import ranks
        >>> round(float(ranks.energy_effective_rank([3.0, 1.0, 0.1, 0.01])), 4)
        1.3948
    """
    values = read(singular_values)
    return values.finish(perplexity(values, values.share(values.scaled**2)))
