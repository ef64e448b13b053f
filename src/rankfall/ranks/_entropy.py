"""Shannon entropy of shares, with finite gradients where a share is zero."""

from __future__ import annotations

from rankfall.ranks._arrays import Array
from rankfall.ranks._values import Values

__all__ = ["perplexity"]


def perplexity(values: Values, shares: Array) -> Array:
    """Return exp(−Σ p ln p) with 0 ln 0 = 0.

    The derivative of −p ln p at p = 0 is +∞; this one is 0. Both branches of the choice are finite, because automatic
    differentiation multiplies the branch that was not taken by zero.
    """
    logarithms = values.xp.log(values.xp.where(shares > 0, shares, values.xp.ones_like(shares)))
    return values.xp.exp(-values.total(shares * logarithms))
