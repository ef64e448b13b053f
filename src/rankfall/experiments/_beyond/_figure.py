"""The figure: a row for every experiment, a column for every rank, relative to the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rankfall.experiments._beyond._claims import STAYS, THINGS, find, ratios
from rankfall.experiments._beyond._experiment import GD, LABEL_NOISE, SGD, Experiment
from rankfall.experiments._target import Results
from rankfall.report import style

__all__ = ["MARKS", "draw"]

# One colour for an arm wherever it appears; an arm that is not named here gets one of the rest.
_COLOURS = {GD: style.QUIET_COLOUR, SGD: style.NOISE_COLOURS[1], LABEL_NOISE: style.NOISE_COLOURS[0]}
_OTHERS = style.NOISE_COLOURS[2:]
# What stands in the corner of a panel, by outcome.
MARKS = {
    "holds": "✓ holds",
    "falls without noise": "✗ both fall",
    "stays with noise": "✗ both stay",
    "neither": "✗ reversed",
    "open": "? open",
}
_LOSS = "loss"


def draw(experiments: Sequence[Experiment], results: Mapping[str, Results], columns: Literal[1, 2]) -> Figure | None:
    """Draw the experiments that have something to show; in two columns of a paper with the loss beside the ranks.

    Args:
        experiments: In the order of the rows.
        results: By experiment, then by arm.
        columns: Of the paper.
    """
    drawn = {each.name: _drawable(results.get(each.name, {})) for each in experiments}
    rows = [each for each in experiments if drawn[each.name]]
    if not rows:
        return None
    things = [*THINGS, *([_LOSS] if columns == 2 else [])]
    colours = _colours(rows)
    with style.context():
        figure = style.new_figure(columns, 0.75 + (1.05 if columns == 2 else 0.95) * len(rows))
        grid = figure.subplots(len(rows), len(things), squeeze=False, sharex=True)
        for axes, experiment in zip(grid, rows, strict=True):
            arms = drawn[experiment.name]
            for each, thing in zip(axes, things, strict=True):
                _panel(each, arms, thing, colours)
            axes[0].set_ylabel(experiment.title.replace(", ", ",\n"), fontweight="bold", fontsize=7.5)
            _same_heights(axes[: len(THINGS)])
        for each, thing in zip(grid[0], things, strict=True):
            each.set_title(thing.capitalize() if thing != _LOSS else "Training loss", loc="center")
        for each in grid[-1]:
            each.set_xticks([0.0, 0.5, 1.0], ["0", "½", "1"])
        figure.supxlabel("share of the steps", fontsize=8.0)
        figure.legend(
            handles=[Line2D([], [], color=colour, label=title) for title, colour in _titles(rows, colours).items()],
            loc="outside upper center",
            ncols=3 if columns == 2 else 2,
        )
    return figure


def _drawable(arms: Results) -> Results:
    """Arms that have gone beyond their start and have a rank."""
    return {
        name: run
        for name, run in arms.items()
        if run.sizes["step"] > 1 and any(rank in run for rank in THINGS.values())
    }


def _colours(rows: Sequence[Experiment]) -> dict[str, str]:
    names = dict.fromkeys(arm.name for each in rows for arm in each.arms)
    others = [name for name in names if name not in _COLOURS]
    return _COLOURS | {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}


def _titles(rows: Sequence[Experiment], colours: Mapping[str, str]) -> dict[str, str]:
    """Colour by title, each arm once."""
    return {arm.title: colours[arm.name] for each in rows for arm in each.arms}


def _panel(axes: Axes, arms: Results, thing: str, colours: Mapping[str, str]) -> None:
    if thing == _LOSS:
        for name, run in arms.items():
            if _LOSS in run:
                _band(axes, run, run[_LOSS].transpose("seed", "step").values, colours[name], _width(name))
        axes.set_yscale("log")
        axes.tick_params(axis="y", which="minor", left=False)
        return
    shown = {name: run for name, run in arms.items() if THINGS[thing] in run}
    if not shown:
        axes.set_axis_off()
        return
    axes.axhline(STAYS, color=style.GREY, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    for name, run in shown.items():
        _band(axes, run, ratios(run, thing), colours[name], _width(name))
    found = find(arms, thing)
    if found is not None:
        axes.text(0.04, 0.05, MARKS[found.outcome], transform=axes.transAxes, fontsize=7.0, va="bottom")


def _band(axes: Axes, run: xr.Dataset, values: np.ndarray, colour: str, width: float = 1.2) -> None:
    """Median over the seeds that are left, and a band from the least to the largest."""
    left = np.isfinite(values).any(axis=0)
    time = run["step"].values[left] / _last_step(run)
    values = values[:, left]
    if not len(time):
        return
    axes.fill_between(time, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.2, linewidth=0)
    axes.plot(time, np.nanmedian(values, axis=0), color=colour, linewidth=width, solid_capstyle="butt")


def _width(arm: str) -> float:
    """Gradient descent is drawn first and broad, so that it is seen where mini-batches do the same."""
    return 2.2 if arm == GD else 1.2


def _last_step(run: xr.Dataset) -> int:
    """Of the whole training, also where it was interrupted."""
    return int(run.attrs.get("steps", run["step"].values[-1]))


def _same_heights(axes: Sequence[Axes]) -> None:
    """Ranks start at 1 in all panels of a row: one scale from 0, labelled once."""
    top = max(1.12, *(each.get_ylim()[1] for each in axes if each.axison)) if any(e.axison for e in axes) else 1.12
    for i, each in enumerate(axes):
        each.set_ylim(0.0, top)
        each.set_yticks([0.0, 0.5, 1.0], ["0", "½", "1"] if i == 0 else [])
