"""What is kept at a save point of a deep network, computed in the lanes from the state of a block.

The variables are those of `rankfall._deep_recording`, which holds their definitions and the NumPy version for widths
whose spectra LAPACK does better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from numba.extending import overload

from rankfall._kernels import loader, vector
from rankfall._kernels.recorder import LANE_LIMIT
from rankfall._kernels.spectra import singular_values_in_lanes

__all__ = ["deep_recorder", "deep_work_size", "in_lanes"]


def in_lanes(widths: Sequence[int]) -> bool:
    """Whether Jacobi in the lanes is cheaper than LAPACK for all matrices of a network of these widths."""
    rows = [widths[i - 1] + widths[i + 1] for i in range(1, len(widths) - 1)]
    return max(*widths, *rows) <= LANE_LIMIT


def deep_work_size(widths: Sequence[int], lanes: int) -> int:
    """Numbers of scratch memory that recording needs for one thread."""
    widest, s = max(widths), min(widths[0], widths[-1])
    return lanes * (2 * widest * 2 * widest + 2 * widest * s + 4 * widest)


def record_deep(one: Any, blocks: Any, state: Any, given: Any, ledgers: Any, out: Any, time: Any, work: Any) -> None:
    """Write the variables of save point `time` for a range of blocks.

    one: a vector of the lane type. blocks: (first, last). given: (stored widths, whether stored turned round, d, Σ⁺C
    in the eigenbasis and stored order, minimum loss, by pair whether M_i has full rank, offsets of the spectra).
    ledgers: (balances at the start, balance ledgers or one number, first step at which a lane diverged or −1). out:
    (loss (time, replicate), pairs (time, 5, pair, replicate), spectra (time, replicate, all modes)); by pair: log det,
    ‖Q‖, ‖Q − Q₀‖, ‖B‖, ‖Q − B‖.
    """
    raise NotImplementedError


@overload(record_deep, inline="never")
def _record_deep(one, blocks, state, given, ledgers, out, time, work):  # type: ignore[no-untyped-def]
    w = one.width
    load, store, splat, fma, mul, sub = (
        getattr(vector, f"{name}{w}") for name in ("load", "store", "splat", "fma", "mul", "sub")
    )

    def implementation(one, blocks, state, given, ledgers, out, time, work):  # type: ignore[no-untyped-def]
        widths, turned, curvature, solution, minimum_loss, full, offsets = given
        start_balance, ledger_balance, diverged_at = ledgers
        losses, pairs, spectra = out
        depth, s = len(widths) - 1, widths[len(widths) - 1]
        replicates = losses.shape[1]
        zero = splat(0.0)
        widest, weights, squares = 0, 0, 0
        for i in range(depth):
            widest = max(widest, widths[i])
            weights += widths[i] * widths[i + 1]
            squares += widths[i] * widths[i] if i > 0 else 0
        widest = max(widest, s)
        zed, buffer = 0, 2 * widest * widest * w
        first, second = 2 * buffer, 2 * buffer + widest * s * w
        values = second + widest * s * w
        view, place = work[buffer:], work[values:]
        has_ledger = len(ledger_balance) > 1
        for b in range(blocks[0], blocks[1]):
            base = b * weights * w
            # the product, from the output side
            layer = base + (weights - widths[depth - 1] * s) * w
            for r in range(widths[depth - 1]):
                for c in range(s):
                    store(work, first + (r * s + c) * w, load(state, layer + (c * widths[depth - 1] + r) * w))
            for i in range(depth - 2, -1, -1):
                rows, columns = widths[i], widths[i + 1]
                layer -= rows * columns * w
                for r in range(rows):
                    for c in range(s):
                        total = zero
                        for m in range(columns):
                            total = fma(
                                load(state, layer + (m * rows + r) * w), load(work, first + (m * s + c) * w), total
                            )
                        store(work, second + (r * s + c) * w, total)
                first, second = second, first
            # excess loss, free of cancellation near the solution
            total = zero
            for r in range(widths[0]):
                for c in range(s):
                    value = load(work, first + (r * s + c) * w)
                    store(view, (c * widths[0] + r) * w, value)
                    gap = sub(value, splat(solution[r, c]))
                    total = fma(mul(splat(0.5 * curvature[c if turned else r]), gap), gap, total)
            store(work, values, total)
            for lane in range(w):
                replicate = b * w + lane
                if replicate < replicates:
                    losses[time, replicate] = work[values + lane] + minimum_loss
            singular_values_in_lanes(view, s, widths[0], place, one)
            for lane in range(w):
                replicate = b * w + lane
                if replicate < replicates:
                    for mode in range(s):
                        spectra[time, replicate, offsets[depth] + mode] = place[mode * w + lane]
            # every layer
            layer = base
            for i in range(depth):
                rows, columns = widths[i], widths[i + 1]
                few, many = min(rows, columns), max(rows, columns)
                for m in range(columns):
                    for r in range(rows):
                        at = m * rows + r if columns <= rows else r * columns + m
                        store(view, at * w, load(state, layer + (m * rows + r) * w))
                singular_values_in_lanes(view, few, many, place, one)
                target = offsets[depth - 1 - i if turned else i]
                for lane in range(w):
                    replicate = b * w + lane
                    if replicate < replicates:
                        for mode in range(few):
                            spectra[time, replicate, target + mode] = place[mode * w + lane]
                layer += rows * columns * w
            # every pair: Z by columns, the balance, the spectrum
            layer, ledger = base, b * squares * w
            for i in range(1, depth):
                upper, width, lower = widths[i - 1], widths[i], widths[i + 1]
                behind, n = layer + upper * width * w, upper + lower
                for m in range(width):
                    for r in range(upper):
                        store(work, zed + (m * n + r) * w, load(state, layer + (m * upper + r) * w))
                    for r in range(lower):
                        store(work, zed + (m * n + upper + r) * w, load(state, behind + (r * width + m) * w))
                square, moved, kept, missed = zero, zero, zero, zero
                for m in range(width):
                    for o in range(m + 1):
                        q = zero
                        for r in range(n):
                            sign = splat(1.0 if r < upper else -1.0)
                            left = mul(sign, load(work, zed + (m * n + r) * w))
                            q = fma(left, load(work, zed + (o * n + r) * w), q)
                        twice = splat(1.0 if m == o else 2.0)  # the upper triangle is the same
                        at = ledger + (m * width + o) * w
                        square = fma(mul(twice, q), q, square)
                        change = sub(q, load(start_balance, at))
                        moved = fma(mul(twice, change), change, moved)
                        if has_ledger:
                            predicted = load(ledger_balance, at)
                            error = sub(q, predicted)
                            missed = fma(mul(twice, error), error, missed)
                            kept = fma(mul(twice, predicted), predicted, kept)
                pair = depth - 1 - i if turned else i - 1
                for which, value in ((1, square), (2, moved), (3, kept), (4, missed)):
                    store(work, values, value)
                    for lane in range(w):
                        replicate = b * w + lane
                        if replicate < replicates:
                            pairs[time, which, pair, replicate] = math.sqrt(work[values + lane])
                few, many = min(n, width), max(n, width)
                for m in range(width):
                    for r in range(n):
                        at = m * n + r if width <= n else r * width + m
                        store(view, at * w, load(work, zed + (m * n + r) * w))
                singular_values_in_lanes(view, few, many, place, one)
                target = offsets[depth + 1 + pair]
                for lane in range(w):
                    replicate = b * w + lane
                    if replicate < replicates:
                        value = -math.inf
                        if full[pair]:
                            value = 0.0
                            for mode in range(few):
                                value += math.log(place[mode * w + lane])
                        pairs[time, 0, pair, replicate] = 2.0 * value
                        for mode in range(few):
                            spectra[time, replicate, target + mode] = place[mode * w + lane]
                layer, ledger = behind, ledger + width * width * w
            for lane in range(w):
                replicate = b * w + lane
                if replicate < replicates and diverged_at[replicate] >= 0:
                    losses[time, replicate] = math.nan
                    for mode in range(spectra.shape[2]):
                        spectra[time, replicate, mode] = math.nan
                    for which in range(5):
                        for pair in range(depth - 1):
                            pairs[time, which, pair, replicate] = math.nan

    return implementation


_TEXT = """\
from numba import njit
from rankfall._kernels.deep_recorder import record_deep
from rankfall._kernels.vector import splat{lanes}

@njit(error_model='numpy', nogil=True, cache=True)
def advance(blocks, state, given, ledgers, out, time, work):
    record_deep(splat{lanes}(1.0), blocks, state, given, ledgers, out, time, work)
"""


def deep_recorder(lanes: int) -> Callable[..., None]:
    """The compiled recording of one lane width: `record_deep` without its first argument."""
    return loader.load(f"record_deep_lanes{lanes}", _TEXT.format(lanes=lanes))
