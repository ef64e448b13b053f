"""What the report of the dichotomy says: texts and tables around the figure."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING

import xarray as xr

from rankfall._version import __version__
from rankfall.problem import Problem
from rankfall.report import Page, VerdictTable

if TYPE_CHECKING:
    from rankfall.experiments.dichotomy import Outcome, Settings

__all__ = ["data_file", "environment", "make_page", "run_name", "short"]


def short(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def data_file(noise: float) -> str:
    """File name of the run with this label noise."""
    return f"delta-{short(noise)}.nc"


def run_name(noise: float) -> str:
    """What the run with this label noise is called."""
    return f"δ = {short(noise)}, " + ("stochastic gradient flow" if noise > 0 else "gradient flow")


def make_page(
    outcome: Outcome,
    problem: Problem,
    runs: Mapping[float, xr.Dataset],
    figures: tuple[bytes | None, bytes | None],
    command: str,
    environment: Mapping[str, str],
) -> Page:
    """Lay out the report; `figures` are the wide and the narrow one as SVG."""
    settings = outcome.settings
    source = f"the {settings.data} data" if settings.data else "Gaussian data with a random linear teacher"
    lead = (
        f"A two-layer linear network ({problem.n_inputs} inputs, {settings.width} hidden units, {problem.n_outputs} "
        f"outputs) learns {source} ({problem.n_samples} samples). Under gradient flow the determinant of M = ZZᵀ, "
        "Z = [W1; W2ᵀ], is conserved. Fresh noise on the labels makes it decay at a rate that no realisation of the "
        "noise can change, and the small singular values of W1 die. Below, the claims and every law behind them, "
        "checked on every trajectory."
    )
    unfinished = []
    for noise in settings.label_noise:
        if noise not in runs:
            unfinished.append(f"the run with δ = {noise:g} has not begun")
        elif any(str(o).startswith("interrupted") for o in runs[noise]["outcome"].values):
            until = float(runs[noise]["time"].values[-1])
            unfinished.append(f"the run with δ = {noise:g} was interrupted at t = {until:.4g} of {settings.duration:g}")
    partial = ""
    if outcome.status == "partial":
        partial = "; ".join(unfinished) + ". The same command continues it."
    data = settings.data
    notes = []
    if data is not None:
        rank = sum(d > 0 for d in problem.eigenbasis()[0])
        notes.append(
            f"Inputs of “{data}” are standardised; Σ has rank {rank} of {problem.n_inputs}"
            + (" (inputs without variance are kept as zeros)." if rank < problem.n_inputs else ".")
            + (" One-hot labels are centred, because the network has no bias." if problem.n_outputs > 1 else "")
        )
    diverged = {
        noise: sum(str(o).startswith("diverged") for o in each["outcome"].values) for noise, each in runs.items()
    }
    notes += [
        f"{count} of {settings.replicates} replicates with δ = {noise:g} diverged and are left out from then on: the "
        "time step is too large."
        for noise, count in diverged.items()
        if count
    ]
    return Page(
        title="Label noise lowers the rank, gradient flow does not",
        lead=lead,
        claims=outcome.claims,
        figure=figures[0],
        narrow_figure=figures[1],
        caption=_caption(settings, runs),
        tables=[VerdictTable(name, verdicts, _summary(runs, name)) for name, verdicts in outcome.laws.items()],
        settings=_readable(settings, runs),
        environment=environment,
        command=command,
        files=[
            ("figure.svg", "the figure, for papers"),
            ("figure.png", "the figure, 220 dots per inch"),
            *((data_file(noise), f"data of δ = {noise:g}, NetCDF") for noise in runs),
            ("verdicts.json", "every verdict, replicate by replicate"),
            ("settings.json", "settings and versions"),
        ][0 if runs else 2 :],
        partial=partial,
        notes=notes,
    )


def _summary(runs: Mapping[float, xr.Dataset], name: str) -> str:
    for noise, each in runs.items():
        if run_name(noise) == name:
            done = sum(str(outcome) == "completed" for outcome in each["outcome"].values)
            step = float(each.attrs.get("step_length", 0.0))
            how = f"time step {step:.4g}" if step > 0 else "adaptive time steps"
            end = float(each["time"].values[-1])
            return f"{done} of {each.sizes['replicate']} replicates completed, until t = {end:.4g}, {how}."
    return ""


def _caption(settings: Settings, runs: Mapping[float, xr.Dataset]) -> str:
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


def _readable(settings: Settings, runs: Mapping[float, xr.Dataset]) -> dict[str, str]:
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


def environment() -> dict[str, str]:
    """Versions and machine."""
    versions = {name: metadata.version(name) for name in ("numpy", "scipy", "numba", "xarray", "matplotlib")}
    return {
        "rankfall": __version__,
        "Python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
    }
