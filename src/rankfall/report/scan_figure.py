"""The figure of a scan: spectra of one checkpoint, or rank against training step of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankfall._text import printable
from rankfall.errors import InvalidInput
from rankfall.report import style

if TYPE_CHECKING:
    from rankfall.scan import LayerReport, Scan

__all__ = ["scan_figure"]

_SPECTRA = {
    "attention": "Attention",
    "lora": "LoRA pairs",
    "convolution": "Convolutions",
    "embedding": "Embeddings",
    "dense": "Other matrices",
}
# Below this part of the largest, singular values of float32 are rounding noise.
_FLOOR = 1e-7
# Of a long spectrum so many points are drawn, those at the ends included.
_POINTS = 200
_LABELLED = 6


def scan_figure(scan: Scan) -> Figure:
    """Draw a scan.

    One checkpoint: for each kind of matrix the singular values over the largest against their place, and the share of
    the rank that every matrix uses, in the order of the scan. Several: each measure against the step.

    Raises:
        InvalidInput: A scan without spectra.
    """
    if not scan.spectra:
        raise InvalidInput("a scan without spectra has none to draw; scan with spectra=True.")
    if scan.steps:
        return _over_time(scan)
    whole = [layer for layer in scan if not layer.part_of and not layer.problem]
    kinds = [kind for kind in _SPECTRA if any(layer.kind == kind for layer in whole)]
    panels = len(kinds) + 1
    across = min(panels, 2 if panels in (2, 4) else 3)
    down = -(-panels // across)
    with style.context():
        figure = style.new_figure(2, 2.4 * down)
        axes = list(np.atleast_1d(figure.subplots(down, across)).ravel())
        for empty in axes[panels:]:
            empty.remove()
        for panel, kind in zip(axes, kinds, strict=False):
            _draw_spectra(panel, kind, [layer for layer in whole if layer.kind == kind])
        _draw_shares(axes[len(kinds)], whole)
    return figure


def _draw_spectra(axes: Axes, kind: str, layers: Sequence[LayerReport]) -> None:
    few = len(layers) <= _LABELLED
    lowest = 1.0
    for layer, colour in zip(layers, _shades(len(layers)), strict=True):
        values = layer.singular_values
        if values[0] == 0:
            continue
        chosen = np.unique(np.linspace(0, len(values) - 1, min(_POINTS, len(values))).round().astype(int))
        relative = np.asarray(values[chosen], dtype=np.float64) / float(values[0])
        relative[relative < _FLOOR] = np.nan
        lowest = min(lowest, float(np.nanmin(relative)))
        place = (chosen + 1) / len(values)
        marker: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(values) < 20 else {}
        axes.plot(place, relative, color=colour, linewidth=1.0, label=_short(layer.name) if few else None, **marker)
    axes.set_yscale("log")
    axes.set_ylim(min(0.5, lowest / 1.5), 1.4)
    axes.set(
        title=_SPECTRA[kind] if few else f"{_SPECTRA[kind]} ({len(layers)})",
        xlabel="i / number of σ",
        ylabel="σᵢ / σ₁",
        xlim=(0.0, 1.02),
    )
    if few and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", fontsize=5.5, handlelength=1.2)


def _draw_shares(axes: Axes, layers: Sequence[LayerReport]) -> None:
    """One mark per matrix, in the colour of its kind."""
    colours = dict(zip(_SPECTRA, (style.QUIET_COLOUR, *style.NOISE_COLOURS), strict=False))
    for kind, heading in _SPECTRA.items():
        places = [i for i, layer in enumerate(layers) if layer.kind == kind]
        if places:
            shares = [100 * layers[i].share for i in places]
            axes.plot(
                [i + 1 for i in places],
                shares,
                "o",
                markersize=3.0,
                color=colours[kind],
                label=heading,
                linestyle="none",
            )
    axes.set(title="Rank used", xlabel="number of the matrix", ylabel="effective rank / full rank, %")
    axes.set_ylim(0.0, 104.0)
    if len({layer.kind for layer in layers}) > 1:
        axes.legend(loc="best", fontsize=6.0, handlelength=0.8)


def _over_time(scan: Scan) -> Figure:
    data = scan.to_dataset()
    names = [str(name) for name in data["layer"].values]
    kinds = [str(kind) for kind in data["kind"].values]
    whole = {layer.name for layer in scan if not layer.part_of}
    shown = [*scan.measures, "share"]
    across = 2 if len(shown) in (2, 4) else min(3, len(shown))
    down = -(-len(shown) // across)
    rows = [i for i, name in enumerate(names) if name in whole]
    shades = _shades(len(rows))
    dashes = {"attention": "-", "lora": "-", "convolution": "-.", "embedding": ":", "dense": "--"}
    few = len(rows) <= _LABELLED
    with style.context():
        figure = style.new_figure(2, 2.3 * down)
        axes = list(np.atleast_1d(figure.subplots(down, across)).ravel())
        for empty in axes[len(shown) :]:
            empty.remove()
        for panel, measure in zip(axes, shown, strict=False):
            for i, colour in zip(rows, shades, strict=True):
                values = data[measure].values[:, i] * (100 if measure == "share" else 1)
                label = _short(names[i]) if few else None
                panel.plot(
                    data["step"].values, values, color=colour, linestyle=dashes[kinds[i]], marker="o", markersize=2.0,
                    linewidth=1.0, label=label,
                )  # fmt: skip
            title = "Rank used, %" if measure == "share" else measure.replace("_", " ").capitalize()
            panel.set(title=title, xlabel="training step")
            if measure != "log_determinant":
                panel.set_ylim(bottom=0.0)
        if few:
            axes[0].legend(loc="best", fontsize=5.5, handlelength=1.6)
        else:
            handles = [
                axes[0].plot([], [], color=style.INK, linestyle=dashes[kind], linewidth=1.0, label=_SPECTRA[kind])[0]
                for kind in _SPECTRA
                if kind in {kinds[i] for i in rows}
            ]
            axes[0].legend(handles=handles, loc="best", fontsize=6.0, handlelength=2.0)
    return figure


def _shades(number: int) -> list[tuple[float, ...]]:
    return [tuple(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.02, 0.88, max(number, 1)))]


def _short(name: str) -> str:
    """The last parts of a name, as a label that matplotlib takes literally."""
    short = printable(".".join(name.removesuffix(".weight").split(".")[-3:]))
    short = short if len(short) <= 28 else "…" + short[-27:]
    # Dollars would begin a formula; a leading underscore hides a label.
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")
