"""Writes save points: in the lanes for small networks, by LAPACK for large ones."""

from __future__ import annotations

import numpy as np

from rankfall._eigen import decompose
from rankfall._engine.base import Unit
from rankfall._engine.samples import Measure
from rankfall._kernels.layout import Layout, pack_lanes, unpack_lanes
from rankfall._kernels.recorder import LANE_LIMIT, recorder, work_size
from rankfall._kernels.vector import aligned_zeros
from rankfall._plan import Plan
from rankfall.recording import FORCES, SCALARS, Recording, balance, record_large

__all__ = ["Saver", "pad_square"]


class Saver:
    """Fills a `Recording` from the state in the lanes."""

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        columns: int,
        start: np.ndarray,
        basis: np.ndarray | None,
        minimum_loss: float,
        recording: Recording,
        measure: Measure | None = None,
    ) -> None:
        """Take the start (replicate, row, column) and the hidden basis to which weights are turned back.

        `measure` gives the loss where it is not squared.
        """
        self.recording, self._measure = recording, measure
        self._plan, self._layout, self._columns = plan, layout, columns
        self._minimum_loss, self._basis = minimum_loss, basis
        self._in_lanes = layout.rows <= LANE_LIMIT
        self._nothing = np.zeros(1)
        self._start_balance = balance(start, layout.n_inputs)
        if self._in_lanes:
            self._start_balance = pack_lanes(pad_square(self._start_balance, layout.columns), layout.lanes)
            self._record = recorder(layout.lanes)
            self._size = work_size(layout.n_inputs, layout.n_outputs, columns, layout.lanes)

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

        state: (block, column, row, lane), flat. ledger: the balance ledger (block, column, column, lane), flat, lower
        triangles. diverged_at: by lane, −1 where it did not. log_det_ledger: by replicate of the unit.
        """
        if self._in_lanes:
            self._save_in_lanes(unit, index, state, ledger, diverged_at)
        else:
            self._save_by_lapack(unit, index, state, ledger)
        here = unit.replicates(self._layout)
        lost = diverged_at[here] >= 0
        if self.recording.ledger is not None and log_det_ledger is not None:
            self.recording.ledger[index, here] = np.where(lost, np.nan, log_det_ledger)
        if self.recording.weights1 is not None:
            self._save_weights(unit, index, state, lost)
        self._save_observables(unit, index, state, lost)
        if not self._in_lanes and lost.any():
            rows = np.arange(here.start, here.stop)[lost]
            for values in (self.recording.W1, self.recording.W2, self.recording.Z):
                values[index, rows] = np.nan
            self.recording.scalars[index, :, rows] = np.nan

    def _save_in_lanes(
        self, unit: Unit, index: int, state: np.ndarray, ledger: np.ndarray | None, diverged_at: np.ndarray
    ) -> None:
        plan, kept = self._plan, self.recording
        self._record(
            (unit.first, unit.last),
            state,
            (
                plan.unscale,
                plan.eigenvalues,
                plan.solution,
                self._minimum_loss,
                plan.full_rank,
                self._layout.columns,
                self._columns,
            ),
            (self._start_balance, self._nothing if ledger is None else ledger, diverged_at),
            (kept.scalars, kept.W1, kept.W2, kept.Z),
            index,
            aligned_zeros(self._size),
        )

    def _save_observables(self, unit: Unit, index: int, state: np.ndarray, lost: np.ndarray) -> None:
        observed, here = self.recording.observed, unit.replicates(self._layout)
        if self._measure is not None:
            self._save_measured(unit, index, state, lost)
        if "eigenvalues" in observed:
            observed["eigenvalues"][index, here] = self.recording.Z[index, here] ** 2
        if "force_gradient" in observed:
            self._save_forces(unit, index, state, lost)
        for values in observed.values():
            values[index, here][lost] = np.nan

    def _save_forces(self, unit: Unit, index: int, state: np.ndarray, lost: np.ndarray) -> None:
        plan, layout, here = self._plan, self._layout, unit.replicates(self._layout)
        if not len(lost):
            return
        z = plan.unscale[:, None] * self._unpack(unit, state, layout.rows, layout.columns)[:, :, : self._columns]
        z[lost | ~np.isfinite(z).all(axis=(1, 2))] = 0.0  # whose forces come out as NaN
        cross = plan.eigenvalues[:, None] * plan.solution
        # C order: BLAS is then called the same way however many replicates there are.
        with np.errstate(over="ignore", invalid="ignore"):
            _, parts = decompose(
                np.ascontiguousarray(z),
                plan.eigenvalues,
                cross,
                plan.force_intensity,
                complete=self._columns == layout.rows,
            )
        for name, values in zip(FORCES, parts, strict=True):
            self.recording.observed[name][index, here] = values

    def _save_measured(self, unit: Unit, index: int, state: np.ndarray, lost: np.ndarray) -> None:
        assert self._measure is not None
        layout, kept, p = self._layout, self.recording, self._layout.n_inputs
        # One replicate at a time and in one order of memory: BLAS may round another one otherwise.
        z = np.ascontiguousarray(self._plan.unscale[:, None] * self._unpack(unit, state, layout.rows, layout.columns))
        for i, replicate in enumerate(range(*unit.replicates(layout).indices(layout.replicates))):
            loss, accuracy = (np.nan, np.nan) if lost[i] else self._measure(z[i, :p] @ z[i, p:].T)
            kept.scalars[index, SCALARS.index("loss"), replicate] = loss
            kept.observed["accuracy"][index, replicate] = accuracy

    def _unpack(self, unit: Unit, flat: np.ndarray, a: int, b: int) -> np.ndarray:
        here, lanes = unit.replicates(self._layout), self._layout.lanes
        part = flat[unit.first * a * b * lanes : unit.last * a * b * lanes]
        return unpack_lanes(part, here.stop - here.start, a, b, lanes)

    def _save_by_lapack(self, unit: Unit, index: int, state: np.ndarray, ledger: np.ndarray | None) -> None:
        plan, layout, r, kept = self._plan, self._layout, self._columns, self.recording
        z = self._unpack(unit, state, layout.rows, layout.columns)[:, :, :r]
        lower = None if ledger is None else self._unpack(unit, ledger, layout.columns, layout.columns)[:, :r, :r]
        # One replicate at a time: the order of NumPy's sums may depend on how many there are.
        for i, replicate in enumerate(range(*unit.replicates(self._layout).indices(layout.replicates))):
            raw = z[i : i + 1]
            error = None
            if lower is not None:
                # unpacked as (column, row of the triangle): the kernel's lower triangle arrives transposed
                predicted = np.triu(lower[i]) + np.triu(lower[i], 1).T
                error = balance(raw, layout.n_inputs) - predicted
            with np.errstate(invalid="ignore", over="ignore"):
                scalars, (w1, w2, both) = record_large(
                    np.nan_to_num(plan.unscale[:, None] * raw, nan=0.0, posinf=0.0, neginf=0.0),
                    layout.n_inputs,
                    plan.eigenvalues,
                    plan.solution,
                    self._minimum_loss,
                    self._start_balance[replicate],
                    error,
                    plan.full_rank,
                )
            kept.scalars[index, :, replicate] = scalars[:, 0]
            kept.W1[index, replicate], kept.W2[index, replicate], kept.Z[index, replicate] = w1[0], w2[0], both[0]

    def _save_weights(self, unit: Unit, index: int, state: np.ndarray, lost: np.ndarray) -> None:
        kept, layout, here = self.recording, self._layout, unit.replicates(self._layout)
        assert kept.weights1 is not None and kept.weights2 is not None
        z = self._plan.unscale[:, None] * self._unpack(unit, state, layout.rows, layout.columns)[:, :, : self._columns]
        z[lost] = np.nan
        if self._basis is not None:
            z = z @ self._basis[here]
        p = layout.n_inputs
        kept.weights1[index, here] = self._plan.eigenvectors @ z[:, :p]
        kept.weights2[index, here] = z[:, p:].transpose(0, 2, 1)


def pad_square(matrices: np.ndarray, size: int) -> np.ndarray:
    """Pad square matrices (replicate, r, r) with zeros to (replicate, size, size)."""
    missing = size - matrices.shape[1]
    return np.pad(matrices, ((0, 0), (0, missing), (0, missing))) if missing else matrices
