"""Heat maps of a sweep: colour and contours, the standard error beside or below, hatching where there is no number."""

from __future__ import annotations

from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from rankfall.report import style
from rankfall.report._sweep_axes import SweepAxis
from rankfall.report._sweep_choice import ERROR, Choice
from rankfall.report._sweep_data import FAILED, LEFT, panel_places, status_of, table

__all__ = ["draw_maps"]

_HATCHES = {"failed": ("xxxx", style.NOISE_COLOURS[0]), "not computed yet": ("////", style.GREY)}
_NO_VALUE = "#e4e7ea"
_ERRORS = ListedColormap(mpl.colormaps["YlOrBr"](np.linspace(0.0, 0.7, 256)))
# Maps that span more than this factor are coloured on a logarithmic scale.
_LOG_SPAN = 300.0
_MOST_ERROR_PANELS = 4
_MOST_LEVELS = 7


def draw_maps(results: xr.Dataset, chosen: Choice, columns: Literal[1, 2]) -> Figure:
    """One map per panel, on one scale of colour; with few panels as many maps of the standard error."""
    x, y = chosen.x, chosen.y
    assert y is not None
    places = list(panel_places(chosen))
    values = [table(results, chosen.quantity, chosen, at, (y, x)) for _, _, at, _ in places]
    states = [status_of(results, chosen, at, (y, x)) for _, _, at, _ in places]
    with_error = chosen.quantity + ERROR in results and len(chosen.panels) < 2 and len(places) <= _MOST_ERROR_PANELS
    errors = (
        [table(results, chosen.quantity + ERROR, chosen, at, (y, x)) for _, _, at, _ in places] if with_error else []
    )
    with_error = bool(errors) and bool(np.isfinite(errors).any())
    grid, figure = _grid(chosen, len(places), with_error, columns)
    norm, colours = _norm(values)
    missing: set[str] = set()
    label = _label(results, chosen)
    alone = len(places) == 1
    for number, (_, _, _, title) in enumerate(places):
        axes = grid[0][number]
        image = _draw(axes, x, y, values[number], states[number], norm, colours, missing)
        _contours(axes, x, y, values[number], _levels(chosen.quantity, values), isinstance(norm, LogNorm))
        axes.set_title("" if alone else title)
    if places:
        figure.colorbar(image, ax=grid[0], label=label, pad=0.02)
    if with_error:
        largest = float(np.nanmax(errors))
        error_norm = Normalize(0.0, largest if largest > 0.0 else 1.0)  # a bar of no length would show −0.1 to 0.1
        for number, axes in enumerate(grid[1]):
            image = _draw(axes, x, y, errors[number], states[number], error_norm, _ERRORS, missing)
        figure.colorbar(image, ax=grid[1], label="standard error", pad=0.02)
    across = max(axes.get_subplotspec().colspan.stop for row in grid for axes in row)  # type: ignore[union-attr]
    room = {1: 8, 2: 7 if columns == 2 else 4, 3: 5}.get(across, 4)
    for axes in {id(axes): axes for row in grid for axes in row}.values():
        place = axes.get_subplotspec()
        assert place is not None
        x.dress(axes, "x", label=place.is_last_row() or alone, limits=True, ticks=room)
        y.dress(axes, "y", label=place.is_first_col() or alone, limits=True)
    _legend(figure, missing)
    return figure


def _grid(chosen: Choice, n: int, with_error: bool, columns: Literal[1, 2]) -> tuple[list[list[Axes]], Figure]:
    """Panels of the values and, if wanted, of the errors: side by side for one map, below each other for several."""
    if n == 1 and with_error:
        figure = style.new_figure(columns, 2.7 if columns == 2 else 4.9)
        pair = figure.subplots(1, 2) if columns == 2 else figure.subplots(2, 1)
        return [[pair[0]], [pair[1]]], figure
    if n == 1:
        figure = style.new_figure(columns, 3.6 if columns == 2 else 2.7)
        return [[figure.subplots()]], figure
    if with_error:
        figure = style.new_figure(columns, 4.3)
        rows = figure.subplots(2, n, sharex=True, sharey=True)
        return [list(rows[0]), list(rows[1])], figure
    if len(chosen.panels) == 2:
        down, across = len(chosen.places[1]), len(chosen.places[0])
    else:
        across = min(n, 3 if columns == 2 else 2) if n != 4 or columns == 1 else 2
        down = -(-n // across)
    figure = style.new_figure(columns, 0.5 + (2.0 if columns == 2 else 1.6) * down)
    every = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for empty in every[n:]:
        empty.remove()
    for axes in every[max(0, n - across) : n]:  # those above an empty place need their own numbers
        axes.xaxis.set_tick_params(labelbottom=True)
    return [list(every[:n])], figure


def _draw(
    axes: Axes,
    x: SweepAxis,
    y: SweepAxis,
    values: np.ndarray,
    states: np.ndarray,
    norm: Normalize,
    colours: Any,
    missing: set[str],
) -> Any:
    axes.set_facecolor(_NO_VALUE)
    shown = np.ma.masked_invalid(np.where(states == FAILED, np.nan, values))
    # as pixels within a vector figure: a file of ten thousand rectangles is slow to show
    image = axes.pcolormesh(x.edges, y.edges, shown, norm=norm, cmap=colours, rasterized=shown.size > 2500)
    for words, state in (("failed", FAILED), ("not computed yet", LEFT)):
        hatch, colour = _HATCHES[words]
        for row, column in np.argwhere(states == state):
            missing.add(words)
            corner = (x.edges[column], y.edges[row])
            size = (x.edges[column + 1] - corner[0], y.edges[row + 1] - corner[1])
            axes.add_patch(
                Rectangle(corner, *size, facecolor="white", edgecolor=colour, hatch=hatch, linewidth=0.0, label=words)
            )
    if bool((~np.isfinite(values) & (states != LEFT) & (states != FAILED)).any()):
        missing.add("no value")
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    return image


def _contours(
    axes: Axes, x: SweepAxis, y: SweepAxis, values: np.ndarray, levels: np.ndarray, logarithmic: bool
) -> None:
    finite = values[np.isfinite(values)]
    if min(values.shape) < 3 or not len(finite):
        return
    inside = levels[(levels > finite.min()) & (levels < finite.max())]
    if not len(inside):
        return
    # interpolated on the scales of axes and colours, where a border halfway between two cells also looks it
    x.dress(axes, "x", label=False, limits=True)
    y.dress(axes, "y", label=False, limits=True)
    at = [np.log(axis.positions) if axis.scale == "log" else axis.positions for axis in (x, y)]
    height, levels = (np.log10(values), np.log10(inside)) if logarithmic else (values, inside)
    lines = axes.contour(
        *at, np.ma.masked_invalid(height), levels=levels, colors="white", linewidths=0.9, linestyles="solid"
    )
    lines.set_paths([_on_scales(path, x, y) for path in lines.get_paths()])
    lines.set(path_effects=[withStroke(linewidth=1.9, foreground=style.INK)])
    for text in axes.clabel(
        lines, fmt=lambda level: f"{10**level if logarithmic else level:.4g}", fontsize=6.5, inline=False
    ):
        text.set_path_effects([withStroke(linewidth=1.6, foreground=style.INK)])
        text.set_color("white")


def _on_scales(path: Path, x: SweepAxis, y: SweepAxis) -> Path:
    vertices = np.array(path.vertices, dtype=float)
    for column, axis in enumerate((x, y)):
        if axis.scale == "log":
            vertices[:, column] = np.exp(vertices[:, column])
    return Path(vertices, path.codes)


def _levels(quantity: str, values: list[np.ndarray]) -> np.ndarray:
    """Between whole ranks for ranks, so that a contour is the border of a phase; else a few round numbers."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    if not len(finite) or finite.min() == finite.max():
        return np.zeros(0)
    low, high = float(finite.min()), float(finite.max())
    if "rank" in quantity.split("_") and high - low <= 8:
        return np.arange(np.floor(low), np.ceil(high)) + 0.5
    if low > 0 and high / low > _LOG_SPAN:
        decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        return 10.0 ** decades[:: -(-len(decades) // _MOST_LEVELS)]
    return np.asarray(MaxNLocator(6).tick_values(low, high))


def _norm(values: list[np.ndarray]) -> tuple[Normalize, Any]:
    """Scale and map of the colours: logarithmic over orders of magnitude, two-sided around zero where signs differ."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    if not len(finite):
        return Normalize(0.0, 1.0), mpl.colormaps["viridis"]
    low, high = float(finite.min()), float(finite.max())
    if low > 0 and high / low > _LOG_SPAN:
        return LogNorm(low, high), mpl.colormaps["viridis"]
    if low < 0 < high and min(-low, high) > 0.05 * max(-low, high):
        return TwoSlopeNorm(0.0, -max(-low, high), max(-low, high)), mpl.colormaps["PuOr_r"]
    if low == high:
        return Normalize(low - 0.5, high + 0.5), mpl.colormaps["viridis"]
    return Normalize(low, high), mpl.colormaps["viridis"]


def _label(results: xr.Dataset, chosen: Choice) -> str:
    attrs = results[chosen.quantity].attrs
    units = str(attrs.get("units", ""))
    words = chosen.quantity.replace("_", " ")
    return f"{words} ({units})" if units and units != "1" else words


def _legend(figure: Figure, missing: set[str]) -> None:
    handles = [
        Patch(facecolor="white", edgecolor=_HATCHES[words][1], hatch=_HATCHES[words][0], linewidth=0.0, label=words)
        for words in _HATCHES
        if words in missing
    ]
    if "no value" in missing:
        handles.append(Patch(facecolor=_NO_VALUE, label="computed, but no value"))
    if handles:
        figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
