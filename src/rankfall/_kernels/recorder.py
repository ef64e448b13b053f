"""What is kept at a save point, computed in the lanes from the state of a block.

The variables are those of `rankfall.recording`, which holds their definitions and the batched NumPy version for sizes
whose spectra LAPACK does better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba.extending import overload

from rankfall._kernels import loader, vector
from rankfall._kernels.spectra import singular_values_in_lanes

__all__ = ["LANE_LIMIT", "recorder", "work_size"]

# Above this many rows of Z, LAPACK's singular values are cheaper than Jacobi's.
LANE_LIMIT = 48


def work_size(p: int, k: int, r: int, lanes: int) -> int:
    """Numbers of scratch memory that recording needs for one thread."""
    return lanes * (2 * r * (p + k) + p * k + 2 * max(p + k, r))


def record_blocks(one: Any, blocks: Any, state: Any, given: Any, ledgers: Any, out: Any, time: Any, work: Any) -> None:
    """Write the variables of save point `time` for a range of blocks.

    one: a vector of the lane type. blocks: (first, last). given: (unscale by row, d, Σ⁺C in the eigenbasis, minimum
    loss, whether M has full rank, columns r in the state, columns that are not padding). ledgers: (Q at the start, B,
    first step at which a lane diverged or −1). out: (scalars (time, 6, replicate), σ(W1), σ(W2), σ(Z) (time, replicate,
    mode)); the scalars are loss, log det, ‖Q‖, ‖Q − Q₀‖, ‖B‖, ‖Q − B‖.
    """
    raise NotImplementedError


@overload(record_blocks, inline="never")
def _record_blocks(one, blocks, state, given, ledgers, out, time, work):  # type: ignore[no-untyped-def]
    w = one.width
    load, store, splat, fma, mul, sub = (
        getattr(vector, f"{name}{w}") for name in ("load", "store", "splat", "fma", "mul", "sub")
    )

    def implementation(one, blocks, state, given, ledgers, out, time, work):  # type: ignore[no-untyped-def]
        unscale, curvature, solution, minimum_loss, full_rank, stored, r = given
        start_balance, ledger_balance, diverged_at = ledgers
        scalars, out1, out2, outz = out
        p, k = solution.shape
        n = p + k
        zero = splat(0.0)
        true, buffer = 0, r * n * w  # Z without the integrator's scaling; columns for the spectra
        values = buffer + r * n * w
        result = values + max(n, r) * w
        for b in range(blocks[0], blocks[1]):
            base = b * stored * n * w
            for m in range(r):
                for i in range(n):
                    at = (m * n + i) * w
                    store(work, true + at, mul(splat(unscale[i]), load(state, base + at)))
            # excess loss, free of cancellation near the solution
            total = zero
            for i in range(p):
                for j in range(k):
                    gap = splat(-solution[i, j])
                    for m in range(r):
                        x, y = load(work, (m * n + i) * w), load(work, (m * n + p + j) * w)
                        gap = fma(x, y, gap)
                    total = fma(mul(splat(0.5 * curvature[i]), gap), gap, total)
            store(work, result, total)
            for lane in range(w):
                replicate = b * w + lane
                if replicate < scalars.shape[2]:
                    scalars[time, 0, replicate] = work[result + lane] + minimum_loss
            # balance, drift, ledger
            has_ledger = len(ledger_balance) > 1
            square, moved, kept, missed = zero, zero, zero, zero
            for m in range(r):
                for o in range(m + 1):
                    q, raw = zero, zero
                    for i in range(n):
                        sign = 1.0 if i < p else -1.0
                        at_m, at_o = (m * n + i) * w, (o * n + i) * w
                        q = fma(mul(splat(sign), load(work, at_m)), load(work, at_o), q)
                        if has_ledger:
                            raw = fma(mul(splat(sign), load(state, base + at_m)), load(state, base + at_o), raw)
                    twice = splat(1.0 if m == o else 2.0)  # the upper triangle is the same
                    at = ((b * stored + m) * stored + o) * w
                    square = fma(mul(twice, q), q, square)
                    change = sub(q, load(start_balance, at))
                    moved = fma(mul(twice, change), change, moved)
                    if has_ledger:
                        error = sub(raw, load(ledger_balance, at))
                        missed = fma(mul(twice, error), error, missed)
                        predicted = sub(q, error)
                        kept = fma(mul(twice, predicted), predicted, kept)
            for which, value in ((2, square), (3, moved), (4, kept), (5, missed)):
                store(work, result, value)
                for lane in range(w):
                    replicate = b * w + lane
                    if replicate < scalars.shape[2]:
                        scalars[time, which, replicate] = math.sqrt(work[result + lane])
            # spectra, always orthogonalising the shorter side
            view, place = work[buffer:], work[values:]
            for target, first, last in ((outz, 0, n), (out1, 0, p), (out2, p, n)):
                rows = last - first
                if rows < r:
                    for i in range(rows):
                        for m in range(r):
                            store(view, (i * r + m) * w, load(work, (m * n + first + i) * w))
                    singular_values_in_lanes(view, rows, r, place, one)
                else:
                    for m in range(r):
                        for i in range(rows):
                            store(view, (m * rows + i) * w, load(work, (m * n + first + i) * w))
                    singular_values_in_lanes(view, r, rows, place, one)
                for lane in range(w):
                    replicate = b * w + lane
                    if replicate < scalars.shape[2]:
                        for mode in range(target.shape[2]):
                            target[time, replicate, mode] = place[mode * w + lane]
            for lane in range(w):
                replicate = b * w + lane
                if replicate < scalars.shape[2]:
                    value = -math.inf
                    if full_rank:
                        value = 0.0
                        for mode in range(n):
                            value += math.log(outz[time, replicate, mode])
                    scalars[time, 1, replicate] = 2.0 * value
                    if diverged_at[replicate] >= 0:
                        for which in range(6):
                            scalars[time, which, replicate] = math.nan
                        for target in (outz, out1, out2):
                            for mode in range(target.shape[2]):
                                target[time, replicate, mode] = math.nan

    return implementation


_TEXT = """\
from numba import njit
from rankfall._kernels.recorder import record_blocks
from rankfall._kernels.vector import splat{lanes}

@njit(error_model='numpy', nogil=True, cache=True)
def advance(blocks, state, given, ledgers, out, time, work):
    record_blocks(splat{lanes}(1.0), blocks, state, given, ledgers, out, time, work)
"""


def recorder(lanes: int) -> Callable[..., None]:
    """The compiled recording of one lane width: `record_blocks` without its first argument.

    It comes through the loader as the kernels do, whose cache sees when a module that it is made from has changed.
    """
    return loader.load(f"record_lanes{lanes}", _TEXT.format(lanes=lanes))
