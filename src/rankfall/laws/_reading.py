"""What the laws read from a run: checked once, as plain arrays."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from rankfall.errors import InvalidInput, LawNotApplicable, NotARun
from rankfall.methods import (
    Descent,
    GradientFlow,
    LabelNoiseDescent,
    Method,
    StochasticGradientDescent,
    StochasticGradientFlow,
)
from rankfall.problem import Problem

__all__ = ["Reading", "read", "require_squared_loss"]

_NEEDED = (
    "log_det",
    "singular_values_Z",
    "balance",
    "balance_drift",
    "outcome",
    "covariance",
    "cross_covariance",
)
# Relative noise per step below which it does not reach the last places of the weights.
_NOISE_FLOOR = 1e-14


@dataclass(frozen=True, eq=False)
class Reading:
    """A run as plain arrays.

    Attributes:
        run: The dataset itself.
        problem: The problem the run was made from (as given, or from the statistics in the run).
        method: Its method.
        rows: p + k.
        width: l.
        times: Save times, shape (time,).
        steps: Steps taken since the start, shape (replicate, time).
        singular_values: Of Z, shape (replicate, time, mode), descending.
        outcomes: One text per replicate.
    """

    run: xr.Dataset
    problem: Problem
    method: Method
    rows: int
    width: int
    times: np.ndarray
    steps: np.ndarray
    singular_values: np.ndarray
    outcomes: np.ndarray

    def values(self, name: str) -> np.ndarray:
        """Return a variable of shape (replicate, time), or say that the run did not keep it."""
        if name not in self.run:
            raise LawNotApplicable(
                f"the run did not record {name!r}; simulate again with ledger='determinant', 'balance' or 'both'."
            )
        return np.asarray(self.run[name].transpose("replicate", "time").values, dtype=np.float64)

    def require_full_rank(self) -> None:
        """Raise LawNotApplicable where det M = 0, so that log det M says nothing."""
        start_rank = int(self.run.attrs.get("start_rank", -1))
        if self.width < self.rows:
            raise LawNotApplicable(
                f"det M = 0 at all times because the width {self.width} is below inputs + outputs = {self.rows}"
            )
        if 0 <= start_rank < self.rows:
            raise LawNotApplicable(
                f"det M = 0 at all times because the start has rank {start_rank}, below inputs + outputs = {self.rows}"
            )
        if bool(np.all(np.isneginf(self.values("log_det")[:, :1]))):
            raise LawNotApplicable("det M = 0 at all times because the start is rank-deficient")

    @property
    def is_descent(self) -> bool:
        """Whether the method is a descent, whose steps obey the ledgers and not the laws of the flows."""
        return isinstance(self.method, Descent)

    @property
    def is_euler(self) -> bool:
        """Whether the run is a flow followed by Euler–Maruyama, which obeys the ledgers as the descents do."""
        return isinstance(self.method, StochasticGradientFlow) and self.method.integrator == "euler"

    @property
    def weight_decay(self) -> float:
        """λ, 0 for the methods without."""
        return float(getattr(self.method, "weight_decay", 0.0))

    @property
    def rounding(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """What the tolerances of `rankfall.laws._rounding` depend on: spectra, N, N_m and p + k.

        A step of gradient flow is a product of two exponentials and rounds twice.
        """
        steps = 2.0 * self.steps if isinstance(self.method, GradientFlow) else self.steps
        return self.singular_values, steps, self._moving(steps), self.rows

    def _moving(self, steps: np.ndarray) -> np.ndarray:
        """N_m, the steps in which the weights moved while noise did not reach all of them."""
        length = float(self.run.attrs.get("step_length", 0.0))
        if isinstance(self.method, GradientFlow) and not length > 0.0:
            return steps  # adaptive: when the steps were taken is not recorded
        everywhere = bool((self.problem.eigenbasis()[0] > 0.0).all())  # no noise reaches the null space of Σ
        if everywhere and self._noise_per_step(length) > _NOISE_FLOOR:
            return np.zeros_like(steps)
        changed = (self.singular_values[:, 1:] != self.singular_values[:, :-1]).any(axis=-1)
        moved = np.cumsum(np.diff(steps, axis=1) * changed, axis=1)
        return np.concatenate([np.zeros_like(steps[:, :1]), moved], axis=1)

    def _noise_per_step(self, length: float) -> float:
        """Typical relative change of the weights by the noise in one step.

        Of the losses that are not squared none is relied upon: residuals vanish as the classes are told apart, and
        flips are rare where their probability is small.
        """
        if self.problem.loss != "squared":
            return 0.0
        method = self.method
        scale = math.sqrt(float(np.trace(self.problem.covariance)) / self.problem.n_inputs)
        if isinstance(method, StochasticGradientFlow):
            return scale * math.sqrt(method.intensity * length)
        if isinstance(method, StochasticGradientDescent) and method.batch_size != self.problem.n_samples:
            return method.step_size * scale  # the batches differ by as much as the data
        if isinstance(method, LabelNoiseDescent | StochasticGradientDescent):
            return method.step_size * scale * math.sqrt(method.label_noise / method.batch_size)
        return 0.0

    @property
    def integration_spread(self) -> tuple[np.ndarray | float, np.ndarray | float]:
        """How far the integrator itself may have moved log det M and Q: not at all, the steps conserve both."""
        return 0.0, 0.0

    def increment_note(self) -> str:
        """Explain a geometric integrator that was driven past the range of its exponential, else ''."""
        if "largest_increment" not in self.run:
            return ""
        largest = float(np.nanmax(self.run["largest_increment"].values, initial=0.0))
        if not largest > 1.0:
            return ""
        return f"the largest exponent of the integrator was ‖H‖ = {largest:.3g}; if it is above 1, try a smaller dt"


def read(run: Any, problem: Problem | None = None) -> Reading:
    """Check that `run` is a run, and that `problem`, if given, is the one it was made from.

    Raises:
        NotARun: Not a dataset of this library, or something in it is missing.
        InvalidInput: The problem has another covariance or cross covariance than the run.
    """
    from rankfall import runs  # here, not above: the laws can then be imported without the rest of the library

    if isinstance(run, Reading):
        return run
    if not isinstance(run, xr.Dataset):
        raise NotARun(
            f"a run is the xarray.Dataset that simulate() or open_run() returns, got {type(run).__name__}; "
            "open a file with rankfall.open_run(path) first."
        )
    if "depth" in run.attrs:
        raise LawNotApplicable(
            f"a run of {run.attrs['depth']} layers has laws for each pair of them; rankfall.laws.check(run) checks all."
        )
    missing = [name for name in _NEEDED if name not in run] + [
        f"coordinate {name}" for name in ("time",) if name not in run.coords
    ]
    missing += [f"attribute {name}" for name in ("settings", "width") if name not in run.attrs]
    if missing:
        raise NotARun(f"the dataset is not a rankfall run: it lacks {', '.join(missing)}.")
    method = runs.method_of(run)
    problem = problem_of(run, problem)
    times = np.asarray(run["time"].values, dtype=np.float64)
    outcomes = np.asarray(run["outcome"].values).astype(str)
    if "step" in run.coords:
        steps = np.broadcast_to(np.asarray(run["step"].values, dtype=np.float64), (len(outcomes), len(times)))
    elif "steps_taken" in run:  # adaptive gradient flow: only how many there were at the end is known
        taken = np.asarray(run["steps_taken"].values, dtype=np.float64)
        steps = np.repeat(taken[:, None], len(times), axis=1)
    else:
        raise NotARun("the dataset is not a rankfall run: it lacks the coordinate step.")
    return Reading(
        run=run,
        problem=problem,
        method=method,
        rows=problem.n_inputs + problem.n_outputs,
        width=int(run.attrs["width"]),
        times=times,
        steps=steps,
        singular_values=np.asarray(
            run["singular_values_Z"].transpose("replicate", "time", "mode_Z").values, dtype=float
        ),
        outcomes=outcomes,
    )


def require_squared_loss(problem: Problem, what: str) -> None:
    """Raise LawNotApplicable where the loss is another one."""
    if problem.loss != "squared":
        raise LawNotApplicable(f"{what} is known for the squared loss only, the problem has loss={problem.loss!r}.")


def problem_of(run: xr.Dataset, problem: Problem | None) -> Problem:
    """The problem that was given, if it is the run's, or that of the run."""
    from rankfall import runs

    if problem is None:
        return runs.problem_of(run)
    if not isinstance(problem, Problem):
        raise InvalidInput(f"problem must be a rankfall.Problem, got {type(problem).__name__}.")
    loss = json.loads(run.attrs["settings"])["problem"].get("loss", "squared")
    if problem.loss != loss:
        raise InvalidInput(f"the problem is not the one of this run: its loss is {problem.loss}, the run's {loss}.")
    _same(problem.covariance, run["covariance"].values, "covariance")
    _same(problem.cross_covariance, run["cross_covariance"].values, "cross_covariance")
    return problem


def _same(given: np.ndarray, recorded: np.ndarray, name: str) -> None:
    """Raise unless two statistics agree to rounding (they may have been recomputed from the same data)."""
    if given.shape != recorded.shape:
        raise InvalidInput(
            f"the problem is not the one of this run: its {name} has shape {given.shape}, the run's {recorded.shape}."
        )
    difference = float(np.abs(given - recorded).max())
    scale = float(np.abs(recorded).max())
    if not difference <= 1e-12 * scale:
        raise InvalidInput(
            f"the problem is not the one of this run: its {name} differs by up to {difference:.3g}. Give the problem "
            "that was simulated, or none to use the statistics kept in the run."
        )
