"""One cell: its settings and seed in, its numbers out. What workers import."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall._lyapunov import Spectrum, batch_ends, spectrum_of
from rankfall._progress import Progress
from rankfall._simulate import simulate
from rankfall.errors import StepSizeWarning
from rankfall.sweep._cell import CellResult, Quantity
from rankfall.sweep._measuring import Reader, mean_and_error, middle, padded
from rankfall.sweep._model import Model, applies
from rankfall.sweep._quantities import ERROR, MEASURES
from rankfall.sweep._seeds import batch_seed
from rankfall.sweep._stop import Stop

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["run_cell"]

_GROWTH = "log_growth"


def run_cell(
    settings: Mapping[str, Any],
    seed: int,
    quantities: Sequence[Quantity],
    threads: int | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    key: str = "",
) -> CellResult:
    """Simulate a cell and take its numbers; the same ones whatever the threads, and on whatever machine.

    Args:
        settings: Of a `Cell`.
        seed: Of the same.
        quantities: What to take, `Study.quantities()` of its study.
        threads: For the kernels; all that this process may use when None.
        stop: Asked a few times per second; the cell is abandoned with KeyboardInterrupt when it says True.
        key: Of the cell, for the result.

    Returns:
        The numbers; status "failed" with the reason where all replicates diverged or something was raised.

    Raises:
        KeyboardInterrupt: Ctrl-C, or `stop` said so. Nothing else.

    Example:
        >>> import rankfall as rf
        >>> study = rf.sweep.Study(
        ...     problem={"n_inputs": 2, "n_outputs": 1},
        ...     method={"name": "gradient-flow"},
        ...     run={"duration": 1.0, "replicates": 4},
        ... )
        >>> cell = next(study.cells())
        >>> result = rf.sweep.run_cell(cell.settings, cell.seed, study.quantities(), key=cell.key)
        >>> result.status, result.values["final_rank"].item()
        ('done', 2.0)
    """
    begun = time.perf_counter()
    values: dict[str, np.ndarray] = {}
    try:
        values, reason = _compute(settings, seed, quantities, threads, stop)
    except Exception as error:  # a cell that fails is recorded, and the sweep goes on
        words = " ".join(str(error).split()) or "no message"
        reason = words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
    status: Any = "failed" if reason else "done"
    return CellResult(key, status, reason, values, time.perf_counter() - begun)


def _compute(
    settings: Mapping[str, Any],
    seed: int,
    quantities: Sequence[Quantity],
    threads: int | None,
    stop: Callable[[], bool] | None,
) -> tuple[dict[str, np.ndarray], str]:
    model = Model.make(settings)
    names = [quantity.name for quantity in quantities if quantity.name in MEASURES]
    plain = [name for name in names if name not in _OF_THE_CELL and applies(MEASURES[name], model)]
    rule = Stop.of(settings)
    call = _Call(settings, model, names, threads, stop)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in plain}
    growth: list[np.ndarray] = []
    outcomes: list[str] = []
    batch, count, spectrum = 0, int(settings["run"]["replicates"]), None
    while True:
        reader, grown = call.run(batch_seed(seed, batch), count)
        outcomes.extend(reader.outcome.tolist())
        for name in plain:
            samples[name].append(reader.each(name)[reader.completed])
        if grown is not None:
            growth.append(grown[reader.completed])
            spectrum = spectrum_of(np.concatenate(growth), call.growth_times)
        found = {name: _summary(name, np.concatenate(parts)) for name, parts in samples.items()}
        found |= {} if spectrum is None else _spectral(spectrum)
        used = len(outcomes)
        count = 0 if rule is None else rule.more(found.get(rule.quantity, (None, np.nan))[1], used)
        if count == 0:
            break
        batch += 1
    diverged = [outcome for outcome in outcomes if outcome != "completed"]
    if len(diverged) == used:
        return {}, _words(diverged)
    length, steps = reader.steps
    found |= {"step_length": (length, None), "steps": (steps, None)}
    found |= {"replicates_used": (used, None), "diverged": (len(diverged), None)}
    if "save_time" in names:
        found["save_time"] = (call.shown_times, None)
    return {quantity.name: _place(found, quantity) for quantity in quantities}, ""


# Numbers that are not one per replicate.
_SPECTRAL = frozenset(["lyapunov_exponents", "lyapunov_rank", "lyapunov_rank_lowest", "lyapunov_rank_highest"])
_OF_THE_CELL = _SPECTRAL | {"save_time", "step_length", "steps", "replicates_used", "diverged"}

Found = dict[str, tuple[Any, Any]]


def _summary(name: str, samples: np.ndarray) -> tuple[Any, Any]:
    return mean_and_error(samples) if MEASURES[name].error or not MEASURES[name].dims else (middle(samples), None)


def _spectral(spectrum: Spectrum) -> Found:
    found = spectrum.found
    return {
        "lyapunov_exponents": (spectrum.exponents, spectrum.errors),
        "lyapunov_rank": (spectrum.rank, None),
        "lyapunov_rank_lowest": (found.lowest, None),
        "lyapunov_rank_highest": (found.highest, None),
    }


def _place(found: Found, quantity: Quantity) -> np.ndarray:
    name = quantity.name
    value: Any = None
    if name in found:
        value = found[name][0]
    elif name.endswith(ERROR) and name.removesuffix(ERROR) in found:
        value = found[name.removesuffix(ERROR)][1]
    if value is None:  # this cell has none
        value = np.empty([0] * len(quantity.shape)) if quantity.shape else (-1 if quantity.dtype == "int64" else np.nan)
    return padded(value, quantity.shape, quantity.dtype)


def _words(diverged: list[str]) -> str:
    first = min(diverged, key=lambda outcome: float(outcome.rpartition("=")[2]))
    return f"all {len(diverged)} replicates diverged, the first at t={first.rpartition('=')[2]}"


class _Call:
    """`simulate` with the settings of a cell, for any seed and number of replicates."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        model: Model,
        names: Sequence[str],
        threads: int | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self._model, self._threads, self._stop = model, threads, stop
        self._run = dict(settings["run"])
        self._run.pop("replicates")
        self._alive = float(settings["summary"]["alive"])
        self._batches: np.ndarray | None = None
        self._wanted: Any = self._run.pop("save_points")
        measures = [MEASURES[name] for name in names if applies(MEASURES[name], model)]
        self._observables = sorted({measure.observable for measure in measures} - {""})
        if "lyapunov" in settings and model.is_framed:
            length = self._run.get("duration") or self._run["steps"] * settings["method"]["step_size"]
            self._batches = batch_ends(length, **settings["lyapunov"])
            if isinstance(self._wanted, int):
                self._wanted = np.linspace(0.0, length, self._wanted)
            self._observables.append(_GROWTH)
        books = any(name.startswith("log_det_slope") for name in names) and model.has_ledger
        self._ledger: Any = "determinant" if books else "none"
        self.growth_times = self.shown_times = np.empty(0)

    def run(self, seed: int, replicates: int) -> tuple[Reader, np.ndarray | None]:
        """The run, and the growth of its frame where that is measured."""
        points = self._wanted
        if self._batches is not None:
            points = np.union1d(self._wanted, self._batches)
        elif not isinstance(points, int):
            points = np.asarray(points)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StepSizeWarning)  # what diverges is counted
            run = simulate(
                self._model.problem,
                self._model.network,
                self._model.method,
                **self._run,
                replicates=replicates,
                seed=seed,
                save_points=points,
                observables=self._observables,
                ledger=self._ledger,
                threads=self._threads,
                progress=False if self._stop is None else self._ask,
            )
        if self._batches is None:
            self.shown_times = run["time"].values
            return Reader(run, self._alive, self._model.rate, None), None
        shown, ends = self._places(run, np.asarray(self._wanted)), self._places(run, self._batches)
        times = run["time"].values
        self.shown_times, self.growth_times = times[shown], times[ends]
        return Reader(run, self._alive, self._model.rate, shown), run[_GROWTH].values[:, ends]

    @staticmethod
    def _places(run: xr.Dataset, points: np.ndarray) -> np.ndarray:
        """Where the run saved these times, rounded to its steps as `simulate` does."""
        steps = np.unique(np.rint(points / run.attrs["step_length"]).astype(np.int64))
        return np.searchsorted(run["step"].values, steps)

    def _ask(self, progress: Progress) -> None:
        assert self._stop is not None
        if self._stop():
            raise KeyboardInterrupt
