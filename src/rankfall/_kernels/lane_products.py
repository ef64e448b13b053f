"""Small matrix products with one matrix per vector lane, in register tiles of four rows by two columns.

    target[a, j] += Σ_c source[a, c] · factors[c, j]

`factors` and `target` hold a matrix per lane; `source` is one matrix for all lanes (`add_shared_products`) or one per
lane (`add_own_products`). Its rows and columns may lie at any stride, so that a transpose costs nothing. Every entry is
one chain of fused multiply-adds in the order of c: the tiles do not change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.extending import overload, register_jitable

from rankfall._kernels import vector

__all__ = ["add_own_products", "add_shared_products"]


def add_shared_products(
    target: Any, target_at: Any, source: Any, place: Any, rows: Any, depth: Any, factors: Any, factors_at: Any,
    columns: Any, one: Any,
) -> None:  # fmt: skip
    """The product with one source for all lanes.

    `place` is (first, row stride, column stride) in the flat source; target (row, column, lane) and factors
    (depth, column, lane) are flat memory from `target_at` and `factors_at` on; `one` selects the width.
    """
    raise NotImplementedError


def add_own_products(
    target: Any, target_at: Any, source: Any, place: Any, rows: Any, depth: Any, factors: Any, factors_at: Any,
    columns: Any, one: Any,
) -> None:  # fmt: skip
    """The product with a source per lane: `place` counts float64 numbers, of which a lane vector has one per lane."""
    raise NotImplementedError


def _make(shared: bool) -> Callable[..., Any]:
    def products(target, target_at, source, place, rows, depth, factors, factors_at, columns, one):  # type: ignore[no-untyped-def]
        w = one.width
        load, store, splat, fma = (getattr(vector, f"{name}{w}") for name in ("load", "store", "splat", "fma"))

        if shared:

            @register_jitable(inline="always")
            def pick(array, at):  # type: ignore[no-untyped-def]
                return splat(array[at])
        else:

            @register_jitable(inline="always")
            def pick(array, at):  # type: ignore[no-untyped-def]
                return load(array, at)

        def implementation(target, target_at, source, place, rows, depth, factors, factors_at, columns, one):  # type: ignore[no-untyped-def]
            first, down, right = place
            line = columns * w
            whole_rows, whole_columns = rows - rows % 4, columns - columns % 2
            for a in range(0, whole_rows, 4):
                for j in range(0, whole_columns, 2):
                    t0 = target_at + a * line + j * w
                    t1, t2, t3 = t0 + line, t0 + 2 * line, t0 + 3 * line
                    z00, z01 = load(target, t0), load(target, t0 + w)
                    z10, z11 = load(target, t1), load(target, t1 + w)
                    z20, z21 = load(target, t2), load(target, t2 + w)
                    z30, z31 = load(target, t3), load(target, t3 + w)
                    s = first + a * down
                    f = factors_at + j * w
                    for _ in range(depth):
                        f0, f1 = load(factors, f), load(factors, f + w)
                        s0, s1 = pick(source, s), pick(source, s + down)
                        s2, s3 = pick(source, s + 2 * down), pick(source, s + 3 * down)
                        z00, z01 = fma(s0, f0, z00), fma(s0, f1, z01)
                        z10, z11 = fma(s1, f0, z10), fma(s1, f1, z11)
                        z20, z21 = fma(s2, f0, z20), fma(s2, f1, z21)
                        z30, z31 = fma(s3, f0, z30), fma(s3, f1, z31)
                        s += right
                        f += line
                    store(target, t0, z00)
                    store(target, t0 + w, z01)
                    store(target, t1, z10)
                    store(target, t1 + w, z11)
                    store(target, t2, z20)
                    store(target, t2 + w, z21)
                    store(target, t3, z30)
                    store(target, t3 + w, z31)
            for a in range(rows):  # what is left: the last rows, and the last column of the others
                for j in range(whole_columns if a < whole_rows else 0, columns):
                    t0 = target_at + a * line + j * w
                    z = load(target, t0)
                    s = first + a * down
                    f = factors_at + j * w
                    for _ in range(depth):
                        z = fma(pick(source, s), load(factors, f), z)
                        s += right
                        f += line
                    store(target, t0, z)

        return implementation

    return products


overload(add_shared_products, inline="never")(_make(shared=True))
overload(add_own_products, inline="never")(_make(shared=False))
