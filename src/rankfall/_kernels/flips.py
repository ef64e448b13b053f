"""Labels that are flipped afresh at every step: which of them, as a function of (seed, replicate, step, place)."""

from __future__ import annotations

import numpy as np
from numba import njit

from rankfall._kernels.philox import MASK, SHIFT, STREAM_FLIPS, philox

__all__ = ["class_shift", "draw_words", "flip_threshold", "words_per_sample"]

_u64 = np.uint64
_WORDS = 2.0**32


def flip_threshold(probability: float) -> float:
    """A word below this, of 2³² equally likely ones, flips its label: the probability is met to 2⁻³³."""
    return float(round(probability * _WORDS))


@njit(error_model="numpy", nogil=True)
def words_per_sample(n_outputs, loss):  # type: ignore[no-untyped-def]
    """Logistic: one word per output, whether it is flipped; cross-entropy: two, whether and to which class."""
    return 2 if loss == 2 else n_outputs


@njit(error_model="numpy", nogil=True, inline="always")
def draw_words(words, first, lanes, call, calls, k0, k1, replicate, step):  # type: ignore[no-untyped-def]
    """Fill words[first + m·lanes + lane], m < 4·calls, with the 32-bit words of calls `call` … of this step."""
    for e in range(calls):
        counter = STREAM_FLIPS + _u64(call + e)
        at = first + 4 * e * lanes
        for lane in range(lanes):
            a, b, c, d = philox(step & MASK, step >> SHIFT, counter, replicate + _u64(lane), k0, k1)
            words[at + lane] = np.float64(a)
            words[at + lanes + lane] = np.float64(b)
            words[at + 2 * lanes + lane] = np.float64(c)
            words[at + 3 * lanes + lane] = np.float64(d)


@njit(error_model="numpy", nogil=True, inline="always")
def class_shift(whether, where, threshold, n_classes):  # type: ignore[no-untyped-def]
    """By how many classes a row of labels is turned: 0, or 1 … k − 1 with equal probability."""
    if not whether < threshold:
        return 0
    return 1 + np.int64(where * (n_classes - 1) / _WORDS)
