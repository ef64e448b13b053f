"""A matrix scaled to entries of order one, seen from its shorter side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rankfall.ranks._arrays import Array, Namespace
from rankfall.ranks.spectrum import read_matrix

__all__ = ["Scaled", "read_scaled"]


@dataclass(frozen=True)
class Scaled:
    """A matrix divided by its largest entry.

    Attributes:
        xp: Array namespace.
        matrix: Shape (..., k, l) with k ≤ l, transposed if it was longer than wide; zeros for a zero matrix, NaN
            throughout where an entry was NaN or infinite.
        is_zero: Shape (..., 1, 1).
    """

    xp: Namespace
    matrix: Array
    is_zero: Array

    @property
    def energy(self) -> Array:
        """‖M‖_F² of the scaled matrix, shape (..., 1, 1); 1 for a zero matrix, so that nothing is divided by zero."""
        total = self.xp.sum(self.matrix**2, axis=(-2, -1), keepdims=True)
        return self.xp.where(self.is_zero, self.xp.ones_like(total), total)

    def finish(self, measure: Array) -> Array:
        """Drop the last two axes and set the value of zero matrices to zero."""
        return self.xp.where(self.is_zero, self.xp.zeros_like(measure), measure)[..., 0, 0][()]


def read_scaled(matrix: Any) -> Scaled:
    """Check a matrix and scale it, so that squares of its entries neither overflow nor all underflow.

    Raises:
        InvalidInput: Not a real array, fewer than two dimensions, or no rows or columns.
    """
    xp, array = read_matrix(matrix)
    largest = xp.max(xp.abs(array), axis=(-2, -1), keepdims=True)
    largest = xp.where(xp.isfinite(largest), largest, xp.full_like(largest, float("nan")))
    is_zero = largest == 0
    scaled = array / xp.where(is_zero, xp.ones_like(largest), largest)
    if array.shape[-2] > array.shape[-1]:
        scaled = xp.matrix_transpose(scaled)
    return Scaled(xp=xp, matrix=scaled, is_zero=is_zero)
