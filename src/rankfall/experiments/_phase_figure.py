"""The figure of the phase diagrams: maps of the rank with contours, and the flow's errors against the step."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rankfall.experiments import _phase_claims as claims
from rankfall.experiments._target import Results
from rankfall.report import style

__all__ = ["caption", "draw"]

_COLOURS = "viridis"
# Cells along an axis from which on contours are drawn.
_FEWEST = 5
# The laws whose errors are drawn: quantity, words, marker, line.
_LAWS = (
    ("log_det_slope", "rate of log det M", "o", "-"),
    ("final_balance", "balance ‖Q‖", "s", "--"),
    ("effective_rank", "effective rank", "^", ":"),
)
_METHODS = {
    "label-noise-descent": ("label noise, full batch", style.QUIET_COLOUR),
    "stochastic-gradient-descent": ("single samples", style.NOISE_COLOURS[0]),
}


def draw(results: Results, columns: Literal[1, 2]) -> Figure | None:
    """All panels for which there are results; None if there are none."""
    noises = [] if "width" not in results else results["width"]["noise"].values[[0, -1]].tolist()
    wanted = [name for name in ("noise", "step") if name in results] + [f"width{i}" for i in range(len(noises))]
    if not wanted:
        return None
    with style.context():
        if columns == 2:
            figure = style.new_figure(2, 2.75 * -(-len(wanted) // 2))
            grid: Any = [wanted[i : i + 2] for i in range(0, len(wanted), 2)]
            grid = [row if len(row) == 2 else [*row, "."] for row in grid]
        else:
            figure = style.new_figure(1, 2.75 * len(wanted))
            grid = [[name] for name in wanted]
        places = figure.subplot_mosaic(grid)
        if "noise" in results:
            _noise(figure, places["noise"], results["noise"])
        if "step" in results:
            _step(places["step"], results["step"])
        for i, noise in enumerate(noises):
            _width(figure, places[f"width{i}"], results["width"], noise)
    return figure


def _map(figure: Figure, axes: Axes, values: np.ndarray, top: float) -> None:
    """A heat map with a contour half-way between any two whole ranks; grey where a cell is missing.

    A map of few cells has none: straight lines between their middles would show what nobody computed.
    """
    image = axes.pcolormesh(np.ma.masked_invalid(values), cmap=_COLOURS, vmin=0.0, vmax=top)
    axes.set_facecolor("#d9d9d9")
    levels = np.arange(0.5, top, 1.0)
    if min(values.shape) >= _FEWEST and np.isfinite(values).any():
        x, y = np.arange(values.shape[1]) + 0.5, np.arange(values.shape[0]) + 0.5
        axes.contour(x, y, np.ma.masked_invalid(values), levels=levels, colors="white", linewidths=0.9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, ticks=np.arange(0, top + 1), pad=0.02, fraction=0.06)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def _noise(figure: Figure, axes: Axes, result: xr.Dataset) -> None:
    part = result["final_rank"].transpose("teacher_rank", "noise")
    ranks, noises = part["teacher_rank"].values, part["noise"].values
    _map(figure, axes, part.values, float(ranks.max()))
    # The tick labels of a long axis would touch.
    every = max(1, -(-len(noises) // 7))
    places = np.arange(0, len(noises), every)
    axes.set_xticks(places + 0.5, [f"{noises[i]:.2g}" for i in places])
    axes.set_yticks(np.arange(len(ranks)) + 0.5, [str(rank) for rank in ranks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(title="Rank left, by noise and teacher", xlabel="noise σ²", ylabel="rank of the teacher")


def _width(figure: Figure, axes: Axes, result: xr.Dataset, noise: float) -> None:
    part = result["final_rank"].sel(noise=noise).transpose("shape", "excess")
    excess, shapes = part["excess"].values, part["shape"].values
    ranks = result["final_rank"].values
    _map(figure, axes, part.values, float(np.ceil(np.max(ranks[np.isfinite(ranks)], initial=1.0) - 0.25)))
    line = int(np.searchsorted(excess, 0))
    if 0 < line < len(excess):
        axes.axvline(line, color="black", linewidth=1.4, linestyle=(0, (2, 1.5)))
    axes.set_xticks(np.arange(len(excess)) + 0.5, [f"{x:+d}" if x else "0" for x in excess])
    axes.set_yticks(np.arange(len(shapes)) + 0.5, [str(shape) for shape in shapes])
    axes.set(
        title=f"Rank left, by width and shape, σ² = {noise:g}",
        xlabel="width − (inputs + outputs)",
        ylabel="inputs / outputs",
    )


def _step(axes: Axes, result: xr.Dataset) -> None:
    if claims.FLOW not in result["name"].values:
        axes.set_axis_off()
        return
    steps, low = result["step_size"].values, 1e-3
    axes.set(xscale="log", yscale="log")
    axes.set(xlim=(steps.min() / 1.3, steps.max() * 1.3), ylim=(low, 8.0))
    for quantity, words, marker, line in _LAWS:
        off = claims.deviations(result, quantity)
        for name, (_, colour) in _METHODS.items():
            if name not in off["name"].values:
                continue
            values, errors = np.abs(off["deviation"].sel(name=name).values), off["error"].sel(name=name).values
            # What is within two standard errors of zero is no deviation yet.
            known = np.isfinite(values) & (values > 2 * errors) & (values > low)
            axes.errorbar(
                steps[known], values[known], 2 * errors[known], color=colour, marker=marker, linestyle=line,
                markersize=3.2, linewidth=1.0, elinewidth=0.8,
            )  # fmt: skip
        axes.plot([], [], color=style.GREY, marker=marker, linestyle=line, markersize=3.2, linewidth=1.0, label=words)
    lost = result["status"].values == 2
    for row, name in enumerate(result["name"].values):
        if lost[row].any() and name in _METHODS:
            first = float(steps[np.flatnonzero(lost[row])[0]])
            axes.axvline(first, color=_METHODS[name][1], linewidth=0.8, linestyle=(0, (1, 1.5)))
            axes.annotate("all diverge", (first, low), (-2, 3), textcoords="offset points", rotation=90, fontsize=6.5,
                          ha="right", va="bottom", color=_METHODS[name][1])  # fmt: skip
    for words, colour in _METHODS.values():
        axes.plot([], [], color=colour, label=words)
    axes.axhline(0.1, color=style.GREY, linewidth=0.7)
    axes.set(
        title="How far descents are from the flow",
        xlabel="step size η",
        ylabel="relative deviation",
    )
    axes.legend(loc="upper left", fontsize=6.5, handlelength=2.2, labelspacing=0.3)


def caption(results: Results) -> str:
    """What the panels show."""
    said = []
    if "noise" in results:
        said.append(
            "Mean rank of W1 that is left (modes above a thousandth of their start) over the noise and the rank of the "
            "teacher: whitened inputs, 4 inputs and outputs, singular values of the teacher 1, runs of 400/σ²; "
            "contours half-way between whole ranks."
        )
    if "step" in results:
        said.append(
            "Deviation of descents from the stochastic flow with the same noise, relative to it, bars of two standard "
            "errors, where they are clear of zero; 5 inputs, 2 outputs, runs of 3/σ². At the grey line it is a tenth. "
            "Networks that diverged are left out."
        )
    if "width" in results:
        said.append(
            "Rank over width and shape at inputs + outputs = 8, whitened, teachers of full rank, runs of 200/σ²; left "
            "of the dashed line det M is zero."
        )
    return " ".join(said)
