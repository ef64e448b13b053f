"""The balance ledger's sum of weighted Gram matrices, in vector lanes."""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from rankfall._kernels import vector


def accumulate_gram(target: Any, block: Any, rows: Any, offset: Any, weights: Any, r: Any, decay: Any, one: Any) -> Any:
    """target[block] ← decay · target[block] + Σ_i weights[i] · row_i row_iᵀ, with row_i of length r.

    `target` is (block, r, r, lane), of which the lower triangle is kept; `rows` is (r, row, lane) from `offset` on;
    `one` is a vector of the kernel's lane type and selects the width.
    """
    raise NotImplementedError


@overload(accumulate_gram, inline="never")
def _accumulate_gram(  # type: ignore[no-untyped-def]
    target, block, rows, offset, weights, r, decay, one
):
    w = one.width
    load, store, splat, fma, mul = (getattr(vector, f"{name}{w}") for name in ("load", "store", "splat", "fma", "mul"))

    def implementation(target, block, rows, offset, weights, r, decay, one):  # type: ignore[no-untyped-def]
        n_rows = len(weights)
        keep = splat(decay)
        for m in range(r):
            for n in range(m + 1):
                at = ((block * r + m) * r + n) * w
                total = mul(keep, load(target, at))
                for i in range(n_rows):
                    left = load(rows, offset + (m * n_rows + i) * w)
                    right = load(rows, offset + (n * n_rows + i) * w)
                    total = fma(mul(splat(weights[i]), left), right, total)
                store(target, at, total)

    return implementation
