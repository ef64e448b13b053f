"""The page of a scan: one HTML file with the table, a spectrum beside every row, and the figure."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from rankfall._version import __version__
from rankfall.report.page import inline_svg, template_named
from rankfall.report.scan_figure import scan_figure
from rankfall.report.style import render_figure
from rankfall.scan._words import columns_of, common_start, numbers_of, problems, sections, summary, with_times

if TYPE_CHECKING:
    from rankfall.scan import LayerReport, Scan

__all__ = ["render_scan_page"]

_WIDTH, _HEIGHT, _POINTS = 110, 26, 56
_DECADES = 4.0  # from σ₁ at the top to 1e-4·σ₁ at the bottom


@dataclass(frozen=True)
class _Row:
    name: Markup
    shape: str
    step: int | None
    numbers: Sequence[tuple[str, str]]
    spark: Markup
    remark: str
    failed: bool


def render_scan_page(scan: Scan) -> str:
    """Return the page as one HTML document that refers to nothing outside it."""
    start = common_start(list(dict.fromkeys(layer.name for layer in scan)))
    headings = columns_of(scan)
    tables = [
        (heading, [_row(scan, layer, headings, start) for layer in layers]) for heading, layers in sections(scan.layers)
    ]
    figure = inline_svg(render_figure(scan_figure(scan), "svg"))
    return template_named("scan.html.j2").render(
        scan=scan,
        start=start,
        headings=headings,
        tables=tables,
        lines=summary(scan),
        problems=problems(scan),
        figure=Markup(figure),
        over_time=bool(scan.steps),
        decades=int(_DECADES),
        version=__version__,
    )


def _row(scan: Scan, layer: LayerReport, headings: Sequence[str], start: str) -> _Row:
    return _Row(
        name=_breakable(layer.name.removeprefix(start)),
        shape=with_times(layer.shape).replace("-", "−"),
        step=layer.step,
        numbers=[
            (heading, text.replace("-", "−")) for heading, text in zip(headings, numbers_of(scan, layer), strict=True)
        ],
        spark=_spark(layer),
        remark=layer.problem or layer.note,
        failed=bool(layer.problem),
    )


def _breakable(name: str) -> Markup:
    """A long name may be broken behind a dot."""
    return Markup(html.escape(name).replace(".", ".<wbr>"))


def _spark(layer: LayerReport) -> Markup:
    """The spectrum as a small curve: log σ_i/σ₁ against i."""
    values = np.asarray(layer.singular_values, dtype=np.float64)
    if layer.problem or not values[0] > 0:
        return Markup("")
    chosen = np.unique(np.linspace(0, len(values) - 1, min(_POINTS, len(values))).round().astype(int))
    points = []
    for index in chosen:
        depth = -math.log10(max(values[index] / values[0], 10.0**-_DECADES)) / _DECADES
        points.append(f"{1 + (_WIDTH - 2) * index / max(1, len(values) - 1):.1f},{1.5 + (_HEIGHT - 3) * depth:.1f}")
    if len(points) == 1:
        points.append(f"{_WIDTH - 1},1.5")
    label = html.escape(f"Spectrum of {layer.name}", quote=True)
    return Markup(
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f'<polyline points="{" ".join(points)}"/></svg>'
    )
