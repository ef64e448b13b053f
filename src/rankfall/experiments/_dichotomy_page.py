"""What the report of the dichotomy says: texts and tables around the figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import xarray as xr

from rankfall.experiments._page import short
from rankfall.problem import Problem

if TYPE_CHECKING:
    from rankfall.experiments.dichotomy import Settings

__all__ = ["caption", "lead", "notes", "readable", "run_name"]


def run_name(noise: float) -> str:
    """What the run with this label noise is called."""
    return f"δ = {short(noise)}, " + ("stochastic gradient flow" if noise > 0 else "gradient flow")


def lead(settings: Settings, problem: Problem) -> str:
    """What was done, what to see."""
    source = f"the {settings.data} data" if settings.data else "Gaussian data with a random linear teacher"
    return (
        f"A two-layer linear network ({problem.n_inputs} inputs, {settings.width} hidden units, {problem.n_outputs} "
        f"outputs) learns {source} ({problem.n_samples} samples). Under gradient flow the determinant of M = ZZᵀ, "
        "Z = [W1; W2ᵀ], is conserved. Fresh noise on the labels makes it decay at a rate that no realisation of the "
        "noise can change, and the small singular values of W1 die. Below, the claims and every law behind them, "
        "checked on every trajectory."
    )


def notes(settings: Settings, problem: Problem, runs: Mapping[float, xr.Dataset]) -> list[str]:
    """What a reader must know of the data, and of replicates that diverged."""
    data, found = settings.data, []
    if data is not None:
        rank = sum(d > 0 for d in problem.eigenbasis()[0])
        found.append(
            f"Inputs of “{data}” are standardised; Σ has rank {rank} of {problem.n_inputs}"
            + (" (inputs without variance are kept as zeros)." if rank < problem.n_inputs else ".")
            + (" One-hot labels are centred, because the network has no bias." if problem.n_outputs > 1 else "")
        )
    diverged = {
        noise: sum(str(o).startswith("diverged") for o in each["outcome"].values) for noise, each in runs.items()
    }
    found += [
        f"{count} of {settings.replicates} replicates with δ = {noise:g} diverged and are left out from then on: the "
        "time step is too large."
        for noise, count in diverged.items()
        if count
    ]
    return found


def caption(settings: Settings, runs: Mapping[float, xr.Dataset]) -> str:
    """What the panels show."""
    first = next(iter(runs.values()), None)
    if first is None:
        return ""
    wide = first.attrs["width"] >= first.attrs["n_inputs"] + first.attrs["n_outputs"]
    left = "det M" if wide else "the balance ‖Q‖ (det M is 0 at all times for so narrow a network)"
    total = first.sizes["mode_W1"]
    shown = "all" if total <= 10 else "the 5 largest and 5 smallest"
    return (
        f"First panel: {left} against time; each of {settings.replicates} trajectories faint, their median bold, "
        "what the law predicts dashed"
        + (
            ", dotted once the smallest singular value of Z is below 1e-14 of the largest: float64 resolves it no more"
            if wide
            else ""
        )
        + f". Second panel: {shown} singular values of W1, median and band from the 10 % to the 90 % "
        "quantile. "
        f"Step size η = {settings.step_size:g}, batch size b = {settings.batch_size}, σ² = ηδ/b; the paper does not "
        "state η, so this is a choice."
    )


def readable(settings: Settings, runs: Mapping[float, xr.Dataset]) -> dict[str, str]:
    """The settings as the page lists them."""
    shown = {}
    for name, value in asdict(settings).items():
        if value is None and name != "dt":
            continue
        if name == "dt" and value is None:
            steps = {f"{float(each.attrs['step_length']):.4g}" for noise, each in runs.items() if noise > 0}
            value = ", ".join(sorted(steps)) + " (chosen)" if steps else "chosen"
        values = value if isinstance(value, tuple) else (value,)
        shown[name.replace("_", " ")] = ", ".join(short(v) if isinstance(v, float) else str(v) for v in values)
    return shown
