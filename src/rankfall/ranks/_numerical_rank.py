"""How many singular values stand out of the rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankfall._checks import real_number, whole_number
from rankfall.errors import InvalidInput
from rankfall.ranks._arrays import Array
from rankfall.ranks._values import read

__all__ = ["numerical_rank"]


def numerical_rank(
    singular_values: Any, *, rtol: float | None = None, atol: float = 0.0, shape: Sequence[int] | None = None
) -> Array:
    """Return #{i : σ_i > max(atol, rtol·σ₁)}, the number of singular values above a threshold.

    The default rtol = max(m, n)·eps, eps being that of the precision of the computation, is the one of
    `numpy.linalg.matrix_rank`: about the error that rounding leaves in a singular value that should be zero. With
    `atol` alone, rtol keeps this default (torch's `matrix_rank` sets it to zero then). No gradient.

    Args:
        singular_values: Shape (..., n), in any order.
        rtol: Threshold relative to the largest singular value.
        atol: Absolute threshold.
        shape: Of the matrix, for the default of `rtol`; only the last two numbers count. Without it the matrix is taken
            to be square, which is too low a threshold for a long one.

    Returns:
        Whole numbers in the floating type (NaN has no integer), shape (...); 0 for a zero matrix, NaN where a singular
        value is NaN or infinite.

    Raises:
        InvalidInput: Bad singular values, a negative tolerance, or a shape that cannot have n singular values.

    Example:
        >>> from rankfall import ranks
        >>> float(ranks.numerical_rank([3.0, 1.0, 0.1, 0.01])), float(ranks.numerical_rank([3.0, 1.0, 0.1], atol=0.5))
        (4.0, 2.0)
    """
    values = read(singular_values)
    absolute = real_number(atol, "atol", at_least=0.0)
    if rtol is None:
        relative = _longest(shape, values.count) * values.precision
    else:
        relative = real_number(rtol, "rtol", at_least=0.0)
    threshold = values.xp.maximum(relative * values.top, values.xp.full_like(values.top, absolute))
    return values.finish(values.how_many(values.values > threshold))


def _longest(shape: Sequence[int] | None, count: int) -> int:
    if shape is None:
        return count
    if len(shape) < 2 or min(shape[-2:]) != count:
        raise InvalidInput(
            f"shape must be that of a matrix with {count} singular values, so its shorter side is {count}; got "
            f"{tuple(shape)}."
        )
    return max(whole_number(side, "a side of shape") for side in shape[-2:])
