"""The least number of terms, the largest first, that leaves out no more than a given part of their sum."""

from __future__ import annotations

from rankfall.ranks._arrays import Array
from rankfall.ranks._values import Values

__all__ = ["covering"]


def covering(values: Values, terms: Array, left_out: float) -> Array:
    """Return the least k such that all but the k largest terms sum to at most `left_out` of the total.

    k is the number of j for which the j-th largest and all smaller terms together exceed left_out·total. Summing from
    the smallest up keeps each such sum accurate relative to itself, however small the part left out.
    """
    xp = values.xp
    remaining = xp.cumulative_sum(xp.sort(terms, axis=-1), axis=-1)
    # A sum of n terms is off by at most n−1 roundings of eps/2, and so is the total that it is compared with; forming a
    # term (division, square) adds at most three halves, the threshold's product one.
    slack = 1.0 + (values.count + 4) * values.precision
    exceeding = values.how_many(remaining > left_out * slack * remaining[..., -1:])
    # Rounded up to the total, the threshold would leave nothing to count; a matrix that is not zero needs one.
    return values.finish(xp.maximum(exceeding, xp.ones_like(exceeding)))
