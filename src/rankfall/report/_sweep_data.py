"""One panel's numbers of a sweep, in the order of its axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from rankfall.report._sweep_axes import SweepAxis
from rankfall.report._sweep_choice import Choice

__all__ = ["FAILED", "LEFT", "panel_places", "panel_title", "status_of", "table"]

LEFT, FAILED = 0, 2


def panel_places(chosen: Choice) -> Iterator[tuple[int, int, dict[str, int], str]]:
    """Row and column of each panel, the place along the dimensions that it shows, and its title."""
    across = chosen.panels[0] if chosen.panels else None
    down = chosen.panels[1] if len(chosen.panels) > 1 else None
    for row, low in enumerate(chosen.places[1] if down is not None else (0,)):
        for column, left in enumerate(chosen.places[0] if across is not None else (0,)):
            at: dict[str, int] = {}
            titles = []
            for axis, place in ((across, left), (down, low)):
                if axis is not None:
                    at[axis.dim] = int(axis.order[place])
                    titles.append(panel_title(axis, place))
            yield row, column, at, ", ".join(titles)


def panel_title(axis: SweepAxis, place: int) -> str:
    """E.g. "width = 8"; of texts the text alone."""
    return f"{axis.label} = {axis.text(place)}" if axis.numeric else axis.text(place)


def table(
    results: xr.Dataset, name: str, chosen: Choice, at: Mapping[str, int], axes: tuple[SweepAxis, ...]
) -> np.ndarray:
    """A variable over the given axes, in their order, as float64; without an axis that it has not."""
    variable = results[name]
    place = {dim: i for dim, i in {**chosen.fixed, **at}.items() if dim in variable.dims}
    there = [axis for axis in axes if axis.dim in variable.dims]
    found = variable.isel(place).transpose(*(axis.dim for axis in there)).values.astype(np.float64)
    for number, axis in enumerate(there):
        found = np.take(found, axis.order, axis=number)
    if variable.dtype.kind in "iu" and name != "status":
        found[found == -1] = np.nan  # a whole number that is not there
    shape = [len(axis.values) if axis in there else 1 for axis in axes]
    return np.broadcast_to(found.reshape(shape), [len(axis.values) for axis in axes])


def status_of(results: xr.Dataset, chosen: Choice, at: Mapping[str, int], axes: tuple[SweepAxis, ...]) -> np.ndarray:
    """The cells' status over the same axes: 0 left, 1 done, 2 failed."""
    return table(results, "status", chosen, at, axes).astype(int)
