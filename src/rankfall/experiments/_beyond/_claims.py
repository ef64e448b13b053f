"""Does the rank fall with label noise and stay without? One verdict for every experiment and thing, negatives included.

The claim is a theorem for linear networks and a question elsewhere. So a verdict is PASS where both halves hold and
NO, never FAIL, where one does not, and its note then says which, beginning with "does not hold here"; UNDECIDED where
seeds disagree or are too few. FAIL is kept for exact laws (an experiment's `extra_claims`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rankfall.experiments._beyond._experiment import GD, LABEL_NOISE, SGD, Experiment
from rankfall.experiments._target import Results
from rankfall.laws import Verdict

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["STAYS", "THINGS", "Finding", "claim", "claims", "find", "quiet_arm", "ratios"]

# A rank has stayed while it is at least this share of its start.
STAYS = 0.9
# So many seeds must agree: by chance the one arm is below the other in all five in 1 of 32 cases.
_SEEDS = 5

THINGS = {
    "weights": "effective_rank_weights",
    "features": "effective_rank_features",
    "Jacobian": "effective_rank_jacobian",
}

Outcome = Literal["holds", "falls without noise", "stays with noise", "neither", "open"]


@dataclass(frozen=True)
class Finding:
    """What came out for one thing of one experiment.

    Attributes:
        outcome: In a word: "holds"; "falls without noise" (too); "stays with noise" (as well); "neither": it falls
            without noise and stays with it; "open": the seeds disagree or are too few.
        quiet: Share of the start that is left without label noise, in the seeds that finished both.
        noisy: The same with label noise.
        below: In how many of them label noise leaves less.
        compared: How many these are.
    """

    outcome: Outcome
    quiet: np.ndarray
    noisy: np.ndarray
    below: int
    compared: int


def ratios(run: xr.Dataset, thing: str) -> np.ndarray:
    """Effective rank over its start, mean over matrices or layers; shape (seed, step)."""
    rank = run[THINGS[thing]]
    share = rank / rank.isel(step=0)
    others = [dimension for dimension in share.dims if dimension not in ("seed", "step")]
    return share.mean(others, skipna=False).transpose("seed", "step").values


def quiet_arm(results: Results) -> str:
    """The claims' arm without noise: gradient descent, or SGD in an experiment that has none."""
    return GD if GD in results else SGD


def find(results: Results, thing: str) -> Finding | None:
    """Compare the arm without noise ("gd", else "sgd") with "label-noise"; None where one is missing or unfinished."""
    without = quiet_arm(results)
    if without not in results or LABEL_NOISE not in results:
        return None
    pair = results[without], results[LABEL_NOISE]
    if any(THINGS[thing] not in run or _interrupted(run) or run.sizes["step"] < 2 for run in pair):
        return None
    quiet, noisy = (ratios(run, thing)[:, -1] for run in pair)
    both = np.isfinite(quiet) & np.isfinite(noisy)
    compared, below = int(both.sum()), int((noisy < quiet)[both].sum())
    if not compared:
        return Finding("open", quiet[np.isfinite(quiet)], noisy[np.isfinite(noisy)], 0, 0)
    stays = bool(np.median(quiet[both]) >= STAYS)
    falls = bool(np.median(noisy[both]) <= STAYS)
    outcome: Outcome
    if falls and not stays:
        outcome = "falls without noise"
    elif falls:
        outcome = "holds" if below == compared >= _SEEDS else "open"
    else:
        outcome = "stays with noise" if stays else "neither"
    return Finding(outcome, quiet[both], noisy[both], below, compared)


def claim(experiment: Experiment, results: Results, thing: str) -> Verdict | None:
    """The verdict on one thing of one experiment."""
    found = find(results, thing)
    if found is None:
        return None
    without = {GD: "gradient descent", SGD: "SGD"}[quiet_arm(results)]
    measured, kept = (float(np.median(x)) if len(x) else np.nan for x in (found.noisy, found.quiet))
    sentences = {
        "holds": "",
        "falls without noise": f"does not hold here: {without} alone lowers it too",
        "stays with noise": "does not hold here: it stays with label noise as well",
        "neither": f"does not hold here: {without} lowers it, and label noise keeps it",
        "open": f"open: label noise leaves less in {found.below} of {found.compared} seeds, {_SEEDS} of {_SEEDS} are "
        "asked for",
    }
    also = _also(found, without)
    numbers = [f"label noise leaves {_band(found.noisy)}", f"{without} {_band(found.quiet)}"]
    if SGD in results and GD in results and not _interrupted(results[SGD]):
        last = ratios(results[SGD], thing)[:, -1]
        numbers.append(f"SGD {_band(last[np.isfinite(last)])}")
    return Verdict(
        law=f"{experiment.title}: rank of the {thing}",
        statement=f"with label noise it falls to {STAYS:g} of its start or less, in every seed below {without}; "
        "without it stays above",
        predicted=STAYS,
        measured=measured,
        error=float(np.nanmax([0.0, measured - STAYS, STAYS - kept])) if found.compared else np.nan,
        tolerance=0.0,
        passed=True if found.outcome == "holds" else None,
        n_checked=found.compared,
        note="; ".join(filter(None, [sentences[found.outcome] + also, ", ".join(numbers)])),
        errors=found.noisy,
        negative=found.outcome not in ("holds", "open"),
    )


def claims(experiment: Experiment, results: Results) -> list[Verdict]:
    """The verdicts on weights, features and Jacobian, and what the experiment claims besides."""
    found = [claim(experiment, results, thing) for thing in THINGS]
    return [*(verdict for verdict in found if verdict is not None), *experiment.extra_claims(results)]


def _also(found: Finding, without: str) -> str:
    """How the arms compare where the claim does not hold for another reason."""
    if found.outcome == "falls without noise":
        if found.below == found.compared >= _SEEDS:
            return ", label noise further in every seed"
        return f", label noise further in {found.below} of {found.compared} seeds"
    if found.outcome == "stays with noise" and found.below:
        return f", below {without} in {found.below} of {found.compared} seeds"
    return ""


def _band(values: Sequence[float] | np.ndarray) -> str:
    if not len(values):
        return "nothing that is finite"
    return f"{np.median(values):.2f} ({np.min(values):.2f}–{np.max(values):.2f})"


def _interrupted(run: xr.Dataset) -> bool:
    return any(str(outcome).startswith("interrupted") for outcome in run["outcome"].values)
