"""The figure of Varre, Sagitova & Flammarion (NeurIPS 2024): what label noise does to det M and to the rank of W1."""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rankfall as rf
from rankfall import _checks, datasets
from rankfall._files import write_atomically
from rankfall.experiments import claims
from rankfall.experiments._folder import ReportFolder, Status
from rankfall.report import Page, VerdictTable, render_figure, render_page, reproduction

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws import Verdict

__all__ = ["Outcome", "Settings", "run"]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of the report.

    Make one with `Settings.choose`, which fills in what belongs to the data.

    Attributes:
        data: Name of a bundled data set, or None for Gaussian data and a random teacher.
        n_samples: n of the Gaussian data; None with `data`, as are n_inputs and n_outputs.
        n_inputs: p.
        n_outputs: k.
        width: l.
        scale: Standard deviation of the starting weights.
        label_noise: The variances δ, one run each; 0 is gradient flow.
        step_size: η; with b = batch_size the intensity of the flow is σ² = η δ / b.
        batch_size: b.
        duration: Flow time.
        dt: Step of the stochastic flow; None for the default of `rf.simulate`.
        replicates: Trajectories per run; the runs share their starting weights.
        save_points: How many times are kept.
        seed: Of data, starts and noise.
    """

    data: str | None
    n_samples: int | None
    n_inputs: int | None
    n_outputs: int | None
    width: int
    scale: float
    label_noise: tuple[float, ...]
    step_size: float
    batch_size: int
    duration: float
    dt: float | None
    replicates: int
    save_points: int
    seed: int

    @classmethod
    def choose(cls, data: str | None = None, *, quick: bool = False, **chosen: Any) -> Settings:
        """Take the defaults for `data`, fewer replicates and save points if `quick`, and whatever else is given.

        An option given as None counts as not given.

        Raises:
            InvalidInput: Not an option, out of range, or a size together with `data`.

        Example:
            >>> from rankfall.experiments import dichotomy
            >>> dichotomy.Settings.choose(replicates=3).duration
            420.0
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise rf.InvalidInput(f"{', '.join(unknown)}: no such setting of this experiment.")
        if data is None:
            defaults = _GAUSSIAN
        elif data in _REAL:
            sizes = [name for name in ("n_samples", "n_inputs", "n_outputs") if name in given]
            if sizes:
                raise rf.InvalidInput(f"{', '.join(sizes)} cannot be chosen together with data: {data} has its own.")
            defaults = _REAL[data]
        else:
            raise rf.InvalidInput(f"data must be one of {', '.join(datasets.NAMES)}, got {data!r}.")
        if quick:
            defaults = replace(defaults, replicates=8, save_points=100)
        if "label_noise" in given:
            given["label_noise"] = tuple(dict.fromkeys(given["label_noise"]))
        return replace(defaults, **given)._checked()

    def _checked(self) -> Settings:
        if not self.label_noise:
            raise rf.InvalidInput("label_noise needs at least one variance.")
        return replace(
            self,
            label_noise=tuple(sorted({_checks.real_number(d, "label_noise", at_least=0.0) for d in self.label_noise})),
            width=_checks.whole_number(self.width, "width"),
            scale=_checks.real_number(self.scale, "scale", above=0.0),
            step_size=_checks.real_number(self.step_size, "step_size", above=0.0),
            batch_size=_checks.whole_number(self.batch_size, "batch_size"),
            duration=_checks.real_number(self.duration, "duration", above=0.0),
            dt=None if self.dt is None else _checks.real_number(self.dt, "dt", above=0.0),
            replicates=_checks.whole_number(self.replicates, "replicates"),
            save_points=_checks.whole_number(self.save_points, "save_points", at_least=2),
            seed=_checks.seed_number(self.seed),
        )

    def problem(self) -> rf.Problem:
        """What is learned."""
        if self.data is not None:
            return datasets.load(self.data)
        assert self.n_samples is not None and self.n_inputs is not None and self.n_outputs is not None
        return rf.Problem.gaussian(self.n_samples, self.n_inputs, self.n_outputs, seed=self.seed)

    def command(self, folder: str | Path) -> str:
        """What to type to make the same report."""
        words = ["rankfall", "reproduce"]
        for name, value in asdict(self).items():
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None:
                    words += [f"--{name.replace('_', '-')}", _short(each) if isinstance(each, float) else str(each)]
        return shlex.join([*words, "--out", str(folder)])


def _short(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


_GAUSSIAN = Settings(
    data=None,
    n_samples=1000,
    n_inputs=5,
    n_outputs=2,
    width=10,
    scale=1.0,
    label_noise=(0.0, 2.0),
    step_size=0.01,
    batch_size=1,
    # At σ² = 0.02 three of the five modes of W1 die at a rate of about 0.89 σ² (theory of the Lyapunov spectrum): 420
    # takes them below a thousandth, while the smallest singular value of Z is still above the rounding of the largest.
    duration=420.0,
    dt=None,
    replicates=64,
    save_points=200,
    seed=0,
)
_REAL = {
    "diabetes": replace(
        _GAUSSIAN, data="diabetes", n_samples=None, n_inputs=None, n_outputs=None, width=16, scale=0.5, replicates=32
    ),
    "breast-cancer": replace(
        _GAUSSIAN, data="breast-cancer", n_samples=None, n_inputs=None, n_outputs=None, width=40, scale=0.2,
        duration=60.0, replicates=16,
    ),
    "digits": replace(
        _GAUSSIAN, data="digits", n_samples=None, n_inputs=None, n_outputs=None, width=80, scale=0.1, duration=20.0,
        replicates=8, save_points=100,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What `run` leaves.

    Attributes:
        folder: The report folder.
        status: "complete", or "partial" after an interruption.
        claims: The figure's claims.
        laws: Verdicts of every law, by the name of the run.
        was_complete: The report had been there before, nothing was run.
        settings: What it was made with.
    """

    folder: Path
    status: Status
    claims: list[Verdict]
    laws: dict[str, list[Verdict]]
    was_complete: bool
    settings: Settings

    @property
    def verdicts(self) -> list[Verdict]:
        """Claims and laws together."""
        return [*self.claims, *(verdict for each in self.laws.values() for verdict in each)]

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(verdict.passed is False for verdict in self.verdicts)


def run(
    settings: Settings,
    folder: str | Path,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[str, Any], None] | None = None,
) -> Outcome:
    """Make the report, or continue one that was interrupted; Ctrl-C leaves a valid partial report.

    Args:
        settings: What to run.
        folder: Where; made if it is not there.
        overwrite: Replace a report that is there already.
        threads: Passed on to `rf.simulate`; the numbers do not depend on it.
        progress: Called with the name of the run and an `rf.Progress`.

    Returns:
        The outcome; its status is "partial" if Ctrl-C was pressed.

    Raises:
        InvalidInput: The folder holds something else, or a report with other settings.
        OutputError: The folder cannot be written.
    """
    problem = settings.problem()
    network = rf.LinearNetwork.gaussian(problem.n_inputs, settings.width, problem.n_outputs, settings.scale)
    report = ReportFolder.prepare(folder, "dichotomy", asdict(settings), version=rf.__version__, overwrite=overwrite)
    with report.lock():
        was_complete = report.status == "complete"
        begun = time.monotonic()
        runs: dict[float, xr.Dataset] = {}
        interrupted = False
        try:
            for noise in settings.label_noise:
                finished = _finished_run(report.path, noise)
                if finished is None:
                    finished = _simulate(settings, problem, network, noise, report.path, threads, progress)
                    was_complete = False
                runs[noise] = finished
        except rf.SimulationInterrupted as stop:
            interrupted = True
            runs[noise] = stop.run
            rf.save_run(stop.run, _data_file(report.path, noise))
        except KeyboardInterrupt:
            interrupted = True
        status: Status = "partial" if interrupted else "complete"
        laws = {_name(noise): rf.laws.check(each, problem) for noise, each in runs.items()}
        found = _claims(runs)
        outcome = Outcome(report.path, status, found, laws, was_complete, settings)
        if not was_complete:
            _write(report, outcome, problem, runs, time.monotonic() - begun)
    return outcome


def _simulate(
    settings: Settings,
    problem: rf.Problem,
    network: rf.LinearNetwork,
    noise: float,
    folder: Path,
    threads: int | None,
    progress: Callable[[str, Any], None] | None,
) -> xr.Dataset:
    method: Any = rf.GradientFlow()
    if noise > 0:
        method = rf.StochasticGradientFlow(noise, settings.step_size, settings.batch_size)
    result = rf.simulate(
        problem,
        network,
        method,
        duration=settings.duration,
        dt=settings.dt if noise > 0 else None,
        replicates=settings.replicates,
        seed=settings.seed,
        save_points=settings.save_points,
        threads=threads,
        progress=False if progress is None else lambda state: progress(_name(noise), state),
        checkpoint=folder / f"delta-{noise:g}.checkpoint",
    )
    rf.save_run(result, _data_file(folder, noise))
    return result


def _finished_run(folder: Path, noise: float) -> xr.Dataset | None:
    try:
        found = rf.open_run(_data_file(folder, noise))
    except (rf.NotARun, OSError):
        return None
    if any(str(outcome).startswith("interrupted") for outcome in found["outcome"].values):
        return None
    return found


def _claims(runs: dict[float, xr.Dataset]) -> list[Verdict]:
    found: list[Verdict] = []
    for noise, each in runs.items():
        if each.sizes["time"] < 2:
            continue
        wide = each.attrs["width"] >= each.attrs["n_inputs"] + each.attrs["n_outputs"]
        if noise == 0:
            found.append(claims.determinant_constant(each) if wide else claims.balance_constant(each))
        elif wide:
            found.append(claims.determinant_decay(each))
        found += claims.fallen_modes(each, noise)
    return found


def _data_file(folder: Path, noise: float) -> Path:
    return folder / f"delta-{noise:g}.nc"


def _name(noise: float) -> str:
    return f"δ = {noise:g}, " + ("stochastic gradient flow" if noise > 0 else "gradient flow")


def _write(
    report: ReportFolder, outcome: Outcome, problem: rf.Problem, runs: dict[float, xr.Dataset], seconds: float
) -> None:
    folder, settings = report.path, outcome.settings
    report.update(status="running")
    svg = narrow = None
    if runs:
        figure = reproduction(runs)
        svg, narrow = render_figure(figure, "svg"), render_figure(reproduction(runs, columns=1), "svg")
        write_atomically(folder / "figure.svg", svg)
        write_atomically(folder / "figure.png", render_figure(figure, "png"))
    record = {
        "status": outcome.status,
        "failed": outcome.failed,
        "claims": [verdict.to_dict() for verdict in outcome.claims],
        "laws": {name: [verdict.to_dict() for verdict in each] for name, each in outcome.laws.items()},
    }
    write_atomically(folder / "verdicts.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    command = settings.command(folder)
    environment = _environment() | {"seconds in this session": f"{seconds:.1f}"}
    write_atomically(
        folder / "index.html", render_page(_page(outcome, problem, runs, (svg, narrow), command, environment))
    )
    report.update(status=outcome.status, command=command, environment=environment)


def _page(
    outcome: Outcome,
    problem: rf.Problem,
    runs: dict[float, xr.Dataset],
    figures: tuple[bytes | None, bytes | None],
    command: str,
    environment: dict[str, str],
) -> Page:
    settings = outcome.settings
    source = f"the {settings.data} data" if settings.data else "Gaussian data with a random linear teacher"
    lead = (
        f"A two-layer linear network ({problem.n_inputs} inputs, {settings.width} hidden units, {problem.n_outputs} "
        f"outputs) learns {source} ({problem.n_samples} samples). Under gradient flow the determinant of M = ZZᵀ, "
        "Z = [W1; W2ᵀ], is conserved. Fresh noise on the labels makes it decay at a rate that no realisation of the "
        "noise can change, and the small singular values of W1 die. Below, the claims and every law behind them, "
        "checked on every trajectory."
    )
    unfinished = []
    for noise in settings.label_noise:
        if noise not in runs:
            unfinished.append(f"the run with δ = {noise:g} has not begun")
        elif any(str(o).startswith("interrupted") for o in runs[noise]["outcome"].values):
            until = float(runs[noise]["time"].values[-1])
            unfinished.append(f"the run with δ = {noise:g} was interrupted at t = {until:.4g} of {settings.duration:g}")
    partial = ""
    if outcome.status == "partial":
        partial = "; ".join(unfinished) + ". The same command continues it."
    data = settings.data
    notes = []
    if data is not None:
        rank = sum(d > 0 for d in problem.eigenbasis()[0])
        notes.append(
            f"Inputs of “{data}” are standardised; Σ has rank {rank} of {problem.n_inputs}"
            + (" (inputs without variance are kept as zeros)." if rank < problem.n_inputs else ".")
            + (" One-hot labels are centred, because the network has no bias." if problem.n_outputs > 1 else "")
        )
    diverged = {
        noise: sum(str(o).startswith("diverged") for o in each["outcome"].values) for noise, each in runs.items()
    }
    notes += [
        f"{count} of {settings.replicates} replicates with δ = {noise:g} diverged and are left out from then on: the "
        "time step is too large."
        for noise, count in diverged.items()
        if count
    ]
    return Page(
        title="Label noise lowers the rank, gradient flow does not",
        lead=lead,
        claims=outcome.claims,
        figure=figures[0],
        narrow_figure=figures[1],
        caption=_caption(settings, runs),
        tables=[VerdictTable(name, verdicts, _summary(runs, name)) for name, verdicts in outcome.laws.items()],
        settings=_readable(settings, runs),
        environment=environment,
        command=command,
        files=[
            ("figure.svg", "the figure, for papers"),
            ("figure.png", "the figure, 220 dots per inch"),
            *((_data_file(outcome.folder, noise).name, f"data of δ = {noise:g}, NetCDF") for noise in runs),
            ("verdicts.json", "every verdict, replicate by replicate"),
            ("settings.json", "settings and versions"),
        ][0 if runs else 2 :],
        partial=partial,
        notes=notes,
    )


def _summary(runs: dict[float, xr.Dataset], name: str) -> str:
    for noise, each in runs.items():
        if _name(noise) == name:
            done = sum(str(outcome) == "completed" for outcome in each["outcome"].values)
            step = float(each.attrs.get("step_length", 0.0))
            how = f"time step {step:.4g}" if step > 0 else "adaptive time steps"
            end = float(each["time"].values[-1])
            return f"{done} of {each.sizes['replicate']} replicates completed, until t = {end:.4g}, {how}."
    return ""


def _caption(settings: Settings, runs: dict[float, xr.Dataset]) -> str:
    first = next(iter(runs.values()), None)
    if first is None:
        return ""
    wide = first.attrs["width"] >= first.attrs["n_inputs"] + first.attrs["n_outputs"]
    left = "det M" if wide else "the balance ‖Q‖ (det M is 0 at all times for so narrow a network)"
    shown = min(5, first.sizes["mode_W1"])
    return (
        f"First panel: {left} against time; each of {settings.replicates} trajectories faint, their median bold, "
        "what the law predicts dashed"
        + (", dotted where float64 no longer resolves it" if wide else "")
        + f". Second panel: the {shown} largest singular values of W1, median and band from the 10 % to the 90 % "
        "quantile. "
        f"Step size η = {settings.step_size:g}, batch size b = {settings.batch_size}, σ² = ηδ/b; the paper does not "
        "state η, so this is a choice."
    )


def _readable(settings: Settings, runs: dict[float, xr.Dataset]) -> dict[str, str]:
    shown = {}
    for name, value in asdict(settings).items():
        if value is None and name != "dt":
            continue
        if name == "dt" and value is None:
            steps = {f"{float(each.attrs['step_length']):.4g}" for noise, each in runs.items() if noise > 0}
            value = ", ".join(sorted(steps)) + " (chosen)" if steps else "chosen"
        values = value if isinstance(value, tuple) else (value,)
        shown[name.replace("_", " ")] = ", ".join(_short(v) if isinstance(v, float) else str(v) for v in values)
    return shown


def _environment() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("numpy", "scipy", "numba", "xarray", "matplotlib")}
    return {
        "rankfall": rf.__version__,
        "Python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
    }
