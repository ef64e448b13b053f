"""The labelled result of a simulation of more than two layers: the schema of a deep run."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall._dataset import common_attributes, common_coordinates, outcomes
from rankfall._deep_recording import PAIR_SCALARS, DeepRecording, spectra_sizes
from rankfall._plan import Plan
from rankfall.methods import Method, StochasticGradientDescent
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.recording import VARIABLES, observed_variables

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["build_deep_dataset", "layer_dimensions"]


def layer_dimensions(depth: int) -> list[tuple[str, str]]:
    """Dimensions of the weights of every layer: (input, hidden1), (hidden1, hidden2), …, (…, output)."""
    names = ["input", *(f"hidden{i}" for i in range(1, depth)), "output"]
    return list(itertools.pairwise(names))


def build_deep_dataset(
    problem: Problem,
    network: LinearNetwork,
    method: Method,
    plan: Plan,
    recording: DeepRecording,
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

    widths, depth, replicates = network.widths, network.depth, len(diverged)
    over, layers = ("replicate", "time"), layer_dimensions(network.depth)
    data = problem.loss == "squared"
    variables: dict[str, Any] = {
        "loss": (
            over,
            recording.loss[:saved].T,
            {"long_name": VARIABLES["loss"][0], "formula": "L = ‖X W1 … WL − Y‖²_F / 2n"}
            if data
            else {"long_name": f"{problem.loss} loss"},
        )
    }
    if recording.accuracy is not None:
        _, long_name, formula = observed_variables(("accuracy",))["accuracy"]
        variables["accuracy"] = (over, recording.accuracy[:saved].T, {"long_name": long_name, "formula": formula})
    for row, (name, (long_name, formula)) in enumerate(PAIR_SCALARS.items()):
        if not name.startswith("ledger") or plan.balance:
            values = np.moveaxis(recording.pairs[:saved, row], 2, 0)
            variables[name] = ((*over, "pair"), values, {"long_name": long_name, "formula": formula})
    note = _note_on_log_det(plan, network)
    if note:
        variables["log_det"][2]["note"] = note
    if recording.ledger is not None:
        words = {"long_name": "determinant ledger", "formula": "Σ 2 log |det((1 − ηλ) I + Ĥ_i)| over the steps"}
        variables["ledger_log_det"] = ((*over, "pair"), np.moveaxis(recording.ledger[:saved], 2, 0), words)
    if recording.integration_error is not None:
        words = {"long_name": "local errors of the integrator, as it estimates them, added up"}
        variables["integration_error"] = (over, recording.integration_error[:saved].T, words)
    first = 0
    sizes = spectra_sizes(widths)
    for name, size in sizes.items():
        values = recording.spectra[:saved, :, first : first + size].swapaxes(0, 1)
        of = "W1 W2 … WL" if name == "product" else name
        words = {"long_name": f"singular values of {of}", "formula": "descending"}
        variables[f"singular_values_{name}"] = ((*over, f"mode_{name}"), values, words)
        first += size
    for i, layer in enumerate(recording.weights or (), start=1):
        words = {"long_name": f"layer {i}"}
        variables[f"W{i}"] = ((*over, *layers[i - 1]), layer[:saved].swapaxes(0, 1), words)
    for name, values in per_replicate.items():
        variables[name] = ("replicate", values)
    ranks = [-1 if rank is None else rank for rank in network.pair_ranks]
    variables["start_rank"] = ("pair", np.array(ranks), {"long_name": "rank of Z_i at the start, −1 if unknown"})
    variables["outcome"] = ("replicate", outcomes(diverged, plan.times[saved - 1], interrupted))
    variables["covariance"] = (("input", "input_other"), problem.covariance, {"long_name": "Σ = XᵀX/n"})
    variables["cross_covariance"] = (("input", "output"), problem.cross_covariance, {"long_name": "C = XᵀY/n"})
    if isinstance(method, StochasticGradientDescent) or not data:
        variables["inputs"] = (("sample", "input"), problem.inputs)
        variables["labels"] = (("sample", "output"), problem.labels)
    for i, layer in enumerate(network.layers or (), start=1):
        each = ("replicate",) if layer.ndim == 3 else ()
        variables[f"start_W{i}"] = ((*each, *layers[i - 1]), layer)

    coordinates: dict[str, Any] = {
        **common_coordinates(method, plan, replicates, saved),
        "pair": ("pair", np.arange(1, depth), {"long_name": "i of the neighbouring layers i and i + 1"}),
        **{f"mode_{name}": np.arange(1, size + 1) for name, size in sizes.items()},
    }
    attributes = common_attributes(network, method, plan, settings, seed, replicates)
    attributes |= {
        "title": f"{attributes['title']}, {depth} layers",
        "integrator": plan.integrator,
        "depth": depth,
        "widths": ", ".join(map(str, widths)),
    }
    return xr.Dataset(variables, coords=coordinates, attrs=attributes)


def _note_on_log_det(plan: Plan, network: LinearNetwork) -> str:
    notes, w = [], network.widths
    for i, (full, rank) in enumerate(zip(plan.full_pairs, network.pair_ranks, strict=True), start=1):
        rows = w[i - 1] + w[i + 1]
        if not full and w[i] < rows:
            notes.append(f"pair {i}: −inf, since the width {w[i]} is below those beside it together, {rows}")
        elif not full:
            notes.append(f"pair {i}: −inf, since the start has rank {rank} of {rows}")
    return "; ".join(notes)
