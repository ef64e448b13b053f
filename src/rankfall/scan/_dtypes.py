"""Number formats of checkpoints, those that NumPy lacks included: raw bytes to float32 or float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["BITS", "DECODERS", "NAMES"]

# Bits of one entry, by the name in a safetensors header. A type that is not here makes a tensor unreadable, not a file.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}

# The same types under the names that PyTorch and ml_dtypes use.
NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}


def _bfloat16(raw: np.ndarray) -> np.ndarray:
    """A bfloat16 is the upper half of a float32."""
    wide = raw.view("<u2").astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _float8_table(exponent_bits: int, *, infinities: bool) -> np.ndarray:
    """The 256 values of a float8 of the Open Compute Project's specification (2023), sign and exponent first.

    E5M2 follows IEEE 754; E4M3 has no infinities and one NaN per sign, so that its last exponent holds numbers.
    """
    fraction_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    codes = np.arange(256)
    exponent = (codes >> fraction_bits) & (2**exponent_bits - 1)
    fraction = (codes & (2**fraction_bits - 1)) / 2.0**fraction_bits
    normal = exponent > 0
    magnitude = np.where(normal, 1.0 + fraction, fraction) * 2.0 ** (np.maximum(exponent, 1) - bias)
    last = exponent == 2**exponent_bits - 1
    if infinities:
        magnitude[last] = np.where(fraction[last] == 0, np.inf, np.nan)
    else:
        magnitude[last & (fraction == fraction.max())] = np.nan
    return np.where(codes >= 128, -magnitude, magnitude).astype(np.float32)


_E4M3 = _float8_table(4, infinities=False)
_E5M2 = _float8_table(5, infinities=True)

# From the raw bytes, a one-dimensional array of uint8, to numbers.
DECODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F64": lambda raw: raw.view("<f8"),
    "F32": lambda raw: raw.view("<f4"),
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "BF16": _bfloat16,
    "F8_E4M3": lambda raw: _E4M3[raw],
    "F8_E5M2": lambda raw: _E5M2[raw],
}
