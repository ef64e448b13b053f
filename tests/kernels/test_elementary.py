"""Logarithm and exponential of the kernels against those of mpmath, to units in the last place."""

from __future__ import annotations

import mpmath as mp
import numpy as np
from numba import njit

from rankfall._kernels.elementary import LEAST, exponential, logarithm


@njit
def logarithms(x, out):
    for i in range(len(x)):
        out[i] = logarithm(x[i])


@njit
def exponentials(x, out):
    for i in range(len(x)):
        out[i] = exponential(x[i])


def units(function, exact, x):
    """Largest error in units in the last place of the exact value."""
    out = np.empty_like(x)
    function(x, out)
    with mp.workdps(40):
        values = [exact(mp.mpf(value)) for value in x]
        rounded = np.array([float(value) for value in values])
        errors = [float(abs(mp.mpf(a) - b)) for a, b in zip(out, values, strict=True)]
    return np.max(np.array(errors) / np.spacing(np.abs(rounded)))


def test_logarithm():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            np.exp(rng.uniform(-700, 700, 2000)),
            rng.uniform(0.5, 2.0, 2000),
            1.0 + rng.uniform(-1e-9, 1e-9, 200),
            [1.0, np.sqrt(0.5), np.sqrt(2.0), np.finfo(float).tiny],
        ]
    )
    assert units(logarithms, mp.log, x) <= 2.5


def test_exponential():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(LEAST + 1e-9, 700, 2000), rng.uniform(-1, 1, 2000), [0.0, -1e-300, 700.0]])
    assert units(exponentials, mp.exp, x) <= 2.0


def test_what_is_out_of_range():
    x = np.array([LEAST, -1e9, -np.inf, np.nan, 0.0, 1e3])
    out = np.empty_like(x)
    exponentials(x, out)
    assert out[:4].tolist() == [0.0] * 4 and out[4] == 1.0 and out[5] > 1e303
