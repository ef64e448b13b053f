"""What the Lyapunov experiment claims, and where the rank of the teacher is not the rank that survives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from rankfall.experiments._target import Results
from rankfall.laws import Verdict

if TYPE_CHECKING:
    from rankfall.experiments.lyapunov import Settings

__all__ = ["cell_verdicts", "claims", "measured_slopes", "notes", "sum_rule"]

# Standard errors that a slope may be away from its exponent: with 7 modes a false alarm in 2000 runs.
_BAND = 4.0
_BURN_IN = 0.2


def claims(settings: Settings, results: Results) -> list[Verdict]:
    """Slopes, and by size: weak noise leaves the teacher's rank, strong noise that of the noise alone."""
    found = []
    if "decay" in results:
        found += slopes_are_exponents(settings, results)
    for p, k in settings.sizes:
        grid = results.get(f"grid-{p}x{k}")
        if grid is None:
            continue
        cells = cell_verdicts(grid)
        weak = [v for v, cell in _pairs(cells, grid) if _is(cell, settings.intensities[0]) and cell.teacher_rank > 0]
        if weak:
            found.append(
                _together(
                    f"teacher's rank survives weak noise, p = {p}, k = {k}",
                    f"σ² = {settings.intensities[0]:g}: as many exponents are zero as the teacher has ranks, for "
                    f"teachers of rank 1 to {min(p, k)}",
                    weak,
                )
            )
        found += _strong(settings, p, k, grid)
    return found


def _strong(settings: Settings, p: int, k: int, grid: xr.Dataset) -> list[Verdict]:
    """At the strongest noise as many modes survive with a teacher as without one."""
    last = grid.isel(cell=np.flatnonzero(np.isclose(grid["intensity"], settings.intensities[-1])))
    alone = last.isel(cell=np.flatnonzero(last["teacher_rank"] == 0))
    if not alone.sizes["cell"] or settings.intensities[-1] < 1.0:
        return []
    lowest, highest = (int(x) for x in alone["final_rank"].values[0])
    each = []
    for cell in (last.isel(cell=i) for i in np.flatnonzero(last["teacher_rank"] > 0)):
        low, high = (int(x) for x in cell["final_rank"].values)
        known = min(low, lowest) >= 0
        apart = high < lowest or low > highest
        passed = None if not known else (False if apart else (True if low == high == lowest == highest else None))
        each.append(_rank_verdict("", "", lowest, low, high, passed, _name(cell) + _undecided(cell)))
    if not each:
        return []
    return [
        _together(
            f"strong noise forgets the teacher, p = {p}, k = {k}",
            f"σ² = {settings.intensities[-1]:g}: as many exponents are zero with a teacher as without",
            each,
        )
    ]


def cell_verdicts(grid: xr.Dataset) -> list[Verdict]:
    """For every cell that was computed: is the number of zero exponents the rank of the teacher?

    True, False, or None where an exponent could not be told from zero.
    """
    verdicts = []
    for cell in (grid.isel(cell=i) for i in range(grid.sizes["cell"])):
        low, high = (int(x) for x in cell["final_rank"].values)
        if low < 0:
            continue
        teacher = int(cell["teacher_rank"])
        passed = None if low < high and low <= teacher <= high else low == high == teacher
        verdicts.append(
            _rank_verdict(
                f"final rank, {_name(cell)}",
                "the surviving rank is the rank of the teacher",
                teacher,
                low,
                high,
                passed,
                _undecided(cell).removeprefix(": "),
            )
        )
    return verdicts


def _pairs(verdicts: list[Verdict], grid: xr.Dataset) -> list[tuple[Verdict, xr.Dataset]]:
    done = [i for i in range(grid.sizes["cell"]) if int(grid["final_rank"].values[i, 0]) >= 0]
    return [(verdict, grid.isel(cell=i)) for verdict, i in zip(verdicts, done, strict=True)]


def _is(cell: xr.Dataset, intensity: float) -> bool:
    return bool(np.isclose(float(cell["intensity"]), intensity))


def _name(cell: xr.Dataset) -> str:
    p, k, rank = (int(cell[name]) for name in ("n_inputs", "n_outputs", "teacher_rank"))
    return f"p = {p}, k = {k}, teacher of rank {rank}, σ² = {float(cell['intensity']):g}"


def _undecided(cell: xr.Dataset) -> str:
    words = str(cell["undecided"].values)
    return f": {words}" if words else ""


def _rank_verdict(
    law: str, statement: str, predicted: int, low: int, high: int, passed: bool | None, note: str
) -> Verdict:
    error = max(predicted - high, low - predicted, 0)
    if low < high:
        note = "; ".join(filter(None, [f"between {low} and {high} modes survive", note]))
    return Verdict(
        law=law,
        statement=statement,
        predicted=float(predicted),
        measured=float(low),
        error=float(error),
        tolerance=0.0,
        passed=passed,
        n_checked=1,
        note=note,
        errors=np.array([float(error)]),
    )


def _together(law: str, statement: str, each: list[Verdict]) -> Verdict:
    """One verdict of several cells: False if one is, else None if one is."""
    failed = [verdict for verdict in each if verdict.passed is False]
    open_ones = [verdict for verdict in each if verdict.passed is None]
    worst = (failed or open_ones or each)[0]
    passed = False if failed else (None if open_ones else True)
    note = "; ".join(filter(None, (f"{v.law} {v.note}".strip() for v in failed + open_ones)))
    return Verdict(
        law=law,
        statement=statement,
        predicted=worst.predicted,
        measured=worst.measured,
        error=worst.error,
        tolerance=0.0,
        passed=passed,
        n_checked=len(each),
        note=note,
        errors=np.array([verdict.error for verdict in each]),
    )


def measured_slopes(run: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Slope of log σ_i(Z) behind the burn-in, mean over replicates, and its standard error; shape (mode,)."""
    time, values = run["time"].values, run["log_singular_values_Z"].values
    begin = int(np.searchsorted(time, _BURN_IN * time[-1]))
    each = (values[:, -1] - values[:, begin]) / (time[-1] - time[begin])
    each = each[np.isfinite(each).all(axis=1)]
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(len(each))


def slopes_are_exponents(settings: Settings, results: Results) -> list[Verdict]:
    """The singular values of one run fall with the exponents that another run's frame gave."""
    (p, k), intensity = settings.sizes[0], settings.intensities[0]
    run, grid = results["decay"], results.get(f"grid-{p}x{k}")
    if grid is None or run.sizes["time"] < 121 or run.sizes["replicate"] < 2:
        return []
    cells = (grid["teacher_rank"] == min(p, k)) & np.isclose(grid["intensity"], intensity)
    (place,) = np.flatnonzero(cells.values)
    expected, error = (grid[name].values[place, : p + k] for name in ("exponents", "standard_error"))
    if not np.isfinite(expected).all():
        return []
    slopes, spread = (x / intensity for x in measured_slopes(run))
    band = _BAND * np.hypot(error, spread)
    distance = np.abs(slopes - expected)
    worst = int(np.argmax(distance / band))
    lowest = float(run["log_singular_values_Z"].values[:, -1, -1].mean()) / np.log(10.0)
    return [
        Verdict(
            law="slopes are Lyapunov exponents",
            statement="log σ_i(Z_t) falls at μ_i t, with μ_i from the frame of other runs",
            predicted=float(expected[worst]),
            measured=float(slopes[worst]),
            error=float(distance[worst]),
            tolerance=float(band[worst]),
            passed=bool((distance <= band).all()),
            n_checked=run.sizes["replicate"],
            note=f"in units of σ², mode {worst + 1} of {p + k}; the smallest singular value reaches 1e{lowest:.0f}",
            errors=distance,
            tolerances=band,
        )
    ]


def sum_rule(result: xr.Dataset) -> list[Verdict]:
    """Σ log R_ii = −k σ² tr(Σ) t, in the cell that comes closest to breaking it."""
    sums = result["sum_rule"].values
    known = np.flatnonzero(np.isfinite(sums).all(axis=1))
    if not len(known):
        return []
    worst = int(known[np.argmax(sums[known, 2] / sums[known, 3])])
    predicted, measured, error, tolerance = (float(x) for x in sums[worst])
    return [
        Verdict(
            law="sum of the Lyapunov exponents",
            statement="Σ log R_ii = −k σ² tr(Σ) t",
            predicted=predicted,
            measured=measured,
            error=error,
            tolerance=tolerance,
            passed=bool((sums[known, 2] <= sums[known, 3]).all()),
            n_checked=len(known),
            note=f"worst of {len(known)} spectra: {_name(result.isel(cell=worst))}",
            errors=sums[known, 2],
            tolerances=sums[known, 3],
        )
    ]


def notes(settings: Settings, results: Results) -> list[str]:
    """Where the surviving rank is not the teacher's, where that is open, and what diverged."""
    names = [f"grid-{p}x{k}" for p, k in settings.sizes] + ["ratio"]
    grids = [results[name] for name in names if name in results]
    verdicts = [verdict for grid in grids for verdict in cell_verdicts(grid)]
    if not verdicts:
        return []
    holds = sum(v.passed is True for v in verdicts)
    found = [
        f"“The surviving rank is the rank of the teacher” holds in {holds} of the {len(verdicts)} cells of the grid "
        "and of the comparison of shapes. It is a statement about weak noise, not a law: without a teacher, or with "
        "one that the noise drowns, the modes that survive are those that the noise itself keeps alive."
    ]
    for outcome, words in (
        (False, "It fails for"),
        (None, "It is open, for want of longer runs or because a mode is critical (neither dying nor stationary), for"),
    ):
        listed = [text for grid in grids for text in _listed(grid, outcome)]
        if listed:
            found.append(f"{words} {'; '.join(dict.fromkeys(listed))}.")
    lost = sum(int(grid["diverged"].sum()) for grid in grids)
    if lost:
        found.append(f"{lost} trajectories diverged and are left out.")
    return found


def _listed(grid: xr.Dataset, outcome: bool | None) -> list[str]:
    """The cells of one outcome in words, those that differ in the noise alone together."""
    noises: dict[str, list[str]] = {}
    for verdict, cell in _pairs(cell_verdicts(grid), grid):
        if verdict.passed is outcome:
            low, high = (int(x) for x in cell["final_rank"].values)
            p, k, rank = (int(cell[name]) for name in ("n_inputs", "n_outputs", "teacher_rank"))
            number = f"{low}" if low == high else f"{low} to {high}"
            text = f"p = {p}, k = {k}, a teacher of rank {rank}, where {number} survive at σ² = "
            noises.setdefault(text, []).append(f"{float(cell['intensity']):g}")
    return [text + ", ".join(values) for text, values in noises.items()]
