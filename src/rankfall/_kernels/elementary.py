"""Logarithm and exponential as plain arithmetic.

The compiler can run a loop of them in vector lanes, and their bits are the same on every machine, which those of its C
library need not be.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rankfall._kernels.philox import _INLINE, _fma64

__all__ = ["LEAST", "exponential", "logarithm"]

_f64, _i64 = np.float64, np.int64
_BITS_OF_ROOT_HALF, _MANTISSA_BITS = _i64(0x3FE6A09E667F3BCD), _i64(52)
_BIAS = _i64(1023)
_LOG_2, _INVERSE_LOG_2 = math.log(2.0), 1.0 / math.log(2.0)
# log 2 in two parts, the first with zeros at its end, so that multiples of it are exact.
_LOG_2_HIGH, _LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# log m = 2s (1 + z/3 + z²/5 + …), z = s², s = (m−1)/(m+1), |s| ≤ 0.1716: what is left out is below 1e-17.
_SERIES = tuple(2.0 / (2 * j + 3) for j in range(10))
# eʳ, |r| ≤ log(2)/2: the term left out, r¹⁴/14!, is below 5e-18.
_TAYLOR = tuple(1.0 / math.factorial(j) for j in range(14))
# Below this the exponential is taken as zero.
LEAST = -708.0


@njit(**_INLINE)
def logarithm(x):  # type: ignore[no-untyped-def]
    """log x of a positive normal number, within 2 units in the last place; anything for other numbers."""
    bits = _f64(x).view(np.int64)
    exponent = _i64(_i64(bits - _BITS_OF_ROOT_HALF) >> _MANTISSA_BITS)
    mantissa = _i64(bits - _i64(exponent << _MANTISSA_BITS)).view(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    total = _SERIES[9]
    for j in range(8, -1, -1):
        total = _fma64(total, z, _SERIES[j])
    return _fma64(_f64(exponent), _LOG_2, _fma64(s * z, total, s + s))


@njit(**_INLINE)
def exponential(x):  # type: ignore[no-untyped-def]
    """eˣ for x ≤ 700, within 2 units in the last place; 0 below LEAST and for NaN, e⁷⁰⁰ beyond."""
    kept = min(x, 700.0) if x > LEAST else LEAST
    k = math.floor(kept * _INVERSE_LOG_2 + 0.5)
    whole = _f64(k)
    r = _fma64(whole, -_LOG_2_LOW, _fma64(whole, -_LOG_2_HIGH, kept))
    total = _TAYLOR[13]
    for j in range(12, -1, -1):
        total = _fma64(total, r, _TAYLOR[j])
    power = _i64(_i64(_i64(k) + _BIAS) << _MANTISSA_BITS).view(np.float64)
    return total * power if x > LEAST else 0.0
