"""Networks of any depth in plain NumPy, in the original basis, as literal as the formulas.

Nothing here is shared with the library's simulator: a Python loop over the steps, all products A_i and B_i formed
outright, explicit data where a method is defined by data, slogdet and SVDs for the ledgers and spectra, one network at
a time. The product of the layers is `chain`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import scipy.integrate

import rankfall as rf

Layers = list[np.ndarray]


def chain(matrices: Sequence[np.ndarray], size: int) -> np.ndarray:
    """The product of matrices in turn; the identity of this size if there are none."""
    return reduce(np.matmul, matrices) if matrices else np.eye(size)


def moves(layers: Layers, G: np.ndarray) -> Layers:
    """A_iᵀ G B_iᵀ for every layer."""
    p, k = G.shape
    return [chain(layers[:i], p).T @ G @ chain(layers[i + 1 :], k).T for i in range(len(layers))]


def pair_increments(layers: Layers, G: np.ndarray) -> Layers:
    """G_i = A_iᵀ G B_{i+1}ᵀ of every pair of neighbours."""
    p, k = G.shape
    return [chain(layers[:i], p).T @ G @ chain(layers[i + 2 :], k).T for i in range(len(layers) - 1)]


def stacks(layers: Layers) -> Layers:
    """Z_i = [W_i; W_{i+1}ᵀ]."""
    return [np.vstack([a, b.T]) for a, b in itertools.pairwise(layers)]


def balances(layers: Layers) -> Layers:
    """Q_i = W_iᵀW_i − W_{i+1}W_{i+1}ᵀ."""
    return [a.T @ a - b @ b.T for a, b in itertools.pairwise(layers)]


def symmetric(H: np.ndarray) -> np.ndarray:
    """Ĥ = [[0, H], [Hᵀ, 0]]."""
    a, b = H.shape
    return np.block([[np.zeros((a, a)), H], [H.T, np.zeros((b, b))]])


def gradient(problem: rf.Problem, layers: Layers) -> np.ndarray:
    """G = −∂L/∂P, from the data where there are some."""
    P = chain(layers, problem.n_inputs)
    if problem.inputs is None:
        return problem.cross_covariance - problem.covariance @ P
    return problem.inputs.T @ (problem.labels - problem.inputs @ P) / len(problem.inputs)


def descend(
    problem: rf.Problem,
    layers: Layers,
    method: Any,
    *,
    steps: int,
    noise: Callable[[int], np.ndarray] | None = None,
    batch: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None,
    dt: float | None = None,
) -> tuple[list[Layers], np.ndarray, list[Layers]]:
    """States after 0 … steps steps of one network; the determinant ledgers (step, pair); the balance ledgers.

    Args:
        problem: With data for mini-batches.
        layers: W1 … WL.
        method: A descent, or the stochastic flow with `dt`.
        steps: How many.
        noise: L_Σ N of a step, N of standard normals (p, k).
        batch: Sample numbers and standard normals (b, k) of a step.
        dt: Time step of the flow.
    """
    flow = isinstance(method, rf.StochasticGradientFlow)
    eta = dt if flow else method.step_size
    kept = 1.0 - eta * getattr(method, "weight_decay", 0.0)
    W, B = [w.copy() for w in layers], balances(layers)
    states, ledgers, balance_ledgers = [[w.copy() for w in W]], [np.zeros(len(W) - 1)], [B]
    for step in range(steps):
        if batch is not None:
            rows, normals = batch(step)
            labels = problem.labels[rows] + np.sqrt(method.label_noise) * normals
            X = problem.inputs[rows]
            G = X.T @ (labels - X @ chain(W, problem.n_inputs)) / len(rows)
        else:
            G = gradient(problem, W)
            if noise is not None:
                size = method.intensity / dt if flow else method.label_noise / method.batch_size
                G = G + np.sqrt(size) * noise(step)
        own = pair_increments(W, G)
        terms = [2 * np.linalg.slogdet(kept * np.eye(sum(H.shape)) + eta * symmetric(H))[1] for H in own]
        ledgers.append(ledgers[-1] + terms)
        B = [
            kept**2 * q + eta**2 * (b @ H.T @ H @ b.T - a.T @ H @ H.T @ a)
            for q, a, b, H in zip(B, W, W[1:], own, strict=False)
        ]
        W = [kept * w + eta * move for w, move in zip(W, moves(W, G), strict=True)]
        states.append([w.copy() for w in W])
        balance_ledgers.append(B)
    return states, np.array(ledgers), balance_ledgers


def flow(
    problem: rf.Problem,
    layers: Layers,
    times: np.ndarray,
    *,
    solver: str = "DOP853",
    field: Callable[[Layers], np.ndarray] | None = None,
) -> list[Layers]:
    """One network under gradient flow at the given times, by SciPy at a relative tolerance of 1e-12.

    field: G of the layers, that of the squared loss unless given.
    """
    shapes = [w.shape for w in layers]
    cuts = np.cumsum([w.size for w in layers])[:-1]

    def split(state: np.ndarray) -> Layers:
        return [part.reshape(shape) for part, shape in zip(np.split(state, cuts), shapes, strict=True)]

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        W = split(state)
        G = gradient(problem, W) if field is None else field(W)
        return np.concatenate([move.ravel() for move in moves(W, G)])

    start = np.concatenate([w.ravel() for w in layers])
    found = scipy.integrate.solve_ivp(
        velocity, (0.0, times[-1]), start, method=solver, t_eval=times, rtol=1e-12, atol=1e-14
    )
    assert found.success, found.message
    return [split(state) for state in found.y.T]
