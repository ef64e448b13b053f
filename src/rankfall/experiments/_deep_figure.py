"""The figure of the target `deep`: final singular values of every layer, and those of the first layer against time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from rankfall.report import style

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

Pair = tuple["xr.Dataset | None", "xr.Dataset | None"]
# What has fallen below this share of the largest singular value is rounding noise.
_ROUNDING = 1e-14


def draw(pairs: Mapping[int, Pair], label_noise: float, columns: Literal[1, 2]) -> Figure | None:
    """Gradient flow and stochastic flow side by side for every depth that has a run."""
    there = {depth: pair for depth, pair in pairs.items() if any(run is not None for run in pair)}
    if not there:
        return None
    with style.context():
        figure = style.new_figure(columns, 4.0 if columns == 2 else 1.7 * len(there) + 0.5)
        if columns == 2:
            grid = figure.subplots(2, len(there), squeeze=False, sharey="row")
        else:
            grid = figure.subplots(len(there), 2, squeeze=False, sharey="col").T
        for place, (depth, pair) in enumerate(there.items()):
            for run, colour, shift in zip(
                pair, (style.QUIET_COLOUR, style.NOISE_COLOURS[0]), (-0.14, 0.14), strict=True
            ):
                if run is not None:
                    _draw_layers(grid[0, place], run, depth, colour, shift)
                    _draw_first_layer(grid[1, place], run, colour)
            grid[0, place].set(title=f"{depth} layers")
            grid[0, place].set_yscale("log")
            grid[1, place].set_yscale("log")
            last = place == len(there) - 1
            if columns == 2 or last:
                grid[0, place].set_xlabel("layer")
                grid[1, place].set_xlabel("time")
            if (columns == 2 and place == 0) or columns == 1:
                grid[0, place].set_ylabel("σᵢ at the end")
                grid[1, place].set_ylabel("σᵢ of W1")
        handles = [
            grid[0, 0].plot([], [], "o", color=style.QUIET_COLOUR, markersize=3.5, label="gradient flow")[0],
            grid[0, 0].plot(
                [], [], "o", color=style.NOISE_COLOURS[0], markersize=3.5, label=f"label noise, δ = {label_noise:g}"
            )[0],
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, handletextpad=0.3)
    return figure


def _medians(run: xr.Dataset, name: str) -> np.ndarray:
    """Medians over the replicates that are finite, shape (time, mode), without rounding noise."""
    values = run[f"singular_values_{name}"].values
    values = np.where(values > _ROUNDING * values[..., :1], values, np.nan)
    some = np.isfinite(values).any(axis=0)
    middle = np.full(values.shape[1:], np.nan)
    middle[some] = np.nanmedian(values[:, some], axis=0)
    return middle


def _product(run: xr.Dataset) -> str | None:
    return "product" if "singular_values_product" in run else None


def _draw_layers(axes: Axes, run: xr.Dataset, depth: int, colour: str, shift: float) -> None:
    names = [f"W{layer}" for layer in range(1, depth + 1)]
    if _product(run) is not None:
        names.append("product")
    for place, name in enumerate(names, start=1):
        last = _medians(run, name)[-1]
        axes.plot(np.full(len(last), place + shift), last, "o", color=colour, markersize=2.6, markeredgewidth=0)
    ticks = [str(layer) for layer in range(1, depth + 1)] + ["P"] * (len(names) > depth)
    axes.set_xticks(range(1, len(names) + 1), ticks)
    axes.set_xlim(0.4, len(names) + 0.6)


def _draw_first_layer(axes: Axes, run: xr.Dataset, colour: str) -> None:
    axes.plot(run["time"].values, _medians(run, "W1"), color=colour, linewidth=1.0)
