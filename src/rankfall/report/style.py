"""One look for every figure: sizes of journal columns, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["GREY", "INK", "NOISE_COLOURS", "QUIET_COLOUR", "context", "new_figure", "render_figure"]

# Inches: the usual widths of one and of two columns of a paper.
WIDTHS = {1: 3.35, 2: 6.9}
# The page replaces these two by the reader's own text colour, so that figures follow light and dark.
INK = "#1f2328"
GREY = "#848d97"
# Okabe & Ito's palette: blue for runs without label noise, the others by rising noise.
QUIET_COLOUR = "#0072b2"
NOISE_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "ytick.minor.width": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.2,
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "svg.fonttype": "path",
    "svg.hashsalt": "rankfall",
    "pdf.fonttype": 42,
    "path.simplify": True,
    "text.usetex": False,
}


@contextmanager
def context() -> Iterator[None]:
    """Make the style current, whatever the user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def new_figure(columns: Literal[1, 2], height: float) -> Figure:
    """An empty figure as wide as one or two columns of a paper, `height` inches high."""
    return Figure(figsize=(WIDTHS[columns], height), layout="constrained")


def render_figure(figure: Figure, file_format: str) -> bytes:
    """Return the figure as "svg", "png" or "pdf"; the same figure gives the same bytes (no date, no random ids).

    Raises:
        ValueError: Another format.
    """
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    if file_format not in undated:
        raise ValueError(f"format must be one of {', '.join(undated)}, got {file_format!r}")
    buffer = io.BytesIO()
    with context():
        figure.savefig(buffer, format=file_format, metadata=undated[file_format], facecolor="white")
    return buffer.getvalue()
