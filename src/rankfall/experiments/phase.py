"""Which noise, width, shape, teacher and step leave which rank: three phase diagrams, each a sweep."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import rankfall as rf
from rankfall import _checks
from rankfall._progress import Progress
from rankfall.experiments import _phase_claims as claims
from rankfall.experiments._target import Part, Target, Work

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Settings", "studies", "target"]

_TITLES = {
    "noise": "rank over noise and teacher rank",
    "width": "rank over width and shape",
    "step": "discrete steps against the flow",
}
# What "few" leaves of the axes, by place: these cells and their numbers are among those of "all".
_FEW: dict[str, dict[str, tuple[int, ...]]] = {
    "noise": {"noise": (2, 5, 8, 12), "teacher_rank": (0, 2, 4)},
    "width": {"excess": (0, 2, 5, 6, 9), "shape": (1, 3, 5)},
    "step": {"step_size": (2, 4, 6, 8)},
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of the report.

    Attributes:
        points: "all" of the studies as they ship (`rankfall sweep --example phase-noise`, …), or a "few".
        seed: Of the studies.
    """

    points: Literal["all", "few"] = "all"
    seed: int = 0

    @classmethod
    def choose(cls, *, quick: bool = False, **chosen: Any) -> Settings:
        """Take the defaults, few points if `quick`, and whatever else is given; None counts as not given.

        Raises:
            InvalidInput: Not a setting, or out of range.

        Example:
            >>> from rankfall.experiments import phase
            >>> phase.Settings.choose(quick=True)
            Settings(points='few', seed=0)
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise rf.InvalidInput(f"{', '.join(unknown)}: no such setting of this experiment.")
        made = replace(cls("few" if quick else "all"), **given)
        if made.points not in ("all", "few"):
            raise rf.InvalidInput(f"points must be 'all' or 'few', got {made.points!r}.")
        return replace(made, seed=_checks.seed_number(made.seed))


def studies(settings: Settings) -> dict[str, rf.sweep.Study]:
    """The three studies by the name of their part, from the TOML files that rankfall ships.

    Example:
        >>> from rankfall.experiments import phase
        >>> {name: study.n_cells for name, study in phase.studies(phase.Settings()).items()}
        {'noise': 65, 'width': 154, 'step': 27}
    """
    from rankfall.sweep._example import example
    from rankfall.sweep._toml import parse_toml

    found = {}
    for name in _TITLES:
        given = parse_toml(example(f"phase-{name}").encode(), f"phase-{name}")
        given["seed"] = settings.seed
        found[name] = rf.sweep.Study.from_mapping(given)
        if settings.points == "few":
            found[name] = rf.sweep.Study.from_mapping(_thinned(found[name].to_mapping(), _FEW[name]))
    return found


def _thinned(given: dict[str, Any], few: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The study with the values at a few places of its axes."""

    def some(values: Sequence[Any], name: str) -> list[Any]:
        return [values[i] for i in few[name]] if name in few else list(values)

    axes = {setting: {**axis, "values": some(axis["values"], axis["name"])} for setting, axis in given["axes"].items()}
    zipped = []
    for axis in given["zipped"]:
        name = axis["name"]
        thin = {"name": name, "labels": some(axis["labels"], name)}
        for setting in (key for key in axis if key not in ("name", "labels")):
            thin[setting] = {**axis[setting], "values": some(axis[setting]["values"], name)}
        zipped.append(thin)
    return {**given, "axes": axes, "zipped": zipped}


def target(settings: Settings) -> Target:
    """The figure: two maps of the rank, and the errors of the flow's laws against the step."""
    from rankfall.experiments import _phase_figure as figure

    made = studies(settings)
    return Target(
        name="phase",
        title="Which noise, teacher, width and step leave which rank",
        lead=(
            "Three sweeps. The rank of a teacher survives weak label noise and is lost, one after the other of its "
            "modes, where the noise grows; the line width = inputs + outputs, on one side of which det M is zero, "
            "leaves no trace in the rank; and the laws of the stochastic flow hold for descents up to an error "
            "in proportion to their step, which is large already where the descents are still stable."
        ),
        settings=asdict(settings),
        parts=[Part(name, title, partial(_sweep, made[name], title)) for name, title in _TITLES.items()],
        claims=claims.claims,
        figure=figure.draw,
        caption=figure.caption,
        notes=claims.notes,
    )


def _sweep(study: rf.sweep.Study, title: str, work: Work) -> xr.Dataset:
    """Run a study; its store stands in the place of a checkpoint, from which the same call continues."""
    path = work.checkpoint

    def tell(state: rf.sweep.SweepProgress) -> None:
        done = state.done + state.failed
        work.progress(Progress("running", done, state.total, f"{title}: {state}", "cells"))

    try:
        rf.sweep.run(study, path, threads=work.threads, progress=tell if work.progress else False)
    except KeyboardInterrupt as stop:
        if not path.exists():
            raise
        raise rf.SimulationInterrupted(str(stop) or "stopped", _results(path), str(path)) from None
    found = _results(path)
    shutil.rmtree(path)
    return found


def _results(path: Any) -> xr.Dataset:
    """All that is there, without what differs from run to run."""
    return rf.sweep.open_results(path).load().drop_vars(["wall_time", "checksum"])
