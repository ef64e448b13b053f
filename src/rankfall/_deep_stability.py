"""How large a step of a network of more than two layers may be: sharpness at the start and noise per step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rankfall.problem import Problem

__all__ = ["deep_noise", "deep_sharpness", "deep_sharpness_bound"]

_POWER_ITERATIONS = 30
_BISECTIONS = 60


def _products(layers: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A_i = W_1 … W_{i−1} and B_i = W_{i+1} … W_L for every layer i, by index from 0."""
    before = [np.broadcast_to(np.eye(layers[0].shape[1]), (len(layers[0]), *2 * [layers[0].shape[1]]))]
    for layer in layers[:-1]:
        before.append(before[-1] @ layer)
    behind = [np.broadcast_to(np.eye(layers[-1].shape[2]), (len(layers[0]), *2 * [layers[-1].shape[2]]))]
    for layer in layers[:0:-1]:
        behind.append(layer @ behind[-1])
    return before, behind[::-1]


def _turned(matrices: np.ndarray) -> np.ndarray:
    return matrices.swapaxes(-1, -2)


def _norms(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Spectral norms, shape (layer, replicate)."""
    return np.stack([np.linalg.norm(layer, ord=2, axis=(1, 2)) for layer in layers])


def deep_sharpness(problem: Problem, layers: Sequence[np.ndarray]) -> float:
    """Largest eigenvalue of the Hessian of L in all layers, over the given starts, by power iteration.

    In the direction V the product moves by D = Σ_i A_i V_i B_i and the gradient −A_iᵀGB_iᵀ of layer i by
    A_iᵀΣD B_iᵀ − dA_iᵀ G B_iᵀ − A_iᵀ G dB_iᵀ, with dA_{i+1} = dA_i W_i + A_i V_i and dB_{i−1} = V_i B_i + W_i dB_i.
    """
    before, behind = _products(layers)
    product = before[-1] @ layers[-1]
    gradient = problem.cross_covariance - problem.covariance @ product
    rng = np.random.default_rng(0)
    direction = [rng.standard_normal(layer.shape) for layer in layers]
    # A shift by a bound on the negative curvature makes the largest eigenvalue the dominant one: the Hessian without
    # its Gauss–Newton part has blocks of norm ‖G‖ Π‖W_m‖ over the other layers, and none on the diagonal.
    shift = _curvature_of_gradient(gradient, _norms(layers))[:, None, None]
    estimate = np.zeros(len(product))
    for _ in range(_POWER_ITERATIONS):
        length = np.sqrt(sum((v * v).sum((1, 2)) for v in direction))[:, None, None]
        direction = [v / np.where(length > 0, length, 1.0) for v in direction]
        d_before = [np.zeros_like(before[0])]
        for layer, v, a in zip(layers[:-1], direction[:-1], before[:-1], strict=True):
            d_before.append(d_before[-1] @ layer + a @ v)
        d_behind = [np.zeros_like(behind[-1])]
        for layer, v, b in zip(layers[:0:-1], direction[:0:-1], behind[:0:-1], strict=True):
            d_behind.append(v @ b + layer @ d_behind[-1])
        d_behind.reverse()
        moved = problem.covariance @ (d_before[-1] @ layers[-1] + before[-1] @ direction[-1])
        image = [
            _turned(a) @ moved @ _turned(b)
            - _turned(da) @ gradient @ _turned(b)
            - _turned(a) @ gradient @ _turned(db)
            + shift * v
            for a, b, da, db, v in zip(before, behind, d_before, d_behind, direction, strict=True)
        ]
        estimate = sum((v * new).sum((1, 2)) for v, new in zip(direction, image, strict=True)) - shift[:, 0, 0]
        direction = image
    return float(estimate.max())


def deep_sharpness_bound(problem: Problem, layers: Sequence[np.ndarray]) -> float:
    """An upper bound of the sharpness at the start, and of its usual size at the solution.

    At the start it is ‖Σ‖ Σ_i Π_{m≠i} ‖W_m‖² plus the bound on the rest. On the way to the solution ‖W_i‖² − ‖W_m‖²
    is about conserved: all ‖W_i‖² grow by the same number, until their product reaches ‖Σ⁺C‖².
    """
    norm = float(np.linalg.norm(problem.covariance, ord=2))
    product = layers[0]
    for layer in layers[1:]:
        product = product @ layer
    gradient = problem.cross_covariance - problem.covariance @ product
    norms = _norms(layers)
    at_start = norm * _others(norms**2).sum(0) + _curvature_of_gradient(gradient, norms)
    at_solution = norm * _others(_grown(problem, norms)).sum(0)
    return float(np.maximum(at_start, at_solution).max())


def deep_noise(problem: Problem, layers: Sequence[np.ndarray]) -> float:
    """Largest ‖K_i‖/σ² of a pair of layers, at the start and at the size that the layers have at the solution.

    The noise of pair i is N̂_i with N_i = σ A_iᵀ L N B_{i+1}ᵀ, and E[N̂_i²] = σ² diag(‖B_{i+1}‖_F² A_iᵀΣA_i,
    tr(A_iᵀΣA_i) B_{i+1}B_{i+1}ᵀ) per unit of time.
    """
    before, behind = _products(layers)
    norms = _norms(layers)
    grown = np.maximum(_grown(problem, norms) / np.maximum(norms**2, 1e-300), 1.0)
    largest = 0.0
    for i in range(len(layers) - 1):
        upper = _turned(before[i]) @ problem.covariance @ before[i]
        lower = behind[i + 1] @ _turned(behind[i + 1])
        size = np.maximum(
            np.trace(lower, axis1=1, axis2=2) * np.linalg.norm(upper, ord=2, axis=(1, 2)),
            np.trace(upper, axis1=1, axis2=2) * np.linalg.norm(lower, ord=2, axis=(1, 2)),
        )
        others = np.delete(grown, [i, i + 1], axis=0).prod(0)
        largest = max(largest, float((size * others).max()))
    return largest


def _others(squares: np.ndarray) -> np.ndarray:
    """Product of the entries of all other layers, (layer, replicate)."""
    return np.stack([np.delete(squares, i, axis=0).prod(0) for i in range(len(squares))])


def _curvature_of_gradient(gradient: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """(L − 1) ‖G‖ max over pairs of layers of the product of the other layers' norms, by replicate."""
    pairs = itertools.combinations(range(len(norms)), 2)
    largest = np.max([np.delete(norms, pair, axis=0).prod(0) for pair in pairs], axis=0)
    size: np.ndarray = (len(norms) - 1) * np.linalg.norm(gradient, ord=2, axis=(1, 2)) * largest
    return size


def _grown(problem: Problem, norms: np.ndarray) -> np.ndarray:
    """‖W_i‖² + c with the c ≥ 0 for which their product is ‖Σ⁺C‖² (c = 0 if it is larger already)."""
    target = float(np.linalg.norm(problem.solution, ord=2)) ** 2
    squares = norms**2
    low, high = np.zeros(norms.shape[1]), np.full(norms.shape[1], target ** (1.0 / len(norms)))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        enough = (squares + middle).prod(0) >= target
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return squares + np.where(squares.prod(0) >= target, 0.0, high)
