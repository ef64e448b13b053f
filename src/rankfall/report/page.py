"""The report page: one HTML file that opens without a network, in light and dark, on paper and on a telephone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from rankfall.report import style

if TYPE_CHECKING:
    from rankfall.laws import Verdict

__all__ = ["Page", "VerdictTable", "inline_svg", "number", "render_page", "tally", "template_named"]


@dataclass(frozen=True)
class VerdictTable:
    """The verdicts of one run under a heading."""

    heading: str
    verdicts: Sequence[Verdict]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What a report page shows, from the top down.

    Attributes:
        title: Heading of the page.
        lead: One paragraph: what this is.
        claims: Verdicts that answer the reader's question; shown first.
        figure: The figure as SVG, or None when there is nothing to draw yet.
        caption: What the figure shows.
        tables: The laws, run by run.
        settings: Name → value, everything that decides the numbers.
        environment: Name → value, versions and machine.
        command: What to type to repeat it.
        files: (file name, what it is) of the files beside the page.
        narrow_figure: The figure for screens too narrow for the other one, with its panels below each other.
        partial: Why the report is not complete; empty when it is.
        notes: Sentences a reader must know.
    """

    title: str
    lead: str
    claims: Sequence[Verdict]
    figure: bytes | None
    caption: str
    tables: Sequence[VerdictTable]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    command: str
    files: Sequence[tuple[str, str]]
    narrow_figure: bytes | None = None
    partial: str = ""
    notes: Sequence[str] = field(default_factory=tuple)


def render_page(page: Page) -> str:
    """Return the page as one HTML document without references to anything but the files beside it."""
    template = template_named("page.html.j2")
    figures = {
        "figure": None if page.figure is None else Markup(inline_svg(page.figure)),
        "narrow_figure": None
        if page.narrow_figure is None
        else Markup(inline_svg(page.narrow_figure, prefix="narrow-")),
    }
    everything = [*page.claims, *(verdict for table in page.tables for verdict in table.verdicts)]
    # One piece per option, so that lines do not break inside "--label-noise".
    pieces = re.split(r" (?=--)", page.command)
    return template.render(page=page, **figures, tally=tally(everything), command_pieces=pieces)


def template_named(name: str) -> jinja2.Template:
    """A template of this folder."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FunctionLoader(lambda each: resources.files(__package__).joinpath(each).read_text("utf-8")),
    )
    environment.filters["number"] = number
    return environment.get_template(name)


def tally(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Count the verdicts by outcome."""
    counts = {"passed": 0, "failed": 0, "negative": 0, "undecided": 0}
    for verdict in verdicts:
        counts[{"PASS": "passed", "FAIL": "failed", "NO": "negative", "UNDECIDED": "undecided"}[verdict.status]] += 1
    return counts


def number(value: Any, digits: int = 6) -> str:
    """So many significant digits, a dash for what is not there.

    Example:
        >>> number(0.1 + 0.2), number(-1.234e-12, 3), number(float("nan")), number(3)
        ('0.3', '−1.23e−12', '—', '3')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    return f"{value:.{digits}g}".replace("-", "−")


def inline_svg(svg: bytes, *, prefix: str = "") -> str:
    """Make a figure part of a page: no XML prologue, the page's width, ink and paper instead of black and white.

    Args:
        svg: What `render_figure` returned.
        prefix: Put before every id, so that two figures on a page do not use each other's parts.
    """
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    # Matplotlib repeats every label in a comment: bytes, and names from files that nothing has escaped for HTML.
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    if prefix:
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}", text)
    return (
        text.replace("fill: #ffffff", "fill: none")
        .replace(style.INK, "var(--ink)")
        .replace(style.GREY, "var(--faint)")
        .replace("<svg", '<svg role="img" aria-label="The figure described in the caption"', 1)
    )
