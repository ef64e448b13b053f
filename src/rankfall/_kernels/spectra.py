"""Singular values of many small matrices at once, one matrix per vector lane (one-sided Jacobi).

A singular value that LAPACK's bidiagonal reduction loses below eps·σ₁ keeps its digits here as long as the columns are
scaled well or badly but not nearly dependent: each rotation is computed from inner products of the columns themselves
(J. Demmel & K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 13, 1992).
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from rankfall._kernels import vector

# Two columns count as orthogonal below this cosine; a sweep that finds all pairs so ends the iteration of its lane.
_COSINE = 4e-16
_MAX_SWEEPS = 40


def singular_values_in_lanes(columns: Any, count: Any, length: Any, values: Any, one: Any) -> None:
    """Write the norms of the orthogonalised columns, descending, to values[mode · lanes + lane].

    `columns` is (column, entry, lane), `count` columns of `length` ≥ 1 entries, and is overwritten; `one` is a vector
    of the lane type. A lane without any column left to rotate is multiplied by one and thereby kept to the last bit, so
    that its result does not depend on the other lanes. Lanes with NaN end with NaN.
    """
    raise NotImplementedError


@overload(singular_values_in_lanes, inline="never")
def _singular_values_in_lanes(columns, count, length, values, one):  # type: ignore[no-untyped-def]
    w = one.width
    load, store, splat, fma, mul, add, sub, div, root, absolute, choose, any_above = (
        getattr(vector, f"{name}{w}")
        for name in (
            "load",
            "store",
            "splat",
            "fma",
            "mul",
            "add",
            "sub",
            "div",
            "sqrt",
            "absolute",
            "choose",
            "any_above",
        )
    )

    def implementation(columns, count, length, values, one):  # type: ignore[no-untyped-def]
        zero, cosine, half = splat(0.0), splat(_COSINE), splat(0.5)
        for _ in range(_MAX_SWEEPS):
            rotated = False
            for i in range(count - 1):
                for j in range(i + 1, count):
                    xx, yy, xy = zero, zero, zero
                    for e in range(length):
                        x = load(columns, (i * length + e) * w)
                        y = load(columns, (j * length + e) * w)
                        xx, yy, xy = fma(x, x, xx), fma(y, y, yy), fma(x, y, xy)
                    size, bound = absolute(xy), mul(cosine, root(mul(xx, yy)))
                    if not any_above(size, bound):
                        continue
                    rotated = True
                    # tan of the angle that makes the two columns orthogonal, the smaller root
                    zeta = mul(half, div(sub(yy, xx), choose(size, bound, xy, one)))
                    hypotenuse = root(fma(zeta, zeta, one))
                    tangent = div(one, add(zeta, choose(zeta, zero, hypotenuse, sub(zero, hypotenuse))))
                    c = div(one, root(fma(tangent, tangent, one)))
                    s = mul(c, tangent)
                    c, s = choose(size, bound, c, one), choose(size, bound, s, zero)
                    for e in range(length):
                        x = load(columns, (i * length + e) * w)
                        y = load(columns, (j * length + e) * w)
                        store(columns, (i * length + e) * w, sub(mul(c, x), mul(s, y)))
                        store(columns, (j * length + e) * w, fma(s, x, mul(c, y)))
            if not rotated:
                break
        for i in range(count):
            total = zero
            for e in range(length):
                x = load(columns, (i * length + e) * w)
                total = fma(x, x, total)
            store(values, i * w, root(total))
        for lane in range(w):  # insertion sort, descending
            for i in range(1, count):
                current = values[i * w + lane]
                j = i - 1
                while j >= 0 and values[j * w + lane] < current:
                    values[(j + 1) * w + lane] = values[j * w + lane]
                    j -= 1
                values[(j + 1) * w + lane] = current

    return implementation
