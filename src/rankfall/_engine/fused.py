"""Descents and stochastic flows: an ensemble in the lanes, advanced by a fused kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankfall._engine.base import Unit
from rankfall._engine.frame import FrameState
from rankfall._engine.samples import Measure, thread_data
from rankfall._engine.save import Saver, pad_square
from rankfall._kernels.generator import Variant
from rankfall._kernels.layout import FLUSH, Layout, pack_lanes, unpack_lanes
from rankfall._kernels.loader import kernel
from rankfall._kernels.tiles import COLUMN_TILE, scratch_size
from rankfall._kernels.vector import aligned_zeros
from rankfall._plan import Plan
from rankfall.methods import Method, StochasticGradientDescent, StochasticGradientFlow
from rankfall.problem import Problem
from rankfall.recording import Recording, balance

__all__ = ["FusedEngine"]


# Place of the data among a kernel's arguments.
_DATA = 18


class FusedEngine:
    """State, ledgers and random numbers of an ensemble whose steps all have the same length."""

    grain = FLUSH

    def __init__(
        self,
        problem: Problem,
        method: Method,
        plan: Plan,
        start: np.ndarray,
        basis: np.ndarray | None,
        seed: int,
        lanes: int,
        recording: Recording,
        any_size: bool = False,
    ) -> None:
        """Take the start Z₀ (replicate, row, column) in the eigenbasis of Σ."""
        count, _, r = start.shape
        p, k = problem.n_inputs, problem.n_outputs
        self._plan, self._seed = plan, np.uint64(seed)
        self._variant = _variant(problem, method, plan, lanes, any_size)
        stored = r if self._variant.unrolled else -(-r // COLUMN_TILE) * COLUMN_TILE
        self.layout = Layout(p, k, stored, lanes, count)
        self.saver = Saver(
            plan, self.layout, r, start, basis, problem.minimum_loss, recording, Measure.of(problem, plan)
        )
        self._kernel = kernel(self._variant)
        self._frame: FrameState | None = None
        if self._variant.frame:
            columns = p + k if self._variant.unrolled else -(-(p + k) // COLUMN_TILE) * COLUMN_TILE
            self._frame = FrameState(plan, self.layout, columns, start)

        in_memory = start / plan.unscale[:, None]
        self._state = self.layout.pack(np.pad(in_memory, ((0, 0), (0, 0), (0, stored - r))))
        size = self.layout.blocks * lanes
        self._log_ledger, self._extremes = np.zeros(size), np.zeros(size)
        self._diverged_at = np.full(size, -1, dtype=np.int64)
        self._balance = pack_lanes(pad_square(balance(in_memory, p), stored), lanes) if plan.balance else np.zeros(1)
        if self._variant.step == "geometric":
            grown = 1.0 - plan.row_factors**-2
            self._gram_weights = np.concatenate([grown[:p], -grown[p:]])
        else:
            self._gram_weights = np.concatenate([np.ones(p), -np.ones(k)])
        # What weight decay adds to the ledger at every step is the same number, kept out of the kernel.
        decay = plan.row_factors[0] if self._variant.decay else 1.0
        self._ledger_per_step = 2.0 * abs(p - k) * float(np.log(decay))
        self._make_data = thread_data(problem, method, plan)

    @property
    def is_compiled(self) -> bool:
        """Whether this process has the kernels already."""
        size = len(self._make_data(1)) if self._make_data is not None else 0
        known = [len(signature[_DATA]) for signature in self._kernel.signatures]  # type: ignore[attr-defined]
        framed = self._frame is None or self._frame.is_compiled
        return size in known and self.saver.is_compiled and framed

    def compile(self) -> None:
        """Compile the kernels by running no step of no block."""
        self.advance(Unit(0, 0), 0, 0)
        self.saver.compile(self._state, self._ledger(), self._diverged_at)
        if self._frame is not None:
            self._frame.compile()

    def advance(self, unit: Unit, begin: int, end: int) -> None:
        """Move the blocks of a unit from step `begin` to step `end`."""
        plan, layout = self._plan, self.layout
        if unit.memory is None:
            unit.memory = self._working_memory()
        scratch, data, *frame = unit.memory
        self._kernel(
            self._state,
            plan.gain,
            plan.step_length * plan.eigenvalues,
            plan.amplitude,
            plan.row_factors,
            self._seed,
            0,
            begin,
            end - begin,
            unit.first,
            unit.last,
            layout.columns,
            self._log_ledger,
            self._balance,
            self._gram_weights,
            self._extremes,
            self._diverged_at,
            scratch,
            data,
            *frame,
        )

    def _working_memory(self) -> tuple[Any, ...]:
        p, k, w = self.layout.n_inputs, self.layout.n_outputs, self.layout.lanes
        scratch = aligned_zeros(scratch_size(p, k, self.layout.columns, w, self._variant.step_batch))
        data = () if self._make_data is None else self._make_data(w)
        frame = () if self._frame is None else (self._frame.argument(),)
        return scratch, data, *frame

    def record(self, unit: Unit, index: int) -> None:
        """Write save point `index` for a unit that stands there."""
        change = None
        if self._plan.determinant:
            assert self._plan.steps is not None
            here = unit.replicates(self.layout)
            change = 2.0 * self._log_ledger[here] + float(self._plan.steps[index]) * self._ledger_per_step
        if self._frame is not None:
            self._frame.save(unit, index, self.saver.recording.observed)
        self.saver(unit, index, self._state, self._ledger(), self._diverged_at, change)

    def _ledger(self) -> np.ndarray | None:
        return self._balance if self._plan.balance else None

    def export(self) -> dict[str, np.ndarray]:
        """State and ledgers, replicate by replicate."""
        count, columns = self.layout.replicates, self.layout.columns
        arrays = {
            "state": self.layout.unpack(self._state),
            "log_ledger": self._log_ledger[:count],
            "extremes": self._extremes[:count],
            "diverged_at": self._diverged_at[:count],
        }
        if self._plan.balance:
            arrays["ledger_balance"] = unpack_lanes(self._balance, count, columns, columns, self.layout.lanes)
        if self._frame is not None:
            arrays |= self._frame.export()
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `export` gave."""
        count = self.layout.replicates
        self._state[:] = self.layout.pack(arrays["state"])
        for target, name in (
            (self._log_ledger, "log_ledger"),
            (self._extremes, "extremes"),
            (self._diverged_at, "diverged_at"),
        ):
            target[:count] = arrays[name]
        if self._plan.balance:
            self._balance[:] = pack_lanes(arrays["ledger_balance"], self.layout.lanes)
        if self._frame is not None:
            self._frame.restore(arrays)

    def diverged(self) -> np.ndarray:
        """Time at which each replicate diverged, NaN for the others."""
        step = self._diverged_at[: self.layout.replicates]
        return np.where(step >= 0, step * self._plan.step_length, np.nan)

    def per_replicate(self) -> dict[str, np.ndarray]:
        """Largest ‖H‖_F that each replicate met, for the geometric integrator."""
        if self._variant.step != "geometric":
            return {}
        return {"largest_increment": np.sqrt(self._extremes[: self.layout.replicates])}


def _variant(problem: Problem, method: Method, plan: Plan, lanes: int, any_size: bool) -> Variant:
    geometric = isinstance(method, StochasticGradientFlow) and method.integrator == "geometric"
    batch = isinstance(method, StochasticGradientDescent) or problem.loss != "squared"
    return Variant(
        problem.n_inputs,
        problem.n_outputs,
        lanes=lanes,
        step="geometric" if geometric else "descent",
        noise="batch" if batch else (plan.precision if plan.amplitude.any() else "none"),
        determinant=plan.determinant,
        balance=plan.balance,
        decay=not geometric and bool(plan.row_factors[0] != 1.0),
        frame=plan.framed,
        any_size=any_size,
    )
