"""The page of a sweep: one HTML file with its figures, its cells, and what failed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from rankfall._text import printable
from rankfall.report.page import inline_svg, number, template_named
from rankfall.report.style import render_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from rankfall.sweep import Status

__all__ = ["main_quantities", "render_sweep_page"]

# A page of more rows than this is slow in a browser and read by nobody.
_MOST_ROWS = 1000
_ERROR = "_standard_error"
# What a cell took, and what checks it: not what was asked of the sweep.
_BESIDE = {"replicates_used", "diverged", "steps", "step_length", "wall_time", "checksum", "status"}
_DONE, _FAILED = 1, 2


@dataclass(frozen=True)
class _Row:
    cells: Sequence[tuple[str, str]]
    failed: bool


def main_quantities(results: xr.Dataset) -> list[str]:
    """Names of the results that are one number for every cell, without their errors and what is kept beside them."""
    over = set(results["status"].dims)
    return [
        str(name)
        for name, values in results.data_vars.items()
        if set(values.dims) == over and str(name) not in _BESIDE and not str(name).endswith((_ERROR, "_predicted"))
    ]


def render_sweep_page(
    results: xr.Dataset,
    status: Status,
    figures: Sequence[tuple[Figure, str]],
    *,
    store: str,
    command: str,
    environment: Mapping[str, str],
) -> str:
    """Return the page as one HTML document that refers to nothing outside it.

    Args:
        results: As `sweep.open_results` gives them.
        status: As `sweep.status` gives it.
        figures: With their captions.
        store: Where the results are.
        command: What makes the page again.
        environment: Name → value, versions and machine.
    """
    name = printable(str(status.study.get("name") or "")) or "A sweep"
    axes = [str(each) for each in results.coords if set(results[each].dims) <= set(results["status"].dims)]
    sizes = " × ".join(f"{size} {dimension}" for dimension, size in results["status"].sizes.items())
    quantities = main_quantities(results)
    rows = _rows(results, axes, quantities)
    return template_named("sweep.html.j2").render(
        title=name,
        lead=f"A sweep of {status.total:,} cells" + (f": {sizes}." if sizes else "."),
        done=status.done,
        failed=status.failed,
        left=status.left,
        total=status.total,
        figures=[
            (Markup(inline_svg(render_figure(figure, "svg"), prefix=f"f{place}-")), caption)
            for place, (figure, caption) in enumerate(figures)
        ],
        axes=axes,
        quantities=quantities,
        rows=rows,
        shown=len(rows),
        failures=[
            ([(axis, _text(cell.coordinates.get(axis))) for axis in axes], printable(cell.reason))
            for cell in status.failures[:_MOST_ROWS]
        ],
        store=store,
        command=command,
        settings=_flat(status.study),
        environment=environment,
    )


def _rows(results: xr.Dataset, axes: Sequence[str], quantities: Sequence[str]) -> list[_Row]:
    over = results["status"].dims
    shape = results["status"].shape
    places = list(itertools.islice(np.ndindex(*shape), _MOST_ROWS))
    # One read per array, not one per cell.
    values = {name: results[name].transpose(*over).values for name in quantities}
    errors = {name: results[name + _ERROR].transpose(*over).values for name in quantities if name + _ERROR in results}
    states = results["status"].values
    found = []
    for place in places:
        where = dict(zip(over, place, strict=True))
        cells = []
        for axis in axes:
            coordinate = results[axis]
            cells.append((axis, _text(coordinate.values[tuple(where[each] for each in coordinate.dims)])))
        for name in quantities:
            text = number(float(values[name][place]), 4) if states[place] == _DONE else "—"
            if name in errors and states[place] == _DONE and np.isfinite(errors[name][place]):
                text += f" ± {number(float(errors[name][place]), 2)}"
            cells.append((name, text))
        found.append(_Row(cells, bool(states[place] == _FAILED)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return number(float(value), 4)
    return printable(str(value)).replace("-", "−") if isinstance(value, int | np.integer) else printable(str(value))


def _flat(mapping: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings, flat and in words; what is empty is left out, long lists by their ends."""
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        name = f"{before} {key}".strip()
        if isinstance(value, Mapping):
            flat |= _flat(value, name)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value and all(isinstance(each, Mapping) for each in value):
                for place, each in enumerate(value):
                    flat |= _flat(each, f"{name} {place + 1}")
            elif value:
                few = [_text(each) for each in value]
                if len(few) > 8:
                    few = [*few[:3], "…", few[-1]]
                flat[_label(name)] = ", ".join(few)
        elif value is not None:
            flat[_label(name)] = _text(value)
    return flat


def _label(name: str) -> str:
    return printable(name).replace("_", " ")
