"""Nuclear norm against Frobenius norm."""

from __future__ import annotations

from typing import Any

from rankfall.ranks._arrays import Array
from rankfall.ranks._values import read

__all__ = ["nuclear_rank"]


def nuclear_rank(singular_values: Any) -> Array:
    """Return (Σσ)²/Σλ = ‖M‖_*²/‖M‖_F² with λ = σ².

    D. Davis & D. Drusvyatskiy, "When do spectral gradient updates help in deep learning?", arXiv 2512.04299, 2025,
    compare it, of a gradient, with the stable rank of the activations. Between 1 and the rank: the participation ratio
    of σ instead of λ. Differentiable, also at zero singular values, where the derivative is 2Σσ/Σλ > 0.

    Args:
        singular_values: Shape (..., n), in any order.

    Returns:
        Shape (...); 0 for a zero matrix, NaN where a singular value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values.

    Example:
        >>> from rankfall import ranks
        >>> round(float(ranks.nuclear_rank([3.0, 1.0, 0.1, 0.01])), 4)
        1.6875
    """
    values = read(singular_values)
    energy = values.total(values.scaled**2)
    return values.finish(values.total(values.scaled) ** 2 / values.or_one(energy))
