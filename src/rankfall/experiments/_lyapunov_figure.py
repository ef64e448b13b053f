"""The figure of the Lyapunov experiment: decay, exponents against noise, shape and teacher, final ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from rankfall.experiments import _lyapunov_claims as claims
from rankfall.experiments._target import Results
from rankfall.report import style

if TYPE_CHECKING:
    from rankfall.experiments.lyapunov import Settings

__all__ = ["caption", "draw"]

# Surviving and dying modes, and the cells of the grid: equal to the teacher's rank, different, undecided.
_SURVIVES, _DIES = style.QUIET_COLOUR, style.NOISE_COLOURS[0]
_CELLS = ("#9ecae1", "#fdae6b", "#d9d9d9")
_CELL_TEXT = "#111111"  # on those, whatever the reader's own text colour
_LN10 = np.log(10.0)


def draw(settings: Settings, results: Results, columns: Literal[1, 2]) -> Figure | None:
    """All panels for which there are results; None if there are none."""
    grids = [results[f"grid-{p}x{k}"] for p, k in settings.sizes if f"grid-{p}x{k}" in results]
    if "decay" not in results and not grids:
        return None
    rows = sum(len(np.unique(grid["teacher_rank"])) for grid in grids)
    last = 0.95 + 0.155 * rows
    with style.context():
        if columns == 2:
            figure = style.new_figure(2, 4.9 + last)
            places = figure.subplot_mosaic(
                [["decay", "noise"], ["ratio", "teacher"], ["grid", "grid"]], height_ratios=[2.45, 2.45, last]
            )
        else:
            figure = style.new_figure(1, 9.6 + last)
            names = ["decay", "noise", "ratio", "teacher", "grid"]
            places = figure.subplot_mosaic([[name] for name in names], height_ratios=[2.4] * 4 + [last])
        _decay(places["decay"], settings, results)
        _against_noise(places["noise"], settings, grids[0] if grids else None)
        _against_ratio(places["ratio"], settings, results.get("ratio"))
        _against_teacher(places["teacher"], settings, grids)
        _grid(places["grid"], grids)
    return figure


def _nothing(axes: Axes) -> None:
    axes.set_axis_off()


def _decay(axes: Axes, settings: Settings, results: Results) -> None:
    run = results.get("decay")
    if run is None or run.sizes["time"] < 3:
        return _nothing(axes)
    (p, k), intensity = settings.sizes[0], settings.intensities[0]
    time, values = run["time"].values * intensity, run["log_singular_values_Z"].values / _LN10
    kept = np.isfinite(values[:, -1]).all(axis=-1)
    median = np.median(values[kept], axis=0)
    low, high = np.quantile(values[kept], (0.1, 0.9), axis=0)
    expected = _exponents_of(results.get(f"grid-{p}x{k}"), min(p, k), intensity)
    for mode in range(median.shape[1]):
        colour = _SURVIVES if mode < min(p, k) else _DIES
        axes.fill_between(time, low[:, mode], high[:, mode], color=colour, alpha=0.25, linewidth=0)
        axes.plot(time, median[:, mode], color=colour, label="median, 10–90 %" if mode == median.shape[1] - 1 else None)
        if expected is not None:
            begin = len(time) // 5
            line = median[begin, mode] + expected[mode] * (time[begin:] - time[begin]) / _LN10
            axes.plot(
                time[begin:],
                line,
                color=style.INK,
                linestyle=(0, (1, 2)),
                linewidth=1.3,
                label="Lyapunov slope" if mode == median.shape[1] - 1 else None,
            )
    if median[-1, -1] < -400:
        axes.axhline(-308, color=style.GREY, linewidth=0.7, linestyle="--")
        axes.annotate("smallest float64", (0.0, -308), (2, -3), textcoords="offset points", va="top", fontsize=6.5)
    axes.set(
        title=f"Singular values of Z, σ² = {intensity:g}", xlabel="time · σ²", ylabel="log₁₀ σᵢ(Z)", xlim=(0, time[-1])
    )
    axes.legend(loc="lower left")


def _exponents_of(grid: xr.Dataset | None, rank: int, intensity: float) -> np.ndarray | None:
    if grid is None:
        return None
    cells = np.flatnonzero((grid["teacher_rank"] == rank) & np.isclose(grid["intensity"], intensity))
    values = grid["exponents"].values[cells[0]] if len(cells) else np.array([np.nan])
    return values if np.isfinite(values).all() else None


def _points(axes: Axes, x: np.ndarray, grid: xr.Dataset, *, lines: bool) -> None:
    """Exponents with error bars at the abscissae x, one per cell; in the colour of what survives, is open, or dies."""
    for mode in range(grid.sizes["mode"]):
        values, errors = grid["exponents"].values[:, mode], 2 * grid["standard_error"].values[:, mode]
        known = np.isfinite(values)
        if lines:
            axes.plot(x[known], values[known], color=style.GREY, linewidth=0.6, zorder=1)
        low, high = grid["final_rank"].values.T
        kinds = np.where(mode < low, 0, np.where(mode < high, 1, 2))
        for kind, colour in enumerate((_SURVIVES, style.GREY, _DIES)):
            chosen = known & (kinds == kind)
            axes.errorbar(
                x[chosen],
                values[chosen],
                errors[chosen],
                fmt="o",
                color=colour,
                markersize=2.6,
                elinewidth=0.9,
                zorder=2,
            )


def _against_noise(axes: Axes, settings: Settings, grid: xr.Dataset | None) -> None:
    if grid is None:
        return _nothing(axes)
    p, k = settings.sizes[0]
    chosen = grid.isel(cell=np.flatnonzero(grid["teacher_rank"] == 1))
    _points(axes, chosen["intensity"].values, chosen, lines=True)
    axes.set_xscale("log")
    axes.set_xticks(settings.intensities, [f"{x:g}" for x in settings.intensities])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(
        title=f"p = {p}, k = {k}, teacher of rank 1",
        xlabel="noise σ² (the teacher's singular values are 1)",
        ylabel="exponents μᵢ / σ²",
    )


def _against_ratio(axes: Axes, settings: Settings, ratio: xr.Dataset | None) -> None:
    if ratio is None:
        return _nothing(axes)
    _points(axes, ratio["n_inputs"].values / 2.0, ratio, lines=False)
    axes.set(
        title=f"k = 2, teacher of rank 1, σ² = {settings.intensities[0]:g}",
        xlabel="p / k",
        ylabel="exponents μᵢ / σ²",
    )


def _against_teacher(axes: Axes, settings: Settings, grids: list[xr.Dataset]) -> None:
    if not grids:
        return _nothing(axes)
    grid = max(grids, key=lambda g: int(g["teacher_rank"].max()))
    chosen = grid.isel(cell=np.flatnonzero(np.isclose(grid["intensity"], settings.intensities[0])))
    _points(axes, chosen["teacher_rank"].values.astype(float), chosen, lines=False)
    p, k = (int(grid[name].values[0]) for name in ("n_inputs", "n_outputs"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.15)
    axes.set(
        title=f"p = {p}, k = {k}, σ² = {settings.intensities[0]:g}",
        xlabel="rank of the teacher",
        ylabel="exponents μᵢ / σ²",
    )


def _grid(axes: Axes, grids: list[xr.Dataset]) -> None:
    if not grids:
        return _nothing(axes)
    noises = np.unique(np.concatenate([grid["intensity"].values for grid in grids]))
    labels: list[str] = []
    colours: list[np.ndarray] = []
    for grid in grids:
        p, k = (int(grid[name].values[0]) for name in ("n_inputs", "n_outputs"))
        for rank in np.unique(grid["teacher_rank"]):
            row = np.full(len(noises), np.nan)
            for cell in np.flatnonzero(grid["teacher_rank"] == rank):
                low, high = grid["final_rank"].values[cell]
                if low < 0:
                    continue
                column = int(np.argmin(np.abs(noises - float(grid["intensity"].values[cell]))))
                (verdict,) = claims.cell_verdicts(grid.isel(cell=[cell]))
                row[column] = {True: 0, False: 1, None: 2}[verdict.passed]
                text = f"{low}" if low == high else f"{low}–{high}"
                axes.text(column, len(labels), text, ha="center", va="center", fontsize=6.5, color=_CELL_TEXT)
            labels.append(f"{p}×{k}, rank {rank}")
            colours.append(row)
    axes.imshow(
        np.ma.masked_invalid(np.array(colours)), cmap=ListedColormap(_CELLS), vmin=-0.5, vmax=2.5, aspect="auto"
    )
    edge = -0.5
    for grid in grids[:-1]:
        edge += len(np.unique(grid["teacher_rank"]))
        axes.axhline(edge, color="white", linewidth=2.5)
    axes.set_xticks(range(len(noises)), [f"{x:g}" for x in noises])
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("How many modes survive", pad=19)
    axes.set(xlabel="noise σ²")
    for colour, words in zip(_CELLS, ("the teacher's rank", "another", "open"), strict=True):
        axes.plot([], [], "s", color=colour, label=words)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.03, 1.0), ncols=3, borderaxespad=0.1, handletextpad=0.1, columnspacing=0.7
    ).set_in_layout(False)  # the title keeps its place free


def caption(settings: Settings, results: Results) -> str:
    """What the panels show."""
    p, k = settings.sizes[0]
    return (
        f"First panel: all {p + k} singular values of Z = [W1; W2ᵀ] (p = {p}, k = {k}, a teacher of rank {min(p, k)}), "
        f"median and 10–90 % band over {settings.replicates} trajectories, with the slopes of the Lyapunov exponents "
        "that other runs gave; singular values are followed in a graded form, so that float64's range is no limit. "
        "Next: the exponents in units of σ², bars of two standard errors, against the noise, the shape and the rank of "
        "the teacher; blue where zero (the mode survives), red where the mode dies, grey where that is open. Last: the "
        "number of zero exponents in every cell of the grid (p×k and teacher by noise), from runs of length "
        f"{settings.duration:g}/σ² at the weakest noise and up to 8 times that at stronger noise. Inputs are whitened "
        "and the teacher's singular values are 1."
    )
