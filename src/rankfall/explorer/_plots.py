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
    GlyphRenderer,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
    VeeHead,
)
from bokeh.plotting import figure

from rankfall.explorer._frames import COLUMNS, MOST_EIGENVALUES, MOST_SINGULAR_VALUES, Film, Moment
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
_SINGULAR = [COLUMNS.index("singular_0"), COLUMNS.index("eigenvalue_0")]


class Plots:
    """Figures by name, their sources, and how frames get into them."""

    def __init__(self) -> None:
        self.series = ColumnDataSource({name: [] for name in COLUMNS}, name="series")
        self.arrows = ColumnDataSource({name: [] for name in ("x0", "y0", "x1", "y1")})
        self.bars = ColumnDataSource({name: [] for name in ("place", "rate")}, name="bars")
        self.law = ColumnDataSource({"place": [], "rate": []})
        self.guards = {name: ColumnDataSource({"x": [0.0, 1.0], "y": [0.0, 1.0]}) for name in NAMES}
        self.linear = False
        self._inked: list[tuple[Any, str]] = []
        self._quiet: list[tuple[Any, str]] = []
        self.time = Range1d(0.0, 1.0)
        self.figures = {name: self._figure(name) for name in NAMES}
        self._banded("log_det", law=True)
        self._banded("loss")
        self._banded("balance", law=True)
        self._modes("singular", "singular", MOST_SINGULAR_VALUES, thin="path")
        self._modes("eigenvalues", "eigenvalue", MOST_EIGENVALUES)
        self._arrows()
        self._bars()
        for name in ("log_det", "loss", "eigenvalues"):
            _powers_of_ten(self.figures[name])
        self.set_linear(False)
        self.set_dark(False)

    def _figure(self, name: str) -> figure:
        is_time = name != "rates"
        plot = figure(
            name=name,
            x_range=self.time if is_time else DataRange1d(range_padding=0.05),
            y_range=DataRange1d(range_padding=0.08, only_visible=True),
            sizing_mode="stretch_both",
            min_border=4,
            tools="pan,box_zoom,wheel_zoom,reset,save",
            active_drag=None,
            active_scroll=None,
            background_fill_alpha=0.0,
            border_fill_alpha=0.0,
            outline_line_color=None,
            lod_threshold=None,
        )
        plot.toolbar.logo = None
        plot.toolbar.autohide = True
        for axis in (plot.xaxis[0], plot.yaxis[0]):
            axis.minor_tick_line_color = None
            axis.axis_label_text_font_style = "normal"
            axis.axis_label_text_font_size = "13px"
            axis.major_label_text_font_size = "12px"
            for field in ("axis_line_color", "major_tick_line_color", "major_label_text_color", "axis_label_text_color"):
                self._inked.append((axis, field))
        plot.yaxis[0].ticker.desired_num_ticks = 5
        # Points that cannot be seen keep rounding noise from being blown up to the height of the plot.
        plot.scatter("x", "y", source=self.guards[name], size=1, alpha=0.0)
        return plot

    def _banded(self, name: str, law: bool = False) -> None:
        plot, source = self.figures[name], self.series
        band = plot.varea("time", f"{name}_low", f"{name}_high", source=source, fill_alpha=0.22)
        line = plot.line("time", f"{name}_middle", source=source, line_width=2.6)
        self._quiet += [(band.glyph, "fill_color"), (line.glyph, "line_color")]
        tips = [("t", "@time{0.000}"), (plot.name or "", f"@{name}_middle{{0.0000}}")]
        if law:
            dashes = plot.line("time", f"{name}_law", source=source, line_width=1.6, line_dash=[7, 5])
            self._inked.append((dashes.glyph, "line_color"))
            tips.append(("law", f"@{name}_law{{0.0000}}"))
        plot.add_tools(HoverTool(renderers=[line], mode="vline", tooltips=tips))

    def _modes(self, name: str, column: str, count: int, thin: str = "") -> None:
        plot = self.figures[name]
        for i in range(count):
            colour = _MODES[i % len(_MODES)]
            if thin:
                plot.line("time", f"{thin}_{i}", source=self.series, line_color=colour, line_width=0.8, line_alpha=0.55)
            plot.line("time", f"{column}_{i}", source=self.series, line_color=colour, line_width=2.2 if thin else 1.7)

    def _arrows(self) -> None:
        head = VeeHead(size=9)
        arrow = Arrow(
            end=head, source=self.arrows, x_start="x0", y_start="y0", x_end="x1", y_end="y1", line_width=2.0
        )
        self.figures["eigenvalues"].add_layout(arrow)
        self._inked += [(arrow, "line_color"), (head, "fill_color"), (head, "line_color")]

    def _bars(self) -> None:
        plot = self.figures["rates"]
        bars = plot.vbar("place", top="rate", width=0.72, source=self.bars)
        law: GlyphRenderer[Any] = plot.scatter(
            "place", "rate", source=self.law, marker="dash", size=34, line_width=2.5, line_dash=[6, 4]
        )
        self._quiet.append((bars.glyph, "fill_color"))
        self._quiet.append((bars.glyph, "line_color"))
        self._inked.append((law.glyph, "line_color"))
        plot.xgrid.grid_line_color = None
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
        colour = style.NOISE_COLOURS[0] if getattr(self, "_noisy", False) else _QUIET[self._dark]
        for model, field in self._quiet:
            setattr(model, field, colour)

    def set_linear(self, linear: bool, film: Film | None = None) -> None:
        """Draw the singular values of W1 as they are, or as powers of ten."""
        self.linear = linear
        axis = self.figures["singular"].yaxis[0]
        if linear:
            axis.major_label_overrides = {}
            axis.ticker, axis.formatter = BasicTicker(desired_num_ticks=5), BasicTickFormatter()
        else:
            _powers_of_ten(self.figures["singular"])
        if film is not None:
            self._guard("singular", film)
            self.series.data = self._columns(film.rows[: film.filled])

    def restart(self, settings: Settings, film: Film, moment: Moment) -> None:
        """Begin a new run: axes, labels, and what there is of it."""
        noisy = settings.method not in ("gradient-flow", "gradient-descent")
        if noisy != getattr(self, "_noisy", None):
            self._noisy = noisy
            self._colour_noise()
        unit = "time t" if "flow" in settings.method else "time t (steps × step size)"
        for name, words in _LABELS.items():
            plot = self.figures[name]
            plot.yaxis[0].axis_label = words
            if name != "rates":
                plot.xaxis[0].axis_label = unit
                self._guard(name, film)
        modes = len(moment.rates)
        places = [*range(1, modes + 1), modes + 2]
        axis = self.figures["rates"].xaxis[0]
        axis.ticker = FixedTicker(ticks=places)
        axis.major_label_overrides = {i: str(i) for i in range(1, modes + 1)} | {modes + 2: "sum"}
        axis.axis_label = "mode"
        self.guards["rates"].data = {"x": [0.4, modes + 2.6], "y": [0.0, 0.0]}
        end = float(film.times[-1])
        self.time.update(start=0.0, end=end * (1.0 + ARROW_SHARE), bounds=None)
        self.series.data = self._columns(film.rows[: film.filled])
        self._moment(film, moment)

    def append(self, film: Film, begin: int, moment: Moment) -> None:
        """Add the rows of a film from `begin` on."""
        self.series.stream(self._columns(film.rows[begin : film.filled]))
        self._moment(film, moment)

    def _columns(self, rows: np.ndarray) -> dict[str, list[float]]:
        if self.linear:
            rows = rows.copy()
            rows[:, slice(*_SINGULAR)] = 10.0 ** rows[:, slice(*_SINGULAR)]
        return dict(zip(COLUMNS, rows.T.tolist(), strict=True))

    def _guard(self, name: str, film: Film) -> None:
        first = film.rows[0]
        if name == "log_det":
            height = first[COLUMNS.index("log_det_middle")]
            points = [height - 2.0, height + 2.0] if np.isfinite(height) else [-1.0, 1.0]
        elif name == "singular" and not self.linear:
            height = first[COLUMNS.index("singular_0")]
            points = [height - 1.5, height + 0.3]
        elif name == "loss":
            height = first[COLUMNS.index("loss_middle")]
            points = [height - 2.0, height]
        else:
            points = [] if name == "eigenvalues" else [0.0]
        self.guards[name].data = {"x": [0.0] * len(points), "y": points}

    def _moment(self, film: Film, moment: Moment) -> None:
        span = ARROW_SHARE * float(film.times[-1])
        seen = np.isfinite(moment.pushes) & np.isfinite(moment.eigenvalues)
        low, high = _extent(film)
        reach = max(0.5 * (high - low), 1.0)
        start, push = moment.eigenvalues[seen], moment.pushes[seen] * span
        tips = start + np.clip(push, -reach, reach)
        count = len(start)
        self.arrows.data = {
            "x0": [moment.time] * count,
            "y0": start.tolist(),
            "x1": [moment.time + span] * count,
            "y1": tips.tolist(),
        }
        modes = len(moment.rates)
        self.bars.data = {
            "place": [*range(1, modes + 1), modes + 2],
            "rate": [*moment.rates.tolist(), moment.rate_sum],
        }
        known = np.isfinite(moment.rate_law)
        self.law.data = {"place": [modes + 2] if known else [], "rate": [moment.rate_law] if known else []}


_LABELS = {
    "log_det": "det M",
    "singular": "σᵢ(W1)",
    "eigenvalues": "λᵢ(M)",
    "loss": "loss",
    "balance": "‖Q‖",
    "rates": "per unit of time",
}


def _extent(film: Film) -> tuple[float, float]:
    values = film.rows[: film.filled, COLUMNS.index("eigenvalue_0") :]
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _powers_of_ten(plot: figure) -> None:
    axis = plot.yaxis[0]
    axis.ticker = AdaptiveTicker(base=10, mantissas=[1, 2, 5], min_interval=1, desired_num_ticks=5)
    axis.major_label_overrides = _POWERS
