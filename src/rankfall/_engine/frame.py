"""The frame of an ensemble under way: where it starts, what it has gathered, what a save point makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankfall._engine.base import Unit
from rankfall._kernels.frame import work_size
from rankfall._kernels.graded import graded_spectra
from rankfall._kernels.layout import Layout, pack_lanes, unpack_lanes
from rankfall._kernels.vector import aligned_zeros
from rankfall._plan import Plan

__all__ = ["FrameState", "first_frame"]


class FrameState:
    """Columns, log-diagonal and triangle of all replicates, in the lanes (see `_kernels/frame.py`)."""

    def __init__(self, plan: Plan, layout: Layout, stored: int, start: np.ndarray) -> None:
        """Take Z₀ (replicate, row, column); `stored` is the number of columns of the frame with their padding."""
        self._plan, self._layout, self._stored = plan, layout, stored
        self._columns_of_z = start.shape[2]
        frame, level, triangle = first_frame(start, plan.start_rank)
        lanes, n = layout.lanes, layout.rows
        # In the kernel's memory the geometric integrator keeps half a scaling, of the frame as of Z.
        in_memory = frame / plan.unscale[:, None]
        self._columns = pack_lanes(np.pad(in_memory, ((0, 0), (0, 0), (0, stored - n))), lanes)
        self._growth = aligned_zeros(layout.blocks * n * lanes)
        self._start = pack_lanes(level[:, None, :], lanes)
        self._triangle = pack_lanes(triangle.transpose(0, 2, 1), lanes)  # (row, column) in memory
        graded = not {"log_singular_values_Z", "log_singular_values_W1"}.isdisjoint(plan.observables)
        self._spectra = graded_spectra() if graded else None

    @property
    def is_compiled(self) -> bool:
        """Whether this process can turn the frame into singular values already."""
        return self._spectra is None or bool(self._spectra.signatures)  # type: ignore[attr-defined]

    def compile(self) -> None:
        """Compile by doing no replicate."""
        self._graded(Unit(0, 0))

    def argument(self) -> tuple[Any, ...]:
        """What the kernel takes, with working memory for one thread."""
        work = aligned_zeros(work_size(self._layout.rows, self._layout.lanes))
        return self._columns, self._growth, self._start, self._triangle, work, self._columns_of_z

    def save(self, unit: Unit, index: int, observed: dict[str, np.ndarray]) -> None:
        """Write what was asked for at save point `index`, for the replicates of a unit.

        The frame is taken apart once more, beside the state, which no save point changes.
        """
        here = unit.replicates(self._layout)
        growth, first, second = self._graded(unit)
        for name, values in (
            ("log_growth", growth),
            ("log_singular_values_Z", first),
            ("log_singular_values_W1", second),
        ):
            if name in observed:
                observed[name][index, here] = values

    def _graded(self, unit: Unit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Σ log R_ii, log σ(Z) and log σ(W1) of a unit's replicates; NaN for those that diverged.

        The singular values are computed where somebody asked for one of them, else left empty.
        """
        n, p, r = self._layout.rows, self._layout.n_inputs, self._columns_of_z
        frame = self._plan.unscale[:, None] * self._unpack(unit, self._columns, n, self._stored)[:, :, :n]
        growth = self._unpack(unit, self._growth, 1, n)[:, 0].copy()
        lost = ~(np.isfinite(frame).all(axis=(1, 2)) & np.isfinite(growth).all(axis=1))
        frame[lost] = np.eye(n)
        q, upper = np.linalg.qr(frame)
        sign = np.where(np.diagonal(upper, axis1=1, axis2=2) < 0.0, -1.0, 1.0)
        q, upper = q * sign[:, None, :], upper * sign[:, :, None]
        spectra = np.empty((len(frame), r)), np.empty((len(frame), min(p, r)))
        with np.errstate(divide="ignore"):
            total = growth + np.log(np.diagonal(upper, axis1=1, axis2=2))
        if self._spectra is not None:
            growth[lost] = 0.0
            self._spectra(
                q,
                upper,
                growth,
                np.ascontiguousarray(self._unpack(unit, self._start, 1, r)[:, 0]),
                np.ascontiguousarray(self._unpack(unit, self._triangle, r, r).transpose(0, 2, 1)),
                p,
                *spectra,
            )
        for values in (total, *spectra):
            values[lost] = np.nan
        return total, *spectra

    def _unpack(self, unit: Unit, flat: np.ndarray, a: int, b: int) -> np.ndarray:
        here, lanes = unit.replicates(self._layout), self._layout.lanes
        part = flat[unit.first * a * b * lanes : unit.last * a * b * lanes]
        return unpack_lanes(part, here.stop - here.start, a, b, lanes)

    def export(self) -> dict[str, np.ndarray]:
        """All that moves, replicate by replicate."""
        everything = Unit(0, self._layout.blocks)
        n, r = self._layout.rows, self._columns_of_z
        return {
            "frame": self._unpack(everything, self._columns, n, self._stored)[:, :, :n],
            "frame_growth": self._unpack(everything, self._growth, 1, n)[:, 0],
            "frame_triangle": self._unpack(everything, self._triangle, r, r),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `export` gave."""
        lanes, missing = self._layout.lanes, self._stored - self._layout.rows
        self._columns[:] = pack_lanes(np.pad(arrays["frame"], ((0, 0), (0, 0), (0, missing))), lanes)
        self._growth[:] = pack_lanes(arrays["frame_growth"][:, None, :], lanes)
        self._triangle[:] = pack_lanes(arrays["frame_triangle"], lanes)


def first_frame(start: np.ndarray, rank: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z₀ Π = F₀ T₀ for every replicate: F₀ (n, n) orthonormal, log (T₀)_ii (r) and T̂₀ (r, r), unit upper triangular.

    The permutation Π of the columns, which no singular value sees, makes (T₀)_ii descend, so that T₀ is graded from the
    start; rows are taken in descending order, which keeps small rows accurate as well (A. Cox & N. Higham, "Stability
    of Householder QR factorization for weighted least squares problems", 1998). Beyond a known `rank` of Z₀, and where
    (T₀)_ii is zero, the logarithm is −∞.
    """
    from scipy.linalg.lapack import dgeqp3, dorgqr  # what scipy's qr does around them takes longer

    count, n, r = start.shape
    above = np.triu(np.ones((r, r)))
    frames, levels = np.empty((count, n, n)), np.full((count, r), -np.inf)
    triangles = np.broadcast_to(np.eye(r), (count, r, r)).copy()
    for i, z in enumerate(start):
        order = np.argsort(-np.abs(z).max(axis=1), kind="stable")
        upper, _, reflectors, _, _ = dgeqp3(z[order])
        whole = np.zeros((n, n), order="F")
        whole[:, :r] = upper
        q, _, _ = dorgqr(whole, reflectors)
        diagonal = np.diagonal(upper)
        sign = np.where(diagonal < 0.0, -1.0, 1.0)
        frames[i, order] = q
        frames[i, :, :r] *= sign
        zeros = np.flatnonzero(diagonal == 0.0)
        known = min(r if rank is None else rank, r, *zeros[:1])
        levels[i, :known] = np.log(np.abs(diagonal[:known]))
        triangles[i, :known] = (upper[:known] / diagonal[:known, None]) * above[:known]
    return frames, levels, triangles
