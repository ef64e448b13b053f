"""The figure's claims, as assertions on the data; each returns a `Verdict` like the laws do."""

from __future__ import annotations

import json
import math

import numpy as np
import xarray as xr

from rankfall.laws import Verdict

__all__ = ["balance_constant", "determinant_constant", "determinant_decay", "expected_survivors", "fallen_modes"]

# The relative tolerances that the claims are stated with.
CONSTANT_TOLERANCE = 1e-8
SLOPE_TOLERANCE = 1e-6
# A mode has died when its singular value is below this share of its start.
FALLEN = 1e-3
# The slope is fitted where the rounding error of log det M, about eps · cond(Z), is negligible against the tolerance.
MOST_CONDITION = 1e8


def determinant_constant(run: xr.Dataset) -> Verdict:
    """Claim of gradient flow: |det M_t / det M_0 − 1| ≤ 1e-8 at every save point of every replicate."""
    log_det = run["log_det"].values
    return _worst(
        "determinant constant",
        "δ = 0: det M stays what it was, |det M_t / det M_0 − 1| ≤ 1e-8 for every replicate",
        errors=_largest(np.abs(np.expm1(log_det - log_det[:, :1]))),
        predicted=0.0,
        tolerance=CONSTANT_TOLERANCE,
    )


def balance_constant(run: xr.Dataset) -> Verdict:
    """Claim of gradient flow at any width: ‖Q_t − Q_0‖ ≤ 1e-8 ‖Z_0‖² at every save point of every replicate."""
    size = np.sum(run["singular_values_Z"].values[:, 0] ** 2, axis=-1)
    return _worst(
        "balance constant",
        "δ = 0: Q = W1ᵀW1 − W2W2ᵀ stays what it was, ‖Q_t − Q_0‖ ≤ 1e-8 ‖Z_0‖² for every replicate",
        errors=_largest(run["balance_drift"].values / size[:, None]),
        predicted=0.0,
        tolerance=CONSTANT_TOLERANCE,
    )


def determinant_decay(run: xr.Dataset) -> Verdict:
    """Claim of the stochastic flow: log det M falls with slope −2kσ² tr Σ, to 1e-6, wherever float64 resolves it.

    The slope is the least-squares one over the save points with cond(Z) ≤ 1e8, replicate by replicate.
    """
    fields = json.loads(run.attrs["settings"])["method"]
    intensity = fields["step_size"] * fields["label_noise"] / fields.get("batch_size", 1)
    predicted = -2.0 * run.sizes["output"] * intensity * float(np.trace(run["covariance"].values))
    time, log_det, spectrum = run["time"].values, run["log_det"].values, run["singular_values_Z"].values
    slopes, spans = np.full(len(log_det), np.nan), []
    for replicate, (values, modes) in enumerate(zip(log_det, spectrum, strict=True)):
        fit = np.isfinite(values) & (modes[:, -1] * MOST_CONDITION >= modes[:, 0])
        if fit.sum() >= 3:
            slopes[replicate] = np.polyfit(time[fit] - time[fit].mean(), values[fit] - values[fit].mean(), 1)[0]
            spans.append(float(time[fit].max()))
    statement = f"δ = {fields['label_noise']:g}: d log det M / dt = −2kσ² tr Σ, to 1e-6 relative, for every replicate"
    note = f"fitted while cond(Z) ≤ 1e8, until t = {np.median(spans):.4g} (median)" if spans else ""
    return _worst(
        "determinant decay",
        statement,
        errors=np.abs(slopes / predicted - 1.0),
        predicted=predicted,
        measured=slopes,
        tolerance=SLOPE_TOLERANCE,
        note=note,
        undecided="fewer than three save points with cond(Z) ≤ 1e8; ask for more save points or a shorter run",
    )


def expected_survivors(run: xr.Dataset) -> int:
    """How many singular values of W1 label noise leave alive: rank of the teacher Σ⁺C, plus inputs without variance."""
    covariance, cross = run["covariance"].values, run["cross_covariance"].values
    teacher = np.linalg.pinv(covariance, hermitian=True) @ cross
    silent = len(covariance) - int(np.linalg.matrix_rank(covariance, hermitian=True))
    scale = np.linalg.norm(cross) or 1.0
    rank = int(np.linalg.matrix_rank(teacher, tol=1e-10 * scale)) if np.any(cross) else 0
    return min(rank + silent, run.sizes["mode_W1"])


def fallen_modes(run: xr.Dataset, noise: float) -> list[Verdict]:
    """Claims about the singular values of W1, each measured as the median over replicates of σᵢ(T) / σᵢ(0).

    Without noise none falls below a thousandth. With noise the smallest does, and in the long run all but
    `expected_survivors` do; a run that is too short for that leaves the claim undecided.
    """
    values = run["singular_values_W1"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = values / values[:, :1]
    finished = np.isfinite(ratios[:, -1]).all(axis=-1)
    if not finished.any():
        return []
    last = np.median(ratios[finished, -1], axis=0)
    fallen = int((last < FALLEN).sum())
    counted, total, end = int(finished.sum()), len(last), float(run["time"].values[-1])
    if noise == 0:
        return [
            _count(
                "no mode dies",
                "δ = 0: no singular value of W1 falls below a thousandth of its start (median over replicates)",
                predicted=0,
                measured=fallen,
                passed=fallen == 0,
                counted=counted,
                note=f"the smallest median ratio at t = {end:g} is {last.min():.3g}",
            )
        ]
    mortal = total - expected_survivors(run)
    if mortal == 0:
        return []
    smallest = float(last.min())
    return [
        Verdict(
            law="smallest mode dies",
            statement=f"δ = {noise:g}: the smallest singular value of W1 falls below a thousandth of its start "
            "(median over replicates)",
            predicted=0.0,
            measured=smallest,
            error=smallest,
            tolerance=FALLEN,
            passed=True if smallest < FALLEN else None,
            replicate=-1,
            n_checked=counted,
            note="" if smallest < FALLEN else f"not yet at t = {end:g}: a longer duration is needed to see it",
            errors=ratios[finished, -1].min(axis=-1),
        ),
        _count(
            "rank falls to the teacher's",
            f"δ = {noise:g}: all but {total - mortal} of the {total} singular values of W1 fall below a thousandth of "
            "their start (median over replicates)",
            predicted=mortal,
            measured=fallen,
            passed=True if fallen == mortal else (None if fallen < mortal else False),
            counted=counted,
            note=""
            if fallen >= mortal
            else f"{mortal - fallen} not yet at t = {end:g}: the slowest modes need a longer duration",
        ),
    ]


def _count(
    law: str, statement: str, *, predicted: int, measured: int, passed: bool | None, counted: int, note: str
) -> Verdict:
    return Verdict(
        law=law,
        statement=statement,
        predicted=float(predicted),
        measured=float(measured),
        error=float(abs(measured - predicted)),
        tolerance=0.0,
        passed=passed,
        replicate=-1,
        n_checked=counted,
        note=note,
        errors=np.array([float(abs(measured - predicted))]),
    )


def _largest(errors: np.ndarray) -> np.ndarray:
    """The largest error over time of every replicate, NaN for a replicate that never has one."""
    some = np.isfinite(errors).any(axis=-1)
    return np.where(some, np.max(np.where(np.isfinite(errors), errors, -math.inf), axis=-1), np.nan)


def _worst(
    law: str,
    statement: str,
    *,
    errors: np.ndarray,
    predicted: float,
    tolerance: float,
    measured: np.ndarray | None = None,
    note: str = "",
    undecided: str = "no finite values to test",
) -> Verdict:
    known = np.isfinite(errors)
    worst = int(np.argmax(np.where(known, errors, -math.inf)))
    left_out = int((~known).sum())
    if known.any() and left_out:
        note = "; ".join(filter(None, [note, f"{left_out} of {len(errors)} replicates left out: {undecided}"]))
    shown = errors if measured is None else measured
    return Verdict(
        law=law,
        statement=statement,
        predicted=predicted,
        measured=float(shown[worst]) if known.any() else math.nan,
        error=float(errors[worst]) if known.any() else math.nan,
        tolerance=tolerance,
        passed=bool(errors[worst] <= tolerance) if known.any() else None,
        replicate=worst if known.any() else -1,
        n_checked=int(known.sum()),
        note=note if known.any() else undecided,
        errors=errors,
    )
