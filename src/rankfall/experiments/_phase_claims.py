"""What the phase diagrams claim, and what they show that was not expected."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from rankfall.experiments._target import Results
from rankfall.laws import Verdict

__all__ = ["FLOW", "claims", "deviations", "notes"]

FLOW = "stochastic-gradient-flow"
# Standard errors that two means may be apart. One comparison of normal means raises a false alarm once in 16,000; the
# largest claim makes 14 of them.
_BAND = 4.0
# Of slopes of log det M, which rounding and the fit leave to about 1e-9.
_SLOPE = 1e-6
# Errors between which the law of the flow is off in proportion to the step: above the resolution, and small. An error
# e = a η + b η² with b as large as a² has a local exponent of 1 + e / (1 + e), 1.26 at the largest.
_SMALL, _LARGE = 1e-3, 0.35
_ORDER = 0.25


def claims(results: Results) -> list[Verdict]:
    """The verdicts that the results allow."""
    found: list[Verdict] = []
    if "noise" in results:
        found += _weak_noise(results["noise"]) + _strong_noise(results["noise"]) + _more_noise(results["noise"])
    if "width" in results:
        found += _wide_law(results["width"]) + _line(results["width"])
    if "step" in results:
        found += _exact(results["step"]) + _first_order(results["step"])
    return found


def _rank(result: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Final ranks and their standard errors, the dimensions in the order of the study."""
    return result["final_rank"].values, result["final_rank_standard_error"].values


def _weak_noise(result: xr.Dataset) -> list[Verdict]:
    """At the weakest noise the mean rank is within half a mode of the teacher's, by three standard errors."""
    part = result.isel(noise=0)
    teacher = part["teacher_rank"].values.astype(float)
    mean, error = _rank(part)
    chosen = (teacher > 0) & np.isfinite(mean)
    if not chosen.any():
        return []
    errors = (np.abs(mean - teacher) + 3 * error)[chosen]
    return [
        _verdict(
            "the teacher's rank survives weak noise",
            f"σ² = {float(part['noise']):.3g}: the mean rank is the teacher's to within half a mode, for teachers of "
            f"rank {teacher[chosen].min():.0f} to {teacher[chosen].max():.0f}",
            predicted=teacher[chosen],
            measured=mean[chosen],
            errors=errors,
            tolerance=0.5,
        )
    ]


def _strong_noise(result: xr.Dataset) -> list[Verdict]:
    """At the strongest noise a teacher makes no difference."""
    part = result.isel(noise=-1)
    teacher = part["teacher_rank"].values
    mean, error = _rank(part)
    alone = np.flatnonzero((teacher == 0) & np.isfinite(mean))
    chosen = (teacher > 0) & np.isfinite(mean)
    if not len(alone) or not chosen.any():
        return []
    i = alone[0]
    return [
        _verdict(
            "strong noise forgets the teacher",
            f"σ² = {float(part['noise']):.3g}: the mean rank with a teacher is that without one, within {_BAND:g} "
            "standard errors",
            predicted=np.full(int(chosen.sum()), mean[i]),
            measured=mean[chosen],
            errors=_apart(mean[chosen], error[chosen], mean[i], error[i]),
            tolerance=_BAND,
        )
    ]


def _more_noise(result: xr.Dataset) -> list[Verdict]:
    """Of teachers of rank 2 and more no rank is gained where the noise grows."""
    part = result.transpose("teacher_rank", "noise", ...)
    part = part.isel(teacher_rank=np.flatnonzero(part["teacher_rank"].values >= 2))
    mean, error = _rank(part)
    rise = np.where(mean[:, 1:] > mean[:, :-1], _apart(mean[:, 1:], error[:, 1:], mean[:, :-1], error[:, :-1]), 0.0)
    known = np.isfinite(mean[:, 1:] + mean[:, :-1])
    if not known.any():
        return []
    return [
        _verdict(
            "more noise leaves less rank",
            "teachers of rank 2 and more: from one noise to the next the mean rank does not rise by more than "
            f"{_BAND:g} standard errors",
            predicted=mean[:, :-1][known],
            measured=mean[:, 1:][known],
            errors=rise[known],
            tolerance=_BAND,
        )
    ]


def _wide_law(result: xr.Dataset) -> list[Verdict]:
    """Above the line log det M falls at the rate of the law."""
    wide = result.isel(excess=np.flatnonzero(result["excess"].values >= 0))
    measured, predicted = wide["log_det_slope"].values, wide["log_det_slope_predicted"].values
    known = np.isfinite(measured)
    if not known.any():
        return []
    return [
        _verdict(
            "det M falls at the law's rate wherever it is not zero",
            "width ≥ inputs + outputs: d log det M/dt = −2kσ² tr Σ to 1e-6, for every shape, width and noise",
            predicted=predicted[known],
            measured=measured[known],
            errors=np.abs(measured / predicted - 1.0)[known],
            tolerance=_SLOPE,
        )
    ]


def _line(result: xr.Dataset) -> list[Verdict]:
    """The mean ranks on the two sides of the line are the same."""
    excess = result["excess"].values
    if not (excess < 0).any() or not (excess >= 0).any():
        return []
    below = result.isel(excess=int(np.flatnonzero(excess < 0)[np.argmax(excess[excess < 0])]))
    above = result.isel(excess=int(np.flatnonzero(excess >= 0)[np.argmin(excess[excess >= 0])]))
    (low, low_error), (high, high_error) = _rank(below), _rank(above)
    known = np.isfinite(low + high)
    if not known.any():
        return []
    return [
        _verdict(
            "the line width = inputs + outputs leaves no trace in the rank",
            f"mean ranks at width − (inputs + outputs) = {int(below['excess'])} and {int(above['excess'])} are equal "
            f"within {_BAND:g} standard errors, for every shape and noise",
            predicted=high[known],
            measured=low[known],
            errors=_apart(low, low_error, high, high_error)[known],
            tolerance=_BAND,
        )
    ]


def _exact(result: xr.Dataset) -> list[Verdict]:
    """Where the flow's law fails, the ledger of the steps does not."""
    found = []
    of_flow = result["name"].values == FLOW
    for chosen, law, statement in (
        (of_flow, "the flow obeys its law", "the stochastic flow: slope of log det M is −2kσ² tr Σ to 1e-6"),
        (~of_flow, "descents obey their ledger at any step", "both descents: slope of log det M is that of the ledger "
         "Σ 2 log |det(I + ηĜ)| to 1e-6, at every step at which they are stable"),
    ):  # fmt: skip
        part = result.isel(name=np.flatnonzero(chosen))
        measured, predicted = part["log_det_slope"].values, part["log_det_slope_predicted"].values
        known = np.isfinite(measured) & (part["diverged"].values == 0)
        if known.any():
            errors = np.abs(measured / predicted - 1.0)[known]
            found.append(
                _verdict(
                    law,
                    statement,
                    predicted=predicted[known],
                    measured=measured[known],
                    errors=errors,
                    tolerance=_SLOPE,
                )
            )
    return found


def deviations(result: xr.Dataset, quantity: str) -> xr.Dataset:
    """How far the descents are from the flow with the same noise, relative to it, and the standard error of that.

    Args:
        result: Of the study "step".
        quantity: A name with a standard error.

    Returns:
        `deviation` and `error` over (name, step_size), of the descents alone.
    """
    import xarray as xr

    flow = result.isel(name=int(np.flatnonzero(result["name"].values == FLOW)[0]))
    rest = result.isel(name=np.flatnonzero(result["name"].values != FLOW))
    value, error = rest[quantity], rest[f"{quantity}_standard_error"]
    base, base_error = flow[quantity].drop_vars("name"), flow[f"{quantity}_standard_error"].drop_vars("name")
    ratio = value / base
    return xr.Dataset({"deviation": ratio - 1.0, "error": np.hypot(error / base, ratio * base_error / base)})


def _first_order(result: xr.Dataset) -> list[Verdict]:
    """The flow's determinant law is off by an error in proportion to the step."""
    if FLOW not in result["name"].values:
        return []
    found = []
    off = deviations(result, "log_det_slope").transpose("name", "step_size")
    stable = result["diverged"].transpose("name", "step_size").sel(name=off["name"]).values == 0
    for name, values, kept in zip(off["name"].values, off["deviation"].values, stable, strict=True):
        chosen = kept & (values > _SMALL) & (values < _LARGE)
        if chosen.sum() < 2:
            continue
        steps = off["step_size"].values[chosen]
        order = float(np.polyfit(np.log(steps), np.log(values[chosen]), 1)[0])
        found.append(
            _verdict(
                f"the flow is off in proportion to the step, {name}",
                f"relative error of the rate of log det M ∝ η^a with a = 1 ± {_ORDER:g}, where it lies between "
                f"{_SMALL:g} and {_LARGE:g}",
                predicted=np.ones(1),
                measured=np.array([order]),
                errors=np.array([abs(order - 1.0)]),
                tolerance=_ORDER,
                note=f"from η = {steps.min():.3g} to {steps.max():.3g}",
            )
        )
    return found


def notes(results: Results) -> list[str]:
    """Where the descents leave the flow, where they diverge, and ranks that are more than the teacher's."""
    found = []
    if "step" in results and FLOW in results["step"]["name"].values:
        found += _limits(results["step"])
    if "noise" in results:
        part = results["noise"].transpose("teacher_rank", "noise", ...)
        mean, error = _rank(part)
        gain = mean - part["teacher_rank"].values[:, None]
        clear = (part["teacher_rank"].values[:, None] > 0) & (gain > 0.5) & (gain > _BAND * error)
        if clear.any():
            at = np.unravel_index(np.argmax(np.where(clear, gain, -np.inf)), gain.shape)
            left = (
                f"{mean[at]:.3g} ± {error[at]:.1g} modes" if error[at] > 0 else f"{mean[at]:g} modes in every network"
            )
            found.append(
                f"Noise can also keep alive what the teacher does not need: at σ² = {part['noise'].values[at[1]]:.3g} "
                f"a teacher of rank {part['teacher_rank'].values[at[0]]} leaves {left}."
            )
        found.append(
            "Ranks that are no whole numbers are means over networks in which a mode hovers about the threshold, a "
            "thousandth of its start: a critical mode falls ever more slowly, and a longer run leaves fewer of them."
        )
    return found


def _limits(result: xr.Dataset) -> list[str]:
    found = []
    off = deviations(result, "log_det_slope").transpose("name", "step_size")
    failed = result["status"].transpose("name", "step_size").sel(name=off["name"]).values == 2
    some = result["diverged"].transpose("name", "step_size").sel(name=off["name"]).values > 0
    steps = off["step_size"].values
    for row, name in enumerate(off["name"].values):
        tenth = _crossing(steps, off["deviation"].values[row], 0.1)
        words = f"the rate of log det M is off by a tenth at η = {tenth:.2g}" if tenth is not None else ""
        lost = np.flatnonzero(some[row] | failed[row])
        diverging = f"the first networks diverge at η = {steps[lost[0]]:.2g}" if len(lost) else ""
        said = " and ".join(filter(None, [words, diverging]))
        if said:
            found.append(f"{str(name).capitalize()}: {said}.")
    return found


def _crossing(x: np.ndarray, y: np.ndarray, level: float) -> float | None:
    """Where y first rises through the level, straight between the logarithms of the points."""
    for i in range(len(x) - 1):
        if 0 < y[i] < level <= y[i + 1]:
            share = (math.log(level) - math.log(y[i])) / (math.log(y[i + 1]) - math.log(y[i]))
            return float(math.exp(math.log(x[i]) + share * (math.log(x[i + 1]) - math.log(x[i]))))
    return None


def _apart(mean: np.ndarray, error: np.ndarray, other: np.ndarray, other_error: np.ndarray) -> np.ndarray:
    """How many standard errors two means are apart; without any spread equal ones are 0 and others infinitely far."""
    gap, spread = np.abs(mean - other), np.hypot(error, other_error)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap == 0.0, 0.0, gap / spread)


def _verdict(
    law: str,
    statement: str,
    *,
    predicted: np.ndarray,
    measured: np.ndarray,
    errors: np.ndarray,
    tolerance: float,
    note: str = "",
) -> Verdict:
    """Of the worst of the cells compared."""
    worst = int(np.argmax(errors))
    return Verdict(
        law=law,
        statement=statement,
        predicted=float(predicted[worst]),
        measured=float(measured[worst]),
        error=float(errors[worst]),
        tolerance=tolerance,
        passed=bool(errors[worst] <= tolerance),
        replicate=-1,
        n_checked=len(errors),
        note=note or _cells(errors),
        errors=errors,
    )


def _cells(errors: Sequence[float] | np.ndarray) -> str:
    return f"the worst of {len(errors)} comparisons" if len(errors) > 1 else ""
