"""Increment of one real mini-batch, drawn from the data inside the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numba.core import types
from numba.extending import overload

from rankfall._kernels import vector
from rankfall._kernels.loss_increment import add_gradient
from rankfall._kernels.philox import (
    MASK,
    SHIFT,
    STREAM_BATCH,
    STREAM_BATCH_NOISE,
    normal_pair_double,
    normal_pair_single,
    philox,
)

_u64 = np.uint64
# Above this size of a batch, marks beside the samples are quicker than a search in the batch.
_SEARCHED = 24


def batch_buffer(batch_size: int, n_samples: int, lanes: int) -> np.ndarray:
    """Memory of one thread for the numbers of the samples that it draws."""
    return np.zeros(batch_size * lanes + (n_samples + 1 if batch_size > _SEARCHED else 0), dtype=np.int64)


@njit(error_model="numpy", nogil=True)
def draw_batch(batch, first, stride, n_samples, batch_size, k0, k1, replicate, step, marks):  # type: ignore[no-untyped-def]
    """Fill batch[first + t·stride] with `batch_size` different sample numbers (Floyd's algorithm).

    Word t of the stream decides sample t: u = word·(j+1)/2³², j = n − b + t, taken as it is if it is new and replaced
    by j otherwise. A 32-bit word makes u uniform up to n/2³².

    From `marks` on, unless it is negative, batch holds n + 1 more numbers by which a sample is known to have been drawn
    without a search: each draw has a stamp, the last of the numbers.
    """
    stamp = np.int64(0)
    if marks >= 0:
        stamp = batch[marks + n_samples] + 1
        batch[marks + n_samples] = stamp
    words = (MASK, MASK, MASK, MASK)
    for t in range(batch_size):
        if t % 4 == 0:
            words = philox(step & MASK, step >> SHIFT, STREAM_BATCH + _u64(t // 4), replicate, k0, k1)
        part = t % 4
        word = words[0] if part == 0 else words[1] if part == 1 else words[2] if part == 2 else words[3]
        j = n_samples - batch_size + t
        u = np.int64((word * _u64(j + 1)) >> SHIFT)
        if marks >= 0:
            if batch[marks + u] == stamp:
                u = np.int64(j)
            batch[marks + u] = stamp
        else:
            for earlier in range(t):
                if batch[first + earlier * stride] == u:
                    u = np.int64(j)
                    break
        batch[first + t * stride] = u


@njit(error_model="numpy", nogil=True)
def draw_batch_noise(noise, lane, stride, count, double, k0, k1, replicate, step):  # type: ignore[no-untyped-def]
    """Fill noise[m·stride + lane], m < count, with the standard normals of this step: m counts along its stream."""
    per_call = 2 if double else 4
    for call in range((count + per_call - 1) // per_call):
        a, b, c, d = philox(step & MASK, step >> SHIFT, STREAM_BATCH_NOISE + _u64(call), replicate, k0, k1)
        at = call * per_call * stride + lane
        if double:
            noise[at], noise[at + stride] = normal_pair_double(a, b, c, d)
        else:
            noise[at], noise[at + stride] = normal_pair_single(a, b)
            noise[at + 2 * stride], noise[at + 3 * stride] = normal_pair_single(c, d)


def minibatch_increment(
    scratch: Any, tail: Any, work: Any, data: Any, k0: Any, k1: Any, replicate: Any, step: Any, one: Any
) -> None:
    """H = h X_Bᵀ(Y_B + √δ ξ − X_B P)/b, one batch per lane; for other losses see `loss_increment`.

    P (p, k, lane) is read at `tail` of the scratch memory and H written behind it; a sample is gathered at `work`.
    `data` is (inputs, labels, sample numbers, normals, h/b, √δ, b, double) for the squared loss and `LossData` for the
    others; `one` selects the width.
    """
    raise NotImplementedError


@overload(minibatch_increment, inline="never")
def _minibatch_increment(  # type: ignore[no-untyped-def]
    scratch, tail, work, data, k0, k1, replicate, step, one
):
    if isinstance(data, types.NamedTuple):
        return _with_loss(one.width)
    w = one.width
    load, store, splat, fma, mul, sub = (
        getattr(vector, f"{name}{w}") for name in ("load", "store", "splat", "fma", "mul", "sub")
    )

    def implementation(scratch, tail, work, data, k0, k1, replicate, step, one):  # type: ignore[no-untyped-def]
        inputs, labels, batch, noise, gain, root_noise, batch_size, double = data
        n_samples, p = inputs.shape
        k = labels.shape[1]
        target = tail + p * k * w
        marks = batch_size * w if len(batch) > batch_size * w else -1
        for lane in range(w):
            draw_batch(batch, lane, w, n_samples, batch_size, k0, k1, replicate + _u64(lane), _u64(step), marks)
            if root_noise > 0.0:
                draw_batch_noise(noise, lane, w, batch_size * k, double, k0, k1, replicate + _u64(lane), _u64(step))
        for n in range(p * k):
            store(scratch, target + n * w, splat(0.0))
        for t in range(batch_size):
            for lane in range(w):
                row = batch[t * w + lane]
                for i in range(p):
                    scratch[work + i * w + lane] = inputs[row, i]
                for j in range(k):
                    scratch[work + (p + j) * w + lane] = labels[row, j]
            for j in range(k):
                residual = load(scratch, work + (p + j) * w)
                if root_noise > 0.0:
                    residual = fma(splat(root_noise), load(noise, (t * k + j) * w), residual)
                for i in range(p):
                    x = load(scratch, work + i * w)
                    residual = sub(residual, mul(x, load(scratch, tail + (i * k + j) * w)))
                residual = mul(splat(gain), residual)
                for i in range(p):
                    at = target + (i * k + j) * w
                    store(scratch, at, fma(residual, load(scratch, work + i * w), load(scratch, at)))

    return implementation


def _with_loss(w: int) -> Callable[..., None]:
    """The increment for losses that are not squared."""
    store, splat = getattr(vector, f"store{w}"), getattr(vector, f"splat{w}")

    def implementation(scratch, tail, work, data, k0, k1, replicate, step, one):  # type: ignore[no-untyped-def]
        n_samples, p = data.inputs.shape
        size, b = p * data.labels.shape[1] * w, data.batch_size
        target = tail + size
        for at in range(target, target + size, w):
            store(scratch, at, splat(0.0))
        beside = data.noise_gain > 0.0
        everything = beside or b == n_samples
        if beside or not everything:
            marks = b * w if len(data.batch) > b * w else -1
            for lane in range(w):
                draw_batch(data.batch, lane, w, n_samples, b, k0, k1, replicate + _u64(lane), _u64(step), marks)
        kind, flips = 0 if everything else 1, 0.0 if beside else data.threshold
        add_gradient(scratch, tail, target, data, data.gain, flips, kind, k0, k1, replicate, step, one)
        if beside:
            gain = data.noise_gain
            add_gradient(scratch, tail, target, data, gain, data.threshold, 2, k0, k1, replicate, step, one)

    return implementation
