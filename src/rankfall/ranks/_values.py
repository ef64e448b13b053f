"""Singular values made ready for a formula, and what all measures agree on at the edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rankfall.errors import InvalidInput
from rankfall.ranks._arrays import Array, Namespace, on_host, real_array

__all__ = ["Values", "read"]


@dataclass(frozen=True)
class Values:
    """Singular values in any order along the last axis; reductions keep that axis with length one.

    Attributes:
        xp: Array namespace.
        values: As given, in the precision of the computation, shape (..., n).
        top: The largest, shape (..., 1); NaN where any value is not finite.
        scaled: `values / top`, so that no square overflows; zero for a zero matrix, NaN where any value is not finite.
    """

    xp: Namespace
    values: Array
    top: Array
    scaled: Array

    @property
    def count(self) -> int:
        """Number n of singular values."""
        return int(self.values.shape[-1])

    @property
    def precision(self) -> float:
        """Distance from 1 to the next larger number in the precision of the computation."""
        return float(self.xp.finfo(self.values.dtype).eps)

    def total(self, terms: Array) -> Array:
        """Sum over the singular values."""
        return self.xp.sum(terms, axis=-1, keepdims=True)

    def how_many(self, chosen: Array) -> Array:
        """How many are chosen: a whole number in the floating type, where NaN has a place that integers lack."""
        number = self.total(self.xp.astype(chosen, self.values.dtype))
        return self.xp.where(self.xp.isnan(self.top), _filled(self, float("nan")), number)

    def share(self, parts: Array) -> Array:
        """Return parts/Σparts, or zeros where the matrix is zero."""
        return parts / self.or_one(self.total(parts))

    def or_one(self, divisor: Array) -> Array:
        """Return the divisor, or 1 where it is zero: gradients must not meet 0/0 where the result is replaced later."""
        return self.xp.where(divisor == 0, _filled(self, 1.0), divisor)

    def finish(self, measure: Array) -> Array:
        """Drop the last axis and set the value of zero matrices to zero."""
        return self.drop(self.xp.where(self.top == 0, _filled(self, 0.0), measure))

    def drop(self, measure: Array) -> Array:
        """Drop the last axis; NumPy gives a scalar where no axis is left."""
        return measure[..., 0][()]


def read(singular_values: Any) -> Values:
    """Check singular values and scale them.

    Raises:
        InvalidInput: Not an array of real numbers, no last axis, no values, or negative values. On an accelerator,
            where looking at values means waiting for the device, negative values give NaN instead.
    """
    xp, values = real_array(singular_values, "singular_values")
    if values.ndim == 0 or values.shape[-1] == 0:
        raise InvalidInput(
            f"singular_values must have at least one value along their last axis, got shape {tuple(values.shape)}."
        )
    top = xp.max(values, axis=-1, keepdims=True)
    bottom = xp.min(values, axis=-1, keepdims=True)
    if on_host(values) and bool(xp.any(bottom < 0)):
        raise InvalidInput(
            f"singular_values must not be negative, but the least is {float(xp.min(values)):g}. Pass singular values, "
            "not eigenvalues or entries of the matrix."
        )
    # Both comparisons are false for NaN, which max and min hand on.
    sound = xp.isfinite(top) & (bottom >= 0)
    top = xp.where(sound, top, xp.full_like(top, float("nan")))
    return Values(xp=xp, values=values, top=top, scaled=values / xp.where(top == 0, xp.ones_like(top), top))


def _filled(values: Values, number: float) -> Array:
    return values.xp.full_like(values.top, number)
