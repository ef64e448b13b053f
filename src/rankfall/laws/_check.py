"""All laws that apply to a run, in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rankfall.errors import LawNotApplicable
from rankfall.laws import balance, determinant, ledger, lyapunov, narrow
from rankfall.laws._pairs import is_deep, label, read_pairs
from rankfall.laws._reading import Reading, read
from rankfall.laws._verdict import Verdict
from rankfall.problem import Problem

__all__ = ["check"]


def check(run: Any, problem: Problem | None = None) -> list[Verdict]:
    """Check every replicate of a run against all laws that apply to its method and width.

    Gradient flow: det M and Q conserved. Stochastic flow: the determinant law; the balance law where it closes.
    Descents and the Euler integrator: the ledgers that the run recorded. A stochastic flow with det M = 0 that kept its
    weights: the integral of the balance equation, if its save points resolve it. A network with det M = 0 gets no
    determinant verdict; the note of its balance verdict says why. Replicates that diverged are checked up to then.

    Of more than two layers every two neighbours are checked, with Gᵢ = A_iᵀ G B_{i+1}ᵀ in place of G: "determinant
    ledger, layers 1–2" and so on.

    Args:
        run: Dataset of `simulate` or `open_run`.
        problem: The problem that was simulated; the statistics kept in the run when None.

    Returns:
        One verdict per law, possibly none (a descent with ledger="none").

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
    """
    if is_deep(run):
        pairs = read_pairs(run, problem)
        return [label(verdict, pair) for pair in pairs for verdict in _check_reading(pair)]
    return _check_reading(read(run, problem))


def _check_reading(reading: Reading) -> list[Verdict]:
    try:
        reading.require_full_rank()
        singular = ""
    except LawNotApplicable as reason:
        singular = f"no determinant verdict: {reason}"
    verdicts = []
    laws = [determinant.check, ledger.check, balance.check, balance.check_ledger, lyapunov.check_sum]
    if singular:
        laws.append(narrow.check)
    for law in laws:
        try:
            verdict = law(reading)
        except LawNotApplicable:
            continue
        if law is narrow.check and verdict.passed is None:
            continue  # save points too far apart for an integral; the ledger has judged the run
        if singular and law is not lyapunov.check_sum:
            verdict = replace(verdict, note="; ".join(part for part in (singular, verdict.note) if part))
        verdicts.append(verdict)
    return verdicts
