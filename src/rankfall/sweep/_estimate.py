"""How long a study will take and how much it will write, before it runs."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall import _stability
from rankfall._simulate import simulate
from rankfall._threads import default_threads
from rankfall.errors import StepSizeWarning
from rankfall.methods import GradientFlow, StochasticGradientDescent, StochasticGradientFlow
from rankfall.sweep._model import Model

if TYPE_CHECKING:
    from rankfall.sweep._study import Study

__all__ = ["Estimate", "estimate"]

# Cells that are looked at, and that are tried out; the rest is taken to be like them.
_SAMPLE = 200
_TRIALS = 2
_TRIAL_SECONDS = 0.15
# What a cell costs besides its steps, and bytes that are kept of it besides its quantities.
_OVERHEAD = 0.004
_BYTES = 64
# Seconds of one core per multiplication and addition, and per normal random number, on the processor at hand when this
# was written; a trial replaces them by what this machine takes.
_PER_PRODUCT, _PER_NORMAL = 0.065e-9, 0.8e-9


@dataclass(frozen=True)
class Estimate:
    """What a study will take on this machine, all its processors at work.

    Attributes:
        cells: Ensembles.
        trajectories: Fewest and most of them, all cells together; they differ where the stop is adaptive.
        steps: Steps of all trajectories, fewest and most; of gradient flow a guess.
        seconds: Shortest and longest time, the compilation of kernels apart.
        bytes: Numbers that are kept; compression makes them fewer.
        tried: Whether a few cells were run for a moment to see how fast this machine is.
    """

    cells: int
    trajectories: tuple[int, int]
    steps: tuple[float, float]
    seconds: tuple[float, float]
    bytes: int
    tried: bool

    def __str__(self) -> str:
        low, high = (_duration(each) for each in self.seconds)
        how = "after a trial of some cells" if self.tried else "without a trial"
        return (
            f"{self.cells:,} cells, {_span(*self.trajectories)} trajectories, {_span(*self.steps)} steps; "
            f"about {low}{'' if high == low or self.seconds[1] < 1.2 * self.seconds[0] else f' to {high}'} ({how}), "
            f"at most {_size(self.bytes)}"
        )


def estimate(study: Study, *, trial: bool = True) -> Estimate:
    """Look at up to 200 cells spread over the grid, run two of them for a moment, and scale up.

    Kernels that are not in the cache are compiled for the trial, as the sweep would have to.

    Example:
        >>> import rankfall as rf
        >>> from rankfall.sweep._estimate import estimate
        >>> study = rf.sweep.Study(
        ...     problem={"n_inputs": 2, "n_outputs": 1}, method={"name": "label-noise-descent", "step_size": 0.01},
        ...     run={"steps": 1000, "replicates": 8}, axes={"label_noise": [0.5, 1.0, 2.0]},
        ... )
        >>> found = estimate(study, trial=False)
        >>> found.cells, found.trajectories, found.steps
        (3, (24, 24), (24000.0, 24000.0))
    """
    stride = max(1, study.n_cells // _SAMPLE)
    places = itertools.islice(study.places(), stride // 2, None, stride)
    settings = [study.cell(index).settings for index in places]
    works = [_Work.of(each) for each in settings]
    scale = study.n_cells / len(works)
    slower = _measured(settings, works) if trial else 1.0
    most = [_most(each) / each["run"]["replicates"] for each in settings]
    cores = default_threads()

    def seconds(times: list[float]) -> float:
        shares = (work.seconds * slower * factor / work.cores(cores) for work, factor in zip(works, times, strict=True))
        return scale * sum(_OVERHEAD + share for share in shares)

    def total(of: list[float], factors: list[float]) -> float:
        return scale * sum(a * b for a, b in zip(of, factors, strict=True))

    once = [1.0] * len(works)
    counts = [float(each["run"]["replicates"]) for each in settings]
    steps = [work.steps * count for work, count in zip(works, counts, strict=True)]
    kept = sum(math.prod(quantity.shape) for quantity in study.quantities())
    return Estimate(
        cells=study.n_cells,
        trajectories=(round(total(counts, once)), round(total(counts, most))),
        steps=(total(steps, once), total(steps, most)),
        seconds=(seconds(once), seconds(most)),
        bytes=study.n_cells * (8 * kept + _BYTES),
        tried=trial,
    )


def _most(settings: Mapping[str, Any]) -> int:
    return int(settings["stop"]["at_most"] if "stop" in settings else settings["run"]["replicates"])


@dataclass(frozen=True)
class _Work:
    """What a cell costs with its first replicates.

    Attributes:
        steps: Of one trajectory.
        seconds: Of one core.
        blocks: That can go to different cores.
    """

    steps: float
    seconds: float
    blocks: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> _Work:
        model = Model.make(settings)
        lanes = 8
        blocks = -(-settings["run"]["replicates"] // lanes)
        steps = _steps(model, settings["run"])
        return cls(steps, steps * blocks * lanes * _per_step(model, "lyapunov" in settings), blocks)

    def cores(self, available: int) -> int:
        """How many it can use."""
        return max(1, min(available, self.blocks))


def _steps(model: Model, run: Mapping[str, Any]) -> float:
    method, problem, network = model.method, model.problem, model.network
    if "steps" in run:
        return float(run["steps"])
    end = run.get("duration")
    if end is None:
        end = run["save_points"][-1]
    if not isinstance(method, GradientFlow | StochasticGradientFlow):
        return float(max(1.0, end / method.step_size))
    if "dt" in run:
        return float(math.ceil(end / run["dt"]))
    if isinstance(method, StochasticGradientFlow):
        return float(math.ceil(end / _stability.default_time_step(problem, network, method.intensity)))
    # An adaptive integrator of order 4 moves about an inverse sharpness at a time, and slower at the beginning.
    return 100.0 + 2.0 * end * _stability.sharpness(problem, *_stability.reference_starts(network))


def _per_step(model: Model, framed: bool) -> float:
    """Seconds of one core for a step of one trajectory, by counting products of numbers."""
    p, k = model.problem.n_inputs, model.problem.n_outputs
    widths = model.network.widths
    if model.network.depth == 2:
        columns = min(p + k, widths[1]) + (p + k if framed and model.is_framed else 0)
        products = 3.0 * p * k * columns
    else:
        products = 5.0 * max(widths) * sum(a * b for a, b in itertools.pairwise(widths))
    if isinstance(model.method, GradientFlow):
        products *= 15.0
    elif isinstance(model.method, StochasticGradientFlow) and model.method.integrator == "geometric":
        products *= 2.0
    samples = 0
    if isinstance(model.method, StochasticGradientDescent):
        samples = model.method.batch_size
    elif model.problem.loss != "squared":
        samples = model.problem.n_samples or 0
    return _PER_PRODUCT * (products + 2.0 * samples * p * k) + _PER_NORMAL * p * k


def _measured(settings: list[Mapping[str, Any]], works: list[_Work]) -> float:
    """How many times slower than counted this machine is, from moments of the median and the longest cell."""
    order = sorted(range(len(works)), key=lambda i: works[i].seconds)
    chosen = list(dict.fromkeys([order[-1], order[len(order) // 2]]))[:_TRIALS]
    ratios = []
    for i in chosen:
        taken = _moment(settings[i], works[i])
        if taken is not None:
            ratios.append(taken)
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0


def _moment(settings: Mapping[str, Any], work: _Work) -> float | None:
    """Time of a cell's first steps over what was counted for them; None where that cannot be told."""
    model = Model.make(settings)
    run = dict(settings["run"])
    share = min(1.0, _TRIAL_SECONDS / max(work.seconds, 1e-9))
    run["save_points"] = 2
    if "steps" in run:
        run["steps"] = max(1, int(run["steps"] * share))
    else:
        end = run.get("duration") or settings["run"]["save_points"][-1]
        run["duration"] = max(end * share, getattr(model.method, "step_size", 0.0))
    observables = ["log_growth"] if "lyapunov" in settings and model.is_framed else []

    def taken(**more: Any) -> float:
        begun = time.perf_counter()
        simulate(
            model.problem, model.network, model.method, **{**run, **more}, observables=observables, ledger="none",
            threads=1,
        )  # fmt: skip
        return time.perf_counter() - begun

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StepSizeWarning)
        brief = {"steps": 1} if "steps" in run else {"duration": run["duration"] * 1e-3}
        if not isinstance(model.method, GradientFlow | StochasticGradientFlow) and "duration" in run:
            brief = {"duration": model.method.step_size}
        taken(**brief)  # compiles
        least = min(taken(**brief) for _ in range(2))
        spent = taken() - least
    counted = work.seconds * share
    return spent / counted if spent > 0.0 and counted > 0.002 else None


def _span(low: float, high: float) -> str:
    return _number(low) if high <= low else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:.3g} TB"
