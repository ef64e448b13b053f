"""Checks of arguments that several public entrances share; each raises `InvalidInput` with what to do."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from rankfall.errors import InvalidInput


def finite_matrix(value: Any, name: str, *, columns_ok: bool = False) -> np.ndarray:
    """Return `value` as a read-only, C-ordered float64 matrix, or say why it is none."""
    try:
        given = np.asarray(value)
        if np.iscomplexobj(given):
            raise InvalidInput(f"{name} must be real, got complex numbers.")
        array = np.array(given, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{name} must be a numeric array, got {type(value).__name__}: {error}.") from None
    if columns_ok and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise InvalidInput(f"{name} must be a matrix (two dimensions), got shape {array.shape}.")
    if 0 in array.shape:
        raise InvalidInput(f"{name} must not be empty, got shape {array.shape}.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise InvalidInput(
            f"{name} must be finite, but {len(bad)} of {array.size} entries are NaN or infinite, the first at "
            f"{tuple(int(i) for i in bad[0])}. Remove or impute them first."
        )
    array.setflags(write=False)
    return array


def whole_number(value: Any, name: str, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Return `value` as an int within the bounds, or say what was given."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        if isinstance(value, float) and value.is_integer():
            number = int(value)
        else:
            raise InvalidInput(f"{name} must be a whole number, got {value!r}.") from None
    if number < at_least:
        raise InvalidInput(f"{name} must be at least {at_least}, got {number}.")
    if at_most is not None and number > at_most:
        raise InvalidInput(f"{name} must be at most {at_most}, got {number}.")
    return number


def real_number(value: Any, name: str, *, above: float | None = None, at_least: float | None = None) -> float:
    """Return `value` as a finite float within the bounds, or say what was given."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{name} must be a number, got {value!r}.") from None
    except OverflowError:  # a whole number of more than 308 digits
        raise InvalidInput(f"{name} must be a number that float64 holds, got a larger one.") from None
    if not math.isfinite(number):
        raise InvalidInput(f"{name} must be finite, got {number}.")
    if above is not None and not number > above:
        raise InvalidInput(f"{name} must be greater than {above:g}, got {number:g}.")
    if at_least is not None and not number >= at_least:
        raise InvalidInput(f"{name} must be at least {at_least:g}, got {number:g}.")
    return number


def seed_number(value: Any, name: str = "seed") -> int:
    """Return a seed in [0, 2^64), the key space of the counter-based generator."""
    return whole_number(value, name, at_least=0, at_most=2**64 - 1)
