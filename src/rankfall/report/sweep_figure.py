"""The figure of a sweep: heat maps with contours and errors, families of lines with bands, small multiples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import xarray as xr
from matplotlib.figure import Figure

from rankfall.report import style
from rankfall.report._sweep_choice import Choice, choose
from rankfall.report._sweep_lines import draw_lines
from rankfall.report._sweep_maps import draw_maps

__all__ = ["sweep_figure"]


def sweep_figure(
    results: xr.Dataset,
    *,
    x: str | None = None,
    y: str | None = None,
    color: str | None = None,
    panels: Sequence[str] = (),
    at: Mapping[str, str] | None = None,
    columns: Literal[1, 2] = 2,
) -> Figure:
    """Draw the results of a sweep.

    With two axes as x and y and a result as colour: a heat map with contours, beside it the standard error. With a
    result as y: lines, one for each value of the axis that is the colour, with bands of two standard errors, and dashed
    what a law predicts where the store knows it. Axes that are left over make small multiples. Whatever is not named is
    chosen: the first of the usual results; a map if two axes are numbers with three values or more, else lines. Cells
    that failed or are not computed yet are hatched in a map and marked at the foot of lines.

    Args:
        results: Dataset of `open_results`.
        x: An axis: a dimension or a coordinate along one.
        y: An axis (map) or a result (lines).
        color: A result (map) or an axis (lines).
        panels: At most two axes, one across and one down.
        at: Value, as text, of each axis that shall stay fixed.
        columns: Width of one column of a paper, or of two.

    Raises:
        InvalidInput: A name that the results do not have, or a combination that is no figure.
        NotARun: There is nothing to draw.
    """
    chosen = choose(results, x=x, y=y, color=color, panels=panels, at=at)
    with style.context():
        figure = draw_maps(results, chosen, columns) if chosen.kind == "map" else draw_lines(results, chosen, columns)
        if chosen.remarks:
            figure.supxlabel("; ".join(chosen.remarks), x=0.01, ha="left", fontsize=6.5, color=style.GREY)
        figure.suptitle(_title(results, chosen), x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    return figure


def _title(results: xr.Dataset, chosen: Choice) -> str:
    words = _harmless(results[chosen.quantity].attrs.get("long_name", chosen.quantity.replace("_", " ")))
    name = _study_name(results.attrs)
    return f"{name}: {words}" if name else words[:1].upper() + words[1:]


def _study_name(attributes: Mapping[Any, Any]) -> str:
    try:
        name = json.loads(attributes["study"])["name"]
    except (KeyError, TypeError, ValueError):
        return ""
    return _harmless(name)[:80]


def _harmless(text: Any) -> str:
    """A figure is no place for a formula or a control character that somebody put into a name."""
    return "".join(letter for letter in str(text) if letter.isprintable() and letter != "$")
