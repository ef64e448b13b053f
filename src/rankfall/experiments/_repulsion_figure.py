"""The figure of the repulsion: forces along paths, the coth, and spectra with and without it."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rankfall.experiments._target import Results
from rankfall.report import style

__all__ = ["draw"]

_LN10 = math.log(10.0)
_ON, _OFF = style.NOISE_COLOURS[0], style.QUIET_COLOUR


def draw(results: Results, columns: Literal[1, 2]) -> Figure | None:
    """Five panels, of what there is; None if there is nothing."""
    if not results:
        return None
    with style.context():
        figure = style.new_figure(columns, 5.0 if columns == 2 else 11.5)
        if columns == 2:
            grid = figure.add_gridspec(2, 6, height_ratios=(1.15, 1.0))
            places = (grid[0, :4], grid[0, 4:], grid[1, :2], grid[1, 2:4], grid[1, 4:])
        else:
            grid = figure.add_gridspec(5, 1, height_ratios=(1.4, 1, 1, 1, 1))
            places = tuple(grid[i, 0] for i in range(5))
        paths, push, kept, free, both = (figure.add_subplot(place) for place in places)
        free.sharey(kept)
        if "networks" in results:
            _draw_paths(figure, paths, results["networks"])
        _title(paths, "a", "Eigenvalues of M and what the repulsion does to them")
        if "ensemble" in results:
            _draw_push(push, results["ensemble"])
        _title(push, "b", "The force")
        if "with-repulsion" in results:
            _draw_spectrum(kept, results["with-repulsion"], _ON)
        _title(kept, "c", "σ(W1), repulsion on")
        if "without-repulsion" in results:
            _draw_spectrum(free, results["without-repulsion"], _OFF)
        _title(free, "d", "σ(W1), repulsion off")
        _draw_determinants(both, results)
        _title(both, "e", "det M, both")
    return figure


def _title(axes: Axes, letter: str, words: str) -> None:
    axes.set_title(f"{letter}   {words}")


def _draw_paths(figure: Figure, axes: Axes, run: xr.Dataset) -> None:
    """log₁₀ λ_i of one run coloured by the repulsion, with arrows; two more runs grey."""
    time = run["time"].values
    logs = 2.0 * np.log10(np.maximum(run["singular_values_Z"].values, 1e-300))
    force = (run["force_pairs"].sum("mode_Z_other", skipna=False) + run["force_zero_modes"]).values / _LN10
    for other in range(1, min(3, len(logs))):
        axes.plot(time, logs[other], color=style.GREY, linewidth=0.5, alpha=0.5, zorder=1)
    window = max(1, len(time) // 28)
    smooth = _running_mean(force[0], window)
    largest = float(np.nanquantile(np.abs(smooth), 0.9)) or 1.0
    scale = Normalize(-largest, largest)
    lines: Any = None
    for mode in range(logs.shape[2]):
        points = np.column_stack([time, logs[0, :, mode]])
        lines = LineCollection(
            np.stack([points[:-1], points[1:]], axis=1), cmap="coolwarm", norm=scale, linewidths=1.8, zorder=2
        )
        lines.set_array(0.5 * (smooth[:-1, mode] + smooth[1:, mode]))
        axes.add_collection(lines)
    span = (time[-1] - time[0]) / 14.0
    for index in range(window, len(time) - 1, max(1, len(time) // 7)):
        for mode in range(logs.shape[2]):
            push = smooth[index, mode] * span
            if not math.isfinite(push):
                continue
            begin = (time[index], logs[0, index, mode])
            axes.annotate(
                "",
                xy=(time[index] + span, begin[1] + push),
                xytext=begin,
                arrowprops={"arrowstyle": "-|>", "color": style.INK, "linewidth": 0.7, "mutation_scale": 6.0},
                zorder=3,
            )
    axes.set_xlim(time[0], time[-1] + span)
    low, high = np.nanmin(logs[0]), np.nanmax(logs[:3])
    axes.set_ylim(low - 0.06 * (high - low), high + 0.12 * (high - low))
    axes.set_xlabel("time t")
    axes.set_ylabel("log₁₀ λᵢ(M)")
    bar = figure.colorbar(lines, ax=axes, fraction=0.04, pad=0.01, aspect=25)
    bar.set_label("repulsion, decades per time")
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]


def _running_mean(values: np.ndarray, half: int) -> np.ndarray:
    """Mean over up to `half` save points on either side, along the first axis."""
    return np.stack([values[max(0, i - half) : i + half + 1].mean(axis=0) for i in range(len(values))])


def _draw_push(axes: Axes, found: xr.Dataset) -> None:
    """Measured repulsion against the gap, and the coth."""
    gap = np.linspace(0.25, 5.0, 200)
    axes.axhline(1.0, color=style.GREY, linewidth=0.8, linestyle="--")
    axes.plot(gap, 1.0 / np.tanh(0.5 * gap), color=style.INK, linewidth=1.0, label="coth(gap/2)")
    axes.errorbar(
        found["gap"].values,
        found["push"].values,
        yerr=2.0 * found["push_error"].values,
        fmt="o",
        markersize=3.0,
        color=_ON,
        elinewidth=0.9,
        label="measured",
    )
    axes.set_xlim(0.0, 5.0)
    axes.set_ylim(0.0, 8.0)
    axes.set_xlabel("gap log λᵢ − log λⱼ")
    axes.set_ylabel("repulsion / 4n")
    axes.legend(loc="upper right")


def _draw_spectrum(axes: Axes, run: xr.Dataset, colour: str) -> None:
    """Singular values of W1: medians and bands from 10 % to 90 %."""
    time = run["time"].values
    values = np.log10(np.maximum(run["singular_values_W1"].values, 1e-300))
    low, middle, high = np.nanquantile(values, [0.1, 0.5, 0.9], axis=0)
    for mode in range(values.shape[2]):
        axes.fill_between(time, low[:, mode], high[:, mode], color=colour, alpha=0.13, linewidth=0)
        axes.plot(time, middle[:, mode], color=colour, linewidth=1.2)
    axes.set_xlim(time[0], time[-1])
    axes.set_xlabel("time t")
    axes.set_ylabel("log₁₀ σᵢ(W1)")


def _draw_determinants(axes: Axes, results: Results) -> None:
    """Medians of log₁₀ det M, which lie on each other."""
    for name, colour, line, width, label in (
        ("with-repulsion", _ON, "-", 2.4, "on"),
        ("without-repulsion", _OFF, "--", 1.2, "off"),
    ):
        if name in results:
            run = results[name]
            axes.plot(
                run["time"].values,
                run["log_det"].median("replicate").values / _LN10,
                color=colour,
                linestyle=line,
                linewidth=width,
                label=f"repulsion {label}",
            )
            axes.set_xlim(run["time"].values[0], run["time"].values[-1])
    axes.set_xlabel("time t")
    axes.set_ylabel("log₁₀ det M")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left")
