"""One run of more than two layers, drawn: every layer, the product, and the laws of every pair."""

from __future__ import annotations

import math
from typing import Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankfall.report import figures, style

__all__ = ["deep_overview"]

_LN10 = math.log(10.0)
_MODES = 5


def deep_overview(run: xr.Dataset, *, columns: Literal[1, 2] = 2) -> Figure:
    """Singular values of every layer and of the product, loss, balances and, where a pair is wide, determinants."""
    depth = int(run.attrs["depth"])
    wide = [i for i in range(depth - 1) if not np.isneginf(run["log_det"].values[:, 0, i]).all()]
    matrices = [*(f"W{i}" for i in range(1, depth + 1)), "product"]
    across = 3 if columns == 2 else 1
    panels = len(matrices) + 2 + bool(wide)
    down = -(-panels // across)
    colour = style.QUIET_COLOUR if str(run.attrs["method"]).startswith("Gradient") else style.NOISE_COLOURS[0]
    with style.context():
        figure = style.new_figure(columns, 2.1 * down + 0.2)
        axes = list(np.atleast_1d(figure.subplots(down, across)).ravel())
        for empty in axes[panels:]:
            empty.remove()
        for name in matrices:
            each = axes.pop(0)
            figures.draw_singular_values(each, run, name, colour=colour, label="", modes=_MODES)
            figures._finish_singular_values(each, [run], name, _MODES)
            if name == "product":
                each.set_title("Singular values of the product")
        figures.draw_loss(axes[0], run, colour=colour)
        _draw_pairs(axes[1], run, "balance", list(range(depth - 1)))
        if wide:
            _draw_pairs(axes[2], run, "log_det", wide)
    return figure


def _draw_pairs(axes: Axes, run: xr.Dataset, name: Literal["balance", "log_det"], pairs: list[int]) -> None:
    """Medians over the replicates, one colour per pair of layers, and what the laws say of them dashed."""
    time, unit = run["time"].values, 1.0 if name == "balance" else _LN10
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.85, run.sizes["pair"]))
    flow = str(run.attrs["method"]) == "GradientFlow"
    for i in pairs:
        values = run[name].values[:, :, i] / unit
        middle = figures.over_replicates(np.nanmedian, values)
        known = _resolved(run, i + 1) if name == "log_det" else np.ones(len(time), dtype=bool)
        label = f"layers {i + 1}–{i + 2}"
        axes.plot(time, np.where(known, middle, np.nan), color=shades[i], linewidth=1.8, label=label)
        beyond = ~known
        beyond[:-1] |= beyond[1:]  # from the last point that is resolved, so that no gap is left
        axes.plot(time, np.where(beyond, middle, np.nan), color=shades[i], linewidth=1.2, linestyle=":")
        law = None
        if flow:
            law = np.full_like(middle, middle[0])
        elif name == "balance" and "ledger_balance" in run:
            law = figures.over_replicates(np.nanmedian, run["ledger_balance"].values[:, :, i])
        elif name == "log_det" and "ledger_log_det" in run:
            predicted = values[:, :1] + run["ledger_log_det"].values[:, :, i] / unit
            law = figures.over_replicates(np.nanmedian, predicted)
        if law is not None:
            axes.plot(time, law, color=style.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    titles = {"balance": "Balances (dashed: law)", "log_det": "Determinants (dashed: law)"}
    labels = {"balance": "‖Qᵢ‖ (Frobenius)", "log_det": "log₁₀ det Mᵢ"}
    axes.set(title=titles[name], xlabel=figures._time_label([run]), ylabel=labels[name])
    low, high = axes.get_ylim()
    if name == "balance":
        axes.set_ylim(0.0, (1.3 if len(pairs) < 5 else 1.5) * max(high, 1e-8))
    elif high - low < 2.0:
        axes.set_ylim(low - 1.0, high + 1.0)
    several = len(pairs) > 2
    axes.legend(loc="best", ncols=2 if several else 1, fontsize=6.0, handlelength=1.0, columnspacing=0.8)


def _resolved(run: xr.Dataset, number: int) -> np.ndarray:
    """Where float64 still resolves log det M_i of most replicates, shape (time,)."""
    spectrum = run[f"singular_values_Z{number}"].values
    seen = np.logical_and.accumulate(spectrum[..., -1] >= figures.ROUNDING * spectrum[..., 0], axis=-1)
    return np.asarray(seen.sum(axis=0) * 2 > np.isfinite(spectrum[..., 0]).sum(axis=0))
