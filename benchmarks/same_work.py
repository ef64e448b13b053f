"""Does a contender do the work at all? Its outcomes are compared with the NumPy loop's in distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.peers import numpy_loop
from benchmarks.timing import Contender
from benchmarks.workload import Weights, Workload

STEPS = 200
# Two-sided: about 1 false alarm in 150,000 comparisons.
LARGEST_Z = 4.5
# Rounding of log det M at the condition numbers of random starts.
LARGEST_LAW_ERROR = 1e-9


def _law(workload: Workload) -> float:
    """−2kσ² tr(Σ) t, the change of log det M under the stochastic gradient flow."""
    intensity = workload.step_size * workload.label_noise
    time = STEPS * workload.step_size
    return float(-2.0 * workload.n_outputs * intensity * np.trace(workload.covariance) * time)


def outcomes(workload: Workload, starts: Weights, ends: Weights) -> dict[str, np.ndarray]:
    """Change of log det M, and loss above its minimum, per trajectory."""
    gap = ends[0] @ ends[1] - workload.problem.solution
    return {
        "log_det_change": _log_det(ends) - _log_det(starts),
        "loss": 0.5 * np.einsum("rpk,pq,rqk->r", gap, workload.covariance, gap),
    }


def _log_det(weights: Weights) -> np.ndarray:
    stacked = np.concatenate([weights[0], weights[1].swapaxes(1, 2)], axis=1)
    return 2.0 * np.log(np.linalg.svd(stacked, compute_uv=False)).sum(axis=-1)


def compare(contenders: Sequence[Contender], workload: Workload) -> list[dict[str, object]]:
    """Run every contender for `STEPS` steps and return z values of the two means against an independent NumPy run.

    A single trajectory is compared with the spread of 512 NumPy trajectories from the same start.
    """
    alone = dataclasses.replace(workload)
    alone.__dict__["starts"] = tuple(np.repeat(w[:1], workload.replicates, axis=0) for w in workload.starts)
    references = {
        True: outcomes(alone, alone.starts, numpy_loop.ensemble(alone, STEPS, seed=99)()),
        False: outcomes(workload, workload.starts, numpy_loop.ensemble(workload, STEPS, seed=99)()),
    }
    rows: list[dict[str, object]] = []
    for contender in contenders:
        ends = (contender.compare or contender.prepare)(workload, STEPS)()
        count = len(ends[0])
        found = outcomes(workload, (workload.starts[0][:count], workload.starts[1][:count]), ends)
        reference = references[count == 1]
        row: dict[str, object] = {"name": contender.name, "replicates": count, "steps": STEPS}
        for name, values in found.items():
            expected = reference[name]
            spread = np.sqrt(expected.var() * (1 / count + 1 / len(expected)))
            z = float((values.mean() - expected.mean()) / spread)
            row |= {f"{name}_mean": float(values.mean()), f"{name}_expected": float(expected.mean()), f"{name}_z": z}
        judged = list(found)
        if "geometric" in contender.name:
            # It follows the SDE and not the recursion: its log det M obeys the law of the flow, in every trajectory.
            judged.remove("log_det_change")
            del row["log_det_change_z"]
            law = _law(workload)
            row["log_det_change_expected"] = law
            row["log_det_change_error"] = float(np.abs(found["log_det_change"] - law).max())
        row["same"] = all(abs(float(row[f"{name}_z"])) < LARGEST_Z for name in judged)  # type: ignore[arg-type]
        row["same"] &= row.get("log_det_change_error", 0.0) < LARGEST_LAW_ERROR  # type: ignore[operator]
        print(f"    {contender.name}: {'same work' if row['same'] else 'DIFFERENT OUTCOMES'}", flush=True)
        rows.append(row)
    return rows
