"""From predicted, measured and tolerance at every save point to one verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankfall.laws._reading import Reading
from rankfall.laws._verdict import Verdict

__all__ = ["judge"]


def judge(
    reading: Reading,
    law: str,
    statement: str,
    *,
    predicted: np.ndarray,
    measured: np.ndarray,
    tolerance: np.ndarray,
    resolution: np.ndarray | float,
    error: np.ndarray | None = None,
    lost: np.ndarray | None = None,
    notes: Sequence[str] = (),
    hint: str = "",
    blind_words: str = "beyond float64",
) -> Verdict:
    """Judge a law; all arrays have shape (replicate, time).

    A save point is checked unless it belongs to a replicate that stopped before, or `lost` says that it is rounding
    noise, or its tolerance is above `resolution`, where agreement would mean nothing. The first save point is the
    start that the law is given, so it does not count. A replicate that claims to have completed and holds numbers that
    are not finite fails.

    Args:
        reading: The run.
        law: Name for the verdict.
        statement: Formula for the verdict.
        predicted: By the law.
        measured: From the run.
        tolerance: Largest error that rounding explains.
        resolution: Tolerance above which a comparison says nothing.
        error: |measured − predicted| unless given.
        lost: Save points that are rounding noise.
        notes: Put into the note first.
        hint: Put into the note only if the law fails.
        blind_words: What the note says of save points that were not checked for their tolerance or for noise.
    """
    predicted, measured, tolerance = np.broadcast_arrays(predicted, measured, tolerance)
    with np.errstate(invalid="ignore"):
        error = np.abs(measured - predicted) if error is None else np.asarray(error)
    completed = reading.outcomes == "completed"
    noise = np.zeros(measured.shape, dtype=bool) if lost is None else lost
    # on its way to diverging, a replicate overflows in squares and products before it does in the weights
    ended = np.isnan(measured) | np.isnan(reading.singular_values).any(axis=-1)
    ended |= ~noise & ~(np.isfinite(predicted) & np.isfinite(error))
    stopped = np.maximum.accumulate(ended, axis=1)
    missing = stopped & completed[:, None]
    blind = noise | ~(np.isfinite(tolerance) & (tolerance <= resolution))
    blind &= ~stopped
    checked = (~stopped & ~blind) | missing
    checked[:, 0] = False

    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(error == 0.0, 0.0, error / tolerance)
    excess = np.where(np.isnan(excess) | missing, np.inf, excess)
    excess = np.where(checked, excess, -np.inf)
    worst_times = np.argmax(excess, axis=1)
    replicates = np.arange(len(excess))
    any_checked = checked.any(axis=1)
    errors = np.where(any_checked, np.where(missing, np.inf, error)[replicates, worst_times], np.nan)
    tolerances = np.where(any_checked, tolerance[replicates, worst_times], np.nan)
    ratios = excess[replicates, worst_times]

    note = [text for text in notes if text]
    note += _noise_note(blind, stopped, reading.times, blind_words)
    note += _stop_note(reading.outcomes)
    if missing.any():
        note.append(f"{int(missing.any(axis=1).sum())} completed replicates hold numbers that are not finite")
    if not any_checked.any():
        nothing = np.full(len(excess), np.nan)
        note.append("nothing could be checked")
        return Verdict(
            law=law,
            statement=statement,
            predicted=np.nan,
            measured=np.nan,
            error=np.nan,
            tolerance=np.nan,
            passed=None,
            note="; ".join(note),
            errors=nothing,
            tolerances=nothing.copy(),
        )
    worst = int(np.argmax(ratios))
    moment = int(worst_times[worst])
    passed = bool(ratios[worst] <= 1.0)
    if not passed and hint:
        note.append(hint)
    return Verdict(
        law=law,
        statement=statement,
        predicted=float(predicted[worst, moment]),
        measured=float(measured[worst, moment]),
        error=float(errors[worst]),
        tolerance=float(tolerances[worst]),
        passed=passed,
        replicate=worst,
        n_checked=int(any_checked.sum()),
        note="; ".join(note),
        time=float(reading.times[moment]),
        errors=errors,
        tolerances=tolerances,
    )


def _noise_note(blind: np.ndarray, stopped: np.ndarray, times: np.ndarray, words: str) -> list[str]:
    """Say since when, and in how many replicates, nothing could be told from rounding noise any more."""
    seen = ~blind & ~stopped
    after = np.where(seen.any(axis=1), seen.shape[1] - np.argmax(seen[:, ::-1], axis=1), 0)
    ends_blind = blind[np.arange(len(blind)), np.minimum(after, blind.shape[1] - 1)] & (after < blind.shape[1])
    if not ends_blind.any():
        return []
    since = times[after[ends_blind].min()]
    return [f"{words} since t={since:g} in {int(ends_blind.sum())} of {len(blind)} replicates"]


def _stop_note(outcomes: np.ndarray) -> list[str]:
    """Say how many replicates diverged or were interrupted, and when the first did."""
    notes = []
    for word in ("diverged", "interrupted"):
        stopped = [str(outcome) for outcome in outcomes if str(outcome).startswith(word)]
        if stopped:
            first = min(stopped, key=_stop_time)
            notes.append(f"{len(stopped)} of {len(outcomes)} replicates {first} or later, checked until then")
    return notes


def _stop_time(outcome: str) -> float:
    try:
        return float(outcome.rpartition("=")[2])
    except ValueError:
        return float("inf")
