"""Increment of a step on the data for losses that are not squared: mini-batches, all samples, flipped labels.

`minibatch_increment` comes here when its `data` is that of `LossData`. The samples are taken in tiles of eight:

    S = X_T P                    scores
    R = gain (Y_T − link(S))     Y_T with flips
    H += X_Tᵀ R

X_T is one for all lanes where all samples take part, in order, and gathered per lane where each lane has drawn its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload, register_jitable

from rankfall._kernels import vector
from rankfall._kernels.exponential import exponential
from rankfall._kernels.flips import class_shift, draw_words, words_per_sample
from rankfall._kernels.host import host_lanes
from rankfall._kernels.lane_products import add_own_products, add_shared_products

__all__ = ["SAMPLE_TILE", "LossData", "add_gradient", "room_size"]

SAMPLE_TILE = 8
_u64 = np.uint64


class LossData(NamedTuple):
    """What `minibatch_increment` needs for a loss that is not squared.

    Attributes:
        inputs: X in the eigenbasis of Σ, (n, p).
        labels: Y, (n, k).
        batch: Numbers of the samples of a batch, memory of one thread (`minibatch.batch_buffer`).
        room: Memory of one thread, `room_size` numbers.
        gain: h/n or h/b, of the samples whose gradient is taken.
        noise_gain: h/b of the flipped labels beside the full gradient; 0 where there are none beside it.
        loss: One of `losses.CODES`, not the squared one.
        threshold: A word below it flips a label (`flips.flip_threshold`).
        batch_size: b.
    """

    inputs: np.ndarray
    labels: np.ndarray
    batch: np.ndarray
    room: np.ndarray
    gain: float
    noise_gain: float
    loss: int
    threshold: float
    batch_size: int


def room_size(n_inputs: int, n_outputs: int, lanes: int) -> int:
    """Numbers of working memory: labels, scores and inputs of a tile of samples, and the words of its flips."""
    return SAMPLE_TILE * lanes * (2 * n_outputs + n_inputs + max(2, n_outputs))


def add_gradient(
    scratch: Any, product: Any, target: Any, data: Any, gain: Any, threshold: Any, kind: Any, k0: Any, k1: Any,
    replicate: Any, step: Any, one: Any,
) -> None:  # fmt: skip
    """H += gain Σ x (y − link(xᵀP)) over samples, P (p, k, lane) at `product` and H at `target` of the scratch memory.

    kind 0: all samples in order. 1: those that each lane has drawn. 2: those as well, with the difference that their
    flipped labels make, gain Σ x (ỹ − y), alone.
    """
    raise NotImplementedError


def _logistic(width: int) -> Callable[..., None]:
    """Scores ← gain (label − σ(score)) for one vector of scores; σ(s) = 1/(1 + e^{−s}), from e^{−|s|} ≤ 1."""
    names = ("load", "store", "splat", "mul", "add", "sub", "div", "absolute", "choose")
    load, store, splat, mul, add, sub, div, absolute, choose = (getattr(vector, f"{name}{width}") for name in names)

    @register_jitable
    def residual(room, score_at, label_at, gain):  # type: ignore[no-untyped-def]
        one, s = splat(1.0), load(room, score_at)
        small = exponential(sub(splat(0.0), absolute(s)))
        sigma = div(choose(splat(0.0), s, small, one), add(one, small))
        store(room, score_at, mul(splat(gain), sub(load(room, label_at), sigma)))

    return residual


@overload(add_gradient, inline="never")
def _add_gradient(  # type: ignore[no-untyped-def]
    scratch, product, target, data, gain, threshold, kind, k0, k1, replicate, step, one
):
    w = one.width
    names = ("load", "store", "splat", "fma", "mul", "add", "sub", "div", "larger")
    load, store, splat, fma, mul, add, sub, div, larger = (getattr(vector, f"{name}{w}") for name in names)
    # What is done to every number alone is done in the widest vectors, also where the lanes are few.
    v = max(w, host_lanes())
    load_wide, store_wide = getattr(vector, f"load{v}"), getattr(vector, f"store{v}")
    logistic, logistic_wide = _logistic(w), _logistic(v)

    def implementation(  # type: ignore[no-untyped-def]
        scratch, product, target, data, gain, threshold, kind, k0, k1, replicate, step, one
    ):
        inputs, labels, batch, room = data.inputs, data.labels, data.batch, data.room
        loss, batch_size = data.loss, data.batch_size
        n, p = inputs.shape
        k = labels.shape[1]
        flat = inputs.reshape(n * p)
        scores = SAMPLE_TILE * k * w
        own = 2 * scores
        words = own + SAMPLE_TILE * p * w
        zero = splat(0.0)
        each = words_per_sample(k, loss)
        count = n if kind == 0 else batch_size
        for begin in range(0, count, SAMPLE_TILE):
            tile = min(SAMPLE_TILE, count - begin)
            if threshold > 0.0:  # eight samples have a multiple of four words: every tile begins with a call
                calls = (tile * each + 3) // 4
                draw_words(room, words, w, begin * each // 4, calls, k0, k1, replicate, _u64(step))
            for t in range(tile):
                at = t * k * w
                if kind == 0:
                    for j in range(k):
                        store(room, at + j * w, splat(labels[begin + t, j]))
                for lane in range(w):
                    row = begin + t if kind == 0 else batch[(begin + t) * w + lane]
                    shift = 0
                    if threshold > 0.0 and loss == 2:
                        word = words + 2 * t * w + lane
                        shift = class_shift(room[word], room[word + w], threshold, k)
                    if kind == 0 and (threshold == 0.0 or (loss == 2 and shift == 0)):
                        continue
                    for j in range(k):
                        source = j - shift
                        if source < 0:
                            source += k
                        label = labels[row, source]
                        if threshold > 0.0 and loss == 1 and room[words + (t * k + j) * w + lane] < threshold:
                            label = 1.0 - label
                        if kind == 2:
                            label -= labels[row, j]
                        room[at + j * w + lane] = label
            if kind != 0:
                for t in range(tile):
                    for lane in range(w):
                        row = batch[(begin + t) * w + lane]
                        for i in range(p):
                            room[own + (t * p + i) * w + lane] = inputs[row, i]
            if kind == 2:
                for e in range(tile * k):
                    store(room, scores + e * w, mul(splat(gain), load(room, e * w)))
            else:
                for e in range(tile * k):
                    store(room, scores + e * w, zero)
                if kind == 0:
                    place = (begin * p, p, 1)
                    add_shared_products(room, scores, flat, place, tile, p, scratch, product, k, one)
                else:
                    place = (own, p * w, w)
                    add_own_products(room, scores, room, place, tile, p, scratch, product, k, one)
                if loss == 1:
                    numbers = tile * k * w
                    whole = numbers - numbers % v
                    for e in range(0, whole, v):
                        logistic_wide(room, scores + e, e, gain)
                    for e in range(whole, numbers, w):
                        logistic(room, scores + e, e, gain)
                else:
                    for t in range(tile):
                        at = t * k * w
                        largest = load(room, scores + at)
                        for j in range(1, k):
                            largest = larger(largest, load(room, scores + at + j * w))
                        for j in range(k):
                            store(room, scores + at + j * w, sub(load(room, scores + at + j * w), largest))
                    numbers = tile * k * w
                    whole = numbers - numbers % v
                    for e in range(scores, scores + whole, v):
                        store_wide(room, e, exponential(load_wide(room, e)))
                    for e in range(scores + whole, scores + numbers, w):
                        store(room, e, exponential(load(room, e)))
                    for t in range(tile):
                        at = t * k * w
                        total = zero
                        for j in range(k):
                            total = add(total, load(room, scores + at + j * w))
                        inverse = div(splat(-1.0), total)
                        for j in range(k):
                            residual = fma(inverse, load(room, scores + at + j * w), load(room, at + j * w))
                            store(room, scores + at + j * w, mul(splat(gain), residual))
            if kind == 0:
                place = (begin * p, 1, p)
                add_shared_products(scratch, target, flat, place, p, tile, room, scores, k, one)
            else:
                place = (own, w, p * w)
                add_own_products(scratch, target, room, place, p, tile, room, scores, k, one)

    return implementation
