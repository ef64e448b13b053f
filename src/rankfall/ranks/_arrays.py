"""What every measure does first: find the array's library, refuse what is not real numbers, choose the precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array, is_torch_array

from rankfall.errors import InvalidInput

__all__ = ["Array", "Namespace", "dtype_name", "on_host", "plain_matmul", "real_array"]

# A NumPy array or a PyTorch tensor; the array API has no common type to write here.
Array = Any
Namespace = Any


def real_array(value: Any, name: str) -> tuple[Namespace, Array]:
    """Return the namespace of `value` and `value` itself in the precision of the computation.

    float32 and float64 stay; half precision and bfloat16, in which sums overflow and LAPACK has no routines, become
    float32; whole numbers and booleans become float64. Tensors stay on their device and keep their gradient; anything
    that is no array (lists, xarray) is read by NumPy.

    Raises:
        InvalidInput: Complex, extended-precision, masked or non-numeric entries.
    """
    xp, array = _namespace(value, name)
    # NumPy has no bfloat16 of its own; the type of ml_dtypes is foreign to `isdtype`.
    if is_numpy_array(array) and array.dtype.name == "bfloat16":
        return xp, array.astype(np.float32)
    if xp.isdtype(array.dtype, "complex floating"):
        raise InvalidInput(f"{name} must be real, got {dtype_name(array)}. The measures are defined for real matrices.")
    if xp.isdtype(array.dtype, ("bool", "integral")):
        return xp, xp.astype(array, xp.float64)
    if not xp.isdtype(array.dtype, "real floating"):
        raise InvalidInput(f"{name} must be numbers, got an array of {dtype_name(array)}. Convert it to float64.")
    bits = xp.finfo(array.dtype).bits
    if bits > 64:
        raise InvalidInput(f"{name} must be float64 or narrower, got {dtype_name(array)}. Convert it to float64.")
    return xp, xp.astype(array, xp.float32) if bits < 32 else array


def on_host(array: Array) -> bool:
    """Whether the values can be looked at for free; on an accelerator a look waits for all the work in its queue."""
    return is_numpy_array(array) or (is_torch_array(array) and array.device.type == "cpu")


def plain_matmul(xp: Namespace, left: Array, right: Array) -> Array:
    """Matrix product in the precision of its factors, also inside a block of torch's autocast."""
    with _no_autocast(xp, left):
        return xp.matmul(left, right)


def dtype_name(array: Array) -> str:
    """Name of the data type, without its library."""
    return str(array.dtype).removeprefix("torch.")


def _no_autocast(xp: Namespace, array: Array) -> AbstractContextManager[Any]:
    if not is_torch_array(array):
        return nullcontext()
    try:
        switched_off: AbstractContextManager[Any] = xp.autocast(array.device.type, enabled=False)
    except RuntimeError:  # a device without autocast has none to switch off
        return nullcontext()
    return switched_off


def _namespace(value: Any, name: str) -> tuple[Namespace, Array]:
    try:
        if not is_numpy_array(value):
            # Never `asarray` on a tensor: torch's takes `requires_grad` away from its argument (pytorch issue 170819).
            return array_namespace(value), value
    except TypeError:
        pass
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInput(f"{name} must not be a masked array. Fill or drop what is masked first.")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be a numeric array, got {type(value).__name__}: {error}.") from None
    if array.dtype.kind in "OSUMm":
        raise InvalidInput(f"{name} must be a numeric array, got {type(value).__name__} with entries of {array.dtype}.")
    return array_namespace(array), array
