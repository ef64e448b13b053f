"""PyTorch: the training loop that researchers write, and the same from the sufficient statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.timing import Run
from benchmarks.workload import Weights, Workload

LossOf = Callable[[torch.nn.Module], torch.Tensor]


def training_loop(workload: Workload, steps: int, seed: int = 1) -> Run:
    """A module, autograd and an optimizer on all the samples, with fresh label noise at every step.

    Noise of variance δn on all n labels adds Xᵀξ/n to G, whose covariance is that of variance δ on one label.
    """
    problem = workload.problem
    x, y = torch.tensor(problem.inputs), torch.tensor(problem.labels)
    n = len(x)
    spread = (workload.label_noise * n) ** 0.5

    def loss(model: torch.nn.Module) -> torch.Tensor:
        noisy = y + spread * torch.randn(y.shape, dtype=torch.float64)
        return ((model(x) - noisy) ** 2).sum() / (2 * n)

    return _train(workload, steps, seed, loss)


def minibatch(workload: Workload, steps: int, batch_size: int, seed: int = 1) -> Run:
    """The same loop on mini-batches drawn without replacement, without label noise."""
    problem = workload.problem
    x, y = torch.tensor(problem.inputs), torch.tensor(problem.labels)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        batch = torch.randperm(len(x))[:batch_size]
        return ((model(x[batch]) - y[batch]) ** 2).sum() / (2 * batch_size)

    return _train(workload, steps, seed, loss)


def _train(workload: Workload, steps: int, seed: int, loss_of: LossOf) -> Run:
    """One trajectory; tiny products are fastest on one thread."""
    p, k, width = workload.n_inputs, workload.n_outputs, workload.width

    def run() -> Weights:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(p, width, bias=False, dtype=torch.float64),
            torch.nn.Linear(width, k, bias=False, dtype=torch.float64),
        )
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor(workload.starts[0][0].T))
            model[1].weight.copy_(torch.tensor(workload.starts[1][0].T))
        optimizer = torch.optim.SGD(model.parameters(), lr=workload.step_size)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        return model[0].weight.detach().numpy().T[None], model[1].weight.detach().numpy().T[None]

    return run


def statistics_ensemble(workload: Workload, steps: int, seed: int = 1) -> Run:
    """All trajectories by batched products, no autograd, two threads."""
    return _statistics(workload, steps, seed, slice(None), threads=2)


def statistics_single(workload: Workload, steps: int, seed: int = 1) -> Run:
    """One trajectory, no autograd, one thread."""
    return _statistics(workload, steps, seed, 0, threads=1)


def _statistics(workload: Workload, steps: int, seed: int, part: slice | int, threads: int) -> Run:
    sigma, cross = torch.tensor(workload.covariance), torch.tensor(workload.cross_covariance)
    factor, eta = torch.tensor(workload.noise_factor), workload.step_size
    start1, start2 = torch.tensor(workload.starts[0][part]), torch.tensor(workload.starts[1][part])
    shape = (*start1.shape[:-2], *cross.shape)

    def run() -> Weights:
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        w1, w2 = start1.clone(), start2.clone()
        with torch.inference_mode():
            for _ in range(steps):
                g = cross - sigma @ (w1 @ w2) + factor @ torch.randn(shape, dtype=torch.float64)
                w1, w2 = w1 + eta * (g @ w2.mT), w2 + eta * (w1.mT @ g)
        return w1.numpy().reshape(-1, *w1.shape[-2:]), w2.numpy().reshape(-1, *w2.shape[-2:])

    return run
