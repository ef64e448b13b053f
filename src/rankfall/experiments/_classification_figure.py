"""The figure of the experiment on classification."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankfall.experiments._target import Results
from rankfall.experiments.classification import BATCHES, DESCENT, FALLEN, FLIPS, TITLES, count_alive
from rankfall.report import figures, style

__all__ = ["draw"]

_LABELS = {DESCENT: TITLES[DESCENT], BATCHES: TITLES[BATCHES], FLIPS: "flipped labels"}
_COLOURS = {DESCENT: style.QUIET_COLOUR, BATCHES: style.NOISE_COLOURS[1], FLIPS: style.NOISE_COLOURS[0]}


def draw(results: Results, columns: Literal[1, 2]) -> Figure:
    """Determinant, singular values of W1, how many are left, and accuracy, of the runs that are there."""
    with style.context():
        figure = style.new_figure(columns, 4.9 if columns == 2 else 9.0)
        axes = figure.subplots(2, 2).ravel() if columns == 2 else figure.subplots(4, 1).ravel()
        for name, run in results.items():
            figures.draw_log_det(axes[0], run, colour=_COLOURS[name], label=_LABELS[name])
            _draw_modes(axes[1], run, name)
            _draw_over_time(axes[2], run, count_alive(run), name)
            _draw_over_time(axes[3], run, run["accuracy"].values, name)
        figures.finish_log_det(axes[0], list(results.values()))
        axes[0].set(title="(a) Determinant of M = ZZᵀ")
        axes[1].set(title="(b) Singular values of W1", ylabel="σᵢ(W1)", yscale="log")
        most = max(run.sizes["mode_W1"] for run in results.values())
        axes[2].set(title="(c) Modes of W1 that are left", ylabel=f"σᵢ ≥ {FALLEN:g} of its start", ylim=(0, 1.1 * most))
        needed = int(next(iter(results.values())).attrs["n_outputs"]) - 1
        axes[2].axhline(needed, color=style.INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes[2].text(0.0, needed + 0.02 * most, f"k − 1 = {needed}", color=style.INK, fontsize=7.5, va="bottom")
        axes[3].set(title="(d) Accuracy on the samples", ylabel="share classified correctly")
        lowest = min(float(np.nanmin(run["accuracy"].values[:, len(run["time"]) // 20 :])) for run in results.values())
        axes[3].set_ylim(max(0.0, lowest - 0.05), 1.01)
        for each in axes:
            each.set_xlabel("time (steps × step size)")
    return figure


def _draw_modes(axes: Axes, run: xr.Dataset, name: str) -> None:
    time, values = run["time"].values, np.nanmedian(run["singular_values_W1"].values, axis=0)
    total = values.shape[1]
    for mode in range(total) if name == FLIPS else (0, total - 1):
        width = 0.7 if name == FLIPS else 1.6
        axes.plot(time, values[:, mode], color=_COLOURS[name], linewidth=width)


def _draw_over_time(axes: Axes, run: xr.Dataset, values: np.ndarray, name: str) -> None:
    width = 3.2 if name == DESCENT else 1.5  # the other curves may lie on top of it
    axes.plot(run["time"].values, np.nanmedian(values, axis=0), color=_COLOURS[name], linewidth=width)
