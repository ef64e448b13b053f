"""NumPy from the sufficient statistics: all trajectories at once by stacked matrix products, or one alone."""

from __future__ import annotations

import numpy as np

from benchmarks.timing import Run
from benchmarks.workload import Weights, Workload


def ensemble(workload: Workload, steps: int, seed: int = 1) -> Run:
    """All trajectories, stacked along the first axis."""
    return _loop(workload, steps, workload.starts, seed)


def single(workload: Workload, steps: int, seed: int = 1) -> Run:
    """The first trajectory alone, with plain matrices."""
    return _loop(workload, steps, (workload.starts[0][0], workload.starts[1][0]), seed)


def _loop(workload: Workload, steps: int, starts: Weights, seed: int) -> Run:
    sigma, cross, factor = workload.covariance, workload.cross_covariance, workload.noise_factor
    eta = workload.step_size
    shape = starts[0].shape[:-2] + cross.shape
    rng = np.random.default_rng(seed)

    def run() -> Weights:
        w1, w2 = starts[0].copy(), starts[1].copy()
        for _ in range(steps):
            g = cross - sigma @ (w1 @ w2) + factor @ rng.standard_normal(shape)
            w1, w2 = w1 + eta * (g @ w2.swapaxes(-1, -2)), w2 + eta * (w1.swapaxes(-1, -2) @ g)
        return w1.reshape(-1, *w1.shape[-2:]), w2.reshape(-1, *w2.shape[-2:])

    return run


def minibatch(workload: Workload, steps: int, batch_size: int, seed: int = 1) -> Run:
    """Real mini-batches without replacement, one trajectory, gradients by hand."""
    inputs, labels = workload.problem.inputs, workload.problem.labels
    assert inputs is not None and labels is not None
    eta = workload.step_size
    rng = np.random.default_rng(seed)

    def run() -> Weights:
        w1, w2 = workload.starts[0][0].copy(), workload.starts[1][0].copy()
        for _ in range(steps):
            batch = rng.choice(len(inputs), batch_size, replace=False, shuffle=False)
            x = inputs[batch]
            g = x.T @ (labels[batch] - (x @ w1) @ w2) / batch_size
            w1, w2 = w1 + eta * (g @ w2.T), w2 + eta * (w1.T @ g)
        return w1[None], w2[None]

    return run
