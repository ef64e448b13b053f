"""Writes the save points of a deep run: in the lanes for small networks, by LAPACK for large ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankfall._deep_recording import DeepRecording, pair_balances, record_by_lapack, spectra_sizes
from rankfall._deep_start import DeepStart
from rankfall._engine.base import Unit
from rankfall._engine.samples import Measure
from rankfall._kernels.deep_layout import DeepLayout
from rankfall._kernels.deep_recorder import deep_recorder, deep_work_size, in_lanes
from rankfall._kernels.vector import aligned_zeros
from rankfall._plan import Plan
from rankfall.problem import Problem

__all__ = ["DeepSaver"]


class DeepSaver:
    """Fills a `DeepRecording` from the state in the lanes."""

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        layout: DeepLayout,
        start: DeepStart,
        full: Sequence[bool],
        recording: DeepRecording,
    ) -> None:
        """Take the start, to measure from and to turn the weights back by; full: of which pairs det M_i ≠ 0."""
        self.recording = recording
        self._problem, self._plan, self._layout, self._start = problem, plan, layout, start
        self._measure = Measure.of(problem, plan)
        self._full = np.array(full, dtype=np.bool_)
        self._start_balances = pair_balances(start.layers)
        self._in_lanes = in_lanes(layout.widths)
        self._nothing = np.zeros(1)
        if self._in_lanes:
            solution = plan.solution.T if layout.turned else plan.solution
            sizes = list(spectra_sizes(layout.widths).values())
            self._given = (
                np.array(layout.stored, dtype=np.int64),
                layout.turned,
                plan.eigenvalues,
                np.ascontiguousarray(solution),
                problem.minimum_loss,
                self._full,
                np.cumsum([0, *sizes[:-1]]),
            )
            self._packed_balances = layout.pack_balances(self._start_balances)
            self._record = deep_recorder(layout.lanes)

    @property
    def is_compiled(self) -> bool:
        """Whether recording needs no compilation in this process."""
        return not self._in_lanes or bool(self._record.signatures)  # type: ignore[attr-defined]

    def compile(self, state: np.ndarray, ledger: np.ndarray | None, diverged_at: np.ndarray) -> None:
        """Compile by recording no block."""
        if self._in_lanes:
            self._save_in_lanes(Unit(0, 0), 0, state, ledger, diverged_at)

    def __call__(
        self,
        unit: Unit,
        index: int,
        state: np.ndarray,
        ledger: np.ndarray | None,
        diverged_at: np.ndarray,
        log_det_ledger: np.ndarray | None,
    ) -> None:
        """Write save point `index` for a unit.

        state, ledger (of the balances): as `DeepLayout` has them. diverged_at: by lane, −1 where it did not.
        log_det_ledger: (pair, replicate of the unit).
        """
        kept, here = self.recording, unit.replicates(self._layout)
        lost = diverged_at[here] >= 0
        if self._in_lanes:
            self._save_in_lanes(unit, index, state, ledger, diverged_at)
        else:
            self._save_by_lapack(unit, index, state, ledger, lost)
        if self._measure is not None:
            self._save_measured(unit, index, state, lost)
        if kept.ledger is not None and log_det_ledger is not None:
            kept.ledger[index, :, here] = np.where(lost, np.nan, log_det_ledger)
        if kept.weights is not None:
            layers = self._start.restore(self._layers(unit, state), self._plan.eigenvectors, here)
            for target, layer in zip(kept.weights, layers, strict=True):
                target[index, here] = np.where(lost[:, None, None], np.nan, layer)

    def _layers(self, unit: Unit, state: np.ndarray) -> list[np.ndarray]:
        return self._layout.unpack(state, slice(unit.first, unit.last))

    def _save_in_lanes(
        self, unit: Unit, index: int, state: np.ndarray, ledger: np.ndarray | None, diverged_at: np.ndarray
    ) -> None:
        kept = self.recording
        self._record(
            (unit.first, unit.last),
            state,
            self._given,
            (self._packed_balances, self._nothing if ledger is None else ledger, diverged_at),
            (kept.loss, kept.pairs, kept.spectra),
            index,
            aligned_zeros(deep_work_size(self._layout.widths, self._layout.lanes)),
        )

    def _save_by_lapack(
        self, unit: Unit, index: int, state: np.ndarray, ledger: np.ndarray | None, lost: np.ndarray
    ) -> None:
        kept, layers, d = self.recording, self._layers(unit, state), self._plan.eigenvalues
        lower = None if ledger is None else self._layout.unpack_balances(ledger, slice(unit.first, unit.last))
        # One replicate at a time: the order of NumPy's sums may depend on how many there are.
        for i, replicate in enumerate(range(*unit.replicates(self._layout).indices(self._layout.replicates))):
            if lost[i]:
                kept.loss[index, replicate] = np.nan
                kept.pairs[index, :, :, replicate] = kept.spectra[index, replicate] = np.nan
                continue
            predicted = None if lower is None else [np.tril(q[i]) + np.tril(q[i], -1).T for q in lower]
            each = [np.ascontiguousarray(layer[i]) for layer in layers]
            with np.errstate(invalid="ignore", over="ignore"):
                product, pairs, spectra = record_by_lapack(
                    [np.nan_to_num(layer, nan=0.0, posinf=0.0, neginf=0.0) for layer in each],
                    [q[replicate] for q in self._start_balances],
                    predicted,
                    self._full.tolist(),
                )
                gap = product - self._plan.solution
                kept.loss[index, replicate] = 0.5 * np.sum(d[:, None] * gap * gap) + self._problem.minimum_loss
            kept.pairs[index, :, :, replicate], kept.spectra[index, replicate] = pairs, spectra

    def _save_measured(self, unit: Unit, index: int, state: np.ndarray, lost: np.ndarray) -> None:
        assert self._measure is not None and self.recording.accuracy is not None
        layers, here = self._layers(unit, state), unit.replicates(self._layout)
        for i, replicate in enumerate(range(here.start, here.stop)):
            product = np.ascontiguousarray(layers[0][i])
            for layer in layers[1:]:
                product = product @ np.ascontiguousarray(layer[i])
            known = not lost[i] and np.isfinite(product).all()
            loss, accuracy = self._measure(product) if known else (np.nan, np.nan)
            self.recording.loss[index, replicate], self.recording.accuracy[index, replicate] = loss, accuracy
