"""What fine-tuning with adapters claims besides the ranks of all experiments: the exact balance, the rank of BA."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rankfall.experiments._target import Results
from rankfall.laws import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr

__all__ = ["claims", "notes"]

# Label noise has lowered the rank of BA if it leaves at most this share of what training without it leaves.
_SHARE = 0.9
# So many seeds must agree: by chance the one arm is below the other in all five in 1 of 32 cases.
_SEEDS = 5
# Where the labels are right, and where they are flipped, by the name of the optimizer.
_OPPOSITES = {"SGD": ("gd", "label-noise"), "AdamW": ("adamw", "adamw-label-noise")}


def claims(title: str, results: Results) -> list[Verdict]:
    """The balance ledger of the plain arms, which must hold, and whether label noise lowers the rank of BA."""
    kept = {name: run for name, run in results.items() if run.sizes["step"] > 1}
    verdicts = [_ledger(title, kept)]
    verdicts += [_product_rank(title, optimizer, kept) for optimizer in _OPPOSITES]
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


def _product_rank(title: str, optimizer: str, results: Results) -> Verdict | None:
    """Whether label noise leaves less rank of BA than the same optimizer, or gradient descent, without."""
    arms = _OPPOSITES[optimizer]
    if any(arm not in results or _interrupted(results[arm]) for arm in arms):
        return None
    quiet, noisy = (results[arm]["effective_rank_product"].isel(step=-1).mean("pair", skipna=False) for arm in arms)
    both = np.isfinite(quiet.values) & np.isfinite(noisy.values)
    shares = noisy.values[both] / quiet.values[both]
    compared, lower = int(both.sum()), int((shares <= _SHARE).sum())
    measured = float(np.median(shares)) if compared else math.nan
    if compared and measured > _SHARE:
        note = "does not hold here: "
    else:
        note = "" if lower == compared >= _SEEDS else f"open: so in {lower} of {compared} seeds; "
    each = [
        f"{name} {float(np.nanmedian(without)):.2f} without and {float(np.nanmedian(with_noise)):.2f} with"
        for name, without, with_noise in zip(
            results[arms[0]]["pair"].values,
            *(results[arm]["effective_rank_product"].isel(step=-1).transpose("pair", "seed").values for arm in arms),
            strict=True,
        )
        if compared
    ]
    return Verdict(
        law=f"{title}: rank of BA, {optimizer}",
        statement=f"flipped labels leave at most {_SHARE:g} of the effective rank of BA that training without them "
        "leaves (mean over the adapters, in every seed)",
        predicted=_SHARE,
        measured=measured,
        error=max(0.0, measured - _SHARE) if compared else math.nan,
        tolerance=0.0,
        passed=True if not note else None,
        n_checked=compared,
        note=note + ", ".join(each),
        errors=shares,
    )


def notes(title: str, rank: int, results: Results) -> list[str]:
    """What a reader must know, in numbers: directions in use, growth, accuracy, AdamW's share of the balance."""
    kept = {name: run for name, run in results.items() if _finished(run)}
    lines: list[tuple[str, Callable[[xr.Dataset], str]]] = [
        (
            f"of r = {rank} directions B A uses, above 1 % of the largest, {{}}",
            partial(_by_pair, variable="alive_product", written="{:.0f}"),
        ),
        ("largest singular value of B A {}", _largest),
        ("smallest σ_i(A) over its start {}", _least_left),
        ("accuracy on images that are not trained on {}", _accuracy),
    ]
    found = [f"{title}, at the end, medians over the seeds: {_listed(kept, words, of)}." for words, of in lines if kept]
    return found + _growth(title, kept) + _share_of_the_optimizer(title, kept)


def _listed(results: Results, words: str, of: Callable[[xr.Dataset], str]) -> str:
    return words.format("; ".join(f"{name} {of(run)}" for name, run in results.items()))


def _growth(title: str, results: Results) -> list[str]:
    """Whether the rank of A falls because directions die, or because others outgrow them."""
    if "label-noise" not in results:
        return []
    run = results["label-noise"]
    least = float(np.nanmin(_shares_of_the_start(run)))
    if least >= 1.0:
        return [
            f"{title}: with flipped labels no singular value of A ends below its start, in any seed. What lowers the "
            "effective rank is the growth of a few directions, not the death of others; in the linear theory they die."
        ]
    return [f"{title}: with flipped labels the singular values of A fall to {least:.2g} of their start and no further."]


def _share_of_the_optimizer(title: str, results: Results) -> list[str]:
    """What AdamW and gradient descent move Q by, and how much of that the ledger of plain SGD explains."""
    found = []
    if "adamw" in results:
        last, first = results["adamw"].isel(step=-1), results["adamw"].isel(step=0)
        moved = _median(last["balance_drift"] / first["balance"])
        unexplained = _median(last["balance_error"] / last["balance_drift"])
        found.append(
            f"{title}: AdamW moves Q = AAᵀ − BᵀB by {moved:.2g} times what it was at the start; its distance from the "
            f"ledger of plain SGD at the same rate is {unexplained:.2g} times that, so that it is AdamW’s own share."
        )
    if "gd" in results:
        last, first = results["gd"].isel(step=-1), results["gd"].isel(step=0)
        found.append(
            f"{title}: gradient flow would leave Q as it was; gradient descent with this step size moves it by "
            f"{_median(last['balance_drift'] / first['balance']):.2g} times what it was, which the ledger explains to "
            f"{_median(last['balance_error'] / last['balance_drift']):.1g}."
        )
    return found


def _by_pair(run: xr.Dataset, variable: str, written: str) -> str:
    medians = run[variable].isel(step=-1).median("seed")
    return " and ".join(f"{written.format(float(medians.sel(pair=p)))} ({p})" for p in run["pair"].values)


def _largest(run: xr.Dataset) -> str:
    values = run["singular_values_product"].isel(step=-1, mode=0).median("seed").values
    return " and ".join(f"{value:.2g}" for value in values)


def _least_left(run: xr.Dataset) -> str:
    return f"{np.nanmedian(_shares_of_the_start(run).min(axis=(1, 2))):.2f}"


def _shares_of_the_start(run: xr.Dataset) -> np.ndarray:
    """σ_i(A) at the end over σ_i(A) at the start, shape (seed, pair, mode)."""
    values = run["singular_values_A"].transpose("seed", "pair", "mode", "step").values
    return np.asarray(values[..., -1] / values[..., 0])


def _accuracy(run: xr.Dataset) -> str:
    return f"{float(run['test_accuracy'].isel(step=-1).median('seed')):.1%}"


def _median(values: xr.DataArray) -> float:
    return float(np.nanmedian(values.values))


def _finished(run: xr.Dataset) -> bool:
    """Whether there is an end of which to speak, in one seed at least."""
    return not _interrupted(run) and run.sizes["step"] > 1 and bool(np.isfinite(run["loss"].values[:, -1]).any())


def _interrupted(run: xr.Dataset) -> bool:
    return any(str(outcome).startswith("interrupted") for outcome in run["outcome"].values)


def _reasons(verdicts: Sequence[dict[str, object]]) -> str:
    return ", ".join(dict.fromkeys(str(verdict["note"]) for verdict in verdicts if verdict["passed"] is None))
