"""The six plots of the page and what they are fed with. One set for each visitor; nothing is shared."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import (
    AdaptiveTicker,
    Arrow,
    BasicTicker,
    BasicTickFormatter,
    ColumnDataSource,
    DataRange1d,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
    VeeHead,
)
from bokeh.plotting import figure

from rankfall.explorer._frames import COLUMNS, Film, Moment
from rankfall.explorer._settings import Settings
from rankfall.report import style

__all__ = ["NAMES", "Plots"]

NAMES = ("log_det", "singular", "eigenvalues", "loss", "balance", "rates")
# Okabe & Ito's colours for the modes, in the order of the modes; none of them is the text colour of either theme.
_MODES = (style.QUIET_COLOUR, *style.NOISE_COLOURS)
_INK = {False: style.INK, True: "#e6edf3"}
_GRID = {False: "#d8dee4", True: "#30363d"}
# On a dark page the blue of the palette is its sky blue, which can be told from the ground.
_QUIET = {False: style.QUIET_COLOUR, True: "#56b4e9"}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_POWERS = {i: "10" + str(i).translate(_SUPERSCRIPT) for i in range(-1200, 201)}
# The arrows say where the repulsion alone would take an eigenvalue in this share of the run.
ARROW_SHARE = 0.1


class Plots:
    """Figures by name, and what a frame of them is. The browser keeps the curves; here is only what it needs next."""

    def __init__(self) -> None:
        self.linear, self.horizon = False, 0.0
        self._noisy, self._dark = True, False
        self._inked: list[tuple[Any, str]] = []
        self._quiet: list[tuple[Any, str]] = []
        self.sources = {name: _source(name, columns) for name, columns in _SOURCES.items()}
        self.guards = {name: _source(f"guard_{name}", ("x", "y"), [0.0, 1.0]) for name in NAMES}
        self.time = Range1d(0.0, 1.0)
        self.figures = {name: self._figure(name) for name in NAMES}
        self._banded("log_det", law=True)
        self._banded("loss")
        self._banded("balance", law=True)
        self._modes("singular", "paths", width=0.8, alpha=0.55)
        self._modes("singular", "singular", width=2.2)
        self._modes("eigenvalues", "eigenvalues", width=1.7)
        self._arrows()
        self._bars()
        for name in ("log_det", "loss", "eigenvalues", "singular"):
            _powers_of_ten(self.figures[name])
        self.set_dark(False)

    def _figure(self, name: str) -> figure:
        is_time = name != "rates"
        plot = figure(
            name=name,
            x_range=self.time if is_time else DataRange1d(range_padding=0.05, syncable=False),
            # Not syncable: the browser would tell the server about every change of the range, at every frame.
            y_range=DataRange1d(range_padding=0.08, only_visible=True, syncable=False),
            sizing_mode="stretch_both",
            min_border=4,
            tools="pan,box_zoom,wheel_zoom,reset,save",
            active_drag=None,
            active_scroll=None,
            background_fill_alpha=0.0,
            border_fill_alpha=0.0,
            outline_line_color=None,
            lod_threshold=None,
            toolbar_inner=True,
            syncable=False,
        )
        plot.toolbar.logo = None
        plot.toolbar.autohide = True
        plot.yaxis[0].axis_label = _LABELS[name]
        plot.xaxis[0].axis_label = "time t" if is_time else "mode"
        for axis in (plot.xaxis[0], plot.yaxis[0]):
            axis.minor_tick_line_color = None
            axis.axis_label_text_font_style = "normal"
            axis.axis_label_text_font_size = "13px"
            axis.major_label_text_font_size = "12px"
            for field in (
                "axis_line_color",
                "major_tick_line_color",
                "major_label_text_color",
                "axis_label_text_color",
            ):
                self._inked.append((axis, field))
        plot.yaxis[0].ticker.desired_num_ticks = 5
        # Points that cannot be seen keep rounding noise from being blown up to the height of the plot.
        plot.scatter("x", "y", source=self.guards[name], size=1, alpha=0.0)
        return plot

    def _banded(self, name: str, law: bool = False) -> None:
        plot, source = self.figures[name], self.sources[name]
        band = plot.varea("time", "low", "high", source=source, fill_alpha=0.22)
        line = plot.line("time", "middle", source=source, line_width=2.6)
        self._quiet += [(band.glyph, "fill_color"), (line.glyph, "line_color")]
        tips = [("t", "@time{0.000}"), (_TIPS[name], "@middle{0.0000}")]
        if law:
            dashes = plot.line("time", "law", source=source, line_width=1.6, line_dash=[7, 5])
            self._inked.append((dashes.glyph, "line_color"))
            tips.append(("law", "@law{0.0000}"))
        plot.add_tools(HoverTool(renderers=[line], mode="vline", tooltips=tips))

    def _modes(self, name: str, source: str, width: float, alpha: float = 1.0) -> None:
        self.figures[name].multi_line(
            "xs", "ys", source=self.sources[source], line_color="colour", line_width=width, line_alpha=alpha
        )

    def _arrows(self) -> None:
        head = VeeHead(size=9)
        source = self.sources["arrows"]
        arrow = Arrow(end=head, source=source, x_start="x0", y_start="y0", x_end="x1", y_end="y1", line_width=2.0)
        self.figures["eigenvalues"].add_layout(arrow)
        self._inked += [(arrow, "line_color"), (head, "fill_color"), (head, "line_color")]

    def _bars(self) -> None:
        plot = self.figures["rates"]
        bars = plot.vbar("place", top="rate", width=0.72, source=self.sources["bars"])
        law = plot.scatter(
            "place", "rate", source=self.sources["law"], marker="dash", size=34, line_width=2.5, line_dash=[6, 4]
        )
        self._quiet += [(bars.glyph, "fill_color"), (bars.glyph, "line_color")]
        self._inked.append((law.glyph, "line_color"))
        plot.xgrid.grid_line_color = None
        plot.xaxis[0].ticker = FixedTicker(ticks=[])
        plot.yaxis.formatter = NumeralTickFormatter(format="0.[0000]")

    def set_dark(self, dark: bool) -> None:
        """Colour everything for a dark or a light page."""
        self._dark = dark
        for model, field in self._inked:
            setattr(model, field, _INK[dark])
        for plot in self.figures.values():
            plot.ygrid.grid_line_color = _GRID[dark]
            if plot.name != "rates":
                plot.xgrid.grid_line_color = _GRID[dark]
        self._colour_noise()

    def _colour_noise(self) -> None:
        colour = style.NOISE_COLOURS[0] if self._noisy else _QUIET[self._dark]
        for model, field in self._quiet:
            setattr(model, field, colour)

    def set_linear(self, linear: bool) -> None:
        """Label the singular values of W1 as they are, or as powers of ten; the browser changes the curves."""
        self.linear = linear
        axis = self.figures["singular"].yaxis[0]
        if linear:
            axis.major_label_overrides = {}
            axis.ticker, axis.formatter = BasicTicker(desired_num_ticks=5), BasicTickFormatter()
        else:
            _powers_of_ten(self.figures["singular"])

    def begin(self, settings: Settings, film: Film, moment: Moment) -> None:
        """Axes and colours of a new run."""
        # Bokeh sends only what is not what it was: a slider's restart is one message in most cases.
        self._noisy = settings.method not in ("gradient-flow", "gradient-descent")
        self._colour_noise()
        modes = len(moment.rates)
        axis = self.figures["rates"].xaxis[0]
        axis.ticker.ticks = [*range(1, modes + 1), modes + 2]
        axis.major_label_overrides = {i: str(i) for i in range(1, modes + 1)} | {modes + 2: "sum"}
        self.time.update(start=0.0, end=float(film.times[-1]) * (1.0 + ARROW_SHARE))

    def frame(self, film: Film, begin: int, moment: Moment) -> dict[str, Any]:
        """The rows of a film from `begin` on, and what is drawn of the present moment, as JSON can hold it."""
        values, modes = min(film.settings.n_inputs, film.settings.width), len(moment.eigenvalues)
        wanted = [COLUMNS.index(name) for name in frame_columns(values, modes)]
        rows = film.rows[begin : film.filled, wanted]
        drawn: dict[str, Any] = {
            "rows": _plain(rows),
            "arrows": self._arrow(film, moment),
            "reach": [film.extent[0] - _reach(film), film.extent[1] + _reach(film)],
            "bars": [
                [*range(1, len(moment.rates) + 1), len(moment.rates) + 2],
                _plain([*moment.rates, moment.rate_sum]),
            ],
            "law": [[len(moment.rates) + 2], [moment.rate_law]] if np.isfinite(moment.rate_law) else [[], []],
        }
        if begin == 0:
            colours = [_MODES[i % len(_MODES)] for i in range(max(values, modes))]
            drawn |= {"values": values, "modes": modes, "colours": colours, "guards": _guards(film, moment)}
        return drawn

    def _arrow(self, film: Film, moment: Moment) -> list[list[float]]:
        """Arrows that lead where the repulsion alone would take the eigenvalues within `horizon`: x0, y0, x1, y1."""
        seen = np.isfinite(moment.pushes) & np.isfinite(moment.eigenvalues)
        start, push = moment.eigenvalues[seen], moment.pushes[seen]
        span = ARROW_SHARE * float(film.times[-1])
        longest, reach = float(np.abs(push).max(initial=0.0)), _reach(film)
        if longest * span > reach:
            span = reach / longest
        self.horizon = span
        here, there = [moment.time] * len(start), [moment.time + span] * len(start)
        return [here, start.tolist(), there, (start + push * span).tolist()]


def _reach(film: Film) -> float:
    """How long an arrow may be, in powers of ten."""
    low, high = film.extent
    return 0.15 * max(high - low, 2.0)


def frame_columns(values: int, modes: int) -> list[str]:
    """The columns of a frame's rows: 12 numbers, the singular values, those of one trajectory, the eigenvalues."""
    names = [*COLUMNS[: COLUMNS.index("singular_0")]]
    names += [f"singular_{i}" for i in range(values)] + [f"path_{i}" for i in range(values)]
    return names + [f"eigenvalue_{i}" for i in range(modes)]


def _guards(film: Film, moment: Moment) -> dict[str, list[list[float]]]:
    """Points x, y that have to be in sight in each plot; those of "singular" as powers of ten."""
    first = dict(zip(COLUMNS, film.rows[0].tolist(), strict=True))
    height = first["log_det_middle"] if np.isfinite(first["log_det_middle"]) else 0.0
    points = {
        "log_det": [height - 2.0, height + 2.0],
        "singular": [first["singular_0"] - 1.5, first["singular_0"] + 0.3],
        "loss": [first["loss_middle"] - 2.0],
        "balance": [0.0],
    }
    guards = {name: [[0.0] * len(heights), heights] for name, heights in points.items()}
    return guards | {"rates": [[0.4, len(moment.rates) + 2.6], [0.0, 0.0]]}


def _plain(values: Any) -> Any:
    """Nested lists with None for what is not finite, which JSON cannot hold."""
    array = np.asarray(values, dtype=np.float64)
    held = array.astype(object)
    held[~np.isfinite(array)] = None
    return held.tolist()


def _source(name: str, columns: tuple[str, ...], values: Any = ()) -> ColumnDataSource:
    return ColumnDataSource({column: list(values) for column in columns}, name=f"data_{name}", syncable=False)


def _powers_of_ten(plot: figure) -> None:
    axis = plot.yaxis[0]
    axis.ticker = AdaptiveTicker(base=10, mantissas=[1, 2, 5], min_interval=1, desired_num_ticks=5)
    axis.major_label_overrides = _POWERS


_BAND = ("time", "low", "middle", "high", "law")
_LINES = ("xs", "ys", "colour")
_SOURCES: dict[str, tuple[str, ...]] = {
    "log_det": _BAND,
    "loss": _BAND[:-1],
    "balance": _BAND,
    "singular": _LINES,
    "paths": _LINES,
    "eigenvalues": _LINES,
    "arrows": ("x0", "y0", "x1", "y1"),
    "bars": ("place", "rate"),
    "law": ("place", "rate"),
}
_LABELS = {
    "log_det": "det M",
    "singular": "σᵢ(W1)",
    "eigenvalues": "λᵢ(M)",
    "loss": "loss",
    "balance": "‖Q‖",
    "rates": "per unit of time",
}
_TIPS = {"log_det": "log₁₀ det M", "loss": "log₁₀ loss", "balance": "‖Q‖"}
