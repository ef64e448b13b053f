"""Plain NumPy simulations in the original basis, as literal as the formulas: what the kernels are compared with.

Nothing here is shared with the library's simulator. The replicates are the first axis of every array, the loop over
steps is a Python loop, the descents use explicit data where they are defined by data, the determinant ledger comes from
a singular value decomposition at every step, and the geometric step from `scipy.linalg.expm`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import scipy.integrate
import scipy.linalg
import xarray as xr

import rankfall as rf

Noise = Callable[[int], np.ndarray]


def stack(W1: np.ndarray, W2: np.ndarray) -> np.ndarray:
    """Z = [W1; W2ᵀ]."""
    return np.concatenate([W1, np.swapaxes(W2, -1, -2)], axis=-2)


def balance(W1: np.ndarray, W2: np.ndarray) -> np.ndarray:
    """Q = W1ᵀW1 − W2W2ᵀ."""
    return np.swapaxes(W1, -1, -2) @ W1 - W2 @ np.swapaxes(W2, -1, -2)


def symmetric(H: np.ndarray) -> np.ndarray:
    """Ĥ = [[0, H], [Hᵀ, 0]]."""
    p, k = H.shape[-2:]
    hat = np.zeros((*H.shape[:-2], p + k, p + k))
    hat[..., :p, p:] = H
    hat[..., p:, :p] = np.swapaxes(H, -1, -2)
    return hat


def covariance_root(covariance: np.ndarray) -> np.ndarray:
    """A factor L with LLᵀ = Σ, also where Σ is singular."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def gradient(problem: rf.Problem, W1: np.ndarray, W2: np.ndarray) -> np.ndarray:
    """G = C − Σ W1 W2."""
    return problem.cross_covariance - problem.covariance @ (W1 @ W2)


def batch_gradient(inputs: np.ndarray, labels: np.ndarray, W1: np.ndarray, W2: np.ndarray) -> np.ndarray:
    """Xᵀ(Y − X W1 W2)/b of the rows given, shapes (replicate, b, p) and (replicate, b, k)."""
    residual = labels - inputs @ W1 @ W2
    return np.swapaxes(inputs, -1, -2) @ residual / inputs.shape[-2]


def descent_step(
    W1: np.ndarray, W2: np.ndarray, G: np.ndarray, step_size: float, weight_decay: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Both layers at once, from the same G."""
    return (
        W1 + step_size * (G @ np.swapaxes(W2, -1, -2)) - step_size * weight_decay * W1,
        W2 + step_size * (np.swapaxes(W1, -1, -2) @ G) - step_size * weight_decay * W2,
    )


def determinant_term(G: np.ndarray, step_size: float, weight_decay: float) -> np.ndarray:
    """2 log |det((1 − ηλ) I + ηĜ)| by an LU decomposition of the (p+k)×(p+k) matrix itself."""
    hat = symmetric(G)
    return 2 * np.linalg.slogdet((1 - step_size * weight_decay) * np.eye(hat.shape[-1]) + step_size * hat)[1]


def balance_term(W1: np.ndarray, W2: np.ndarray, G: np.ndarray, step_size: float) -> np.ndarray:
    """η² (W2 GᵀG W2ᵀ − W1ᵀ G Gᵀ W1)."""
    a, b = G @ np.swapaxes(W2, -1, -2), np.swapaxes(W1, -1, -2) @ G
    return step_size**2 * (np.swapaxes(a, -1, -2) @ a - b @ np.swapaxes(b, -1, -2))


def simulate(
    problem: rf.Problem,
    W1: np.ndarray,
    W2: np.ndarray,
    method: Any,
    *,
    steps: int,
    dt: float | None = None,
    save_every: int = 1,
    seed: int = 0,
    normals: Noise | None = None,
    ledger: str = "both",
    blow_up: float = 1e8,
) -> xr.Dataset:
    """Run a method from W1 (replicate, p, l), W2 (replicate, l, k); the result has the schema of `rankfall.simulate`.

    Args:
        problem: With data for `StochasticGradientDescent`.
        W1: First layers.
        W2: Second layers.
        method: Any; `GradientFlow` is followed by Lie–Euler steps of length `dt`, which conserve what it conserves.
        steps: Number of steps.
        dt: Time step of a flow; descents use their step size.
        save_every: Steps between save points.
        seed: For the noise, unless given.
        normals: Called with the step (from 0), returns the standard normals of that step, shape (replicate, p, k).
        ledger: "determinant", "balance", "both" or "none".
        blow_up: A replicate with a weight above this counts as diverged.
    """
    W1, W2 = np.array(W1, dtype=float), np.array(W2, dtype=float)
    replicates, p, l = W1.shape
    k = W2.shape[2]
    rng = np.random.default_rng(seed)
    draw = normals or (lambda step: rng.standard_normal((replicates, p, k)))
    root = covariance_root(problem.covariance)
    flow = isinstance(method, rf.GradientFlow | rf.StochasticGradientFlow)
    h = dt if flow else method.step_size
    decay = getattr(method, "weight_decay", 0.0)
    geometric = flow and getattr(method, "integrator", "geometric") == "geometric"
    intensity = getattr(method, "intensity", 0.0)
    halves = np.exp(-intensity * h / 4 * np.concatenate([np.zeros(p), np.full(k, np.trace(problem.covariance))]))
    K_inputs = intensity * k * problem.covariance
    half_inputs = scipy.linalg.expm(-K_inputs * h / 4)

    def scaled(W1: np.ndarray, W2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return half_inputs @ W1, W2 * halves[p:]

    Q0 = balance(W1, W2)
    B, log_ledger = Q0.copy(), np.zeros(replicates)
    alive = np.ones(replicates, bool)
    outcome = np.full(replicates, "completed", dtype=object)
    saved: dict[str, list[np.ndarray]] = {}
    kept_steps = []

    def save(step: int) -> None:
        kept_steps.append(step)
        Z = stack(W1, W2)
        spectra = {name: np.linalg.svd(A, compute_uv=False) for name, A in (("W1", W1), ("W2", W2), ("Z", Z))}
        Q = balance(W1, W2)
        with np.errstate(divide="ignore"):
            log_det = 2 * np.log(spectra["Z"]).sum(-1) if l >= p + k else np.full(replicates, -np.inf)
        row = {
            "loss": np.array([problem.evaluate(W) for W in W1 @ W2]),
            "log_det": log_det,
            **{f"singular_values_{name}": values for name, values in spectra.items()},
            "balance": np.linalg.norm(Q, axis=(1, 2)),
            "balance_drift": np.linalg.norm(Q - Q0, axis=(1, 2)),
            "ledger_log_det": log_ledger.copy(),
            "ledger_balance": np.linalg.norm(B, axis=(1, 2)),
            "ledger_balance_error": np.linalg.norm(Q - B, axis=(1, 2)),
            "W1": W1.copy(),
            "W2": W2.copy(),
        }
        for name, values in row.items():
            values = np.array(values, dtype=float)
            values[~alive] = np.nan
            saved.setdefault(name, []).append(values)

    save(0)
    for step in range(steps):
        if isinstance(method, rf.StochasticGradientDescent):
            rows = np.stack([rng.permutation(problem.n_samples)[: method.batch_size] for _ in range(replicates)])
            labels = problem.labels[rows]
            if method.label_noise:
                labels = labels + np.sqrt(method.label_noise) * rng.standard_normal(labels.shape)
            G = batch_gradient(problem.inputs[rows], labels, W1, W2)
        elif isinstance(method, rf.LabelNoiseDescent):
            noise = np.sqrt(method.label_noise / method.batch_size) * (root @ draw(step))
            G = gradient(problem, W1, W2) + noise
        elif isinstance(method, rf.GradientDescent):
            G = gradient(problem, W1, W2)
        if geometric:
            Q = balance(W1, W2)
            first, second = scaled(W1, W2)
            B = B + balance(first, second) - Q
            H = gradient(problem, first, second) * h
            if intensity:
                H = H + np.sqrt(intensity * h) * (root @ draw(step))
            Z = scipy.linalg.expm(symmetric(H)) @ stack(first, second)
            first, second = Z[:, :p], np.swapaxes(Z[:, p:], 1, 2)
            Q = balance(first, second)
            W1, W2 = scaled(first, second)
            B = B + balance(W1, W2) - Q
        else:
            if flow:
                G = gradient(problem, W1, W2) + np.sqrt(intensity / h) * (root @ draw(step))
            if ledger in ("determinant", "both"):
                log_ledger += determinant_term(G, h, decay)
            B = (1 - h * decay) ** 2 * B + balance_term(W1, W2, G, h)
            W1, W2 = descent_step(W1, W2, G, h, decay)
        with np.errstate(invalid="ignore"):
            gone = alive & ~(np.abs(stack(W1, W2)).max(axis=(1, 2)) < blow_up)
        for index in np.flatnonzero(gone):
            outcome[index] = f"diverged at t={(step + 1) * h:g}"
            W1[index] = W2[index] = B[index] = 0.0
        alive &= ~gone
        if (step + 1) % save_every == 0:
            save(step + 1)

    dims = {"singular_values_W1": "mode_W1", "singular_values_W2": "mode_W2", "singular_values_Z": "mode_Z"}
    variables: dict[str, Any] = {}
    for name, rows_saved in saved.items():
        if name == "ledger_log_det" and (geometric or l < p + k or ledger not in ("determinant", "both")):
            continue
        if name.startswith("ledger_balance") and ledger not in ("balance", "both"):
            continue
        extra = {"W1": ("input", "hidden"), "W2": ("hidden", "output")}.get(name) or (
            (dims[name],) if name in dims else ()
        )
        variables[name] = (("replicate", "time", *extra), np.stack(rows_saved, axis=1))
    variables["outcome"] = (("replicate",), outcome.astype(str))
    variables["covariance"] = (("input", "input_other"), problem.covariance)
    variables["cross_covariance"] = (("input", "output"), problem.cross_covariance)
    settings = {
        "problem": {
            "n_samples": problem.n_samples,
            "n_inputs": p,
            "n_outputs": k,
            "label_second_moment": problem.label_second_moment,
        },
        "network": {"start": "given", "n_inputs": p, "width": l, "n_outputs": k, "scale": None},
        "method": {"name": type(method).__name__, **asdict(method)},
        "simulate": {"steps": steps, "dt": dt, "replicates": replicates, "seed": seed, "ledger": ledger},
        "integrator": "oracle",
        "order": 1,
    }
    return xr.Dataset(
        variables,
        coords={
            "replicate": np.arange(replicates),
            "time": np.array(kept_steps) * h,
            "step": ("time", np.array(kept_steps)),
            "mode_W1": np.arange(min(p, l)) + 1,
            "mode_W2": np.arange(min(k, l)) + 1,
            "mode_Z": np.arange(min(p + k, l)) + 1,
        },
        attrs={
            "rankfall_version": rf.__version__,
            "format_version": 1,
            "seed": seed,
            "method": type(method).__name__,
            "n_inputs": p,
            "width": l,
            "n_outputs": k,
            "replicates": replicates,
            "start_rank": min(p + k, l),
            "step_length": h,
            "settings": json.dumps(settings),
        },
    )


def gradient_flow(
    problem: rf.Problem, W1: np.ndarray, W2: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of one network under gradient flow by DOP853 at a relative tolerance of 1e-12; time is the first axis."""
    p, l = W1.shape
    k = W2.shape[1]

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        first, second = state[: p * l].reshape(p, l), state[p * l :].reshape(l, k)
        G = gradient(problem, first, second)
        return np.concatenate([(G @ second.T).ravel(), (first.T @ G).ravel()])

    start = np.concatenate([W1.ravel(), W2.ravel()])
    times = np.asarray(times, dtype=float)
    solution = scipy.integrate.solve_ivp(
        velocity, (0.0, times.max()), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14
    )
    assert solution.success, solution.message
    states = solution.y.T
    return states[:, : p * l].reshape(-1, p, l), states[:, p * l :].reshape(-1, l, k)
