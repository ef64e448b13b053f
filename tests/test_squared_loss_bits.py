"""Runs of the squared loss have the bits that they had before there were other losses (commit 4d44528).

Σ is diagonal, so that no LAPACK of any machine has a say, and the numbers come from integers; what is left is the
kernels' own arithmetic, which is the same on every processor.
"""

import hashlib

import numpy as np
import pytest

import rankfall as rf

SIZES = {"unrolled": (3, 2), "tiled": (6, 4)}
METHODS = {
    "descent": (rf.GradientDescent(0.02, weight_decay=0.25), {"steps": 130}),
    "label noise": (rf.LabelNoiseDescent(0.02, label_noise=0.5, batch_size=2), {"steps": 130}),
    "mini-batch": (rf.StochasticGradientDescent(0.02, batch_size=3), {"steps": 130}),
    "mini-batch, noise": (rf.StochasticGradientDescent(0.02, batch_size=3, label_noise=0.5), {"steps": 130}),
    "large batch": (rf.StochasticGradientDescent(0.02, batch_size=26, label_noise=0.5), {"steps": 130}),
    "euler": (rf.StochasticGradientFlow(0.5, 0.02, integrator="euler"), {"duration": 1.3, "dt": 0.01}),
    "flow": (rf.GradientFlow(), {"duration": 1.3, "dt": 0.02}),
}
BEFORE = {
    ("unrolled", "descent"): "045528f94a5ac55f",
    ("unrolled", "label noise"): "e7cee25c7b4d887c",
    ("unrolled", "mini-batch"): "ff4dbd28ac4e4d1a",
    ("unrolled", "mini-batch, noise"): "d5a2175c7637d822",
    ("unrolled", "large batch"): "b682baee6c6371f8",
    ("unrolled", "euler"): "d07b40cf36e04a4c",
    ("unrolled", "flow"): "2dbe47d3d3e4b49b",
    ("tiled", "descent"): "18bd3b73ff6cbe73",
    ("tiled", "label noise"): "6411c5ca1039bba6",
    ("tiled", "mini-batch"): "67d437be2007a75c",
    ("tiled", "mini-batch, noise"): "42838f313b738dc7",
    ("tiled", "large batch"): "fd3cefd1140b81a8",
    ("tiled", "euler"): "e97df998742f0561",
    ("tiled", "flow"): "2adbd1fb4e367bdb",
}


def small_numbers(rng, *shape):
    return rng.integers(-8, 9, shape) / 8.0


def run_of(size, name):
    p, k = SIZES[size]
    rng = np.random.Generator(np.random.PCG64(1))
    inputs = np.zeros((10 * p, p))  # each sample has one input
    for i in range(p):
        inputs[10 * i : 10 * (i + 1), i] = 2.0 ** (1 - i // 2)
    labels = small_numbers(rng, 10 * p, k)
    W1, W2 = small_numbers(rng, 3, p, p + k), small_numbers(rng, 3, p + k, k)
    network = rf.LinearNetwork.from_weights(W1 / 2, W2 / 2)
    method, arguments = METHODS[name]
    return rf.simulate(
        rf.Problem.from_data(inputs, labels),
        network,
        method,
        **arguments,
        replicates=3,
        seed=5,
        weights=True,
        save_points=4,
    )


def fingerprint(run):
    digest = hashlib.sha256()
    for name in ("W1", "W2"):
        digest.update((run[name].values + 0.0).astype("<f8").tobytes())  # + 0.0: no negative zeros
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_the_bits_are_those_of_before(size, name):
    run = run_of(size, name)
    assert (run.outcome == "completed").all()
    assert not np.array_equal(run.W1[:, 0], run.W1[:, -1])
    assert fingerprint(run) == BEFORE[size, name]
