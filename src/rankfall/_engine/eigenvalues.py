"""The eigenvalue process under way: what `run_rounds` drives."""

from __future__ import annotations

import numpy as np

from rankfall import _eigen
from rankfall._engine.base import Unit
from rankfall._kernels.eigenvalues import advance_eigenvalues
from rankfall._kernels.layout import FLUSH, Layout
from rankfall._kernels.noise import normals
from rankfall._plan import Plan

__all__ = ["EigenvalueEngine"]

# Normals are drawn for as many steps at a time as give about this many numbers.
_NOISE_NUMBERS = 1 << 18


class EigenvalueEngine:
    """Log eigenvalues and eigenvectors of an ensemble, and what was saved of them.

    Attributes:
        logs: log λ at the save points, shape (time, replicate, mode).
        loss: Loss above its minimum, shape (time, replicate).
        singular_values: Of W1 and W2, shapes (time, replicate, mode).
    """

    grain = FLUSH

    def __init__(self, plan: Plan, start: np.ndarray, intensity: float, strength: float, seed: int) -> None:
        """Take the start Z₀ (replicate, p + k, r) in the eigenbasis of Σ, and the factor of the repulsion (1, or 0)."""
        count, _, columns = start.shape
        p, k = plan.solution.shape
        self._plan, self._intensity, self._strength, self._seed = plan, intensity, strength, seed
        self.layout = Layout(p, k, columns, 1, count)
        values, vectors = _eigen.modes(start)
        self._state, self._vectors = 2.0 * np.log(values), np.ascontiguousarray(vectors)
        self._failed_at = np.full(count, -1, dtype=np.int64)
        self._cross = np.ascontiguousarray(plan.eigenvalues[:, None] * plan.solution)
        times = len(plan.times)
        self.logs = np.empty((times, count, columns))
        self.loss = np.empty((times, count))
        self.singular_values = (np.empty((times, count, min(p, columns))), np.empty((times, count, min(k, columns))))

    @property
    def is_compiled(self) -> bool:
        """Whether this process has the kernel already."""
        return bool(advance_eigenvalues.signatures)

    def compile(self) -> None:
        """Compile the kernels by moving no trajectory."""
        noise = normals(self._seed, 1, 0, 1, self._plan.solution.size)
        self._move(slice(0, 1), np.ascontiguousarray(noise[:, :0]), 0)

    def advance(self, unit: Unit, begin: int, end: int) -> None:
        """Move the trajectories of a unit from step `begin` to step `end`."""
        here, size = unit.replicates(self.layout), self._plan.solution.size
        count = here.stop - here.start
        slab = max(FLUSH, _NOISE_NUMBERS // max(1, count * size) // FLUSH * FLUSH)
        for now in range(begin, end, slab):
            noise = normals(self._seed, count, now, min(slab, end - now), size, first_replicate=here.start)
            self._move(here, np.ascontiguousarray(noise), now)

    def _move(self, here: slice, noise: np.ndarray, begin: int) -> None:
        advance_eigenvalues(
            self._state,
            self._vectors,
            here.start,
            here.stop,
            noise,
            begin,
            self._plan.step_length,
            self._plan.eigenvalues,
            self._cross,
            self._plan.amplitude,
            self._intensity,
            self._strength,
            self._failed_at,
        )

    def record(self, unit: Unit, index: int) -> None:
        """Write save point `index` for a unit that stands there."""
        here, plan, p = unit.replicates(self.layout), self._plan, self.layout.n_inputs
        logs, lost = self._state[here], self._failed_at[here] >= 0
        z = np.where(lost[:, None, None], 0.0, self._vectors[here] * np.exp(0.5 * logs)[:, None, :])
        first, second = z[:, :p], z[:, p:]
        gap = first @ second.transpose(0, 2, 1) - plan.solution
        loss = 0.5 * (plan.eigenvalues[:, None] * gap * gap).sum(axis=(1, 2))
        self.logs[index, here], self.loss[index, here] = logs, np.where(lost, np.nan, loss)
        for kept, part in zip(self.singular_values, (first, second), strict=True):
            kept[index, here] = np.where(lost[:, None], np.nan, np.linalg.svd(part, compute_uv=False))

    def diverged(self) -> np.ndarray:
        """Time at which each trajectory diverged, NaN for the others."""
        return np.where(self._failed_at >= 0, self._failed_at * self._plan.step_length, np.nan)
