"""What fine-tuning with adapters claims besides what all experiments do: the exact balance, the rank of BA."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from rankfall.experiments._beyond._claims import THINGS, ratios
from rankfall.experiments._beyond._experiment import GD, LABEL_NOISE
from rankfall.experiments._target import Results
from rankfall.laws import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["claims", "notes"]

# Label noise has lowered the rank of BA if it leaves at most this share of what training without it leaves.
_SHARE = 0.9
# So many seeds must agree: by chance the one arm is below the other in all five in 1 of 32 cases.
_SEEDS = 5
# The arm that label noise is compared with, the arm with it, and what the verdict is called.
_COMPARED = (
    ("gd", "label-noise", "label noise against gradient descent"),
    ("gd-smoothed", "label-noise", "label noise against smoothed labels, its loss without its noise"),
    ("adamw", "adamw-label-noise", "AdamW with label noise against AdamW"),
)


def claims(title: str, results: Results) -> list[Verdict]:
    """The balance ledger of the plain arms, which must hold, and whether label noise lowers the rank of BA."""
    kept = {name: run for name, run in results.items() if run.sizes["step"] > 1}
    verdicts = [_ledger(title, kept)]
    verdicts += [_product_rank(title, kept, *compared) for compared in _COMPARED]
    return [verdict for verdict in verdicts if verdict is not None]


def _ledger(title: str, results: Results) -> Verdict | None:
    """Of all pairs of all seeds under gradient descent and SGD, the one that comes closest to breaking the law."""
    found = [verdict for run in results.values() for verdict in json.loads(run.attrs.get("ledger", "[]"))]
    if not found:
        return None
    checked = [verdict for verdict in found if verdict["passed"] is not None]
    broken = sum(verdict["passed"] is False for verdict in checked)
    worst = max(checked, key=lambda verdict: verdict["error"] / verdict["tolerance"], default=None)
    predicted, measured, error, tolerance, step = (
        math.nan if worst is None else float(worst[name])
        for name in ("predicted", "measured", "error", "tolerance", "time")
    )
    left_out = len(found) - len(checked)
    words = [f"{broken} pairs broke it"] if broken else []
    words += [f"{left_out} pairs could not be checked: {_reasons(found)}"] if left_out else []
    return Verdict(
        law=f"{title}: balance ledger of A and B",
        statement="descent without momentum moves Q = AAᵀ − BᵀB by η²(g_A g_Aᵀ − g_Bᵀ g_B) in every step, to rounding, "
        "for every adapter of every seed, with batches and flipped labels or without",
        predicted=predicted,
        measured=measured,
        error=error,
        tolerance=tolerance,
        passed=None if not checked else broken == 0,
        n_checked=len(checked),
        note="; ".join(words),
        time=step,
    )


def _product_rank(title: str, results: Results, without: str, with_noise: str, words: str) -> Verdict | None:
    """Whether label noise leaves less rank of BA than the arm without."""
    if any(arm not in results or _interrupted(results[arm]) for arm in (without, with_noise)):
        return None
    ends = [
        results[arm]["effective_rank_product"].isel(step=-1).transpose("seed", "pair").values
        for arm in (without, with_noise)
    ]
    both = np.isfinite(ends).all(axis=(0, 2))
    quiet, noisy = (end[both] for end in ends)
    shares = noisy.mean(axis=1) / quiet.mean(axis=1)
    compared, lower = len(shares), int((shares <= _SHARE).sum())
    measured = float(np.median(shares)) if compared else math.nan
    if measured > _SHARE:
        note = "does not hold here: "
    else:
        note = (
            "" if lower == compared >= _SEEDS else f"open: so in {lower} of {compared} seeds, {_SEEDS} are asked for; "
        )
    if compared:
        pairs = zip(results[without]["pair"].values, np.median(quiet, axis=0), np.median(noisy, axis=0), strict=True)
        note += ", ".join(f"{pair} {less:.2f} without noise and {more:.2f} with it" for pair, less, more in pairs)
    return Verdict(
        law=f"{title}: rank of BA, {words}",
        statement=f"label noise leaves at most {_SHARE:g} of the effective rank of BA that is there without it (mean "
        "over the adapters, in every seed)",
        predicted=_SHARE,
        measured=measured,
        error=max(0.0, measured - _SHARE) if compared else math.nan,
        tolerance=0.0,
        passed=True if measured <= _SHARE and lower == compared >= _SEEDS else None,
        n_checked=compared,
        note=note.removesuffix("; "),
        errors=shares,
        negative=measured > _SHARE,
    )


def notes(rank: int, results: Results) -> list[str]:
    """In numbers: directions in use, growth, accuracy, what is due to the loss, AdamW's share of the balance."""
    kept = {name: run for name, run in results.items() if _finished(run)}
    return [*_ends(rank, kept), *_growth(kept), *_smoothed(kept), *_balance(kept)]


def _ends(rank: int, results: Results) -> list[str]:
    if not results:
        return []
    each = [
        f"{name} {_by_pair(run['alive_product'], '{:.0f}')}, σ₁ {_by_pair(run['singular_values_product'][..., 0])}, "
        f"{float(run['test_accuracy'].isel(step=-1).median('seed')):.1%}"
        for name, run in results.items()
    ]
    return [
        f"At the end, medians: how many of {rank} directions BA uses (above 1 % of the largest; queries, values), the "
        f"largest singular value of BA, accuracy on other images: {'; '.join(each)}."
    ]


def _growth(results: Results) -> list[str]:
    """Whether the rank of A falls because directions die, or because others outgrow them."""
    if LABEL_NOISE not in results:
        return []
    least = float(np.nanmin(_shares_of_the_start(results[LABEL_NOISE])))
    if least >= 1.0:
        return [
            "With label noise no singular value of A ends below its start, in any seed: where the effective rank "
            "falls, a few directions grow and none dies, unlike in linear networks."
        ]
    return [f"With label noise the singular values of A fall to {least:.2g} of their start at the least."]


def _smoothed(results: Results) -> list[str]:
    """What the loss does, and what the noise."""
    if "gd-smoothed" not in results or LABEL_NOISE not in results:
        return []
    parts = []
    for thing in THINGS:
        medians = [float(np.nanmedian(ratios(results[arm], thing)[:, -1])) for arm in ("gd-smoothed", LABEL_NOISE)]
        parts.append(f"{thing} {medians[0]:.2f} and {medians[1]:.2f}")
    return [
        "Flipped labels also change the loss, on average to that of smoothed labels. Rank over its start, medians, by "
        f"gradient descent on smoothed labels and with label noise: {', '.join(parts)}. What both share is the loss, "
        "the rest is the noise of flips and batches."
    ]


def _balance(results: Results) -> list[str]:
    """What AdamW and gradient descent move Q by, and how much of that the ledger of plain SGD explains."""
    found = []
    for arm, words in (
        (GD, "Gradient flow would keep Q = AAᵀ − BᵀB. Gradient descent with steps of this size moves it by"),
        ("adamw", "AdamW moves Q by"),
    ):
        if arm in results:
            last, first = results[arm].isel(step=-1), results[arm].isel(step=0)
            moved = _median(last["balance_drift"] / first["balance"])
            left = _median(last["balance_error"] / last["balance_drift"])
            found.append(
                f"{words} {moved:.2g} times what it was; its distance from the ledger of plain SGD is {left:.3g} times "
                "that (medians)."
            )
    return found


def _by_pair(values: xr.DataArray, written: str = "{:.2g}") -> str:
    """The end, medians over the seeds, queries and values."""
    medians = values.isel(step=-1).median("seed").values
    return " and ".join(written.format(float(median)) for median in medians)


def _shares_of_the_start(run: xr.Dataset) -> np.ndarray:
    """σ_i(A) at the end over σ_i(A) at the start, shape (seed, pair, mode)."""
    values = run["singular_values_A"].transpose("seed", "pair", "mode", "step").values
    return np.asarray(values[..., -1] / values[..., 0])


def _median(values: xr.DataArray) -> float:
    return float(np.nanmedian(values.values))


def _finished(run: xr.Dataset) -> bool:
    """Whether there is an end of which to speak, in one seed at least."""
    return not _interrupted(run) and run.sizes["step"] > 1 and bool(np.isfinite(run["loss"].values[:, -1]).any())


def _interrupted(run: xr.Dataset) -> bool:
    return any(str(outcome).startswith("interrupted") for outcome in run["outcome"].values)


def _reasons(verdicts: Sequence[dict[str, object]]) -> str:
    return ", ".join(dict.fromkeys(str(verdict["note"]) for verdict in verdicts if verdict["passed"] is None))
