"""The random numbers of the kernels, one by one: for tests, and for other solvers that are to use the same noise."""

from __future__ import annotations

import numpy as np
from numba import njit

from rankfall._kernels.flips import class_shift, draw_words, flip_threshold, words_per_sample
from rankfall._kernels.layout import NoiseGrouping
from rankfall._kernels.losses import CODES
from rankfall._kernels.minibatch import draw_batch, draw_batch_noise
from rankfall._kernels.philox import (
    MASK,
    SHIFT,
    STREAM_FLOW_NOISE,
    normal_pair_double,
    normal_pair_single,
    philox,
)

__all__ = ["batches", "flips", "normals"]

_u64 = np.uint64


@njit(error_model="numpy", nogil=True)
def _fill(out, first_replicate, first_group, calls, double, k0, k1):  # type: ignore[no-untyped-def]
    per_call = 2 if double else 4
    for i in range(out.shape[0]):
        for g in range(out.shape[1]):
            group = _u64(first_group + g)
            for e in range(calls):
                a, b, c, d = philox(
                    group & MASK, group >> SHIFT, STREAM_FLOW_NOISE + _u64(e), _u64(first_replicate + i), k0, k1
                )
                at = e * per_call
                if double:
                    out[i, g, at], out[i, g, at + 1] = normal_pair_double(a, b, c, d)
                else:
                    out[i, g, at], out[i, g, at + 1] = normal_pair_single(a, b)
                    out[i, g, at + 2], out[i, g, at + 3] = normal_pair_single(c, d)


@njit(error_model="numpy", nogil=True)
def _fill_batches(chosen, noise, n_samples, first_replicate, first_step, double, k0, k1):  # type: ignore[no-untyped-def]
    for i in range(chosen.shape[0]):
        for s in range(chosen.shape[1]):
            replicate, step = _u64(first_replicate + i), _u64(first_step + s)
            draw_batch(chosen[i, s], 0, 1, n_samples, chosen.shape[2], k0, k1, replicate, step, -1)
            draw_batch_noise(noise[i, s], 0, 1, noise.shape[2], double, k0, k1, replicate, step)


def _key(seed: int) -> tuple[np.uint64, np.uint64]:
    return _u64(seed & 0xFFFFFFFF), _u64(seed >> 32)


def normals(
    seed: int,
    replicates: int,
    first_step: int,
    steps: int,
    size: int,
    double: bool = False,
    first_replicate: int = 0,
) -> np.ndarray:
    """Return the standard normals N of the given steps, shape (replicates, steps, size).

    `size` is n_inputs · n_outputs and N[..., i · n_outputs + j] belongs to entry (i, j) of the noise in the eigenbasis
    of Σ: there the noise of a step is √(δ/b) diag(√d) N (descent) or σ √h diag(√d) N (flow).

    Example:
        >>> from rankfall._kernels.noise import normals
        >>> normals(seed=1, replicates=2, first_step=7, steps=3, size=10).shape
        (2, 3, 10)
    """
    grouping = NoiseGrouping(size, double)
    first, last = first_step // grouping.steps, -(-(first_step + steps) // grouping.steps)
    out = np.empty((replicates, last - first, grouping.steps * size))
    _fill(out, first_replicate, first, grouping.calls, double, *_key(seed))
    begin = first_step - first * grouping.steps
    return out.reshape(replicates, -1, size)[:, begin : begin + steps]


def batches(
    seed: int,
    replicates: int,
    first_step: int,
    steps: int,
    n_samples: int,
    batch_size: int,
    n_outputs: int,
    double: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample numbers (replicates, steps, batch_size) and label normals (…, batch_size, n_outputs).

    Example:
        >>> from rankfall._kernels.noise import batches
        >>> chosen, noise = batches(seed=1, replicates=2, first_step=0, steps=5, n_samples=9, batch_size=3, n_outputs=2)
        >>> chosen.shape, noise.shape
        ((2, 5, 3), (2, 5, 3, 2))
    """
    count = batch_size * n_outputs
    chosen = np.empty((replicates, steps, batch_size), dtype=np.int64)
    noise = np.empty((replicates, steps, -(-count // 4) * 4))
    _fill_batches(chosen, noise, n_samples, 0, first_step, double, *_key(seed))
    return chosen, noise[..., :count].reshape(replicates, steps, batch_size, n_outputs)


@njit(error_model="numpy", nogil=True)
def _fill_words(words, first_step, k0, k1):  # type: ignore[no-untyped-def]
    for i in range(words.shape[0]):
        for s in range(words.shape[1]):
            draw_words(words[i, s], 0, 1, 0, words.shape[2] // 4, k0, k1, _u64(i), _u64(first_step + s))


def flips(
    seed: int,
    replicates: int,
    first_step: int,
    steps: int,
    batch_size: int,
    n_outputs: int,
    label_noise: float,
    loss: str,
) -> np.ndarray:
    """Return which labels of the batches are flipped.

    Logistic: 1 where y becomes 1 − y, shape (replicates, steps, batch_size, n_outputs). Cross-entropy: by how many
    columns a row of labels is turned to the right, 0 … n_outputs − 1, shape (replicates, steps, batch_size).

    Example:
        >>> from rankfall._kernels.noise import flips
        >>> turned = flips(1, 2, 0, steps=5, batch_size=3, n_outputs=4, label_noise=0.5, loss="cross_entropy")
        >>> turned.shape, int(turned.max())
        ((2, 5, 3), 3)
    """
    threshold, each = flip_threshold(label_noise), words_per_sample(n_outputs, CODES[loss])
    words = np.empty((replicates, steps, -(-batch_size * each // 4) * 4))
    _fill_words(words, first_step, *_key(seed))
    words = words[:, :, : batch_size * each].reshape(replicates, steps, batch_size, each)
    if loss == "logistic":
        return (words < threshold).astype(np.int64)
    turned = np.zeros(words.shape[:-1], dtype=np.int64)
    for place in np.ndindex(turned.shape):
        turned[place] = class_shift(words[(*place, 0)], words[(*place, 1)], threshold, n_outputs)
    return turned
