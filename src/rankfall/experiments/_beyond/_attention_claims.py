"""What is claimed of the heads: that plain descents obey their ledgers, and what the theorem says of their pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from rankfall.experiments._beyond._attention import ADAMW
from rankfall.experiments._beyond._claims import THINGS, claim
from rankfall.experiments._beyond._classifier import SMOOTHED
from rankfall.experiments._beyond._experiment import GD, LABEL_NOISE, SGD, Experiment
from rankfall.experiments._target import Results
from rankfall.laws import Verdict

__all__ = ["FADED", "head_notes", "ledger_claims"]

# log det has come to rest where it falls at less than this share of the rate with label noise.
FADED = 0.02
_TITLES = {
    GD: "gradient descent",
    SMOOTHED: "gradient descent on smoothed labels",
    SGD: "SGD",
    LABEL_NOISE: "SGD with label noise",
}


def ledger_claims(results: Results) -> list[Verdict]:
    """Whether the heads obeyed their ledgers in plain descents, and what became of det(ZZᵀ) of their pairs."""
    exact = [
        verdict
        for arm, run in results.items()
        if "ledger_verdicts" in run.attrs
        for verdict in _worst(arm, json.loads(run.attrs["ledger_verdicts"]))
    ]
    return [*exact, *_fall(results), *_pair_ranks(results)]


def head_notes(results: Results) -> list[str]:
    """What became of the pairs in the heads, and what AdamW adds."""
    words = []
    for arm, run in results.items():
        change = _change(run)
        alive = run["pair_alive"].isel(step=[0, -1]).mean("pair").median("seed").values
        if np.isfinite(change):
            words.append(f"{arm} {_signed(change)} and {alive[0]:.1f} → {alive[1]:.1f}")
    notes = []
    if words:
        notes.append(
            "The pairs of the heads (value–output and query–key, Z = [W1; W2ᵀ]), means over the pairs, medians over "
            f"seeds: change of log det(ZZᵀ), and singular values of Z above 1 % of the largest: {'; '.join(words)}."
        )
    if ADAMW in results:
        run = results[ADAMW].isel(ledger_step=-1)
        extra, error, drift = (
            run[f"ledger_{name}"].values for name in ("log_det_error", "balance_error", "balance_drift")
        )
        if np.isfinite(extra).all():
            notes.append(
                "AdamW has torch's default rate and decay, so that its speed is not that of the others. Beyond SGD "
                f"with these it changes log det(ZZᵀ) by {_signed(extra.min())} to {_signed(extra.max())} (pairs of the "
                f"first seed), and {np.median(error / drift):.0%} of the balance's drift is its own; of plain SGD's "
                "it is rounding."
            )
    return notes


def _worst(arm: str, found: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """For balance and determinant the pair that comes closest to breaking its ledger."""
    made = []
    for kind in ("balance", "determinant"):
        every = [each for each in found if each["law"].startswith(kind)]
        if not every:
            continue
        worst = max(every, key=_excess)
        broken = sum(each["passed"] is False for each in every)
        blind = sum(each["passed"] is None for each in every)
        notes = [worst["note"], f"{blind} of the {len(every)} pairs could not be checked" if blind else ""]
        made.append(
            Verdict(
                law=f"{kind} ledgers of the heads, {_TITLES.get(arm, arm)}",
                statement=f"{worst['statement']}, in all {len(every)} pairs of the first seed at every record",
                predicted=_number(worst["predicted"]),
                measured=_number(worst["measured"]),
                error=_number(worst["error"]),
                tolerance=_number(worst["tolerance"]),
                passed=False if broken else None if blind == len(every) else True,
                n_checked=len(every) - blind,
                note="; ".join(filter(None, [worst["law"].partition(" of ")[2], *notes])),
                time=_number(worst["time"]),
            )
        )
    return made


def _excess(verdict: Mapping[str, Any]) -> float:
    """How far the error is towards its tolerance; a pair that could not be checked comes last."""
    if verdict["passed"] is None:
        return -math.inf
    return _number(verdict["error"]) / max(_number(verdict["tolerance"]), 5e-324)


def _fall(results: Results) -> list[Verdict]:
    """The paper's sentence on the determinant, for pairs inside a network that is not linear."""
    if any(arm not in results or not _finished(results[arm]) for arm in (GD, LABEL_NOISE)):
        return []
    rates = {arm: _late_rate(run) for arm, run in results.items() if arm in _TITLES and _finished(run)}
    quiet, noisy = rates[GD], rates[LABEL_NOISE]
    falls = bool((noisy < 0.0).all() and (noisy < quiet).all())
    share = float(np.median(quiet / noisy)) if falls else math.nan
    holds = falls and share <= FADED
    change = {arm: _change(results[arm]) for arm in rates}
    others = [arm for arm in (SGD, SMOOTHED) if falls and arm in rates]
    also = [f"{_TITLES[arm]}: at {np.median(rates[arm] / noisy):.2%}" for arm in others]
    return [
        Verdict(
            law="det(ZZᵀ) of the heads' pairs",
            statement="with label noise it goes on falling in every seed, without noise it comes to rest: over the "
            f"last fifth it falls at most at {FADED:.0%} of that rate (mean over the pairs, medians over seeds)",
            predicted=0.0,
            measured=share,
            error=max(0.0, share) if falls else math.nan,
            tolerance=FADED,
            passed=True if holds else None,
            negative=not holds,
            n_checked=len(noisy),
            note="; ".join(
                [
                    *([] if holds else ["does not hold here"]),
                    *also,
                    "log det changes by " + ", ".join(f"{_signed(by)} ({_TITLES[arm]})" for arm, by in change.items()),
                ]
            ),
        )
    ]


def _pair_ranks(results: Results) -> list[Verdict]:
    """The claim on weights, features and Jacobian for what the theorem speaks of: Z = [W1; W2ᵀ] of the pairs."""
    stacked = {
        arm: run[["pair_effective_rank", "outcome"]].rename(pair_effective_rank=THINGS["weights"])
        for arm, run in results.items()
        if "pair_effective_rank" in run
    }
    found = claim(Experiment("heads", "Heads", "", ()), stacked, "weights")
    return [] if found is None else [replace(found, law="rank of Z = [W1; W2ᵀ] of the heads' pairs")]


def _late_rate(run: xr.Dataset) -> np.ndarray:
    """Change of log det per step over the last fifth of the run, mean over pairs; shape (seed,)."""
    log_det, steps = run["pair_log_det"].mean("pair").values, run["step"].values
    since = int(np.searchsorted(steps, 0.8 * steps[-1]))
    since = min(since, len(steps) - 2)
    return (log_det[:, -1] - log_det[:, since]) / (steps[-1] - steps[since])


def _change(run: xr.Dataset) -> float:
    log_det = run["pair_log_det"].mean("pair").values
    return float(np.median(log_det[:, -1] - log_det[:, 0]))


def _signed(change: float) -> str:
    return f"{change:+.3g}".replace("-", "−")


def _finished(run: xr.Dataset) -> bool:
    return run.sizes["step"] > 1 and bool((run["outcome"] == "completed").all())


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
