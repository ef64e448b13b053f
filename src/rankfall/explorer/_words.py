"""What the page says beside its plots: captions with the numbers of this moment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rankfall.explorer._frames import COLUMNS, Film, Moment
from rankfall.explorer._settings import Settings

__all__ = ["captions", "headline", "short_verdict", "silent"]

TITLES = {
    "log_det": "det M, law dashed",
    "singular": "Singular values of W1",
    "eigenvalues": "Eigenvalues of M, their repulsion",
    "loss": "Loss",
    "balance": "Balance ‖Q‖, law dashed",
    "rates": "Lyapunov exponents so far",
}
_LN10 = math.log(10.0)


def captions(settings: Settings, film: Film, moment: Moment, horizon: float) -> dict[str, str]:
    """A sentence or two under each plot."""
    n = settings.replicates
    said = {
        "log_det": _determinant(settings, film, moment),
        "singular": "Bold: median of all trajectories; thin: one of them. The rank counts σᵢ above σ₁/1000.",
        "eigenvalues": moment.repulsion_note.capitalize() + "."
        if moment.repulsion_note
        else f"One trajectory. Arrows lead where the repulsion alone would take λᵢ in a time of {horizon:.2g}"
        + ("; none below 10⁻²⁸λ₁." if np.isnan(moment.pushes).any() else "."),
        "loss": f"Median and the band from 10 % to 90 % of {n} trajectories"
        + (f", {n - moment.alive} of them diverged." if moment.alive < n else "."),
        "balance": _balance(settings),
        "rates": _rates(settings, moment),
    }
    return {name: text.replace("-", "−") if name in ("log_det", "rates") else text for name, text in said.items()}


def _determinant(settings: Settings, film: Film, moment: Moment) -> str:
    if film.singular:
        return ""
    rows = film.rows[: film.filled]
    start, now = (float(rows[i, COLUMNS.index("log_det_middle")]) for i in (0, -1))
    measured = (now - start) * _LN10 / moment.time if moment.time > 0 else math.nan
    said = f"Measured slope of log det M: {measured:+.5f}; " if math.isfinite(measured) else ""
    if settings.method == "gradient-flow":
        return said + "the law says 0: conserved."
    if math.isfinite(film.flow_rate):
        return said + f"the law says −2kσ²tr Σ = {film.flow_rate:+.5f}, on every trajectory."
    return said + "the law is the ledger of the steps, 2 Σ log |1 − η²σᵢ(G)²|."


def _balance(settings: Settings) -> str:
    if settings.method == "gradient-flow":
        return "Q = W1ᵀW1 − W2W2ᵀ: gradient flow conserves all of it."
    if settings.method == "stochastic-gradient-flow" and settings.integrator == "geometric":
        return "Q = W1ᵀW1 − W2W2ᵀ, dQ = σ²(tr(Σ)·W2W2ᵀ − k·W1ᵀΣW1)dt, added up (dashed)."
    return "Each step adds η²(W2GᵀGW2ᵀ − W1ᵀGGᵀW1) to Q = W1ᵀW1 − W2W2ᵀ; their sum is dashed."


def _rates(settings: Settings, moment: Moment) -> str:
    words = "Mean log growth over time, mode by mode"
    if not math.isfinite(moment.rate_law):
        return words + "."
    name = "0" if settings.method == "gradient-flow" else "−kσ²tr Σ" if "flow" in settings.method else "½ ledger / t"
    return f"{words}; sum {moment.rate_sum:+.5f}, law {name} = {moment.rate_law:+.5f} (dashes)."


def silent(film: Film, settings: Settings) -> dict[str, str]:
    """What to say in place of a plot that has nothing to show."""
    rows = settings.n_inputs + settings.n_outputs
    reason = f"det M = 0 at all times: the width {settings.width} is below p + k = {rows}. See the balance."
    return {"log_det": reason if film.singular else ""}


def headline(settings: Settings, moment: Moment) -> str:
    """The one number to watch."""
    most = min(settings.n_inputs, settings.width)
    return f"rank of W1: {moment.rank} of {most}"


def short_verdict(verdict: dict[str, Any]) -> dict[str, str]:
    """What a light shows."""
    error, tolerance = verdict["error"], verdict["tolerance"]
    detail = (
        ""
        if error is None or tolerance is None
        else f"{error:.0e} {'≤' if error <= tolerance else '>'} {tolerance:.0e}"
    )
    return {name: verdict[name] for name in ("law", "status", "statement", "note")} | {"detail": detail}
