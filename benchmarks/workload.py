"""The work that every contender does: label-noise descent of a two-layer linear network from the same starts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

import rankfall as rf

Weights = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Workload:
    """Z ← (I + ηĜ)Z with G = C − Σ W1W2 + √(δ/b) L N, fresh standard normals N (p×k) at every step and trajectory.

    The stochastic gradient flow with σ² = ηδ/b and Euler steps of length η is the same recursion, which is what the SDE
    solvers are given.
    """

    n_inputs: int = 5
    n_outputs: int = 2
    width: int = 10
    replicates: int = 512
    step_size: float = 0.01
    label_noise: float = 2.0
    scale: float = 1.0
    n_samples: int = 1000
    seed: int = 0

    @cached_property
    def problem(self) -> rf.Problem:
        return rf.Problem.gaussian(
            n_samples=self.n_samples, n_inputs=self.n_inputs, n_outputs=self.n_outputs, seed=self.seed
        )

    @cached_property
    def starts(self) -> Weights:
        """W1 (replicates, p, l) and W2 (replicates, l, k)."""
        return self.gaussian.draw(replicates=self.replicates, seed=self.seed)

    @property
    def gaussian(self) -> rf.LinearNetwork:
        return rf.LinearNetwork.gaussian(
            n_inputs=self.n_inputs, width=self.width, n_outputs=self.n_outputs, scale=self.scale
        )

    @property
    def network(self) -> rf.LinearNetwork:
        """The network that starts from `starts`, so that every contender begins at the same weights."""
        return rf.LinearNetwork.from_weights(*self.starts)

    @property
    def method(self) -> rf.LabelNoiseDescent:
        return rf.LabelNoiseDescent(step_size=self.step_size, label_noise=self.label_noise)

    @property
    def flow(self) -> rf.StochasticGradientFlow:
        return rf.StochasticGradientFlow(step_size=self.step_size, label_noise=self.label_noise)

    @property
    def covariance(self) -> np.ndarray:
        return self.problem.covariance

    @property
    def cross_covariance(self) -> np.ndarray:
        return self.problem.cross_covariance

    @cached_property
    def noise_factor(self) -> np.ndarray:
        """√δ L with Σ = L Lᵀ: G's noise is this times N."""
        return np.sqrt(self.label_noise) * np.linalg.cholesky(self.covariance)

    @property
    def rows(self) -> int:
        """r = min(l, p + k), the number of hidden directions that the exact reduction keeps."""
        return min(self.width, self.n_inputs + self.n_outputs)

    @property
    def multiply_adds(self) -> int:
        """Fused multiply-adds of one reduced step: 3 products of p·k per kept direction, and 2 p·k for G.

        Per direction: the update of W1's column, of W2's row, and their share of the next product W1W2; then Σ and the
        noise are diagonal in the eigenbasis, one multiply-add each per entry of G.
        """
        return self.rows * 3 * self.n_inputs * self.n_outputs + 2 * self.n_inputs * self.n_outputs
