"""The effective rank with a small constant in it, as published for representations."""

from __future__ import annotations

from typing import Any

from rankfall._checks import real_number
from rankfall.ranks._arrays import Array
from rankfall.ranks._entropy import perplexity
from rankfall.ranks._values import read

__all__ = ["rankme"]


def rankme(singular_values: Any, *, epsilon: float = 1e-7) -> Array:
    """Return exp(−Σ p̃ ln p̃) with p̃ = σ/Σσ + ε, n terms.

    Q. Garrido, R. Balestriero, L. Najman & Y. LeCun, "RankMe: assessing the downstream performance of pretrained
    self-supervised representations by their rank", ICML 2023. The shares p̃ sum to 1 + nε, so this is not quite an
    exponential of an entropy: a matrix of rank 1 with 4096 singular values has 1.0066, one with a single singular value
    1 − 1e-7. Take `effective_rank` unless you compare with published numbers. Differentiable, also at zero.

    Args:
        singular_values: Shape (..., n), in any order.
        epsilon: The constant, that of the paper by default; not negative.

    Returns:
        Shape (...); 0 for a zero matrix, NaN where a singular value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values, or a negative epsilon.

    Example:
        >>> from rankfall import ranks
        >>> round(float(ranks.rankme([3.0, 1.0, 0.1, 0.01])), 4), round(float(ranks.rankme([1.0] + [0.0] * 4095)), 4)
        (1.9714, 1.0066)
    """
    values = read(singular_values)
    constant = real_number(epsilon, "epsilon", at_least=0.0)
    return values.finish(perplexity(values, values.share(values.scaled) + constant))
