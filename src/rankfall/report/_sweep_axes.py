"""One axis of a sweep in a figure: on which scale its values lie, where its ticks stand, where one cell ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import NullLocator

__all__ = ["Scale", "SweepAxis", "axis_of", "scale_of"]

Scale = Literal["linear", "log", "ordinal"]
# With more values than this, the ticks are round numbers and not the values.
_MOST_TICKS = 8
# Positive values that span this factor, two of them being all there are, are meant as powers.
_POWERS = 8.0


@dataclass(frozen=True)
class SweepAxis:
    """A dimension of the results with the coordinate that names its places.

    Attributes:
        dim: The dimension.
        name: Of the coordinate; the dimension's where there is none.
        label: For the reader.
        values: Of the coordinate in the order of the figure: numbers ascending, texts as in the study.
        order: Places along the dimension in that order.
        scale: "ordinal": one step per value, because they are texts or too irregular for a scale of numbers.
    """

    dim: str
    name: str
    label: str
    values: np.ndarray
    order: np.ndarray
    scale: Scale

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.values.dtype.kind in "iuf"

    @property
    def positions(self) -> np.ndarray:
        """Where the values stand."""
        return np.arange(len(self.values), dtype=float) if self.scale == "ordinal" else self.values.astype(float)

    @property
    def edges(self) -> np.ndarray:
        """Where one value's cells end and the next one's begin: halfway, on the scale of the axis."""
        at = np.log(self.positions) if self.scale == "log" else self.positions
        if len(at) == 1:
            found = np.array([at[0] - 0.5, at[0] + 0.5])
        else:
            middle = (at[1:] + at[:-1]) / 2
            found = np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
        return np.exp(found) if self.scale == "log" else found

    def text(self, place: int) -> str:
        """One value for the reader."""
        value = self.values[place]
        return f"{value:.4g}" if self.numeric else str(value)

    def norm(self) -> Normalize:
        """From the values to a colour map."""
        at = self.positions
        return LogNorm(at[0], at[-1]) if self.scale == "log" and len(at) > 1 else Normalize(at[0], max(at[-1], at[0]))

    def tick(self, place: int) -> str:
        """One value as short as a tick's label must be."""
        return f"{self.values[place]:.3g}" if self.numeric else str(self.values[place])

    def dress(
        self,
        axes: Axes,
        which: Literal["x", "y"],
        *,
        label: bool = True,
        limits: bool = False,
        ticks: int = _MOST_TICKS,
    ) -> None:
        """Set scale, ticks and label of one direction of a panel.

        Args:
            axes: The panel.
            which: The direction.
            label: Whether to write the label.
            limits: Let the panel end where the cells end.
            ticks: How many ticks there is room for.
        """
        if self.scale == "log":
            (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        direction = axes.xaxis if which == "x" else axes.yaxis
        if self.scale == "ordinal" or len(self.values) <= _MOST_TICKS:
            chosen = np.arange(0, len(self.values), -(-len(self.values) // ticks))
            direction.set_ticks(self.positions[chosen], [self.tick(place) for place in chosen.tolist()])
            direction.set_minor_locator(NullLocator())
        if label:
            (axes.set_xlabel if which == "x" else axes.set_ylabel)(self.label)
        if limits:
            (axes.set_xlim if which == "x" else axes.set_ylim)(self.edges[0], self.edges[-1])

    def colours(self, texts: Sequence[str]) -> list[str]:
        """One colour per value: along a map for numbers, `texts` (if there are enough of them) for everything else."""
        if not self.numeric and len(self.values) <= len(texts):
            return list(texts[: len(self.values)])
        # the brightest fifth of the map is too pale for lines on white
        places = np.linspace(0.0, 0.82, len(self.values)) if len(self.values) > 1 else np.array([0.35])
        if self.numeric and self.scale != "ordinal" and len(self.values) > 1:
            places = 0.82 * np.asarray(self.norm()(self.positions), dtype=float)
        return [mpl.colors.to_hex(colour) for colour in mpl.colormaps["viridis"](places)]


def axis_of(results: xr.Dataset, name: str) -> SweepAxis:
    """The axis of a dimension or of a coordinate along one."""
    if name in results.coords:
        (dim,) = results[name].dims
        values = np.asarray(results[name].values)
        attrs = results[name].attrs
    else:
        dim, values, attrs = name, np.arange(results.sizes[name]), {}
        if name.startswith("mode"):  # the modes of a spectrum are counted from one
            values = values + 1
    if values.dtype.kind not in "iuf":
        values = np.array([str(value) for value in values.tolist()])
    scale = scale_of(values)
    numeric = values.dtype.kind in "iuf"
    order = np.argsort(values, kind="stable") if numeric else np.arange(len(values))
    label = str(attrs.get("long_name", name.replace("_", " ")))
    if "units" in attrs and str(attrs["units"]) != "1":
        label += f" ({attrs['units']})"
    return SweepAxis(str(dim), name, label, values[order], order, scale)


def scale_of(values: np.ndarray) -> Scale:
    """The scale on which values lie most evenly.

    Logarithmic if all are positive and their logarithms are more evenly spaced than they are; of two values, if they
    are a factor of 8 apart. One step per value ("ordinal") for texts, for numbers that occur twice, and for numbers
    with zero in front of a logarithmic range, which no scale shows.
    """
    if values.dtype.kind not in "iuf" or not np.isfinite(values.astype(float)).all():
        return "ordinal"
    ordered = np.sort(values.astype(float))
    if len(ordered) != len(np.unique(ordered)):
        return "ordinal"
    if len(ordered) == 2:
        return "log" if ordered[0] > 0 and ordered[1] / ordered[0] >= _POWERS else "linear"
    if len(ordered) < 3:
        return "linear"
    if ordered[0] > 0:
        return "log" if _unevenness(np.log(ordered)) < _unevenness(ordered) - 1e-9 else "linear"
    if ordered[0] == 0 and scale_of(ordered[1:]) == "log" and _unevenness(ordered) > 0.5:
        return "ordinal"
    return "linear"


def _unevenness(positions: np.ndarray) -> float:
    steps = np.diff(positions)
    return float(steps.std() / steps.mean())
