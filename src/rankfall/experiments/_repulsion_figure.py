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
from matplotlib.ticker import MaxNLocator

from rankfall.experiments._repulsion_claims import spread
from rankfall.experiments._target import Results
from rankfall.report import style

__all__ = ["draw"]

_LN10 = math.log(10.0)
_MOST_RUNS = 64
_ON, _OFF = style.NOISE_COLOURS[0], style.QUIET_COLOUR


def draw(results: Results, columns: Literal[1, 2]) -> Figure | None:
    """Five panels, of what there is; None if there is nothing."""
    if not results:
        return None
    with style.context():
        figure = style.new_figure(columns, 5.0 if columns == 2 else 11.0)
        if columns == 2:
            halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1.0))
            upper, lower = halves
            paths, push = upper.subplots(1, 2, width_ratios=(2.1, 1.0))
            kept, free, alike = lower.subplots(1, 3)
        else:
            paths, push, kept, free, alike = figure.subplots(5, 1, height_ratios=(1.4, 1, 1, 1, 1))
        free.sharey(kept)
        if "networks" in results:
            _draw_paths(paths, results["networks"], "right" if columns == 2 else "bottom")
        _title(paths, "a", "Eigenvalues of M and their repulsion")
        if "push" in results.get("ensemble", {}):
            _draw_push(push, results["ensemble"])
        _title(push, "b", "The force")
        if "with-repulsion" in results:
            _draw_spectrum(kept, results["with-repulsion"], _ON)
        _title(kept, "c", "σ(W1), repulsion on")
        if "without-repulsion" in results:
            _draw_spectrum(free, results["without-repulsion"], _OFF)
        _title(free, "d", "σ(W1), repulsion off")
        _draw_spreads(alike, results)
        _title(alike, "e", "No teacher")
    return figure


def _title(axes: Axes, letter: str, words: str) -> None:
    axes.set_title(f"{letter}   {words}")


def _draw_paths(axes: Axes, run: xr.Dataset, side: Literal["right", "bottom"]) -> None:
    """log₁₀ λ_i of one run coloured by the repulsion, with arrows; two more runs grey. The first third of the time."""
    run = run.isel(time=slice(max(3, run.sizes["time"] * 36 // 100)))
    time = run["time"].values
    if len(time) < 3:
        return
    logs = 2.0 * np.log10(np.maximum(run["singular_values_Z"].values, 1e-300))
    force = (run["force_pairs"].sum("mode_Z_other", skipna=False) + run["force_zero_modes"]).values / _LN10
    for other in range(1, min(3, len(logs))):
        axes.plot(time, logs[other], color=style.GREY, linewidth=0.5, alpha=0.5, zorder=1)
    window = max(1, len(time) // 20)
    smooth = _running_mean(force[0], window)
    largest = float(np.nanquantile(np.abs(smooth), 0.9)) or 1.0
    scale = Normalize(-largest, largest)
    lines: Any = None
    for mode in range(logs.shape[2]):
        points = np.column_stack([time, logs[0, :, mode]])
        pieces: Any = np.stack([points[:-1], points[1:]], axis=1)
        lines = LineCollection(pieces, cmap="coolwarm", norm=scale, linewidths=1.8, zorder=2)
        lines.set_array(0.5 * (smooth[:-1, mode] + smooth[1:, mode]))
        axes.add_collection(lines)
    span = (time[-1] - time[0]) / 14.0
    for index in range(window, len(time) - 1, max(1, len(time) // 8)):
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
    bar: Any = axes.figure.colorbar(
        lines, ax=axes, location=side, fraction=0.04, pad=0.01, aspect=25, ticks=MaxNLocator(5)
    )
    bar.set_label("repulsion, decades per time")
    bar.outline.set_linewidth(0.5)


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
    """Singular values of W1: every run faint, medians bold; dashed the geometric mean of those of Z."""
    time = run["time"].values
    values = np.log10(np.maximum(run["singular_values_W1"].values, 1e-300))
    for each in values[:_MOST_RUNS]:
        axes.plot(time, each, color=colour, linewidth=0.4, alpha=0.25)
    axes.plot(time, np.nanmedian(values, axis=0), color=colour, linewidth=1.4)
    mean = run["log_det"].median("replicate").values / (2.0 * run.sizes["mode_Z"] * _LN10)
    axes.plot(time, mean, color=style.GREY, linewidth=1.0, linestyle="--")
    axes.annotate(
        f"(det M)$^{{1/{2 * run.sizes['mode_Z']}}}$",
        (time[len(time) // 2], mean[len(time) // 2]),
        (-6, -10),
        textcoords="offset points",
        ha="right",
        va="top",
        color=style.GREY,
        fontsize=7.5,
    )
    axes.set_xlim(time[0], max(time[-1], 1e-9))
    axes.set_xlabel("time t")
    axes.set_ylabel("log₁₀ σᵢ(W1)")


def _draw_spreads(axes: Axes, results: Results) -> None:
    """Distance of the outermost eigenvalues where all directions are alike, in decades."""
    for name, colour, label in (("alike", _ON, "repulsion on"), ("alike-without-repulsion", _OFF, "repulsion off")):
        if name in results:
            run = results[name]
            time = run["time"].values
            axes.plot(time, spread(run) / _LN10, color=colour, label=label)
            axes.set_xlim(time[0], max(time[-1], 1e-9))
    axes.set_xlabel("time t")
    axes.set_ylabel("log₁₀ λ₁/λₘ")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", handlelength=1.2)
