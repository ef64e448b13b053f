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
# Entries are brought between these before the sweeps.
_SMALL, _LARGE, _SCALE = 2.0**-200, 2.0**200, 2.0**300
_MAX_SCALINGS = 4


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
        zero, cosine = splat(0.0), splat(_COSINE * _COSINE)
        unscale = one
        # Fourth powers of the entries appear below; powers of two keep them in range without rounding anything.
        for _ in range(_MAX_SCALINGS):
            largest = zero
            for e in range(count * length):
                size = absolute(load(columns, e * w))
                largest = choose(size, largest, size, largest)
            small, large = splat(_SMALL), splat(_LARGE)
            if not (any_above(small, largest) or any_above(largest, large)):
                break
            up, down = splat(_SCALE), splat(1.0 / _SCALE)
            factor = choose(small, largest, up, choose(largest, large, down, one))
            unscale = mul(unscale, choose(small, largest, down, choose(largest, large, up, one)))
            for e in range(count * length):
                store(columns, e * w, mul(factor, load(columns, e * w)))
        players = count + count % 2
        for _ in range(_MAX_SWEEPS):
            rotated = False
            # A round-robin tournament: the pairs of a round are disjoint, so that the processor overlaps them.
            day, table = 0, 0
            for _ in range((players - 1) * (players // 2)):
                i = players - 1 if table == 0 else day + table
                j = day - table
                if table > 0 and i >= players - 1:
                    i -= players - 1
                if j < 0:
                    j += players - 1
                table += 1
                if table == players // 2:
                    day, table = day + 1, 0
                if i > j:
                    i, j = j, i
                if j >= count:
                    continue
                xx, yy, xy = zero, zero, zero
                for e in range(length):
                    x = load(columns, (i * length + e) * w)
                    y = load(columns, (j * length + e) * w)
                    xx, yy, xy = fma(x, x, xx), fma(y, y, yy), fma(x, y, xy)
                size, bound = mul(xy, xy), mul(cosine, mul(xx, yy))
                if not any_above(size, bound):
                    continue
                rotated = True
                # c = u/r, s = ±2⟨x,y⟩/r with u = |d| + √(d² + 4⟨x,y⟩²), r = √(u² + 4⟨x,y⟩²), d = ‖y‖² − ‖x‖²: the
                # smaller of the two angles that make the columns orthogonal
                d, twice = sub(yy, xx), add(xy, xy)
                u = add(absolute(d), root(fma(d, d, mul(twice, twice))))
                r = root(fma(u, u, mul(twice, twice)))
                inverse = div(one, choose(size, bound, r, one))
                c = choose(size, bound, mul(u, inverse), one)
                s = mul(choose(zero, d, sub(zero, twice), twice), inverse)
                s = choose(size, bound, s, zero)
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
            store(values, i * w, mul(unscale, root(total)))
        for lane in range(w):  # insertion sort, descending
            for i in range(1, count):
                current = values[i * w + lane]
                j = i - 1
                while j >= 0 and values[j * w + lane] < current:
                    values[(j + 1) * w + lane] = values[j * w + lane]
                    j -= 1
                values[(j + 1) * w + lane] = current

    return implementation
