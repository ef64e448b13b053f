"""Gradient flow: every trajectory on its own, packed into the lanes to be recorded."""

from __future__ import annotations

import numpy as np

from rankfall._engine.base import Unit
from rankfall._engine.samples import Measure, rotated
from rankfall._engine.save import Saver
from rankfall._kernels.gradient_flow import advance_flow, data_flow_kernel
from rankfall._kernels.layout import Layout, pack_lanes
from rankfall._kernels.losses import CODES
from rankfall._plan import Plan
from rankfall.methods import GradientFlow
from rankfall.problem import Problem
from rankfall.recording import Recording

__all__ = ["FlowEngine"]

# First step that the controller tries, as a share of the run; it grows or shrinks from there within a few steps.
_FIRST_STEP = 1e-4


class FlowEngine:
    """An ensemble under gradient flow. Ticks are steps where `dt` was given, save intervals otherwise."""

    grain = 1

    def __init__(
        self,
        problem: Problem,
        method: GradientFlow,
        plan: Plan,
        start: np.ndarray,
        basis: np.ndarray | None,
        lanes: int,
        recording: Recording,
    ) -> None:
        """Take the start Z₀ (replicate, row, column) in the eigenbasis of Σ."""
        count, _, r = start.shape
        self._plan, self._tolerance = plan, method.tolerance
        squared = problem.loss == "squared"
        self._kernel = advance_flow if squared else data_flow_kernel()
        self._data = () if squared else (*rotated(problem, plan), CODES[problem.loss])
        self.layout = Layout(problem.n_inputs, problem.n_outputs, r, lanes, count)
        self.saver = Saver(
            plan, self.layout, r, start, basis, problem.minimum_loss, recording, Measure.of(problem, plan)
        )
        self._state = np.ascontiguousarray(start)
        self._lanes = self.layout.pack(self._state)
        self._proposed = np.full(count, _FIRST_STEP * float(plan.times[-1]))
        self._taken = np.zeros(count, dtype=np.int64)
        self._failed_at = np.full(count, -1.0)
        self._diverged_at = np.full(self.layout.blocks * lanes, -1, dtype=np.int64)
        self._edges = plan.edges

    @property
    def is_compiled(self) -> bool:
        """Whether this process has the kernels already."""
        return bool(self._kernel.signatures) and self.saver.is_compiled

    def compile(self) -> None:
        """Compile the kernels by moving no trajectory."""
        self._advance(0, 0, 0.0, 0.0)
        self.saver.compile(self._lanes, None, self._diverged_at)

    def advance(self, unit: Unit, begin: int, end: int) -> None:
        """Move the blocks of a unit from tick `begin` to tick `end`."""
        here = unit.replicates(self.layout)
        first, last = here.start, here.stop
        if self._plan.adaptive:
            for tick in range(begin, end):
                self._advance(first, last, float(self._edges[tick]), float(self._edges[tick + 1]))
        else:
            h = self._plan.step_length
            self._advance(first, last, begin * h, end * h)
        self._diverged_at[first:last] = np.where(self._failed_at[first:last] >= 0, 1, -1)

    def _advance(self, first: int, last: int, begin: float, end: float) -> None:
        self._kernel(
            self._state,
            first,
            last,
            begin,
            end,
            self._plan.gain,
            self._plan.eigenvalues,
            self._tolerance,
            self._plan.step_length,
            self._proposed,
            self._taken,
            self._failed_at,
            self._data,
        )

    def record(self, unit: Unit, index: int) -> None:
        """Write save point `index` for a unit that stands there."""
        w = self.layout.lanes
        size = self.layout.rows * self.layout.columns * w
        self._lanes[unit.first * size : unit.last * size] = pack_lanes(self._state[unit.replicates(self.layout)], w)
        self.saver(unit, index, self._lanes, None, self._diverged_at, None)

    def export(self) -> dict[str, np.ndarray]:
        """State and step control, replicate by replicate."""
        return {
            "state": self._state,
            "proposed": self._proposed,
            "taken": self._taken,
            "failed_at": self._failed_at,
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `export` gave."""
        for name, target in self.export().items():
            target[:] = arrays[name]
        self._diverged_at[: len(self._failed_at)] = np.where(self._failed_at >= 0, 1, -1)

    def diverged(self) -> np.ndarray:
        """Time at which each replicate failed, NaN for the others."""
        return np.where(self._failed_at >= 0, self._failed_at, np.nan)

    def per_replicate(self) -> dict[str, np.ndarray]:
        """Steps that each replicate took."""
        return {"steps_taken": self._taken}
