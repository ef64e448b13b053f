"""The labelled result of a simulation: the schema of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall._losses import FORMULAS
from rankfall._plan import Plan
from rankfall._version import __version__
from rankfall.methods import Flow, Method, StochasticGradientDescent
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.recording import SCALARS, VARIABLES, Recording, observed_variables

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FORMAT_VERSION", "build_dataset", "common_attributes", "common_coordinates", "describe", "outcomes"]

FORMAT_VERSION = 1
_ROUNDING_LEVEL = 1e-14


def describe(
    problem: Problem, network: LinearNetwork, method: Method, plan: Plan, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Everything that the run was made from but its arrays, JSON-ready."""
    return {
        "problem": {
            "n_samples": problem.n_samples,
            "n_inputs": problem.n_inputs,
            "n_outputs": problem.n_outputs,
            "loss": problem.loss,
            "label_second_moment": problem.label_second_moment,
            "minimum_loss": problem.minimum_loss,
            **({} if network.hidden is None else {"loss": problem.loss}),
        },
        "network": {
            "start": network.start,
            "n_inputs": network.n_inputs,
            "width": network.width,
            "n_outputs": network.n_outputs,
            "scale": network.scale,
            **({} if network.hidden is None else {"hidden": list(network.hidden)}),
        },
        "method": {"name": type(method).__name__, **asdict(method)},
        "simulate": arguments,
        "integrator": plan.integrator,
        "order": plan.order,
    }


def build_dataset(
    problem: Problem,
    network: LinearNetwork,
    method: Method,
    plan: Plan,
    recording: Recording,
    saved: int,
    *,
    settings: dict[str, Any],
    seed: int,
    diverged: np.ndarray,
    interrupted: bool,
    per_replicate: dict[str, np.ndarray],
) -> xr.Dataset:
    """Label the first `saved` save points."""
    import xarray as xr

    p, l, k = network.n_inputs, network.width, network.n_outputs
    replicates = len(diverged)
    over = ("replicate", "time")
    variables: dict[str, Any] = {}

    def add(name: str, dims: tuple[str, ...], values: np.ndarray, **extra: str) -> None:
        words, formula = FORMULAS[problem.loss] if name == "loss" else VARIABLES[name]
        variables[name] = (dims, values, {"long_name": words, "formula": formula, **extra})

    for row, name in enumerate(SCALARS):
        if not name.startswith("ledger") or plan.balance:
            add(name, over, recording.scalars[:saved, row].T)
    if recording.ledger is not None:
        add("ledger_log_det", over, recording.ledger[:saved].T)
    for name, values in (("W1", recording.W1), ("W2", recording.W2), ("Z", recording.Z)):
        add(f"singular_values_{name}", (*over, f"mode_{name}"), values[:saved].swapaxes(0, 1))
    for name, (dims, words, formula) in observed_variables(plan.observables).items():
        values = recording.observed[name][:saved].swapaxes(0, 1)
        variables[name] = ((*over, *dims), values, {"long_name": words, "formula": formula})
    note = _note_on_log_det(plan, network, recording)
    if note:
        variables["log_det"][2]["note"] = note
    if recording.weights1 is not None and recording.weights2 is not None:
        first, second = (layer[:saved].swapaxes(0, 1) for layer in (recording.weights1, recording.weights2))
        variables["W1"] = ((*over, "input", "hidden"), first, {"long_name": "first layer"})
        variables["W2"] = ((*over, "hidden", "output"), second, {"long_name": "second layer"})
    for name, values in per_replicate.items():
        variables[name] = ("replicate", values)
    variables["outcome"] = ("replicate", outcomes(diverged, plan.times[saved - 1], interrupted))
    variables["covariance"] = (("input", "input_other"), problem.covariance, {"long_name": "Σ = XᵀX/n"})
    variables["cross_covariance"] = (("input", "output"), problem.cross_covariance, {"long_name": "C = XᵀY/n"})
    if isinstance(method, StochasticGradientDescent) or problem.loss != "squared":
        variables["inputs"] = (("sample", "input"), problem.inputs)
        variables["labels"] = (("sample", "output"), problem.labels)
    if network.W1 is not None and network.W2 is not None:
        each = ("replicate",) if network.W1.ndim == 3 else ()
        variables["start_W1"] = ((*each, "input", "hidden"), network.W1)
        variables["start_W2"] = ((*each, "hidden", "output"), network.W2)

    coordinates: dict[str, Any] = {
        **common_coordinates(method, plan, replicates, saved),
        "mode_W1": np.arange(1, min(p, l) + 1),
        "mode_W2": np.arange(1, min(k, l) + 1),
        "mode_Z": np.arange(1, min(p + k, l) + 1),
    }
    if any("mode" in variable[0] for variable in variables.values()):
        coordinates["mode"] = np.arange(1, p + k + 1)
    attributes = common_attributes(network, method, plan, settings, seed, replicates)
    attributes["start_rank"] = -1 if network.start_rank is None else network.start_rank
    return xr.Dataset(variables, coords=coordinates, attrs=attributes)


def common_coordinates(method: Method, plan: Plan, replicates: int, saved: int) -> dict[str, Any]:
    """Replicate, time and, where the steps are of one length, step: as runs of any depth have them."""
    words = "flow time" if isinstance(method, Flow) else "time (steps · step size)"
    coordinates: dict[str, Any] = {
        "replicate": np.arange(replicates),
        "time": ("time", plan.times[:saved], {"long_name": words}),
    }
    if plan.steps is not None:
        coordinates["step"] = ("time", plan.steps[:saved], {"long_name": "steps done"})
    return coordinates


def common_attributes(
    network: LinearNetwork, method: Method, plan: Plan, settings: dict[str, Any], seed: int, replicates: int
) -> dict[str, Any]:
    """What the attributes of runs of any depth say."""
    return {
        "title": f"rankfall run of {type(method).__name__}",
        "rankfall_version": __version__,
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "method": type(method).__name__,
        "n_inputs": network.n_inputs,
        "width": network.width,
        "n_outputs": network.n_outputs,
        "replicates": replicates,
        "start_rank": -1,
        "step_length": plan.step_length,
        "settings": json.dumps(settings, ensure_ascii=False),
    }


def outcomes(diverged: np.ndarray, reached: float, interrupted: bool) -> np.ndarray:
    rest = f"interrupted at t={reached:g}" if interrupted else "completed"
    return np.array([rest if np.isnan(time) else f"diverged at t={time:g}" for time in diverged])


def _note_on_log_det(plan: Plan, network: LinearNetwork, recording: Recording) -> str:
    rows = network.n_inputs + network.n_outputs
    if not plan.full_rank:
        if not network.is_wide:
            return f"−inf: det M = 0 at all times, since the width {network.width} is below inputs + outputs = {rows}"
        return f"−inf: det M = 0 at all times, since the start has rank {network.start_rank} of {rows}"
    first = recording.Z[0]
    with np.errstate(invalid="ignore"):
        low = (first[:, -1] <= _ROUNDING_LEVEL * first[:, 0]).sum()
    if low:
        return (
            f"{low} of {len(first)} starts are rank-deficient to rounding: their log det M is that of rounding noise, "
            "not shown to be −inf"
        )
    return ""
