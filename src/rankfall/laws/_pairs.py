"""Runs of more than two layers: every two neighbouring layers read as a two-layer run of their own.

The pair (i, i + 1) moves by Z_i ← (a I + Ĥ_i) Z_i with H_i = A_iᵀ H B_{i+1}ᵀ, A_i = W_1 … W_{i−1} and
B_{i+1} = W_{i+2} … W_L, so the laws of two layers hold with H_i in place of H.

Rounding. Per step the update of an entry of Z_i is a sum of at most l_{i−1} + l_{i+1} products, as in two layers: both
layers of the pair are updated from the same rounded D_i = A_iᵀH and B_{i+1}, so the errors of forming these only make
another H_i, for which the laws hold as well. What remains are the products W_iᵀD_i and W_{i+1}B_{i+1} that the updates
are made with, of l_{i−1} and l_{i+1} terms: within `_rounding`'s count of m = l_{i−1} + l_{i+1} + 2 roundings of u σ₁,
as long as ‖H_i‖ ≤ 1.

Gradient flow is followed by a Runge–Kutta method, which conserves nothing exactly. A local error e of the weights
moves log det M_i by at most 2 ‖Z_i⁺‖_F ‖e‖ and Q_i by at most 2 σ₁ ‖e‖ to first order, and the change stays. The
run holds the estimated local errors, added up: with E(t) their sum, the tolerance is 2 ‖Z_i⁺‖_F E
and 2 σ₁ E on top of the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from rankfall.errors import LawNotApplicable, NotARun
from rankfall.laws._reading import Reading, problem_of
from rankfall.laws._verdict import Verdict
from rankfall.problem import Problem

__all__ = ["PairReading", "is_deep", "label", "read_pairs"]

_NEEDED = ("log_det", "balance", "balance_drift", "outcome", "covariance", "cross_covariance", "start_rank")


@dataclass(frozen=True, eq=False)
class PairReading(Reading):
    """The pair `number` of a deep run; `rows` is l_{i−1} + l_{i+1}, the sum of `sides`, and `width` l_i."""

    number: int = 1
    sides: tuple[int, int] = (1, 1)

    def values(self, name: str) -> np.ndarray:
        """Return a variable of shape (replicate, time) of this pair, or say that the run did not keep it."""
        if name not in self.run:
            raise LawNotApplicable(
                f"the run did not record {name!r}; simulate again with ledger='determinant', 'balance' or 'both'."
            )
        of_pair = self.run[name].isel(pair=self.number - 1)
        return np.asarray(of_pair.transpose("replicate", "time").values, dtype=np.float64)

    def require_full_rank(self) -> None:
        """Raise LawNotApplicable where det M_i = 0."""
        if self.width < self.rows:
            raise LawNotApplicable(
                f"det M = 0 at all times because the width {self.width} is below those beside it together, {self.rows}"
            )
        start_rank = int(self.run["start_rank"].values[self.number - 1])
        if 0 <= start_rank < self.rows:
            raise LawNotApplicable(f"det M = 0 at all times because the start has rank {start_rank} of {self.rows}")
        if bool(np.all(np.isneginf(self.values("log_det")[:, :1]))):
            raise LawNotApplicable("det M = 0 at all times because the start is rank-deficient")

    @property
    def integration_spread(self) -> tuple[np.ndarray | float, np.ndarray | float]:
        """How far the estimated local errors may have moved log det M_i and Q_i, shape (replicate, time) each."""
        if "integration_error" not in self.run:
            return 0.0, 0.0
        errors = np.asarray(self.run["integration_error"].transpose("replicate", "time").values, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.sqrt(np.sum(self.singular_values**-2.0, axis=-1))
        largest = np.maximum.accumulate(self.singular_values[..., 0], axis=-1)
        return 2.0 * np.maximum.accumulate(inverse, axis=-1) * errors, 2.0 * largest * errors


def is_deep(run: Any) -> bool:
    """Whether a run is one of more than two layers."""
    return isinstance(run, xr.Dataset) and "depth" in run.attrs


def read_pairs(run: xr.Dataset, problem: Problem | None = None) -> list[PairReading]:
    """One reading for each pair of neighbouring layers of a deep run.

    Raises:
        NotARun: Something in it is missing.
        InvalidInput: The problem has another covariance or cross covariance than the run.
    """
    from rankfall import runs  # here, not above: the laws can then be imported without the rest of the library

    widths, method = runs.network_of(run).widths, runs.method_of(run)
    depth = len(widths) - 1
    needed = (*_NEEDED, *(f"singular_values_Z{i}" for i in range(1, depth)))
    missing = [name for name in needed if name not in run]
    if missing:
        raise NotARun(f"the dataset is not a rankfall run: it lacks {', '.join(missing)}.")
    problem = problem_of(run, problem)
    times = np.asarray(run["time"].values, dtype=np.float64)
    outcomes = np.asarray(run["outcome"].values).astype(str)
    if "step" in run.coords:
        steps = np.broadcast_to(np.asarray(run["step"].values, dtype=np.float64), (len(outcomes), len(times)))
    elif "steps_taken" in run:
        steps = np.repeat(np.asarray(run["steps_taken"].values, dtype=np.float64)[:, None], len(times), axis=1)
    else:
        raise NotARun("the dataset is not a rankfall run: it lacks the coordinate step.")
    return [
        PairReading(
            run=run,
            problem=problem,
            method=method,
            rows=widths[i - 1] + widths[i + 1],
            width=widths[i],
            times=times,
            steps=steps,
            singular_values=np.asarray(
                run[f"singular_values_Z{i}"].transpose("replicate", "time", f"mode_Z{i}").values, dtype=float
            ),
            outcomes=outcomes,
            number=i,
            sides=(widths[i - 1], widths[i + 1]),
        )
        for i in range(1, depth)
    ]


def label(verdict: Verdict, pair: PairReading) -> Verdict:
    """Name the layers of the pair in a verdict."""
    number, (left, right) = pair.number, pair.sides
    statement = verdict.statement.replace("W2", f"W{number + 1}").replace("W1", f"W{number}").replace("G", "Gᵢ")
    statement = statement.replace("|p−k|", f"|{left}−{right}|")
    note = verdict.note
    if "integration_error" in pair.run:
        note = note.replace("beyond float64 since", "beyond float64 or the integrator's tolerance since")
    return replace(verdict, note=note, law=f"{verdict.law}, layers {number}–{number + 1}", statement=statement)
