"""Dataset → Figure. Pure: nothing runs, nothing is written, matplotlib's global state is left alone."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rankfall.report import style

__all__ = [
    "draw_log_det",
    "finish_log_det",
    "log_det_change",
    "over_replicates",
    "overview",
    "reproduction",
    "resolved",
]

# A singular value below this share of the largest is rounding noise in float64.
ROUNDING = 1e-14
# More replicates than this are not told apart in a figure: this many are drawn, the medians are of all.
MOST_LINES = 512
_LN10 = math.log(10.0)


def resolved(run: xr.Dataset) -> np.ndarray:
    """Where float64 still resolves log det M: as long as σ_min(Z) ≥ 1e-14 σ_max(Z), shape (replicate, time)."""
    spectrum = run["singular_values_Z"].values
    return np.logical_and.accumulate(spectrum[..., -1] >= ROUNDING * spectrum[..., 0], axis=-1)


def has_determinant(run: xr.Dataset) -> bool:
    """Whether log det M is a number: not where det M = 0 (width below p + k, or a start of lower rank)."""
    return not bool(np.isneginf(run["log_det"].values[:, 0]).all())


def log_det_change(run: xr.Dataset) -> np.ndarray | None:
    """What the determinant law says of log det M_t − log det M_0, shape (replicate, time); None if it is silent.

    Flows: −2 k σ² tr(Σ) t, zero without noise. Descents, and flows followed by Euler–Maruyama: the recorded ledger.
    """
    shape = run["log_det"].shape
    method = str(run.attrs["method"])
    if method == "GradientFlow":
        return np.zeros(shape)
    fields = json.loads(run.attrs["settings"])["method"]
    if method == "StochasticGradientFlow" and fields.get("integrator") != "euler":
        intensity = fields["step_size"] * fields["label_noise"] / fields.get("batch_size", 1)
        rate = 2.0 * run.sizes["output"] * intensity * float(np.trace(run["covariance"].values))
        elapsed = run["time"].values - run["time"].values[0]
        return np.broadcast_to(-rate * elapsed, shape).copy()
    if "ledger_log_det" in run:
        return run["ledger_log_det"].values
    return None


def reproduction(runs: Mapping[float, xr.Dataset], *, modes: int = 5, columns: Literal[1, 2] = 2) -> Figure:
    """The paper's figure: det M and the largest singular values of W1 against time, by variance of the label noise.

    Left: every replicate faint, the median bold, the law dashed; dotted where float64 no longer resolves det M. Where
    det M is zero at all times (narrow networks) the balance ‖Q‖ takes its place. Right: medians over the replicates,
    with a band from the 10 % to the 90 % quantile; of more than `modes` singular values the smallest are drawn as well.

    Args:
        runs: One run per label-noise variance δ, 0 for gradient flow.
        modes: How many of the largest singular values to draw, and of the smallest.
        columns: Width of one column of a paper, the panels below each other, or of two, side by side.
    """
    with style.context():
        figure = style.new_figure(columns, 2.9 if columns == 2 else 5.2)
        left, right = figure.subplots(1, 2) if columns == 2 else figure.subplots(2, 1)
        colours = _colours(runs)
        wide = all(has_determinant(run) for run in runs.values())
        for noise in sorted(runs):
            label = f"δ = {noise:g}" + (" (gradient flow)" if noise == 0 else "")
            if wide:
                draw_log_det(left, runs[noise], colour=colours[noise], label=label)
            else:
                draw_balance(left, runs[noise], colour=colours[noise], label=label)
            draw_singular_values(right, runs[noise], "W1", colour=colours[noise], label=label, modes=modes)
        if wide:
            finish_log_det(left, list(runs.values()))
        else:
            _finish_balance(left, list(runs.values()))
            _explain_zero_determinant(figure, next(run for run in runs.values() if not has_determinant(run)))
        _finish_singular_values(right, list(runs.values()), "W1", modes)
    return figure


def overview(run: xr.Dataset, *, columns: Literal[1, 2] = 2, law: xr.Dataset | None = None) -> Figure:
    """Determinant, singular values of W1, loss and balance of one run, each with what the laws predict of it.

    Where det M is zero at all times the singular values of W2 take its place, and a sentence says why. Of more than two
    layers all of them are drawn, and the determinants and balances of all pairs.

    Args:
        run: The run.
        columns: Width of one column of a paper, or of two.
        law: Predicted loss and singular values of the same run (`laws.gradient_flow.predict`), drawn dashed.
    """
    if "depth" in run.attrs:
        from rankfall.report._deep import deep_overview

        return deep_overview(run, columns=columns)
    with style.context():
        figure = style.new_figure(columns, 4.9 if columns == 2 else 9.0)
        axes = figure.subplots(2, 2).ravel() if columns == 2 else figure.subplots(4, 1).ravel()
        colour = style.QUIET_COLOUR if str(run.attrs["method"]).startswith("Gradient") else style.NOISE_COLOURS[0]
        if has_determinant(run):
            draw_log_det(axes[0], run, colour=colour, label="")
            finish_log_det(axes[0], [run])
        else:
            draw_singular_values(axes[0], run, "W2", colour=colour, label="", modes=5)
            if law is not None:
                draw_law(axes[0], law, "singular_values_W2")
            _finish_singular_values(axes[0], [run], "W2", 5)
            _explain_zero_determinant(figure, run)
        draw_singular_values(axes[1], run, "W1", colour=colour, label="", modes=5)
        if law is not None:
            draw_law(axes[1], law, "singular_values_W1")
        _finish_singular_values(axes[1], [run], "W1", 5)
        draw_loss(axes[2], run, colour=colour)
        if law is not None:
            draw_law(axes[2], law, "loss")
        draw_balance(axes[3], run, colour=colour, label="")
        _finish_balance(axes[3], [run])
    return figure


def draw_log_det(axes: Axes, run: xr.Dataset, *, colour: str, label: str) -> None:
    """Draw log₁₀ det M: every replicate, the median, and the law dashed on top of it."""
    time, values, known = run["time"].values, run["log_det"].values / _LN10, resolved(run)
    _draw_replicates(axes, time, values, colour)
    with_most = known.sum(axis=0) * 2 > np.isfinite(values).sum(axis=0)
    middle = over_replicates(np.nanmedian, values)
    axes.plot(time, np.where(with_most, middle, np.nan), color=colour, linewidth=2.2, label=label)
    beyond = ~with_most
    beyond[:-1] |= beyond[1:]  # from the last point that is resolved, so that no gap is left
    axes.plot(time, np.where(beyond, middle, np.nan), color=colour, linewidth=1.4, linestyle=":")
    change = log_det_change(run)
    if change is not None:
        law = over_replicates(np.nanmedian, values[:, :1] + change / _LN10)
        axes.plot(time, law, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)))


def draw_singular_values(axes: Axes, run: xr.Dataset, layer: str, *, colour: str, label: str, modes: int) -> None:
    """Draw the median of each of the largest and smallest singular values, and the band of its 10 % to 90 % quantiles.

    What is below 1e-14 of the largest is rounding noise and left out.
    """
    time, values = run["time"].values, run[f"singular_values_{layer}"].values
    noise_floor = ROUNDING * values[..., :1]
    values = np.where(values > noise_floor, values, np.nan)
    total = values.shape[-1]
    for mode in sorted({*range(min(modes, total)), *range(max(0, total - modes), total)}):
        each = values[..., mode]
        if len(each) > 2:
            low, high = (over_replicates(_quantile(q), each) for q in (0.1, 0.9))
            axes.fill_between(time, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(
            time, over_replicates(np.nanmedian, each), color=colour, linewidth=1.3, label=label if mode == 0 else None
        )


def draw_loss(axes: Axes, run: xr.Dataset, *, colour: str) -> None:
    """Draw the loss, on a logarithmic scale where it is positive; where there is an accuracy, dotted, on the right."""
    time, values = run["time"].values, run["loss"].values
    positive = np.where(values > 0, values, np.nan)
    _draw_replicates(axes, time, positive, colour)
    axes.plot(time, over_replicates(np.nanmedian, positive), color=colour, linewidth=2.0)
    if np.isfinite(positive).any():
        axes.set_yscale("log")
    axes.set(title="Loss", xlabel=_time_label([run]), ylabel="L(W)")
    if "accuracy" in run:
        axes.set(title="Loss (solid) and accuracy (dotted)")
        right = axes.twinx()
        right.plot(
            time, over_replicates(np.nanmedian, run["accuracy"].values), color=style.INK, linewidth=1.3, linestyle=":"
        )
        right.set(ylim=(0.0, 1.02), ylabel="accuracy")
        right.spines["right"].set_visible(True)


def draw_law(axes: Axes, law: xr.Dataset, name: str) -> None:
    """Draw the median over the replicates of a predicted variable, dashed; what is rounding noise is left out."""
    values = law[name].values
    floor = ROUNDING * values.max(axis=-1, keepdims=True) if values.ndim == 3 else 0.0
    middle = over_replicates(np.nanmedian, np.where(values > floor, values, np.nan))
    words = "ODE solver" if str(law.attrs["source"]).startswith("ODE") else "closed form"
    for index, curve in enumerate(middle.reshape(len(middle), -1).T):
        label = None if index else words
        axes.plot(law["time"].values, curve, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)), label=label)


def draw_balance(axes: Axes, run: xr.Dataset, *, colour: str, label: str) -> None:
    """Draw ‖Q‖_F = ‖W1ᵀW1 − W2W2ᵀ‖_F and, dashed, what its ledger says (the start value for gradient flow)."""
    time, values = run["time"].values, run["balance"].values
    _draw_replicates(axes, time, values, colour)
    middle = over_replicates(np.nanmedian, values)
    axes.plot(time, middle, color=colour, linewidth=2.2, label=label)
    law = None
    if "ledger_balance" in run:
        law = over_replicates(np.nanmedian, run["ledger_balance"].values)
    elif str(run.attrs["method"]) == "GradientFlow":
        law = np.full_like(middle, middle[0])
    if law is not None:
        axes.plot(time, law, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)))


def finish_log_det(axes: Axes, runs: list[xr.Dataset]) -> None:
    """Title, powers of ten and legend of a panel of `draw_log_det`."""
    axes.set(title="Determinant of M = ZZᵀ", xlabel=_time_label(runs), ylabel="det M")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda exponent, _: f"$10^{{{exponent:.0f}}}$"))
    bottom, top = axes.get_ylim()
    if top - bottom < 2.5:  # a constant determinant must not look like noise blown up to the whole axis
        centre = (top + bottom) / 2
        axes.set_ylim(centre - 2, centre + 2)
    _legend(axes, runs, dotted=any(not resolved(run)[np.isfinite(run["log_det"].values)].all() for run in runs))


def _finish_balance(axes: Axes, runs: list[xr.Dataset]) -> None:
    axes.set(title="Balance Q = W1ᵀW1 − W2W2ᵀ", xlabel=_time_label(runs), ylabel="‖Q‖ (Frobenius)")
    values = np.concatenate([run["balance"].values.ravel() for run in runs])
    finite = values[np.isfinite(values)]
    conserved = all(str(run.attrs["method"]) == "GradientFlow" for run in runs)  # then only rounding moves Q
    if len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min() and not conserved:
        axes.set_yscale("log")
    elif len(finite):  # from zero, with room for the legend above the curves
        axes.set_ylim(0.0, (1.4 if axes.get_legend_handles_labels()[1] else 1.15) * max(finite.max(), 1e-8))
    _legend(axes, runs, dotted=False, place="upper right")


def _finish_singular_values(axes: Axes, runs: list[xr.Dataset], layer: str, modes: int) -> None:
    axes.set_yscale("log")
    some = max(run.sizes[f"mode_{layer}"] for run in runs) > 2 * modes
    label = f"σᵢ ({modes} largest, {modes} smallest)" if some else "σᵢ"
    axes.set(title=f"Singular values of {layer}", xlabel=_time_label(runs), ylabel=label)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # only a prediction has dashes: its curves rise from the lower left
        predicted = any(line.get_linestyle() == "--" for line in axes.lines)
        place: Literal["lower left", "lower right"] = "lower right" if predicted else "lower left"
        axes.legend(handles, labels, loc=place, handlelength=1.6)


def _explain_zero_determinant(figure: Figure, run: xr.Dataset) -> None:
    reason = f"det M = 0 at all times ({_why_zero(run)}), so the balance is followed instead."
    characters = int(16 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(reason, characters), fontsize=7.5, color=style.GREY, x=0.01, ha="left")


def _why_zero(run: xr.Dataset) -> str:
    sizes = run.attrs
    p, k, width = int(sizes["n_inputs"]), int(sizes["n_outputs"]), int(sizes["width"])
    if width < p + k:
        return f"the width {width} is below p + k = {p + k}"
    rank = int(sizes.get("start_rank", -1))
    return f"Z starts with rank {rank if rank >= 0 else 'below ' + str(p + k)}, and rank is never gained"


def _legend(
    axes: Axes, runs: list[xr.Dataset], *, dotted: bool, place: Literal["lower left", "upper right"] = "lower left"
) -> None:
    handles, labels = axes.get_legend_handles_labels()
    handles, labels = list(handles), list(labels)
    if any(len(line.get_xdata()) and line.get_color() == style.INK for line in axes.lines):  # type: ignore[arg-type]
        handles += axes.plot([], [], color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)))
        labels.append("law" if all("Flow" in str(run.attrs["method"]) for run in runs) else "ledger")
    if dotted:
        handles += axes.plot([], [], color=style.GREY, linewidth=1.4, linestyle=":")
        labels.append("beyond float64")
    kept = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
    if kept:
        axes.legend(
            [handle for handle, _ in kept],
            [label for _, label in kept],
            loc=place,
            handlelength=2.2,
        )


def _draw_replicates(axes: Axes, time: np.ndarray, values: np.ndarray, colour: str) -> None:
    if len(values) < 2:
        return
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_LINES)).astype(int))
    finite = np.where(np.isfinite(values), values, np.nan)
    paths = [np.column_stack([time, finite[i]]) for i in chosen]
    lines = LineCollection(paths, colors=colour, linewidths=0.5, alpha=float(np.clip(6 / len(chosen), 0.06, 0.35)))
    # Hundreds of curves as vectors make a page of many megabytes.
    lines.set_rasterized(finite[chosen].size > 4_000)
    axes.add_collection(lines, autolim=True)
    axes.autoscale_view()


def _colours(runs: Mapping[float, Any]) -> dict[float, str]:
    noisy = sorted(noise for noise in runs if noise > 0)
    loud = style.NOISE_COLOURS
    return {0.0: style.QUIET_COLOUR} | {noise: loud[i % len(loud)] for i, noise in enumerate(noisy)}


def _time_label(runs: list[xr.Dataset]) -> str:
    return "time" if any("Flow" in str(run.attrs["method"]) for run in runs) else "time (steps × step size)"


def _quantile(q: float) -> Callable[..., np.ndarray]:
    return lambda values, axis: np.nanquantile(values, q, axis=axis)


def over_replicates(reduce: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
    """Reduce the first axis without the replicates that are not finite there; NaN where none is left."""
    finite = np.where(np.isfinite(values), values, np.nan)
    some = np.isfinite(finite).any(axis=0)
    result = np.full(finite.shape[1:], np.nan)
    if some.any():
        result[some] = reduce(finite[:, some], axis=0)
    return result
