"""The figure of gradient flow that learns one mode after the other: the run, its law, and when each mode is learned."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankfall.report import figures, style

__all__ = ["learning"]

_DASHED = (0, (4, 3))
_MARK: dict[str, Any] = {"marker": "o", "markersize": 3.5, "color": style.NOISE_COLOURS[0], "linestyle": "none"}


def learning(run: xr.Dataset, law: xr.Dataset, *, columns: Literal[1, 2] = 2) -> Figure:
    """Draw loss, singular values of W1 and strengths of the modes against time, the law dashed on top of the run.

    Medians over the replicates. Below the curves of the modes a mark says when each has reached the law's share of its
    target. Where the run kept its weights the modes are measured, else only the law is drawn.

    Args:
        run: A run of gradient flow.
        law: What `laws.gradient_flow.predict` says of it.
        columns: Width of one column of a paper, the panels below each other, or of two, side by side.
    """
    with style.context():
        figure = style.new_figure(columns, 2.6 if columns == 2 else 6.6)
        loss, layer, modes = figure.subplots(1, 3) if columns == 2 else figure.subplots(3, 1)
        _curves(loss, run, law, "loss")
        loss.set(title="Loss", xlabel="time", ylabel="L(W)")
        _curves(layer, run, law, "singular_values_W1")
        layer.set(title="Singular values of W1", xlabel="time", ylabel="σᵢ")
        marked = 0
        if np.isfinite(law["mode_target"].values).all():
            marked = _modes(modes, run, law)
        else:  # a loss without modes
            _curves(modes, run, law, "singular_values_W2")
            modes.set(title="Singular values of W2", xlabel="time", ylabel="σᵢ")
        for axes in (loss, layer, modes):
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        handles = loss.plot([], [], color=style.QUIET_COLOUR, linewidth=2.4, alpha=0.55, label="run")
        numerical = str(law.attrs.get("source", "")).startswith("ODE")
        words = "ODE solver" if numerical else "closed form"
        handles += loss.plot([], [], color=style.INK, linewidth=1.1, linestyle=_DASHED, label=words)
        if marked:
            handles += loss.plot([], [], **_MARK, label=f"{law.attrs['share']:.0%} of a mode")
        loss.legend(handles=handles, loc="upper right", handlelength=2.2)
    return figure


def _curves(axes: Axes, run: xr.Dataset, law: xr.Dataset, name: str) -> None:
    middle = figures.over_replicates(np.nanmedian, run[name].values)
    axes.plot(run["time"].values, middle, color=style.QUIET_COLOUR, linewidth=2.4, alpha=0.55)
    _dashed(axes, law, name)


def _dashed(axes: Axes, law: xr.Dataset, name: str) -> None:
    middle = figures.over_replicates(np.nanmedian, law[name].values)
    axes.plot(law["time"].values, middle, color=style.INK, linewidth=1.1, linestyle=_DASHED)


def _modes(axes: Axes, run: xr.Dataset, law: xr.Dataset) -> int:
    """Draw the strengths of the modes; returns how many were learned."""
    measured = _strengths(run, law)
    if measured is not None:
        axes.plot(run["time"].values, measured, color=style.QUIET_COLOUR, linewidth=2.4, alpha=0.55)
    _dashed(axes, law, "mode_strength")
    title = "Modes of W1W2" if measured is not None else "Modes of W1W2 (law)"
    axes.set(title=title, xlabel="time", ylabel="uᵢᵀ W1W2 vᵢ")
    return _learning_marks(axes, law)


def _strengths(run: xr.Dataset, law: xr.Dataset) -> np.ndarray | None:
    """Median strengths of the modes from the weights of the run, shape (time, mode); None if it kept none."""
    if "W1" not in run or "W2" not in run:
        return None
    product = run["W1"].values @ run["W2"].values
    strengths = np.einsum("im,rtij,jm->rtm", law["mode_input"].values, product, law["mode_output"].values)
    return figures.over_replicates(np.nanmedian, strengths)


def _learning_marks(axes: Axes, law: xr.Dataset) -> int:
    """A dot on the law, and a line down to its time, for every mode that is learned within the run; how many."""
    marked = 0
    share, end = float(law.attrs["share"]), float(law["time"].values[-1])
    times = np.where(np.isfinite(law["learning_time"].values), law["learning_time"].values, np.nan)
    for mode, time in enumerate(figures.over_replicates(np.nanmedian, times)):
        if not (np.isfinite(time) and time <= end):
            continue
        height = share * float(law["mode_target"].values[mode])
        axes.plot([time], [height], **_MARK)
        axes.plot([time, time], [0.0, height], color=_MARK["color"], linewidth=0.8)
        marked += 1
    return marked
