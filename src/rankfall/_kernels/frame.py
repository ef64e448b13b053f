"""A frame that moves with the network: how fast every direction grows, and Z itself far beyond float64.

Beside Z the kernel moves n = p + k orthonormal columns F by the same steps. Every INTERVAL steps F is taken apart
again, F = Q R with R's diagonal positive, by modified Gram–Schmidt in the lanes; F goes on as Q, and log R_ii is added
up by mode (G. Benettin, L. Galgani, A. Giorgilli & J.-M. Strelcyn, Meccanica 15, 1980). The intervals are counted from
step 0 of the run, so that it does not matter where a run is cut into pieces.

With Z_0 = F_0 T_0 and T_0 upper triangular, Z_t = F_t T_t with T_t = R … R T_0. T is kept graded: T_ij = e^{ℓ_i} T̂_ij
with the logarithms ℓ_i = Σ log R_ii + log (T_0)_ii and T̂_ii = 1, so that its rows may lie hundreds of orders of
magnitude apart. The update T̂_ij ← Σ_m (R_im/R_ii) e^{ℓ_m − ℓ_i} T̂_mj is done from the right, with the n − 1 ratios
g_i = e^{ℓ_{i+1} − ℓ_i} alone,

    T̂_ij ← T̂_ij + (g_i/R_ii) (R_{i,i+1} T̂_{i+1,j} + g_{i+1} (R_{i,i+2} T̂_{i+2,j} + … + g_{j−1} R_ij)),

where a g that underflows is a term that does not count.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from rankfall._kernels import vector
from rankfall._kernels.elementary import exponential, logarithm

__all__ = ["INTERVAL", "reorthonormalise", "work_size"]

# Steps between two decompositions; all groups of steps and FLUSH are multiples or divisors of it. Short enough that the
# columns stay far from dependent: what rounding costs grows with the condition number of the steps in between.
INTERVAL = 16


def work_size(n: int, lanes: int) -> int:
    """Numbers of scratch memory that `reorthonormalise` needs: R, and g."""
    return lanes * (n * n + n)


def reorthonormalise(frame: Any, block: Any, n: Any, stored: Any, one: Any) -> None:
    """F = Q R for one block: F ← Q, log-diagonal and T̂ updated.

    `frame` is (F, Σ log R_ii, log (T_0)_ii, T̂, work, r): F (block, stored column, row, lane) of which the first n
    columns count, the sums (block, n, lane), the start (block, r, lane), T̂ (block, r, r, lane); `one` selects the
    width. A column of zeros (a lane that pads a block) stays one.
    """
    raise NotImplementedError


@overload(reorthonormalise, inline="never")
def _reorthonormalise(frame, block, n, stored, one):  # type: ignore[no-untyped-def]
    w = one.width
    load, store, splat, fma, mul, sub, div, root, choose = (
        getattr(vector, f"{name}{w}")
        for name in ("load", "store", "splat", "fma", "mul", "sub", "div", "sqrt", "choose")
    )

    def implementation(frame, block, n, stored, one):  # type: ignore[no-untyped-def]
        columns, growth, start, triangle, work, r = frame
        zero = splat(0.0)
        base, ratios = block * stored * n * w, n * n * w
        for j in range(n):
            first = base + j * n * w
            total = zero
            for i in range(n):
                x = load(columns, first + i * w)
                total = fma(x, x, total)
            norm = root(total)
            store(work, (j * n + j) * w, norm)
            inverse = div(one, choose(norm, zero, norm, one))
            for i in range(n):
                store(columns, first + i * w, mul(inverse, load(columns, first + i * w)))
            for m in range(j + 1, n):
                other = base + m * n * w
                total = zero
                for i in range(n):
                    total = fma(load(columns, first + i * w), load(columns, other + i * w), total)
                store(work, (j * n + m) * w, total)
                for i in range(n):
                    x = load(columns, other + i * w)
                    store(columns, other + i * w, sub(x, mul(total, load(columns, first + i * w))))
        for i in range(r - 1):
            for lane in range(w):
                lower = growth[(block * n + i + 1) * w + lane] + start[(block * r + i + 1) * w + lane]
                upper = growth[(block * n + i) * w + lane] + start[(block * r + i) * w + lane]
                work[ratios + i * w + lane] = exponential(lower - upper)  # 0 below the rank of Z_0, where ℓ = −∞
        for i in range(r - 1):
            factor = div(load(work, ratios + i * w), load(work, (i * n + i) * w))
            for j in range(i + 1, r):
                total = load(work, (i * n + j) * w)
                for m in range(j - 1, i, -1):
                    total = mul(load(work, ratios + m * w), total)
                    total = fma(load(work, (i * n + m) * w), load(triangle, ((block * r + m) * r + j) * w), total)
                at = ((block * r + i) * r + j) * w
                store(triangle, at, fma(factor, total, load(triangle, at)))
        for i in range(n):
            for lane in range(w):
                growth[(block * n + i) * w + lane] += logarithm(work[(i * n + i) * w + lane])

    return implementation
