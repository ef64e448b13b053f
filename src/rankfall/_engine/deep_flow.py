"""Gradient flow of networks of more than two layers: every trajectory on its own, packed into lanes to be recorded."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankfall._deep_recording import DeepRecording
from rankfall._deep_start import DeepStart
from rankfall._engine.base import Unit
from rankfall._engine.deep_save import DeepSaver
from rankfall._engine.flow import _FIRST_STEP
from rankfall._engine.samples import rotated
from rankfall._kernels.deep_flow import advance_deep_flow, tableau
from rankfall._kernels.deep_layout import DeepLayout
from rankfall._kernels.losses import CODES
from rankfall._plan import Plan
from rankfall.methods import GradientFlow
from rankfall.problem import Problem

__all__ = ["DeepFlowEngine"]


class DeepFlowEngine:
    """An ensemble under gradient flow. Ticks are steps where `dt` was given, save intervals otherwise."""

    grain = 1

    def __init__(
        self,
        problem: Problem,
        method: GradientFlow,
        plan: Plan,
        start: DeepStart,
        lanes: int,
        recording: DeepRecording,
    ) -> None:
        """Take the layers of the start in the eigenbasis of Σ."""
        widths = (problem.n_inputs, *(layer.shape[2] for layer in start.layers))
        count = len(start.layers[0])
        self._plan, self._tolerance = plan, method.tolerance
        self.layout = DeepLayout(widths, lanes, count)
        self._widths = np.array(widths, dtype=np.int64)
        self.saver = DeepSaver(problem, plan, self.layout, start, plan.full_pairs, recording)
        self._recording = recording
        self._state = np.concatenate([layer.reshape(count, -1) for layer in start.layers], axis=1)
        self._lanes = self.layout.pack(start.layers)
        self._kernel, self._method = advance_deep_flow(), tableau()
        self._data: tuple[Any, ...] = (plan.gain, plan.eigenvalues, *_samples(problem, plan), CODES[problem.loss])
        self._proposed = np.full(count, _FIRST_STEP * float(plan.times[-1]))
        self._taken = np.zeros(count, dtype=np.int64)
        self._error_sum = np.zeros(count)
        self._failed_at = np.full(count, -1.0)
        self._diverged_at = np.full(self.layout.blocks * lanes, -1, dtype=np.int64)

    @property
    def is_compiled(self) -> bool:
        """Whether this process has the kernels already."""
        return bool(self._kernel.signatures) and self.saver.is_compiled  # type: ignore[attr-defined]

    def compile(self) -> None:
        """Compile the kernels by moving no trajectory."""
        self._advance(0, 0, 0.0, 0.0)
        self.saver.compile(self._lanes, None, self._diverged_at)

    def advance(self, unit: Unit, begin: int, end: int) -> None:
        """Move the blocks of a unit from tick `begin` to tick `end`."""
        here = unit.replicates(self.layout)
        if self._plan.adaptive:
            edges = self._plan.edges
            for tick in range(begin, end):
                self._advance(here.start, here.stop, float(edges[tick]), float(edges[tick + 1]))
        else:
            h = self._plan.step_length
            self._advance(here.start, here.stop, begin * h, end * h)
        self._diverged_at[here] = np.where(self._failed_at[here] >= 0, 1, -1)

    def _advance(self, first: int, last: int, begin: float, end: float) -> None:
        self._kernel(
            self._state,
            self._widths,
            first,
            last,
            begin,
            end,
            self._data,
            self._method,
            self._tolerance,
            self._plan.step_length,
            self._proposed,
            self._taken,
            self._error_sum,
            self._failed_at,
        )

    def record(self, unit: Unit, index: int) -> None:
        """Write save point `index` for a unit that stands there."""
        here, w = unit.replicates(self.layout), self.layout.lanes
        part = DeepLayout(self.layout.widths, w, here.stop - here.start)
        rows, layers = self._state[here], []
        for a, b in zip(self.layout.widths, self.layout.widths[1:], strict=False):
            layers.append(rows[:, : a * b].reshape(-1, a, b))
            rows = rows[:, a * b :]
        size = self.layout.weights * w
        self._lanes[unit.first * size : unit.last * size] = part.pack(layers)
        self.saver(unit, index, self._lanes, None, self._diverged_at, None)
        assert self._recording.integration_error is not None
        lost = self._failed_at[here] >= 0
        self._recording.integration_error[index, here] = np.where(lost, np.nan, self._error_sum[here])

    def export(self) -> dict[str, np.ndarray]:
        """State and step control, replicate by replicate."""
        return {
            "state": self._state,
            "proposed": self._proposed,
            "taken": self._taken,
            "error_sum": self._error_sum,
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


def _samples(problem: Problem, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in the eigenbasis and labels, for the losses that look at them."""
    if problem.loss == "squared":
        return np.zeros((1, problem.n_inputs)), np.zeros((1, problem.n_outputs))
    return rotated(problem, plan)
