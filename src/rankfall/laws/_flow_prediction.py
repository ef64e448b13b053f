"""Curves that gradient flow should follow, over the save points of a run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from rankfall.errors import LawNotApplicable
from rankfall.laws._closed_forms import balanced_factors, logistic_mode
from rankfall.laws._flow_oracle import solve
from rankfall.laws._modes import (
    Modes,
    check_share,
    crossing_times,
    decoupled_modes,
    learning_times,
    mode_strengths,
    solution_modes,
)
from rankfall.laws._reading import Reading, read
from rankfall.methods import GradientFlow
from rankfall.problem import Problem

__all__ = ["predict"]


def predict(
    run: xr.Dataset | Reading, problem: Problem | None = None, *, numerically: bool = False, share: float = 0.5
) -> xr.Dataset:
    """Predict the curves of a run of gradient flow, from where its replicates start, without looking at the rest of it.

    The closed form is `balanced_flow` for whitened inputs and the logistic curves of `decoupled_modes` for others.

    Args:
        run: Dataset of `simulate` or `open_run`.
        problem: The problem that was simulated; the statistics kept in the run when None.
        numerically: Solve the differential equation instead (`solve`), which works for every run of gradient flow and
            takes seconds per replicate where the run is long.
        share: Of its target at which a mode counts as learned.

    Returns:
        Dataset with, over (replicate, time): `loss`; over (…, mode): `singular_values_W1`, `_W2`, `_product`,
        descending, and `mode_strength` = u_αᵀ W1W2 v_α with the singular vectors of the solution, kept as
        `mode_input` and `mode_output`; `mode_target` s*_α (all NaN for other losses);
        `learning_time` over (replicate, mode), in closed form for decoupled modes, else the first passage between
        save points (NaN: not by the end of the run; inf: never; all NaN for a numerical solution). The attribute
        `source` says which form was used.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run, or the share is not between 0 and 1.
        LawNotApplicable: Not gradient flow, not two layers, or no closed form holds from these starts.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import gradient_flow
        >>> problem = rf.Problem.from_statistics(np.eye(3), np.diag([3.0, 2.0, 1.0]))
        >>> network = rf.LinearNetwork.balanced(n_inputs=3, width=5, n_outputs=3, scale=1e-3)
        >>> run = rf.simulate(problem, network, rf.GradientFlow(), duration=10.0, replicates=2)
        >>> law = gradient_flow.predict(run)
        >>> bool(np.abs(law.singular_values_W1 - run.singular_values_W1).max() < 1e-7)
        True
    """
    reading = read(run, problem)
    if not isinstance(reading.method, GradientFlow):
        raise LawNotApplicable(f"{type(reading.method).__name__} is not gradient flow: no curve is predicted for it.")
    check_share(share)
    task, when = reading.problem, reading.times
    starts = _starts(reading)
    one = _solved if numerically else _closed
    curves = [one(task, first, second, when, share) for first, second in starts]
    each, over = ("replicate",), ("replicate", "time")
    variables: dict[str, Any] = {
        name: ((*over, *dims), np.stack([curve[name] for curve in curves]))
        for name, dims in (
            ("loss", ()),
            ("singular_values_W1", ("mode_W1",)),
            ("singular_values_W2", ("mode_W2",)),
            ("singular_values_product", ("mode",)),
            ("mode_strength", ("mode",)),
        )
    }
    variables["learning_time"] = ((*each, "mode"), np.stack([curve["learning_time"] for curve in curves]))
    count = min(task.n_inputs, task.n_outputs)
    if task.loss == "squared":
        left, targets, right = solution_modes(task)
    else:  # no solution in closed form, so no modes
        left, targets, right = (np.full((*rows, count), np.nan) for rows in ((task.n_inputs,), (), (task.n_outputs,)))
    variables |= {
        "mode_target": (("mode",), targets),
        "mode_input": (("input", "mode"), left),
        "mode_output": (("output", "mode"), right),
    }
    return xr.Dataset(
        variables,
        coords={
            "replicate": np.arange(len(curves)),
            "time": ("time", when),
            "mode": 1 + np.arange(count),
            "mode_W1": 1 + np.arange(min(task.n_inputs, reading.width)),
            "mode_W2": 1 + np.arange(min(task.n_outputs, reading.width)),
        },
        attrs={"source": "; ".join(sorted({str(curve["source"]) for curve in curves})), "share": share},
    )


def _starts(reading: Reading) -> list[tuple[np.ndarray, np.ndarray]]:
    """W1 and W2 at t = 0, one pair per replicate, as `simulate` drew or was given them."""
    from rankfall import runs  # here, not above: the laws can then be imported without the rest of the library

    network = runs.network_of(reading.run)
    count = len(reading.outcomes)
    shared = json.loads(reading.run.attrs["settings"])["simulate"].get("start") == "shared"
    drawn = network.draw(1 if shared else count, int(reading.run.attrs["seed"]))
    if len(drawn) != 2:
        raise LawNotApplicable(f"gradient flow is predicted for two layers, this network has {len(drawn)}.")
    first, second = drawn
    return [(first[0 if shared else i], second[0 if shared else i]) for i in range(count)]


def _closed(problem: Problem, W1: np.ndarray, W2: np.ndarray, when: np.ndarray, share: float) -> dict[str, Any]:
    try:
        modes = decoupled_modes(problem, W1, W2)
    except LawNotApplicable:
        rows = balanced_factors(problem, W1, W2, when)
        curves = _curves(
            problem, rows[:, : problem.n_inputs], rows[:, problem.n_inputs :].transpose(0, 2, 1), W1.shape[1]
        )
        passages = crossing_times(problem, W1, W2, np.union1d([0.0], when), share)
        return {**curves, "learning_time": passages, "source": "balanced, whitened (Fukumizu)"}
    roots = np.sqrt(_strengths(modes, when))[:, None, :]
    curves = _curves(problem, modes.left * roots, (modes.right * roots).transpose(0, 2, 1), W1.shape[1])
    moving = modes.variance > 0.0
    times = np.full(len(modes.target), np.inf)
    times[moving] = learning_times(modes.target[moving], modes.start[moving], share, modes.variance[moving])
    return {**curves, "learning_time": times, "source": "decoupled modes (Saxe)"}


def _strengths(modes: Modes, when: np.ndarray) -> np.ndarray:
    """s_α at the times, shape (time, mode); where the inputs do not vary it stays."""
    moving = modes.variance > 0.0
    strengths = np.repeat(modes.start[None], len(when), axis=0)
    strengths[:, moving] = logistic_mode(modes.target[moving], modes.start[moving], when, modes.variance[moving]).T
    return strengths


def _solved(problem: Problem, W1: np.ndarray, W2: np.ndarray, when: np.ndarray, share: float) -> dict[str, Any]:
    curves = _curves(problem, *solve(problem, W1, W2, when), W1.shape[1])
    nothing = np.full(min(problem.n_inputs, problem.n_outputs), np.nan)
    return {**curves, "learning_time": nothing, "source": "ODE (DOP853, relative tolerance 1e-12)"}


def _curves(problem: Problem, W1: np.ndarray, W2: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """What is drawn, of layers up to a rotation of hidden space, shapes (time, p, columns) and (time, columns, k)."""
    product = W1 @ W2

    def spectrum(matrices: np.ndarray, count: int) -> np.ndarray:
        values = np.linalg.svd(matrices, compute_uv=False)[:, :count]
        return np.pad(values, [(0, 0), (0, count - values.shape[1])])

    return {
        "loss": np.array([problem.evaluate(each) for each in product]),
        "singular_values_W1": spectrum(W1, min(problem.n_inputs, width)),
        "singular_values_W2": spectrum(W2, min(problem.n_outputs, width)),
        "singular_values_product": spectrum(product, min(problem.n_inputs, problem.n_outputs)),
        "mode_strength": (
            mode_strengths(problem, product)
            if problem.loss == "squared"
            else np.full((len(product), min(problem.n_inputs, problem.n_outputs)), np.nan)
        ),
    }
