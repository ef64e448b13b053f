"""Counter-based normal random numbers: Philox4x32-10 and a Box–Muller transform, made to run in vector lanes.

A number is a pure function of (seed; replicate, step group, call, stream), so that it does not depend on threads,
chunks, the number of replicates or on where a run was interrupted.

Source of the generator: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011. Its words are 32 bits wide and kept in 64-bit lanes here, where one instruction multiplies two of
them to the full 64-bit product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

_u64, _f32, _i32, _f64, _i64 = np.uint64, np.float32, np.int32, np.float64, np.int64

MASK = _u64(0xFFFFFFFF)
SHIFT = _u64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = _u64(0xD2511F53), _u64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = _u64(0x9E3779B9), _u64(0xBB67AE85)

# The third counter word is call + stream: the streams never share a counter.
STREAM_FLOW_NOISE = _u64(0)
STREAM_BATCH = _u64(1 << 28)
STREAM_BATCH_NOISE = _u64(2 << 28)
STREAM_FLIPS = _u64(5 << 28)

_INLINE: dict[str, Any] = {"error_model": "numpy", "nogil": True, "inline": "always"}


@njit(**_INLINE)
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Ten rounds of Philox4x32 on counter (c0, c1, c2, c3) and key (k0, k1); all are uint64 that hold 32 bits."""
    for _ in range(10):
        a = _MULTIPLIER_0 * (c0 & MASK)
        b = _MULTIPLIER_1 * (c2 & MASK)
        c0 = ((b >> SHIFT) ^ c1 ^ k0) & MASK
        c1 = b & MASK
        c2 = ((a >> SHIFT) ^ c3 ^ k1) & MASK
        c3 = a & MASK
        k0 = (k0 + _WEYL_0) & MASK
        k1 = (k1 + _WEYL_1) & MASK
    return c0, c1, c2, c3


def _scalar_fma(name: str, kind: Any, numba_type: Any) -> Any:
    """A correctly rounded scalar a·b + c: fast without fastmath, hence reproducible between instruction sets."""

    @intrinsic
    def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function = builder.module.globals.get(name) or ir.Function(
                builder.module, ir.FunctionType(kind, [kind] * 3), name
            )
            return builder.call(function, arguments)

        return numba_type(numba_type, numba_type, numba_type), generate

    return fma


_fma32 = _scalar_fma("llvm.fma.f32", ir.FloatType(), types.float32)
_fma64 = _scalar_fma("llvm.fma.f64", ir.DoubleType(), types.float64)

# Single precision. Minimax polynomials, lowest order first:
# −2 log(1+t)/t on [1/√2 − 1, √2 − 1];  sin(π√z)/√z and cos(π√z) for z = a², a in [−1/2, 1/2].
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (
    _f32(c)
    for c in (
        -2.0,
        0.9999995827674866,
        -0.6666831970214844,
        0.5000588893890381,
        -0.39916831254959106,
        0.3308749198913574,
        -0.2983478903770447,
        0.28964272141456604,
        -0.1791960746049881,
    )
)
_S0, _S1, _S2, _S3, _S4 = (
    _f32(c)
    for c in (3.1415927410125732, -5.167710304260254, 2.5500776767730713, -0.5982921719551086, 0.07765940576791763)
)
_C0, _C1, _C2, _C3, _C4, _C5 = (
    _f32(c)
    for c in (
        1.0,
        -4.934802055358887,
        4.058709144592285,
        -1.3352121114730835,
        0.23493756353855133,
        -0.024396715685725212,
    )
)
_TWO_TO_MINUS_32, _TWO_TO_MINUS_33, _ONE = _f32(2.0**-32), _f32(2.0**-33), _f32(1)
_MINUS_2_LOG_2 = _f32(-2 * math.log(2))
_BITS_OF_ROOT_HALF, _MANTISSA_BITS, _SIGN_BIT = _i32(0x3F3504F3), _i32(23), _i32(31)


@njit(**_INLINE)
def normal_pair_single(x, y):  # type: ignore[no-untyped-def]
    """Box–Muller in single precision: two 32-bit words -> two independent normals, |n| ≤ 6.76.

    The radius is √(−2 log u) with u = (x + ½)/2³² in (0, 1]; the angle is π times y read as a signed fraction in
    [−½, ½), and a random sign of the cosine (the lowest bit of y) opens the half circle to the full one.
    """
    bits = _f32(_fma32(_f32(x), _TWO_TO_MINUS_32, _TWO_TO_MINUS_33)).view(np.int32)
    exponent = _i32(_i32(bits - _BITS_OF_ROOT_HALF) >> _MANTISSA_BITS)
    t = _i32(bits - _i32(exponent << _MANTISSA_BITS)).view(np.float32) - _ONE
    q = _fma32(_fma32(_fma32(_fma32(_L8, t, _L7), t, _L6), t, _L5), t, _L4)
    q = _fma32(_fma32(_fma32(_fma32(q, t, _L3), t, _L2), t, _L1), t, _L0)
    radius = math.sqrt(_fma32(q, t, _f32(exponent) * _MINUS_2_LOG_2))
    angle = _f32(_i32(y)) * _TWO_TO_MINUS_32
    z = angle * angle
    sine = _fma32(_fma32(_fma32(_fma32(_S4, z, _S3), z, _S2), z, _S1), z, _S0) * angle
    cosine = _fma32(_fma32(_fma32(_fma32(_fma32(_C5, z, _C4), z, _C3), z, _C2), z, _C1), z, _C0)
    signed = _i32(_f32(radius * cosine).view(np.int32) ^ _i32(_i32(y) << _SIGN_BIT)).view(np.float32)
    return radius * sine, signed


# Double precision. log m = 2 artanh(s), s = (m−1)/(m+1), |s| ≤ 0.1716: 12 terms of the series leave 4e-17.
# sin and cos of πa, |a| ≤ ½, from their Taylor series: 12 terms leave less than 1e-17.
_ATANH = tuple(4.0 / (2 * j + 1) for j in range(12))
_SIN = tuple((-1.0) ** j * math.pi ** (2 * j + 1) / math.factorial(2 * j + 1) for j in range(12))
_COS = tuple((-1.0) ** j * math.pi ** (2 * j) / math.factorial(2 * j) for j in range(12))
_TWO_TO_MINUS_53, _TWO_TO_MINUS_54, _TWO_TO_MINUS_64 = 2.0**-53, 2.0**-54, 2.0**-64
_BITS_OF_ROOT_HALF_64, _MANTISSA_BITS_64 = _i64(0x3FE6A09E667F3BCD), _i64(52)
_DOUBLE_MINUS_2_LOG_2 = -2 * math.log(2)
_ELEVEN = _u64(11)


@njit(**_INLINE)
def _horner(coefficients, z):  # type: ignore[no-untyped-def]
    total = coefficients[11]
    for j in range(10, -1, -1):
        total = _fma64(total, z, coefficients[j])
    return total


@njit(**_INLINE)
def normal_pair_double(x0, x1, y0, y1):  # type: ignore[no-untyped-def]
    """Box–Muller in double precision: four 32-bit words -> two independent normals, |n| ≤ 8.65."""
    uniform = _fma64(_f64(((x0 << SHIFT) | x1) >> _ELEVEN), _TWO_TO_MINUS_53, _TWO_TO_MINUS_54)
    bits = _f64(uniform).view(np.int64)
    exponent = _i64(_i64(bits - _BITS_OF_ROOT_HALF_64) >> _MANTISSA_BITS_64)
    mantissa = _i64(bits - _i64(exponent << _MANTISSA_BITS_64)).view(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = -s * _horner(_ATANH, s * s) + _f64(exponent) * _DOUBLE_MINUS_2_LOG_2
    radius = math.sqrt(max(square, 0.0))
    angle = _f64(_i64((y0 << SHIFT) | y1)) * _TWO_TO_MINUS_64
    z = angle * angle
    sine = _horner(_SIN, z) * angle
    cosine = _horner(_COS, z)
    sign = 1.0 - 2.0 * _f64(y1 & _u64(1))
    return radius * sine, radius * cosine * sign
