"""Beyond linear networks: is it with label noise that the rank falls, and only with it?"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rankfall as rf
from rankfall import _checks
from rankfall.experiments._target import Part, Results, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rankfall.experiments._beyond._experiment import Experiment
    from rankfall.laws import Verdict

__all__ = ["Settings", "target"]


@dataclass(frozen=True)
class Settings:
    """What the experiments have in common; each has settings of its own, which the report lists.

    Attributes:
        replicates: Seeds per arm, each with its own data, start and noise; the claims ask for 5.
        seed: The first of them.
        data_dir: Folder with images in IDX files (MNIST, Fashion-MNIST) for the convolutional network and the
            transformer, instead of scikit-learn's digits.
        only: Names of the experiments that run; all if empty.
        quick: Fewer steps, fewer experiments.
    """

    replicates: int = 5
    seed: int = 0
    data_dir: str | None = None
    only: tuple[str, ...] = ()
    quick: bool = False

    @classmethod
    def choose(cls, *, quick: bool = False, **chosen: Any) -> Settings:
        """Take the defaults and whatever else is given; None counts as not given.

        Raises:
            InvalidInput: Not a setting, out of range, or not a folder.

        Example:
            >>> from rankfall.experiments import beyond
            >>> beyond.Settings.choose(replicates=2, seed=7).seeds
            range(7, 9)
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise rf.InvalidInput(f"{', '.join(unknown)}: no such setting of this experiment.")
        return replace(cls(quick=quick), **given)._checked()

    def _checked(self) -> Settings:
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise rf.InvalidInput(f"data_dir must be a folder, got {self.data_dir}; give the folder of the IDX files.")
        if isinstance(self.only, str) or not all(isinstance(name, str) for name in self.only):
            raise rf.InvalidInput(f"only must be names of experiments, got {self.only!r}.")
        replicates = _checks.whole_number(self.replicates, "replicates", at_most=1000)
        return replace(
            self,
            replicates=replicates,
            # The last seed is a coordinate, which holds no more than 2^63 − 1.
            seed=_checks.whole_number(self.seed, "seed", at_least=0, at_most=2**63 - replicates),
            data_dir=None if self.data_dir is None else str(self.data_dir),
            only=tuple(dict.fromkeys(self.only)),
            quick=bool(self.quick),
        )

    @property
    def seeds(self) -> range:
        """The numbers of the seeds."""
        return range(self.seed, self.seed + self.replicates)


def _check_available() -> None:
    """Raise `InvalidInput` where PyTorch or scikit-learn, which brings the digits, is not installed."""
    absent = [name for name, module in (("PyTorch", "torch"), ("scikit-learn", "sklearn")) if not _installed(module)]
    if absent:
        raise rf.InvalidInput(
            f"the experiments beyond linear networks need {' and '.join(absent)}, not installed here; "
            "install with: pip install 'rankfall[torch,data]'"
        )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _experiments(settings: Settings) -> list[Experiment]:
    """Those that were asked for, in the order of the figure."""
    from rankfall.experiments._beyond import adapters, convolution, digits, teacher_student, transformer

    modules = [teacher_student, digits, convolution, transformer, adapters]
    every = [experiment for module in modules for experiment in module.experiments(settings)]
    names = [each.name for each in every]
    foreign = [name for name in settings.only if name not in names]
    if foreign:
        raise rf.InvalidInput(f"there is no experiment {', '.join(foreign)}; there are {', '.join(names)}.")
    return [each for each in every if not settings.only or each.name in settings.only]


def target(settings: Settings) -> Target:
    """Every experiment with and without label noise: the ranks of weights, features and Jacobian.

    Raises:
        InvalidInput: PyTorch or scikit-learn is not installed, an experiment is not there, or its data cannot be read:
            said before any work.
    """
    _check_available()
    experiments = _experiments(settings)
    return Target(
        name="beyond",
        title="Beyond linear networks: where label noise lowers the rank, and where it does not",
        lead="In two-layer linear networks label noise lowers the rank and descent alone does not. Is that so with "
        "activations, too? Each experiment trains by gradient descent, by mini-batches, and by mini-batches with fresh "
        "noise on their labels (classes are flipped); start, data, step size and number of steps are the same for all "
        "of them, seed by seed. This is a measurement, not a law: where the claim does not hold, figure and verdict "
        "say so.",
        settings=asdict(settings) | {"experiments": {each.name: dict(each.settings) for each in experiments}},
        parts=[
            Part(f"{each.name}.{arm.name}", f"{each.title}: {arm.title}", arm.compute)
            for each in experiments
            for arm in each.arms
        ],
        claims=partial(_claims, experiments),
        figure=partial(_figure, experiments),
        caption=partial(_caption, experiments),
        notes=partial(_notes, experiments),
        shown=lambda results: _shown(settings, experiments),
    )


def _of(experiment: Experiment, results: Results) -> Results:
    """Its datasets by the name of the arm."""
    names = {arm.name: f"{experiment.name}.{arm.name}" for arm in experiment.arms}
    return {arm: results[part] for arm, part in names.items() if part in results}


def _by_experiment(experiments: Sequence[Experiment], results: Results) -> dict[str, Results]:
    return {each.name: _of(each, results) for each in experiments}


def _claims(experiments: Sequence[Experiment], results: Results) -> list[Verdict]:
    from rankfall.experiments._beyond._claims import claims

    return [verdict for each in experiments for verdict in claims(each, _of(each, results))]


def _figure(experiments: Sequence[Experiment], results: Results, columns: Literal[1, 2]) -> Figure | None:
    from rankfall.experiments._beyond._figure import draw

    return draw(experiments, _by_experiment(experiments, results), columns)


def _caption(experiments: Sequence[Experiment], results: Results) -> str:
    from rankfall.experiments._beyond._claims import STAYS
    from rankfall.experiments._beyond._summary import verdict_sentences

    seeds = max((run.sizes["seed"] for run in results.values() if "seed" in run.sizes), default=0)
    return (
        "Effective rank (exponential of the entropy of the singular values) over its start, mean over the matrices or "
        f"layers of a network: median and, as a band, least and largest of {seeds} seeds. Features: outputs of the "
        "hidden layers on samples that are not trained on, centred. Jacobian: outputs on such samples, "
        "differentiated with respect to all parameters, as in Andriushchenko et al. (ICML 2023). Dashed: "
        f"the claim’s limit, {STAYS:g} of the start. "
        + " ".join(verdict_sentences(experiments, _by_experiment(experiments, results)))
    ).strip()


def _notes(experiments: Sequence[Experiment], results: Results) -> list[str]:
    from rankfall.experiments._beyond._summary import counts, general_notes

    arms = _by_experiment(experiments, results)
    return [
        *general_notes(experiments, arms),
        *(
            " ".join([f"{each.title}: {each.lead}", *each.notes(arms[each.name]), *counts(arms[each.name])])
            for each in experiments
        ),
    ]


def _shown(settings: Settings, experiments: Sequence[Experiment]) -> dict[str, str]:
    shown = {"seeds": f"{settings.seeds[0]} to {settings.seeds[-1]}"}
    if settings.data_dir is not None:
        shown["data folder"] = settings.data_dir
    for each in experiments:
        shown[each.title] = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in each.settings.items())
    return shown
