"""The eigenvalues and eigenvectors of M simulated on their own, with or without their repulsion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall import _checks
from rankfall._eigen import ROUNDING_LEVEL
from rankfall._plan import Plan, make_plan
from rankfall._progress import Progress, ProgressCallback, make_callback
from rankfall._start import reduce_start
from rankfall._threads import thread_count
from rankfall._version import __version__
from rankfall.errors import InvalidInput, SimulationInterrupted
from rankfall.methods import StochasticGradientFlow
from rankfall.network import LinearNetwork
from rankfall.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

    from rankfall._engine.eigenvalues import EigenvalueEngine

__all__ = ["eigenvalue_process"]


def eigenvalue_process(
    problem: Problem,
    network: LinearNetwork,
    method: StochasticGradientFlow,
    *,
    duration: float | None = None,
    dt: float | None = None,
    replicates: int = 1,
    seed: int = 0,
    save_points: int | Sequence[float] = 200,
    repulsion: bool = True,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
) -> xr.Dataset:
    r"""Simulate the eigenvalues λ_i and eigenvectors u_i of M = ZZᵀ, without the weights.

    M determines its own future, because W1 W2 is its off-diagonal block: with s_i = log λ_i

        ds_i = [ 2 u_iᵀĜu_i − u_iᵀKu_i + Σ_{j≠i} 2 n_ij coth((s_i − s_j)/2) ] dt + 2 u_iᵀdN̂u_i ,

    and the vectors turn as `laws.eigenvalues` says. The step is explicit but for
    the repulsion, in which it is implicit, so that the eigenvalues never meet; the vectors stay orthonormal to
    rounding. With the seed and the `dt` of a `simulate` of the geometric integrator it has the same starts and the same
    noise, and approaches that run path by path as dt → 0 (strong order 1/2).

    Without repulsion the coth term is left out of the eigenvalues' equation and nothing else: log det M decays exactly
    as before, since the pushes of a pair cancel, and the vectors turn as before. Eigenvalues then cross; there the
    noise decides about the two vectors, which turn infinitely fast in their plane, and eigenvalues and vectors are
    matched by rank.

    Args:
        problem: What is learned, with the squared loss.
        network: Widths and start, of full rank.
        method: `StochasticGradientFlow` with label noise; its integrator is not used.
        duration: Length in flow time; the last of the save points when None.
        dt: Time step; that of `simulate` when None.
        replicates: Independent trajectories.
        seed: Whole number in [0, 2^64) for starts and noise.
        save_points: How many evenly spaced times to keep, start and end included, or the times themselves.
        repulsion: False for the system without the force between the eigenvalues. Below the width p + k that includes
            the force of the eigenvalues that are zero at all times.
        threads: Processor threads; all that this process may use when None. The numbers do not depend on it.
        progress: True for a bar, or a function that takes a `Progress`.

    Returns:
        Dataset with, over (replicate, time): `log_det` (Σ s_i) and `loss`; over (replicate, time, mode)
        `log_eigenvalues`, `singular_values_W1`, `singular_values_W2`, descending; per replicate `outcome` ("completed"
        or "diverged at t=…", when a step's ‖H‖_F exceeded 2: then NaN from there on). log λ is followed to
        any depth; singular values of W1 and W2 below 1e-16 of the largest are rounding noise.

    Raises:
        InvalidInput: An argument is unusable, or a start is rank-deficient; nothing was computed.
        SimulationInterrupted: Ctrl-C; carries what was done.

    Warns:
        StepSizeWarning: The step is above 2/sharpness at the start.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=50, n_inputs=2, n_outputs=1, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=2, width=3, n_outputs=1)
        >>> method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.1)
        >>> kept = rf.eigenvalue_process(problem, network, method, duration=5.0, replicates=20, save_points=3)
        >>> free = rf.eigenvalue_process(problem, network, method, duration=5.0, replicates=20, save_points=3,
        ...                              repulsion=False)
        >>> bool(abs(kept.log_det - free.log_det).max() < 1e-10)
        True
    """
    _check_kinds(problem, network, method, repulsion)
    plan = make_plan(
        problem,
        network,
        method,
        duration=duration,
        steps=None,
        dt=dt,
        save_points=save_points,
        ledger="none",
        noise_precision="single",
    )
    count = _checks.whole_number(replicates, "replicates")
    seed = _checks.seed_number(seed)
    workers = thread_count(threads)
    network.check_replicates(count)
    report, close = make_callback(progress)
    try:
        from rankfall._engine.eigenvalues import EigenvalueEngine

        W1, W2 = network.draw(count, seed)
        start = reduce_start(W1, W2, plan.eigenvectors, keep_basis=False).reduced
        _check_start(start)
        engine = EigenvalueEngine(plan, start, method.intensity, 1.0 if repulsion else 0.0, seed)
        saved, interrupted = _run(engine, plan, count, workers, report)
    finally:
        close()
    settings = {
        "problem": {"n_inputs": problem.n_inputs, "n_outputs": problem.n_outputs},
        "network": {"start": network.start, "width": network.width, "scale": network.scale},
        "method": {
            "name": type(method).__name__,
            "label_noise": method.label_noise,
            "step_size": method.step_size,
            "batch_size": method.batch_size,
        },
        "eigenvalue_process": {
            "duration": float(plan.times[-1]),
            "dt": plan.step_length,
            "replicates": count,
            "seed": seed,
            "repulsion": bool(repulsion),
        },
    }
    result = _dataset(problem, network, plan, engine, saved, interrupted, settings)
    if interrupted:
        where = f"stopped at t={plan.times[saved - 1]:g} of {plan.times[-1]:g}"
        raise SimulationInterrupted(where, result)
    return result


def _check_kinds(problem: Any, network: Any, method: Any, repulsion: Any) -> None:
    if not isinstance(method, StochasticGradientFlow):
        raise InvalidInput(
            f"method must be a StochasticGradientFlow, got {method!r}: the process of the eigenvalues is its limit of "
            "small steps. For other methods record observables=['eigenvalue_forces'] in simulate."
        )
    if not method.intensity > 0.0:
        raise InvalidInput(
            "label_noise must be above 0: without noise there is no repulsion, and the eigenvalues of gradient flow "
            "are those that simulate records."
        )
    if isinstance(problem, Problem) and problem.loss != "squared":
        raise InvalidInput(
            f"the process of the eigenvalues is that of the squared loss, the problem has the {problem.loss} loss; "
            "make it with loss='squared'."
        )
    if isinstance(network, LinearNetwork) and network.depth > 2:
        raise InvalidInput(
            f"the process of the eigenvalues is that of two layers, the network has {network.depth}: M_i of two layers "
            "among more does not determine its own future."
        )
    if not isinstance(repulsion, bool | np.bool_):
        raise InvalidInput(f"repulsion must be True or False, got {repulsion!r}.")


def _check_start(start: np.ndarray) -> None:
    values = np.linalg.svd(start, compute_uv=False)
    low = int((values[:, -1] <= ROUNDING_LEVEL * values[:, 0]).sum())
    if low:
        raise InvalidInput(
            f"{low} of {len(start)} starts are rank-deficient to rounding, and the eigenvalue 0 has no logarithm; "
            "start from Gaussian or other full-rank weights, or make the network narrower."
        )


def _run(engine: EigenvalueEngine, plan: Plan, count: int, workers: int, report: ProgressCallback) -> tuple[int, bool]:
    """Run to the end or to Ctrl-C; returns how many save points there are and whether it was Ctrl-C."""
    from rankfall._engine.base import split_blocks
    from rankfall._engine.rounds import Position, run_rounds

    if not engine.is_compiled:
        report(Progress("compiling", 0, 0, "preparing the kernel of the eigenvalues (compiled once, then cached)"))
        engine.compile()
    position, ticks = Position(), plan.ticks
    words = f"eigenvalue process, {count} replicate{'s' if count > 1 else ''}"

    def tell() -> None:
        report(Progress("running", position.tick * count, int(ticks[-1]) * count, words))

    try:
        tell()
        run_rounds(engine, split_blocks(engine.layout.blocks, workers), ticks, position, tell)
    except KeyboardInterrupt:
        if position.saved == 0:
            raise
        return position.saved, True
    return position.saved, False


def _dataset(
    problem: Problem,
    network: LinearNetwork,
    plan: Plan,
    engine: EigenvalueEngine,
    saved: int,
    interrupted: bool,
    settings: dict[str, Any],
) -> xr.Dataset:
    import xarray as xr

    rest = f"interrupted at t={plan.times[saved - 1]:g}" if interrupted else "completed"
    outcomes = [rest if np.isnan(time) else f"diverged at t={time:g}" for time in engine.diverged()]
    over = ("replicate", "time")
    logs = engine.logs[:saved].swapaxes(0, 1)
    determinant = "log det M" if network.is_wide else "sum of the logarithms of the eigenvalues that are not zero"
    variables: dict[str, Any] = {
        "log_eigenvalues": ((*over, "mode_Z"), logs, {"long_name": "log λ_i of M = ZZᵀ", "formula": "descending"}),
        "log_det": (over, logs.sum(axis=-1), {"long_name": determinant, "formula": "Σ log λ_i"}),
        "loss": (over, engine.loss[:saved].T + problem.minimum_loss, {"long_name": "squared loss"}),
        "outcome": ("replicate", np.array(outcomes)),
    }
    for name, values in zip(("W1", "W2"), engine.singular_values, strict=True):
        words = {"long_name": f"singular values of {name}", "formula": "descending"}
        variables[f"singular_values_{name}"] = ((*over, f"mode_{name}"), values[:saved].swapaxes(0, 1), words)
    return xr.Dataset(
        variables,
        coords={
            "replicate": np.arange(logs.shape[0]),
            "time": ("time", plan.times[:saved], {"long_name": "flow time"}),
            "step": ("time", plan.ticks[:saved], {"long_name": "steps done"}),
            **{f"mode_{name}": np.arange(1, size + 1) for name, size in _modes(network).items()},
        },
        attrs={
            "title": "rankfall eigenvalue process",
            "rankfall_version": __version__,
            "seed": settings["eigenvalue_process"]["seed"],
            "repulsion": int(settings["eigenvalue_process"]["repulsion"]),
            "step_length": plan.step_length,
            "settings": json.dumps(settings, ensure_ascii=False),
        },
    )


def _modes(network: LinearNetwork) -> dict[str, int]:
    p, l, k = network.n_inputs, network.width, network.n_outputs
    return {"W1": min(p, l), "W2": min(k, l), "Z": min(p + k, l)}
