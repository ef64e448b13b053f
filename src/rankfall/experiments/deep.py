"""Does label noise lower the rank of deeper networks too? Gradient flow against the stochastic flow, by depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import rankfall as rf
from rankfall import _checks, laws
from rankfall.experiments._target import Part, Results, Target, Work
from rankfall.experiments.claims import FALLEN
from rankfall.laws import Verdict

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Settings", "target"]

_QUIET, _NOISY = "gradient-flow", "label-noise"


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers.

    Attributes:
        depths: Numbers of layers, one pair of runs each.
        n_samples: n of the Gaussian data.
        n_inputs: p.
        n_outputs: k.
        teacher_rank: Rank of the teacher, at most min(p, k).
        width: Units of every hidden layer.
        scale: Standard deviation of the starting weights; about 1/√width lets networks of any depth train.
        label_noise: Variance δ of the noisy run.
        step_size: η; the intensity of the flow is σ² = η δ.
        duration: Flow time.
        replicates: Trajectories per run; both runs of a depth start from the same weights.
        save_points: How many times are kept.
        seed: Of data, starts and noise.
    """

    depths: tuple[int, ...] = (2, 3, 4, 5, 6)
    n_samples: int = 1000
    n_inputs: int = 5
    n_outputs: int = 2
    teacher_rank: int = 1
    width: int = 10
    scale: float = 0.316
    label_noise: float = 2.0
    step_size: float = 0.01
    duration: float = 2000.0
    replicates: int = 16
    save_points: int = 101
    seed: int = 0

    @classmethod
    def choose(cls, *, quick: bool = False, **chosen: Any) -> Settings:
        """Take the defaults, fewer depths and replicates if `quick`, and whatever else is given (None is not).

        Raises:
            InvalidInput: Not a setting, or out of range.

        Example:
            >>> from rankfall.experiments import deep
            >>> deep.Settings.choose(quick=True).depths
            (2, 3, 4)
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise rf.InvalidInput(f"{', '.join(unknown)}: no such setting of this experiment.")
        defaults = cls()
        if quick:
            defaults = replace(defaults, depths=(2, 3, 4), replicates=8, save_points=51)
        return replace(defaults, **given)._checked()

    def _checked(self) -> Settings:
        depths = (self.depths,) if np.ndim(self.depths) == 0 else tuple(self.depths)
        if not depths:
            raise rf.InvalidInput("depths needs at least one number of layers.")
        k = _checks.whole_number(self.n_outputs, "n_outputs")
        p = _checks.whole_number(self.n_inputs, "n_inputs")
        return replace(
            self,
            depths=tuple(sorted({_checks.whole_number(depth, "depths", at_least=2) for depth in depths})),
            n_samples=_checks.whole_number(self.n_samples, "n_samples"),
            n_inputs=p,
            n_outputs=k,
            teacher_rank=_checks.whole_number(self.teacher_rank, "teacher_rank", at_most=min(p, k)),
            width=_checks.whole_number(self.width, "width"),
            scale=_checks.real_number(self.scale, "scale", above=0.0),
            label_noise=_checks.real_number(self.label_noise, "label_noise", above=0.0),
            step_size=_checks.real_number(self.step_size, "step_size", above=0.0),
            duration=_checks.real_number(self.duration, "duration", above=0.0),
            replicates=_checks.whole_number(self.replicates, "replicates"),
            save_points=_checks.whole_number(self.save_points, "save_points", at_least=2),
            seed=_checks.seed_number(self.seed),
        )


def target(settings: Settings) -> Target:
    """The target `deep` of these settings."""
    defaults = Settings()
    words = []
    for name, value in asdict(settings).items():
        if value != getattr(defaults, name):
            for each in value if isinstance(value, tuple) else (value,):
                words += [f"--{name.replace('_', '-')}", f"{each:g}" if isinstance(each, float) else str(each)]
    names = {_QUIET: "gradient flow", _NOISY: f"stochastic flow, δ = {settings.label_noise:g}"}
    return Target(
        name="deep",
        title="Label noise lowers the rank of a deep network's outer layers; the middle ones keep theirs",
        lead=(
            f"Linear networks of {_listed(settings.depths)} layers (width {settings.width}) learn a teacher of rank "
            f"{settings.teacher_rank} from {settings.n_inputs} inputs to {settings.n_outputs} outputs, from the same "
            "starts with and without label noise. Without it no layer loses rank at any depth. With it the first and "
            "the last layer fall towards the rank of the teacher, from three layers on the more slowly the deeper "
            "the network. A middle layer does not follow: it moves by A_iᵀ H B_iᵀ, and once the products A_i before "
            "and B_i behind it are of low rank, neither the gradient nor the noise reaches its other directions, which "
            "stay what they were."
        ),
        settings=asdict(settings),
        parts=[
            Part(
                f"depth-{depth}-{kind}",
                f"{depth} layers, {names[kind]}",
                compute=partial(_compute, settings, depth, kind),
                laws=laws.check,
            )
            for depth in settings.depths
            for kind in (_QUIET, _NOISY)
        ],
        claims=lambda results: list(_claims(settings, results)),
        figure=lambda results, columns: _figure(settings, results, columns),
        caption=lambda results: _caption(settings),
        notes=lambda results: _notes(settings),
        options=tuple(words),
    )


def _compute(settings: Settings, depth: int, kind: str, work: Work) -> xr.Dataset:
    problem = rf.Problem.gaussian(
        settings.n_samples, settings.n_inputs, settings.n_outputs, seed=settings.seed, rank=settings.teacher_rank
    )
    hidden = [settings.width] * (depth - 1)
    network = rf.LinearNetwork.gaussian(settings.n_inputs, hidden, settings.n_outputs, settings.scale)
    method: rf.methods.Method = rf.GradientFlow()
    if kind == _NOISY:
        method = rf.StochasticGradientFlow(settings.label_noise, settings.step_size)
    return rf.simulate(
        problem,
        network,
        method,
        duration=settings.duration,
        replicates=settings.replicates,
        seed=settings.seed,
        save_points=settings.save_points,
        threads=work.threads,
        progress=work.progress,
        checkpoint=work.checkpoint,
    )


def _ratios(run: xr.Dataset, name: str) -> np.ndarray | None:
    """Medians over the replicates of σᵢ(T)/σᵢ(0), shape (mode,); None where no replicate came to the end."""
    values = run[f"singular_values_{name}"].values
    done = np.isfinite(values[:, -1]).all(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.median(values[done, -1] / values[done, 0], axis=0) if done.any() else None


def _recent_change(run: xr.Dataset, name: str) -> np.ndarray:
    """Medians over the replicates of the relative change of every singular value in the second half of the run."""
    values = run[f"singular_values_{name}"].values
    values = values[np.isfinite(values[:, -1]).all(axis=-1)]
    middle = values[:, values.shape[1] // 2]
    change: np.ndarray = np.median(values[:, -1] / middle - 1.0, axis=0)
    return change


def _claims(settings: Settings, results: Results) -> Iterator[Verdict]:
    for depth in settings.depths:
        quiet, noisy = (results.get(f"depth-{depth}-{kind}") for kind in (_QUIET, _NOISY))
        if quiet is not None and quiet.sizes["time"] > 1:
            yield from _all_stay(quiet, depth, range(1, depth + 1), "δ = 0: no singular value of any layer")
        if noisy is None or noisy.sizes["time"] < 2:
            continue
        for layer, words in ((1, "first"), (depth, "last")):
            yield from _outer_falls(settings, noisy, depth, layer, words)
        if depth > 2:
            yield from _all_stay(
                noisy,
                depth,
                range(2, depth),
                f"δ = {settings.label_noise:g}: no singular value of the layers between",
                law="middle layers keep their rank",
            )


def _all_stay(
    run: xr.Dataset, depth: int, layers: range, subject: str, law: str = "no layer loses rank"
) -> Iterator[Verdict]:
    ratios = [_ratios(run, f"W{layer}") for layer in layers]
    found = [each for each in ratios if each is not None]
    if not found:
        return
    every = np.concatenate(found)
    recent = max(float(np.max(np.abs(_recent_change(run, f"W{layer}")))) for layer in layers)
    fallen, end = int((every < FALLEN).sum()), float(run["time"].values[-1])
    yield Verdict(
        law=f"{law}, {depth} layers",
        statement=f"{subject} falls below a thousandth of its start (median over replicates)",
        predicted=0.0,
        measured=float(fallen),
        error=float(fallen),
        tolerance=0.0,
        passed=fallen == 0,
        n_checked=run.sizes["replicate"],
        note=f"the smallest of {len(every)} median ratios at t = {end:g} is {every.min():.3g}; in the second half of "
        f"the run none changed by more than {100 * recent:.2g} % (median)",
    )


def _outer_falls(settings: Settings, run: xr.Dataset, depth: int, layer: int, words: str) -> Iterator[Verdict]:
    ratios = _ratios(run, f"W{layer}")
    if ratios is None:
        return
    mortal = max(len(ratios) - settings.teacher_rank, 0)
    if mortal == 0:
        return
    fallen, end = int((ratios < FALLEN).sum()), float(run["time"].values[-1])
    lowest = ", ".join(f"{ratio:.2g}" for ratio in ratios[settings.teacher_rank :])
    yield Verdict(
        law=f"{words} layer falls to the teacher's rank, {depth} layers",
        statement=f"δ = {settings.label_noise:g}: all but {len(ratios) - mortal} of the {len(ratios)} singular values "
        f"of W{layer} fall below a thousandth of their start (median over replicates)",
        predicted=float(mortal),
        measured=float(fallen),
        error=float(abs(mortal - fallen)),
        tolerance=0.0,
        passed=True if fallen == mortal else (None if fallen < mortal else False),
        n_checked=run.sizes["replicate"],
        note=f"median ratios at t = {end:g}: {lowest}"
        + ("" if fallen >= mortal else "; not all yet, deeper networks take longer"),
    )


def _figure(settings: Settings, results: Results, columns: Literal[1, 2]) -> Figure | None:
    from rankfall.experiments._deep_figure import draw

    pairs = {
        depth: (results.get(f"depth-{depth}-{_QUIET}"), results.get(f"depth-{depth}-{_NOISY}"))
        for depth in settings.depths
    }
    return draw(pairs, settings.label_noise, columns)


def _caption(settings: Settings) -> str:
    return (
        f"Networks of {_listed(settings.depths)} layers, {settings.replicates} replicates each; gradient flow blue, "
        f"with label noise (δ = {settings.label_noise:g}) orange; medians over the replicates, without what has fallen "
        "below 1e-14 of the largest. First: the singular values of every layer and of the product P at "
        f"t = {settings.duration:g}. Second: those of the first layer against time. The product falls to the teacher's "
        "rank in both cases, because it learns the teacher."
    )


def _notes(settings: Settings) -> list[str]:
    notes = [
        "Of more than two layers the stochastic flow is followed by Euler–Maruyama, gradient flow by DOP853; the laws "
        "are checked for every pair of neighbouring layers.",
    ]
    if max(settings.depths) > 2:
        notes.append(
            "With hidden layers of equal width no pair of a deeper network is wide enough for a determinant (a pair "
            "needs l_i ≥ l_(i−1) + l_(i+1)): its balance is checked instead."
        )
    return notes


def _listed(numbers: tuple[int, ...]) -> str:
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
