"""What of a sweep is drawn against what: the user's choices, checked, and sensible ones for all that was left open."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from rankfall.errors import InvalidInput, NotARun
from rankfall.report._sweep_axes import SweepAxis, axis_of

__all__ = ["ERROR", "PREDICTED", "Choice", "choose"]

ERROR = "_standard_error"
PREDICTED = "_predicted"
# Variables of a store that are no result.
_NOT_DRAWN = ("status", "checksum", "save_time")
# What is looked at first.
_FIRST = ("final_rank", "stable_rank", "effective_rank", "final_loss", "log_det_slope", "lyapunov_rank", "rank", "loss")
_FEWEST_FOR_MAP = 3
MOST_PANELS = 12
_AUTOMATIC_PANELS = 6


@dataclass(frozen=True)
class Choice:
    """A figure of a sweep, settled.

    Attributes:
        kind: "map": `quantity` as colour over x and y; "lines": `quantity` against x, one line per value of `lines`.
        quantity: Name of the variable.
        x: Axis to the right.
        y: Axis upwards of a map.
        lines: Axis of a family of lines, if there is more than one.
        panels: Axes of the small multiples: none, across, or across and down.
        places: Which places of each axis of the panels are drawn.
        fixed: Place along each dimension that is not drawn.
        remarks: What was left out, in words.
    """

    kind: Literal["map", "lines"]
    quantity: str
    x: SweepAxis
    y: SweepAxis | None
    lines: SweepAxis | None
    panels: tuple[SweepAxis, ...]
    places: tuple[tuple[int, ...], ...]
    fixed: Mapping[str, int]
    remarks: tuple[str, ...]


def choose(
    results: xr.Dataset,
    *,
    x: str | None = None,
    y: str | None = None,
    color: str | None = None,
    panels: Sequence[str] = (),
    at: Mapping[str, str] | None = None,
) -> Choice:
    """Settle what is drawn.

    Raises:
        InvalidInput: A name that the results do not have (the nearest known one is named), one used twice, or a
            combination that is no figure.
        NotARun: There is nothing to draw.
    """
    names = _Names(results)
    x_axis = names.axis(x, "--x") if x is not None else None
    quantity, y_axis, colour_axis = _roles(names, y, color)
    panel_axes = tuple(names.axis(name, "--panels") for name in panels)
    if len(panel_axes) > 2:
        raise InvalidInput(f"--panels takes at most two axes, one across and one down, got {', '.join(panels)}.")
    quantity = quantity or names.default(x_axis)
    fixed = {axis.dim: place for axis, place in (names.place(name, text) for name, text in (at or {}).items())}
    used = [axis for axis in (x_axis, y_axis, colour_axis, *panel_axes) if axis is not None]
    _refuse_twice(used, fixed)
    dims = [str(dim) for dim in results[quantity].dims]
    for axis in used:
        if axis.dim not in dims:
            raise InvalidInput(f"{quantity} does not depend on {axis.name}; it has the axes {_list(dims)}.")
    # the places of an axis count from the start of the dimension, `place` included
    free = [
        names.main(dim)
        for dim in dims
        if results.sizes[dim] > 1 and dim not in fixed and dim not in {axis.dim for axis in used}
    ]
    wants_lines = colour_axis is not None or (y is not None and y_axis is None)
    wants_map = y_axis is not None or (color is not None and colour_axis is None)
    kind, x_axis, y_axis, colour_axis = _fill_in(
        names, quantity, free, x_axis, y_axis, colour_axis, wants_lines, wants_map
    )
    chosen, remarks, places = _fill_panels(free, panel_axes)
    for axis in free:  # what is left has one place each
        fixed[axis.dim] = int(axis.order[0])
        remarks.append(f"{axis.label} = {axis.text(0)} (of {len(axis.values)}; choose with --at {axis.name}=VALUE)")
    given = [names.main(dim) for dim in fixed if dim not in {axis.dim for axis in free}]
    for axis in given:
        remarks.append(f"{axis.label} = {axis.text(int(np.flatnonzero(axis.order == fixed[axis.dim])[0]))}")
    for dim in dims:
        if results.sizes[dim] == 1 and dim not in {a.dim for a in (x_axis, y_axis, colour_axis, *chosen) if a}:
            fixed.setdefault(dim, 0)
    return Choice(
        kind,
        quantity,
        x_axis,
        y_axis,
        colour_axis,
        chosen,
        places,
        {k: v for k, v in fixed.items() if k in dims},
        tuple(remarks),
    )


class _Names:
    """The names that a user may give."""

    def __init__(self, results: xr.Dataset) -> None:
        self.results = results
        cells = set(results["status"].dims) if "status" in results else set()
        self.quantities = [
            str(name)
            for name, variable in results.data_vars.items()
            if name not in _NOT_DRAWN and variable.dtype.kind in "iufb" and cells <= set(variable.dims)
        ]
        if not self.quantities or not any(n > 0 for n in results.sizes.values()):
            raise NotARun("these results have no axis over which a quantity could be drawn.")
        self.cell_dims = [str(dim) for dim in results["status"].dims] if "status" in results else []
        coords = [str(name) for name, coord in results.coords.items() if coord.ndim == 1]
        self.axes = [*coords, *(str(dim) for dim in results.sizes if dim not in coords)]

    def axis(self, name: str, option: str) -> SweepAxis:
        if name in self.axes:
            return axis_of(self.results, name)
        if name in self.quantities:
            raise InvalidInput(
                f"{option} must be an axis of the study, and {name} is a result; axes: {_list(self.axes)}."
            )
        raise self.unknown(name, option, self.axes)

    def main(self, dim: str) -> SweepAxis:
        """The axis of a dimension; without a coordinate of its name, the first numeric one along it."""
        if dim not in self.results.coords:
            along = [str(name) for name, coord in self.results.coords.items() if coord.dims == (dim,)]
            along.sort(key=lambda name: self.results[name].dtype.kind not in "iuf")
            if along:
                return axis_of(self.results, along[0])
        return axis_of(self.results, dim)

    def default(self, x: SweepAxis | None) -> str:
        """The quantity to draw if none is named: one that knows the x axis, the usual ones first."""
        results = [
            name
            for name in self.quantities
            if not name.endswith((ERROR, PREDICTED))
            and self.results[name].ndim > 0  # a sweep of one cell: not its single numbers
            and (x is None or x.dim in self.results[name].dims)
        ]
        floats = [name for name in results if self.results[name].dtype.kind == "f" and name != "wall_time"]
        for name in (*_FIRST, *floats, *results):
            if name in results:
                return name
        raise NotARun(
            "these results hold nothing that could be drawn"
            + ("." if self.cell_dims else ": a sweep of one cell has numbers; print them with rf.sweep.open_results.")
        )

    def place(self, name: str, text: str) -> tuple[SweepAxis, int]:
        """The place along an axis that `--at name=text` names."""
        axis = self.axis(name, "--at")
        for place in range(len(axis.values)):
            if _is(axis, place, text):
                return axis, int(axis.order[place])
        known = [axis.text(place) for place in range(len(axis.values))]
        raise InvalidInput(f"--at {name}={text}: there is no such value; {name} has {_list(known)}.")

    def unknown(self, name: str, option: str, known: Sequence[str]) -> InvalidInput:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        return InvalidInput(f"{option} {name}: the results have no such name; {hint}known: {_list(known)}.")


def _roles(names: _Names, y: str | None, color: str | None) -> tuple[str | None, SweepAxis | None, SweepAxis | None]:
    """What y and colour mean: an axis and a quantity (a map), or a quantity and an axis (lines)."""
    everything = [*names.axes, *names.quantities]
    for name, option in ((y, "--y"), (color, "--color")):
        if name is not None and name not in everything:
            raise names.unknown(name, option, everything)
    if y in names.quantities and color in names.quantities:
        raise InvalidInput(
            f"--y {y} --color {color}: both are results. For a map let --y be an axis, for lines let --color be one; "
            f"axes: {_list(names.axes)}."
        )
    if y is not None and y not in names.quantities and color is not None and color not in names.quantities:
        raise InvalidInput(
            f"--y {y} --color {color}: both are axes. For a map let --color be a result, for lines let --y be one; "
            f"results: {_list(names.quantities)}."
        )
    quantity = next((name for name in (y, color) if name in names.quantities), None)
    y_axis = names.axis(y, "--y") if y is not None and y not in names.quantities else None
    colour_axis = names.axis(color, "--color") if color is not None and color not in names.quantities else None
    return quantity, y_axis, colour_axis


def _fill_in(
    names: _Names,
    quantity: str,
    free: list[SweepAxis],
    x: SweepAxis | None,
    y: SweepAxis | None,
    colour: SweepAxis | None,
    wants_lines: bool,
    wants_map: bool,
) -> tuple[Literal["map", "lines"], SweepAxis, SweepAxis | None, SweepAxis | None]:
    """Choose what was left open of x, y and the lines; takes what it uses out of `free`."""
    good = [axis for axis in [*free, *([x] if x else [])] if axis.numeric and len(axis.values) >= _FEWEST_FOR_MAP]
    over_cells = [axis for axis in good if axis.dim in names.cell_dims]
    in_time = any(axis.dim == "time" for axis in free) or (x is not None and x.dim == "time")
    as_map = y is not None or (not wants_lines and not in_time and len(over_cells) >= 2)
    if wants_map and y is None and colour is None and not as_map and not in_time:
        as_map = len(free) + (x is not None) >= 2
    if x is None:
        x = _take(
            free, key=lambda axis: (axis.dim == "time", axis.dim in names.cell_dims, axis.numeric, len(axis.values))
        )
    if x is None:
        dim = next((axis for axis in names.axes if names.results[axis].dims[0] in names.results[quantity].dims), None)
        if dim is None:
            raise InvalidInput(f"{quantity} of a sweep of one cell is one number; print it with rf.sweep.open_results.")
        x = names.axis(dim, "--x")
    if as_map:
        y = y or _take(free, key=lambda axis: (axis.dim in names.cell_dims, axis.numeric, len(axis.values)))
        if y is None:
            as_map = False
    if as_map:
        return "map", x, y, None
    if colour is None:  # the axis with the fewest values makes the clearest family
        colour = _take(free, key=lambda axis: (axis.dim in names.cell_dims, -len(axis.values)))
    return "lines", x, None, colour


def _fill_panels(
    free: list[SweepAxis], panels: tuple[SweepAxis, ...]
) -> tuple[tuple[SweepAxis, ...], list[str], tuple[tuple[int, ...], ...]]:
    """Panels for the shortest axis that is left, if none were asked for; which of their values are drawn."""
    remarks: list[str] = []
    most = MOST_PANELS
    if not panels:
        axis = _take(free, key=lambda axis: -len(axis.values))
        panels = (axis,) if axis is not None else ()
        most = _AUTOMATIC_PANELS
    if len(panels) == 2:
        most = 4
    places = []
    for axis in panels:
        n = len(axis.values)
        chosen = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
        places.append(tuple(int(place) for place in chosen))
        if len(chosen) < n:
            remarks.append(f"{len(chosen)} of {n} values of {axis.label}")
    return panels, remarks, tuple(places)


def _take(free: list[SweepAxis], key: Any) -> SweepAxis | None:
    if not free:
        return None
    best = max(free, key=key)
    free.remove(best)
    return best


def _refuse_twice(used: Sequence[SweepAxis], fixed: Mapping[str, int]) -> None:
    dims = [axis.dim for axis in used] + list(fixed)
    for axis in used:
        if dims.count(axis.dim) > 1:
            raise InvalidInput(
                f"{axis.name} is used twice; give each of --x, --y, --color, --panels and --at its own axis."
            )


def _is(axis: SweepAxis, place: int, text: str) -> bool:
    if not axis.numeric:
        return bool(axis.values[place] == text)
    try:
        return math.isclose(float(axis.values[place]), float(text), rel_tol=5e-4)  # as a figure writes it
    except ValueError:
        return False


def _list(names: Sequence[str]) -> str:
    shown = list(names)[:30]
    return ", ".join(shown) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
