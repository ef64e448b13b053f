"""What a ledger recorded, as a dataset and as verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from rankfall._version import __version__
from rankfall.errors import LawNotApplicable
from rankfall.laws import Verdict
from rankfall.torch._account import COLUMNS, Account
from rankfall.torch._tolerance import balance_tolerance, log_det_tolerance

__all__ = ["dataset", "judge", "require_plain_sgd"]

# Below this fraction of σ₁ a computed singular value carries less than two digits.
_FLOAT_FLOOR = 1e-14
_WORDS = {
    "balance": "‖Q‖_F, Q = W1ᵀW1 − W2W2ᵀ",
    "balance_drift": "‖Q − Q_0‖_F",
    "balance_error": "‖Q − ledger‖_F",
    "log_det": "log det(ZZᵀ), Z = [W1; W2ᵀ]",
    "log_det_drift": "log det(ZZᵀ) since the start",
    "log_det_error": "log det(ZZᵀ) − ledger: what the optimizer gives (+) or takes (−) beyond SGD",
    "product_defect": "‖W1ᵀg1 − g2W2ᵀ‖ / (‖W1‖‖g1‖ + ‖g2‖‖W2‖) of the step before",
}


def dataset(accounts: Sequence[Account], steps: Sequence[int], records: np.ndarray, optimizer: str) -> xr.Dataset:
    """Return the records, shape (record, pair, column), as a dataset over step and pair."""
    columns = {name: records[:, :, index] for index, name in enumerate(COLUMNS)}
    start = np.array([float(account.start_log_det) for account in accounts])
    columns["log_det_drift"] = columns["log_det"] - start
    columns["log_det_error"] = columns["log_det"] - columns["ledger_log_det"]
    pairs = [account.pair for account in accounts]
    return xr.Dataset(
        {name: (("step", "pair"), columns[name], {"long_name": words}) for name, words in _WORDS.items()},
        coords={
            "step": ("step", np.asarray(steps, dtype=np.int64)),
            "pair": ("pair", [pair.name for pair in pairs]),
            "kind": ("pair", [pair.kind for pair in pairs]),
            "width": ("pair", [pair.width for pair in pairs]),
            "n_inputs": ("pair", [pair.n_inputs for pair in pairs]),
            "n_outputs": ("pair", [pair.n_outputs for pair in pairs]),
            "determinant_note": ("pair", [account.determinant_note for account in accounts]),
        },
        attrs={"optimizer": optimizer, "rankfall_version": __version__},
    )


def require_plain_sgd(optimizer: torch.optim.Optimizer, accounts: Sequence[Account]) -> None:
    """Raise `LawNotApplicable` unless every step was w ← (1 − ηλ)w − ηg."""
    watched = {id(piece.parameter) for account in accounts for piece in account.pair.pieces}
    groups = [group for group in optimizer.param_groups if watched & {id(p) for p in group["params"]}]
    what = ""
    if type(optimizer) is not torch.optim.SGD:
        what = type(optimizer).__name__
    elif any(group["momentum"] for group in groups):
        what = "SGD with momentum"
    if what:
        raise LawNotApplicable(
            f"the ledgers are exact for plain SGD; what {what} does differently is no error but the finding, see "
            "balance_error and log_det_error in history()."
        )


def judge(
    accounts: Sequence[Account], steps: Sequence[int], records: np.ndarray, problems: dict[str, str], terms: int
) -> list[Verdict]:
    """Return the verdicts of all pairs; balance first, then determinant where there is one."""
    verdicts = []
    for index, account in enumerate(accounts):
        record = {name: records[:, index, column] for column, name in enumerate(COLUMNS)}
        problem = problems.get(account.pair.name, "")
        pair, unit = account.pair, account.unit
        defect = np.nanmax(record["product_defect"], initial=0.0)
        hint = f"largest difference of W1ᵀg1 and g2W2ᵀ {defect:.1g}"
        tolerance = balance_tolerance(record, pair, unit, terms)
        scale = record["spectral_bound"] * record["frobenius"]
        verdicts.append(
            _verdict(
                f"balance ledger of {pair.name}",
                "Q ← (1−ηλ)²Q + η²(g1ᵀg1 − g2g2ᵀ)",
                steps,
                index,
                predicted=record["ledger_balance"],
                measured=record["balance"],
                error=record["balance_error"],
                tolerance=tolerance,
                # more than that would say nothing about Q, or about what the gradients did to it
                blind=tolerance > np.maximum(1e-4 * scale, 1e-2 * record["path"]),
                problem=problem,
                hint=hint,
            )
        )
        if account.follows_determinant:
            tolerance = log_det_tolerance(record, pair, unit, terms)
            change = np.abs(record["ledger_log_det"] - record["ledger_log_det"][0])
            verdicts.append(
                _verdict(
                    f"determinant ledger of {pair.name}",
                    "log det(ZZᵀ) changes by 2 Σ log |(1−ηλ)² − η²σ_i(G)²|, (1−ηλ)^|p−k|",
                    steps,
                    index,
                    predicted=record["ledger_log_det"],
                    measured=record["log_det"],
                    error=np.abs(record["log_det"] - record["ledger_log_det"]),
                    tolerance=tolerance,
                    blind=(tolerance > np.maximum(1e-4, 1e-2 * change)) | (record["smallest"] < _FLOAT_FLOOR),
                    problem=problem,
                    hint=hint,
                )
            )
    return verdicts


def _verdict(
    law: str,
    statement: str,
    steps: Sequence[int],
    index: int,
    *,
    predicted: np.ndarray,
    measured: np.ndarray,
    error: np.ndarray,
    tolerance: np.ndarray,
    blind: np.ndarray,
    problem: str,
    hint: str,
) -> Verdict:
    """Judge the record that comes closest to breaking the law; the start and what rounding hides do not count."""
    checked = np.isfinite(error) & ~blind
    checked[0] = False
    notes = [problem] if problem else []
    if not checked.any():
        notes.append("nothing could be checked: no steps recorded, or rounding hides the law")
        nan = float("nan")
        return Verdict(law, statement, nan, nan, nan, nan, None, note="; ".join(notes))
    hidden = int((blind & np.isfinite(error))[1:].sum())
    if hidden:
        notes.append(f"rounding hides the law in {hidden} of {len(error) - 1} records")
    excess = np.where(checked, error / np.where(tolerance > 0.0, tolerance, np.finfo(float).tiny), -np.inf)
    worst = int(np.argmax(excess))
    passed = bool(excess[worst] <= 1.0)
    if not passed:
        notes.append(hint)
    return Verdict(
        law,
        statement,
        predicted=float(predicted[worst]),
        measured=float(measured[worst]),
        error=float(error[worst]),
        tolerance=float(tolerance[worst]),
        passed=passed,
        replicate=index,
        n_checked=1,
        note="; ".join(notes),
        time=float(steps[worst]),
        errors=error[worst : worst + 1].copy(),
        tolerances=tolerance[worst : worst + 1].copy(),
    )
