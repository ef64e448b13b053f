"""Descents and Euler–Maruyama of networks of more than two layers: an ensemble in the lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankfall._deep_recording import DeepRecording, pair_balances
from rankfall._deep_start import DeepStart
from rankfall._engine.base import Unit
from rankfall._engine.deep_save import DeepSaver
from rankfall._engine.samples import thread_data
from rankfall._kernels import loader
from rankfall._kernels.deep import deep_source
from rankfall._kernels.deep_layout import DeepLayout
from rankfall._kernels.deep_variant import DeepVariant, scratch_size
from rankfall._kernels.layout import FLUSH
from rankfall._kernels.vector import aligned_zeros
from rankfall._plan import Plan
from rankfall.methods import Method
from rankfall.problem import Problem

__all__ = ["DeepEngine"]


class DeepEngine:
    """State, ledgers and random numbers of a deep ensemble whose steps all have the same length."""

    grain = FLUSH

    def __init__(
        self,
        problem: Problem,
        method: Method,
        plan: Plan,
        start: DeepStart,
        seed: int,
        lanes: int,
        recording: DeepRecording,
    ) -> None:
        """Take the layers of the start in the eigenbasis of Σ."""
        widths = (problem.n_inputs, *(layer.shape[2] for layer in start.layers))
        self._plan, self._seed = plan, np.uint64(seed)
        self.layout = layout = DeepLayout(widths, lanes, len(start.layers[0]))
        self._widths = np.array(layout.stored, dtype=np.int64)
        self._make_data = thread_data(problem, method, plan)
        self._variant = DeepVariant(
            min(widths[0], widths[-1]),
            lanes=lanes,
            noise="batch" if self._make_data is not None else (plan.precision if plan.amplitude.any() else "none"),
            decay=bool(plan.row_factors[0] != 1.0),
        )
        self._kernel = loader.load(self._variant.name, deep_source(self._variant))
        self.saver = DeepSaver(problem, plan, layout, start, plan.full_pairs, recording)
        self._state = layout.pack(start.layers)
        pairs, size = layout.depth - 1, layout.blocks * lanes
        full = np.array(plan.full_pairs, dtype=np.int64) * plan.determinant
        self._full = np.ascontiguousarray(full[::-1] if layout.turned else full)
        self._log_ledger = np.zeros((pairs, size))
        self._diverged_at = np.full(size, -1, dtype=np.int64)
        self._balance = layout.pack_balances(pair_balances(start.layers)) if plan.balance else np.zeros(1)
        # What weight decay adds to a determinant ledger at every step is the same number, kept out of the kernel.
        rows = np.array([widths[i - 1] + widths[i + 1] for i in range(1, len(widths) - 1)])
        self._ledger_per_step = 2.0 * rows * float(np.log(plan.row_factors[0]))

    @property
    def is_compiled(self) -> bool:
        """Whether this process has the kernels already."""
        size = len(self._make_data(1)) if self._make_data is not None else 0
        known = [len(signature[-1]) for signature in self._kernel.signatures]  # type: ignore[attr-defined]
        return size in known and self.saver.is_compiled

    def compile(self) -> None:
        """Compile the kernels by running no step of no block."""
        self.advance(Unit(0, 0), 0, 0)
        self.saver.compile(self._state, self._ledger(), self._diverged_at)

    def advance(self, unit: Unit, begin: int, end: int) -> None:
        """Move the blocks of a unit from step `begin` to step `end`."""
        plan = self._plan
        if unit.memory is None:
            unit.memory = self._working_memory()
        scratch, data = unit.memory
        self._kernel(
            self._state,
            self._widths,
            plan.gain,
            plan.step_length * plan.eigenvalues,
            plan.amplitude,
            float(plan.row_factors[0]),
            self.layout.turned,
            self._full,
            self._seed,
            0,
            begin,
            end - begin,
            unit.first,
            unit.last,
            self._log_ledger,
            self._balance,
            self._diverged_at,
            scratch,
            data,
        )

    def _working_memory(self) -> tuple[Any, ...]:
        p, k = self.layout.widths[0], self.layout.widths[-1]
        scratch = aligned_zeros(scratch_size(self._variant, self.layout.stored, p * k))
        return scratch, () if self._make_data is None else self._make_data(self.layout.lanes)

    def record(self, unit: Unit, index: int) -> None:
        """Write save point `index` for a unit that stands there."""
        change = None
        if self._plan.determinant:
            assert self._plan.steps is not None
            change = 2.0 * self._log_ledgers()[:, unit.replicates(self.layout)]
            change = change + float(self._plan.steps[index]) * self._ledger_per_step[:, None]
            change[~np.array(self._plan.full_pairs)] = np.nan
        self.saver(unit, index, self._state, self._ledger(), self._diverged_at, change)

    def _log_ledgers(self) -> np.ndarray:
        """By pair from the inputs to the outputs."""
        return self._log_ledger[::-1] if self.layout.turned else self._log_ledger

    def _ledger(self) -> np.ndarray | None:
        return self._balance if self._plan.balance else None

    def export(self) -> dict[str, np.ndarray]:
        """State and ledgers, replicate by replicate."""
        count = self.layout.replicates
        arrays = {
            "log_ledger": np.ascontiguousarray(self._log_ledgers()[:, :count].T),
            "diverged_at": self._diverged_at[:count],
        }
        for i, layer in enumerate(self.layout.unpack(self._state), start=1):
            arrays[f"layer{i}"] = np.ascontiguousarray(layer)
        if self._plan.balance:
            for i, balance in enumerate(self.layout.unpack_balances(self._balance), start=1):
                arrays[f"ledger_balance{i}"] = np.ascontiguousarray(balance)
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `export` gave."""
        count, depth = self.layout.replicates, self.layout.depth
        self._state[:] = self.layout.pack([arrays[f"layer{i}"] for i in range(1, depth + 1)])
        self._log_ledgers()[:, :count] = arrays["log_ledger"].T
        self._diverged_at[:count] = arrays["diverged_at"]
        if self._plan.balance:
            self._balance[:] = self.layout.pack_balances([arrays[f"ledger_balance{i}"] for i in range(1, depth)])

    def diverged(self) -> np.ndarray:
        """Time at which each replicate diverged, NaN for the others."""
        step = self._diverged_at[: self.layout.replicates]
        return np.where(step >= 0, step * self._plan.step_length, np.nan)

    def per_replicate(self) -> dict[str, np.ndarray]:
        """Nothing besides the outcome."""
        return {}
