"""The figure of Varre, Sagitova & Flammarion (NeurIPS 2024): what label noise does to det M and to the rank of W1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rankfall as rf
from rankfall import _checks, datasets, laws
from rankfall.experiments import _dichotomy_page as texts
from rankfall.experiments import claims
from rankfall.experiments._page import short
from rankfall.experiments._runner import Outcome, run_target
from rankfall.experiments._target import Part, Results, Target, Work
from rankfall.report import reproduction

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws import Verdict

__all__ = ["Settings", "run", "target"]


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

    def options(self) -> list[str]:
        """What to type behind `rankfall reproduce dichotomy` to make the same report."""
        words = []
        for name, value in asdict(self).items():
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None:
                    words += [f"--{name.replace('_', '-')}", short(each) if isinstance(each, float) else str(each)]
        return words


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
# On real covariances the directions of little variance die slowly (their rate goes with the eigenvalue of Σ), and those
# of much variance carry det M beyond float64 long before: the figure says so, and the law is checked until then. Small
# starting weights allow large time steps; a smaller η keeps the noise below the labels' own variance.
_WITHOUT_SIZES = replace(_GAUSSIAN, n_samples=None, n_inputs=None, n_outputs=None, duration=1000.0)
_REAL = {
    "diabetes": replace(_WITHOUT_SIZES, data="diabetes", width=16, scale=0.5, replicates=32),
    "breast-cancer": replace(_WITHOUT_SIZES, data="breast-cancer", width=40, scale=0.2, step_size=0.002, replicates=16),
    "digits": replace(_WITHOUT_SIZES, data="digits", width=80, scale=0.1, step_size=0.001, replicates=8),
}


def target(settings: Settings) -> Target:
    """The figure as a target of `rankfall reproduce`."""
    problem = settings.problem()
    network = rf.LinearNetwork.gaussian(problem.n_inputs, settings.width, problem.n_outputs, settings.scale)

    def part(noise: float) -> Part:
        return Part(
            name=f"delta-{short(noise)}",
            title=texts.run_name(noise),
            compute=lambda work: _simulate(settings, problem, network, noise, work),
            laws=lambda run: laws.check(run, problem),
        )

    names = {noise: part(noise) for noise in settings.label_noise}

    def by_noise(results: Results) -> dict[float, xr.Dataset]:
        return {noise: results[part.name] for noise, part in names.items() if part.name in results}

    return Target(
        name="dichotomy",
        title="Label noise lowers the rank, gradient flow does not",
        lead=texts.lead(settings, problem),
        settings=asdict(settings),
        parts=list(names.values()),
        claims=lambda results: _claims(by_noise(results)),
        figure=lambda results, columns: reproduction(by_noise(results), columns=columns),
        caption=lambda results: texts.caption(settings, by_noise(results)),
        notes=lambda results: texts.notes(settings, problem, by_noise(results)),
        options=settings.options(),
        shown=lambda results: texts.readable(settings, by_noise(results)),
    )


def run(
    settings: Settings,
    folder: str | Path,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[str, Any], None] | None = None,
) -> Outcome:
    """Make the report, or continue one that was interrupted: `run_target` of this target."""
    return run_target(target(settings), folder, overwrite=overwrite, threads=threads, progress=progress)


def _simulate(
    settings: Settings, problem: rf.Problem, network: rf.LinearNetwork, noise: float, work: Work
) -> xr.Dataset:
    method: Any = rf.GradientFlow()
    if noise > 0:
        method = rf.StochasticGradientFlow(noise, settings.step_size, settings.batch_size)
    return rf.simulate(
        problem,
        network,
        method,
        duration=settings.duration,
        dt=settings.dt if noise > 0 else None,
        replicates=settings.replicates,
        seed=settings.seed,
        save_points=settings.save_points,
        threads=work.threads,
        progress=work.progress,
        checkpoint=work.checkpoint,
    )


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
