"""e^x in vector lanes, the same bits whatever the width and the instruction set.

With n the whole number next to x/ln 2, x = n ln 2 + r and |r| ≤ ½ ln 2, e^x = 2ⁿ e^r: ln 2 in two pieces keeps r exact
to 2⁻⁵³, the Taylor polynomial of degree 13 leaves |r|¹⁴/14! < 5e-18 of e^r out, and the power of two goes into the
bits of the exponent. Together the error stays below 1 unit in the last place.
"""

from __future__ import annotations

from math import factorial, inf
from typing import Any

from numba.extending import overload

from rankfall._kernels import vector

__all__ = ["exponential"]

_INVERSE_LOG_2 = 1.4426950408889634
# The first piece has zeros in its last 21 bits: n times it is exact.
_LOG_2, _LOG_2_REST = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
_LOWEST, _HIGHEST = -708.0, 709.0
_COEFFICIENTS = tuple(1.0 / factorial(n) for n in range(14))


def exponential(x: Any) -> Any:
    """e^x lane by lane: 0 below −708, where e^x < 1e-307, infinity above 709, NaN of NaN."""
    raise NotImplementedError


@overload(exponential, inline="always")
def _exponential(x):  # type: ignore[no-untyped-def]
    w = x.width
    splat, fma, mul, add, sub, choose, power_of_two = (
        getattr(vector, f"{name}{w}") for name in ("splat", "fma", "mul", "add", "sub", "choose", "power_of_two")
    )
    _, _, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = _COEFFICIENTS
    inverse, high, rest, shift = _INVERSE_LOG_2, -_LOG_2, -_LOG_2_REST, vector.INTEGER_SHIFT
    lowest, highest = _LOWEST, _HIGHEST

    def implementation(x):  # type: ignore[no-untyped-def]
        shifted = fma(x, splat(inverse), splat(shift))
        n = sub(shifted, splat(shift))
        r = fma(n, splat(rest), fma(n, splat(high), x))
        # Horner in two halves, even and odd powers: the chain of dependent operations is half as long.
        z = mul(r, r)
        even = fma(z, fma(z, splat(c12), splat(c10)), splat(c8))
        even = fma(z, fma(z, fma(z, even, splat(c6)), splat(c4)), splat(c2))
        odd = fma(z, fma(z, splat(c13), splat(c11)), splat(c9))
        odd = fma(z, fma(z, fma(z, odd, splat(c7)), splat(c5)), splat(c3))
        value = mul(power_of_two(shifted), add(splat(1.0), fma(z, fma(r, odd, even), r)))
        value = choose(splat(lowest), x, splat(0.0), value)
        return choose(x, splat(highest), splat(inf), value)

    return implementation
