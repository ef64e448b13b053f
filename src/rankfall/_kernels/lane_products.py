"""Small matrix products with one matrix per vector lane, in register tiles of four rows by two vectors.

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
from rankfall._kernels.host import host_lanes

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


def _four_rows(width: int, pick: Callable[..., Any]) -> Callable[..., Any]:
    """Four rows by one vector of `width` neighbouring numbers of a row."""
    load, store, fma = (getattr(vector, f"{name}{width}") for name in ("load", "store", "fma"))

    @register_jitable(inline="always")
    def tile(target, t0, line, source, s, down, right, factors, f, depth):  # type: ignore[no-untyped-def]
        t1, t2, t3 = t0 + line, t0 + 2 * line, t0 + 3 * line
        z0, z1, z2, z3 = load(target, t0), load(target, t1), load(target, t2), load(target, t3)
        for c in range(depth):
            at, f0 = s + c * right, load(factors, f + c * line)
            z0, z1 = fma(pick(source, at), f0, z0), fma(pick(source, at + down), f0, z1)
            z2, z3 = fma(pick(source, at + 2 * down), f0, z2), fma(pick(source, at + 3 * down), f0, z3)
        store(target, t0, z0)
        store(target, t1, z1)
        store(target, t2, z2)
        store(target, t3, z3)

    return tile


@register_jitable(inline="always")
def _nothing(target, t0, line, source, s, down, right, factors, f, depth):  # type: ignore[no-untyped-def]
    """In place of a tile that is not needed."""


def _picker(width: int, shared: bool) -> Callable[..., Any]:
    """A number of the source in all lanes, or a vector of numbers, one for each lane."""
    load, splat = getattr(vector, f"load{width}"), getattr(vector, f"splat{width}")

    @register_jitable(inline="always")
    def pick(array, at):  # type: ignore[no-untyped-def]
        return splat(array[at]) if shared else load(array, at)

    return pick


def _make(shared: bool) -> Callable[..., Any]:
    def products(target, target_at, source, place, rows, depth, factors, factors_at, columns, one):  # type: ignore[no-untyped-def]
        w = one.width
        # One source for all lanes is one for all columns too: a vector may then take several columns of narrow lanes.
        single = shared or w == 1
        v = max(w, host_lanes()) if single else w
        load, store, fma = (getattr(vector, f"{name}{v}") for name in ("load", "store", "fma"))
        pick = _picker(v, single)
        load_w, store_w, fma_w = (getattr(vector, f"{name}{w}") for name in ("load", "store", "fma"))
        pick_w = _picker(w, single)
        sizes = [size for size in (8, 4, 2, 1) if w <= size <= v]
        tiles = [_four_rows(size, _picker(size, single)) for size in sizes] + [_nothing] * (4 - len(sizes))
        tile0, tile1, tile2, tile3 = tiles
        v0, v1, v2, v3 = sizes + [1 << 40] * (4 - len(sizes))

        def implementation(target, target_at, source, place, rows, depth, factors, factors_at, columns, one):  # type: ignore[no-untyped-def]
            first, down, right = place
            line = columns * w
            whole_rows = rows - rows % 4
            for a in range(0, whole_rows, 4):
                s, t, q = first + a * down, target_at + a * line, 0
                while q + 2 * v <= line:
                    t0, f = t + q, factors_at + q
                    t1, t2, t3 = t0 + line, t0 + 2 * line, t0 + 3 * line
                    z00, z01 = load(target, t0), load(target, t0 + v)
                    z10, z11 = load(target, t1), load(target, t1 + v)
                    z20, z21 = load(target, t2), load(target, t2 + v)
                    z30, z31 = load(target, t3), load(target, t3 + v)
                    for c in range(depth):
                        at = s + c * right
                        f0, f1 = load(factors, f + c * line), load(factors, f + c * line + v)
                        s0, s1 = pick(source, at), pick(source, at + down)
                        s2, s3 = pick(source, at + 2 * down), pick(source, at + 3 * down)
                        z00, z01 = fma(s0, f0, z00), fma(s0, f1, z01)
                        z10, z11 = fma(s1, f0, z10), fma(s1, f1, z11)
                        z20, z21 = fma(s2, f0, z20), fma(s2, f1, z21)
                        z30, z31 = fma(s3, f0, z30), fma(s3, f1, z31)
                    store(target, t0, z00)
                    store(target, t0 + v, z01)
                    store(target, t1, z10)
                    store(target, t1 + v, z11)
                    store(target, t2, z20)
                    store(target, t2 + v, z21)
                    store(target, t3, z30)
                    store(target, t3 + v, z31)
                    q += 2 * v
                # what is left of the row, less than 2v numbers, in vectors of half the width each time
                if q + v0 <= line:
                    tile0(target, t + q, line, source, s, down, right, factors, factors_at + q, depth)
                    q += v0
                if q + v1 <= line:
                    tile1(target, t + q, line, source, s, down, right, factors, factors_at + q, depth)
                    q += v1
                if q + v2 <= line:
                    tile2(target, t + q, line, source, s, down, right, factors, factors_at + q, depth)
                    q += v2
                if q + v3 <= line:
                    tile3(target, t + q, line, source, s, down, right, factors, factors_at + q, depth)
            for a in range(whole_rows, rows):
                for q in range(0, line, w):
                    t0, s, f = target_at + a * line + q, first + a * down, factors_at + q
                    z = load_w(target, t0)
                    for c in range(depth):
                        z = fma_w(pick_w(source, s + c * right), load_w(factors, f + c * line), z)
                    store_w(target, t0, z)

        return implementation

    return products


overload(add_shared_products, inline="never")(_make(shared=True))
overload(add_own_products, inline="never")(_make(shared=False))
