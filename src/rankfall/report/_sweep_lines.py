"""Families of lines of a sweep: a colour per value of an axis, bands of two standard errors, dashed what a law says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rankfall.report import style
from rankfall.report._sweep_axes import SweepAxis
from rankfall.report._sweep_choice import ERROR, PREDICTED, Choice
from rankfall.report._sweep_data import FAILED, LEFT, panel_places, status_of, table

__all__ = ["draw_lines"]

_TEXT_COLOURS = (style.QUIET_COLOUR, *style.NOISE_COLOURS)
_MOST_IN_LEGEND = 7
_MOST_MARKERS = 25
# A quantity that spans more than this factor is drawn on a logarithmic scale.
_LOG_SPAN = 100.0
_BAND = 2.0
_FOOT = 0.03
_DASHES: Any = (0, (4, 2.5))
_MARKS = {"failed": "x", "not computed yet": "|"}


def draw_lines(results: xr.Dataset, chosen: Choice, columns: Literal[1, 2]) -> Figure:
    """One panel per value of the panels' axes, all on the same scales."""
    places = list(panel_places(chosen))
    grid, figure = _grid(chosen, len(places), columns)
    found: set[str] = set()
    logarithmic = _is_logarithmic([_rows(results, chosen.quantity, chosen, at) for _, _, at, _ in places])
    for axes, (_, _, at, title) in zip(grid, places, strict=True):
        _draw_panel(axes, results, chosen, at, found, logarithmic)
        axes.set_title(title)
    across = max(axes.get_subplotspec().colspan.stop for axes in grid)  # type: ignore[union-attr]
    room = {1: 8, 2: 6 if columns == 2 else 4, 3: 5}.get(across, 4)
    for axes in grid:
        place = axes.get_subplotspec()
        assert place is not None
        if chosen.x.dim != "time" or "save_time" not in results:
            chosen.x.dress(axes, "x", label=False, ticks=room)
        if place.is_last_row():
            axes.set_xlabel("time" if chosen.x.dim == "time" and "save_time" in results else chosen.x.label)
        if place.is_first_col():
            axes.set_ylabel(_label(results, chosen.quantity))
        if logarithmic:
            axes.set_yscale("log")
    if found & set(_MARKS):
        _make_room(grid, 1 if chosen.lines is None else len(chosen.lines.values))
    _legend(figure, grid, chosen, found)
    return figure


def _rows(results: xr.Dataset, name: str, chosen: Choice, at: Mapping[str, int]) -> np.ndarray:
    """A variable in one panel, a row for each line."""
    order = (chosen.x,) if chosen.lines is None else (chosen.lines, chosen.x)
    return np.atleast_2d(table(results, name, chosen, at, order))


def _is_logarithmic(values: list[np.ndarray]) -> bool:
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    return bool(len(finite)) and float(finite.min()) > 0 and float(finite.max() / finite.min()) > _LOG_SPAN


def _draw_panel(
    axes: Axes, results: xr.Dataset, chosen: Choice, at: Mapping[str, int], found: set[str], logarithmic: bool
) -> None:
    x, family = chosen.x, chosen.lines
    order = (x,) if family is None else (family, x)
    states = np.atleast_2d(status_of(results, chosen, at, order))
    values = np.where(states == FAILED, np.nan, _rows(results, chosen.quantity, chosen, at))
    known = [name in results for name in (chosen.quantity + ERROR, chosen.quantity + PREDICTED)]
    errors = _rows(results, chosen.quantity + ERROR, chosen, at) if known[0] else None
    law = _rows(results, chosen.quantity + PREDICTED, chosen, at) if known[1] else None
    own_time = x.dim == "time" and "save_time" in results
    positions = _rows(results, "save_time", chosen, at) if own_time else np.broadcast_to(x.positions, values.shape)
    colours = [_TEXT_COLOURS[0]] if family is None else family.colours(_TEXT_COLOURS)
    marker = "o" if values.shape[1] <= _MOST_MARKERS else ""
    over_cells = x.dim in results["status"].dims
    for number, line in enumerate(values):
        colour, where = colours[number], positions[number]
        if errors is not None and bool(np.isfinite(line + errors[number]).any()):
            axes.fill_between(where, *_band(line, errors[number], logarithmic), color=colour, alpha=0.18, linewidth=0)
            found.add("band")
        axes.plot(where, line, color=colour, marker=marker, markersize=2.8)
        if law is not None and bool(np.isfinite(law[number]).any()):
            axes.plot(where, law[number], color=style.INK, linestyle=_DASHES, linewidth=0.9)
            found.add("law")
        _mark(axes, where if over_cells else None, states[number], colour, number, len(values), found)


def _band(values: np.ndarray, errors: np.ndarray, logarithmic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Two standard errors to both sides; on a logarithmic scale those of the logarithm, which are errors / values."""
    if not logarithmic:
        return values - _BAND * errors, values + _BAND * errors
    factor = np.exp(np.minimum(_BAND * errors / values, 50.0))
    return values / factor, values * factor


def _mark(
    axes: Axes,
    where: np.ndarray | None,
    states: np.ndarray,
    colour: str,
    number: int,
    lines: int,
    found: set[str],
) -> None:
    """Marks at the foot of the panel for cells without a number, one row per line if there are few.

    Where a line is one cell, and not one cell per point (`where` is None), it has one mark, at the left.
    """
    height = _height(number, lines)
    for words, state in (("failed", FAILED), ("not computed yet", LEFT)):
        chosen = np.array([0.03]) if where is None else where[states == state]
        if bool((states == state).any()) and len(chosen):
            found.add(words)
            axes.plot(
                chosen,
                np.full(len(chosen), height),
                transform=axes.transAxes if where is None else axes.get_xaxis_transform(),
                color=colour,
                marker=_MARKS[words],
                markersize=4.0,
                linestyle="",
                clip_on=False,
                label=f"_{words}",
            )


def _make_room(grid: list[Axes], lines: int) -> None:
    """Lower the foot of the panels, so that the marks there stand below the lines. The panels share their scale."""
    share = _height(lines - 1, lines) + _FOOT
    for axes in grid[:1]:
        low, high = axes.get_ylim()
        if axes.get_yscale() == "log":
            axes.set_ylim(low * (low / high) ** (share / (1 - share)), high)
        else:
            axes.set_ylim(low - (high - low) * share / (1 - share), high)


def _height(number: int, lines: int) -> float:
    """Of the marks of one line, as a share of the panel's height."""
    return _FOOT + 0.035 * number if lines <= _MOST_IN_LEGEND else _FOOT


def _grid(chosen: Choice, n: int, columns: Literal[1, 2]) -> tuple[list[Axes], Figure]:
    if n == 1:
        figure = style.new_figure(columns, 3.2 if columns == 2 else 2.8)
        return [figure.subplots()], figure
    if len(chosen.panels) == 2:
        down, across = len(chosen.places[1]), len(chosen.places[0])
    else:
        across = min(n, 3 if columns == 2 else 2) if n != 4 or columns == 1 else 2
        down = -(-n // across)
    figure = style.new_figure(columns, 0.5 + 1.9 * down)
    every = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for empty in every[n:]:
        empty.remove()
    for axes in every[max(0, n - across) : n]:
        axes.xaxis.set_tick_params(labelbottom=True)
    return list(every[:n]), figure


def _legend(figure: Figure, grid: list[Axes], chosen: Choice, found: set[str]) -> None:
    family = chosen.lines
    handles: list[Any] = []
    if family is not None and (len(family.values) <= _MOST_IN_LEGEND or family.scale == "ordinal"):
        colours = family.colours(_TEXT_COLOURS)
        handles += [
            Line2D([], [], color=colour, label=family.text(place), marker="o", markersize=2.8)
            for place, colour in enumerate(colours)
        ]
    elif family is not None:
        _colour_bar(figure, grid, family)
    extra: list[Any] = []
    if "band" in found:
        extra.append(Line2D([], [], color=style.GREY, alpha=0.4, linewidth=5, label=f"±{_BAND:.0f} standard errors"))
    if "law" in found:
        extra.append(Line2D([], [], color=style.INK, linestyle=_DASHES, linewidth=0.9, label="law"))
    for words, mark in _MARKS.items():
        if words in found:
            extra.append(Line2D([], [], color=style.GREY, marker=mark, linestyle="", markersize=4.0, label=words))
    if handles and family is not None:
        if extra:
            handles += [Line2D([], [], linestyle="", label=" "), *extra]
        figure.legend(handles=handles, title=family.label, loc="outside right upper", title_fontsize=7.5)
    elif extra:
        figure.legend(handles=extra, loc="outside lower right", ncols=len(extra))


def _colour_bar(figure: Figure, grid: list[Axes], family: SweepAxis) -> None:
    """Many lines: their colours along a bar instead of a long list."""
    shades = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.82, 256)))
    figure.colorbar(ScalarMappable(family.norm(), shades), ax=grid, label=family.label, pad=0.02)


def _label(results: xr.Dataset, name: str) -> str:
    units = str(results[name].attrs.get("units", ""))
    words = name.replace("_", " ")
    return f"{words} ({units})" if units and units != "1" else words
