"""From the runs of a cell to its numbers: one value per replicate first, then their mean, median and standard error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall.sweep._quantities import MEASURES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Reader", "mean_and_error", "middle", "padded"]

# The slope of log det M is fitted where rounding, about eps · cond(Z), is negligible in it.
_MOST_CONDITION = 1e8
_FEWEST_POINTS = 3


class Reader:
    """A run of a cell, read replicate by replicate.

    Args:
        run: Dataset of `simulate`.
        alive: Share of its start that a living mode has kept.
        rate: d log det M/dt of a flow, None for a descent, which has its ledger.
        points: Save points that belong to the time series; all when None.
    """

    def __init__(self, run: xr.Dataset, alive: float, rate: float | None, points: np.ndarray | None) -> None:
        self._run, self._alive, self._rate, self._points = run, alive, rate, points
        outcome = run["outcome"].values
        self.completed = outcome == "completed"
        self.outcome = outcome

    def values(self, name: str) -> np.ndarray:
        """A variable of the run, the replicates first; NaN where it has none of that name."""
        if name in self._run.variables:
            return np.asarray(self._run[name].values)
        return np.full((len(self.completed), len(self.times)), np.nan)

    @property
    def times(self) -> np.ndarray:
        """Save times."""
        return np.asarray(self._run["time"].values)

    @property
    def steps(self) -> tuple[float, int]:
        """Length and number of the steps; 0 and −1 where they are not of one length."""
        if "step" not in self._run.variables:
            return 0.0, -1
        return float(self._run.attrs["step_length"]), int(self._run["step"].values[-1])

    def each(self, name: str) -> np.ndarray:
        """One entry per replicate of this measure."""
        if MEASURES[name].series:
            whole = self._alive_modes() if name == "rank" else self.values(name)
            return whole if self._points is None else whole[:, self._points]
        return _EACH[name](self)

    def _alive_modes(self, last_only: bool = False) -> np.ndarray:
        values = self.values("singular_values_W1")
        shown = values[:, -1:] if last_only else values
        largest = max(self._run.attrs["n_inputs"], self._run.attrs["width"])
        resolved = shown > largest * np.finfo(float).eps * shown[..., :1]
        count = (resolved & (shown >= self._alive * values[:, :1])).sum(-1).astype(float)
        return np.where(np.isfinite(shown[..., 0]), count, np.nan)

    def _rank(self) -> np.ndarray:
        return self._alive_modes(last_only=True)[:, 0]

    def _resolved(self) -> np.ndarray:
        """Where log det M says something: (replicate, time)."""
        spectrum = self.values("singular_values_Z")
        if spectrum.ndim != 3:
            return np.zeros(spectrum.shape, dtype=bool)
        condition = spectrum[..., -1] * _MOST_CONDITION >= spectrum[..., 0]
        return condition & np.isfinite(self.values("log_det"))

    def _slope(self) -> np.ndarray:
        return _slopes(self.times, self.values("log_det"), self._resolved())

    def _predicted(self) -> np.ndarray:
        if self._rate is not None:
            return np.full(len(self.completed), self._rate)
        return _slopes(self.times, self.values("ledger_log_det"), self._resolved())


def _last(name: str) -> Callable[[Reader], np.ndarray]:
    return lambda reader: reader.values(name)[:, -1]


def _of_spectrum(measure: str) -> Callable[[Reader], np.ndarray]:
    def each(reader: Reader) -> np.ndarray:
        from rankfall import ranks

        return np.asarray(getattr(ranks, measure)(reader.values("singular_values_W1")[:, -1]))

    return each


_EACH: dict[str, Callable[[Reader], np.ndarray]] = {
    "final_rank": Reader._rank,
    "stable_rank": _of_spectrum("stable_rank"),
    "effective_rank": _of_spectrum("effective_rank"),
    "final_loss": _last("loss"),
    "final_accuracy": _last("accuracy"),
    "final_log_det": _last("log_det"),
    "final_balance": _last("balance"),
    "balance_drift": _last("balance_drift"),
    "log_det_slope": Reader._slope,
    "log_det_slope_predicted": Reader._predicted,
    "final_singular_values_W1": _last("singular_values_W1"),
    "final_singular_values_W2": _last("singular_values_W2"),
    "final_singular_values_Z": _last("singular_values_Z"),
    "final_log_singular_values_W1": _last("log_singular_values_W1"),
    "final_log_singular_values_Z": _last("log_singular_values_Z"),
}


def _slopes(times: np.ndarray, values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Least-squares slopes of values (replicate, time) over the save points used; NaN for fewer than three of them."""
    count = used.sum(axis=1)
    enough = count >= _FEWEST_POINTS
    number = np.maximum(count, 1)
    y = np.where(used, values, 0.0)
    t = np.where(used, times[None], 0.0)
    t = np.where(used, t - (t.sum(axis=1) / number)[:, None], 0.0)
    y = np.where(used, y - (y.sum(axis=1) / number)[:, None], 0.0)
    square = np.where(enough, (t * t).sum(axis=1), 1.0)
    slopes: np.ndarray = np.where(enough, (t * y).sum(axis=1) / square, np.nan)
    return slopes


def mean_and_error(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis and its standard error, finite entries only; NaN where there is none, or only one."""
    known = np.isfinite(samples)
    count = known.sum(axis=0)
    number = np.maximum(count, 1)
    mean = np.where(known, samples, 0.0).sum(axis=0) / number
    gaps = np.where(known, samples - mean, 0.0)
    error = np.sqrt((gaps * gaps).sum(axis=0) / np.maximum(count - 1, 1) / number)
    return np.where(count > 0, mean, np.nan), np.where(count > 1, error, np.nan)


def middle(samples: np.ndarray) -> np.ndarray:
    """Median over the first axis, finite entries only."""
    samples = np.where(np.isfinite(samples), samples, np.nan)
    some = np.isfinite(samples).any(axis=0)
    if not some.any():
        return np.full(samples.shape[1:], np.nan)
    if np.isfinite(samples).all():
        return np.asarray(np.median(samples, axis=0))
    return np.where(some, np.nanmedian(np.where(some, samples, 0.0), axis=0), np.nan)


def padded(value: Any, shape: Sequence[int], dtype: str) -> np.ndarray:
    """The value in the corner of an array of this shape, NaN or −1 elsewhere."""
    whole = np.full(tuple(shape), -1 if dtype == "int64" else np.nan, dtype=dtype)
    array = np.asarray(value)
    whole[tuple(slice(0, size) for size in array.shape)] = array
    return whole
