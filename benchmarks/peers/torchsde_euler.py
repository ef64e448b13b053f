"""torchsde, a general solver of stochastic differential equations: Euler on the same flow, matrix-free diffusion."""

from __future__ import annotations

import numpy as np
import torch
import torchsde

from benchmarks.timing import Run
from benchmarks.workload import Weights, Workload


class _Flow(torch.nn.Module):
    """dZ = Ĝ Z dt + dN̂ Z with the two layers flattened into one state (replicates, p·l + l·k)."""

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.sizes = workload.n_inputs, workload.width, workload.n_outputs
        self.sigma, self.cross = torch.tensor(workload.covariance), torch.tensor(workload.cross_covariance)
        self.factor = torch.tensor(np.sqrt(workload.step_size) * workload.noise_factor)

    def layers(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p, width, k = self.sizes
        return y[:, : p * width].reshape(-1, p, width), y[:, p * width :].reshape(-1, width, k)

    def _along(self, g: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        return torch.cat([(g @ w2.mT).flatten(1), (w1.mT @ g).flatten(1)], dim=1)

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        w1, w2 = self.layers(y)
        return self._along(self.cross - self.sigma @ (w1 @ w2), w1, w2)

    def g_prod(self, t: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        p, _, k = self.sizes
        w1, w2 = self.layers(y)
        return self._along(self.factor @ v.reshape(-1, p, k), w1, w2)

    def f_and_g_prod(self, t: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.f(t, y), self.g_prod(t, y, v)


def ensemble(workload: Workload, steps: int, seed: int = 1, threads: int = 2, alone: bool = False) -> Run:
    """All trajectories, or the first alone, as the batch of one solve."""
    flow = _Flow(workload)
    start = torch.tensor(np.concatenate([w.reshape(len(w), -1) for w in workload.starts], axis=1))
    start = start[:1] if alone else start
    size = workload.n_inputs * workload.n_outputs
    times = torch.tensor([0.0, steps * workload.step_size], dtype=torch.float64)

    def run() -> Weights:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            # Told the step, the path lays out its intervals beforehand, which makes it a third faster.
            path = torchsde.BrownianInterval(
                times[0], times[1], size=(len(start), size), dtype=torch.float64, entropy=seed, dt=workload.step_size
            )
            end = torchsde.sdeint(flow, start, times, bm=path, method="euler", dt=workload.step_size)[-1]
        w1, w2 = flow.layers(end)
        return w1.numpy(), w2.numpy()

    return run
