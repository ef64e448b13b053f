"""How large a step may be: sharpness of the loss at the start, and the default time step of the stochastic flow."""

from __future__ import annotations

import itertools

import numpy as np

from rankfall._deep_stability import deep_noise, deep_sharpness, deep_sharpness_bound
from rankfall._losses import CURVATURE
from rankfall.network import LinearNetwork
from rankfall.problem import Problem

__all__ = ["default_time_step", "reference_starts", "sharpness", "sharpness_bound"]

# The default step must not depend on how many replicates are run: it is taken from draws of its own.
_REFERENCE_SEED = 0x5EED
_REFERENCE_DRAWS = 16
_LARGEST_REFERENCE = 2_000_000
_POWER_ITERATIONS = 30
# Fraction of the sharpness bound's stability limit 2/λ that the default takes, and largest noise per step ‖K‖h.
_FRACTION = 0.125
_LARGEST_NOISE = 0.02


def reference_starts(network: LinearNetwork) -> tuple[np.ndarray, ...]:
    """Weights to judge a step by: the given ones, or draws that do not depend on the run's seed and replicates."""
    if network.layers is not None:
        return tuple(np.reshape(layer, (-1, *layer.shape[-2:]))[:_REFERENCE_DRAWS] for layer in network.layers)
    if network.W1 is not None and network.W2 is not None:
        if network.W1.ndim == 3:
            return network.W1[:_REFERENCE_DRAWS], network.W2[:_REFERENCE_DRAWS]
        return network.W1[None], network.W2[None]
    numbers = sum(a * b for a, b in itertools.pairwise(network.widths))
    return network.draw(max(1, min(_REFERENCE_DRAWS, _LARGEST_REFERENCE // numbers)), _REFERENCE_SEED)


def sharpness(problem: Problem, W1: np.ndarray, W2: np.ndarray, *more: np.ndarray) -> float:
    """Largest eigenvalue of the Hessian of L in (W1, W2) or all layers, over the given starts, by power iteration.

    The Hessian maps (A, B) to (ΣD W2ᵀ − G Bᵀ, W1ᵀΣD − AᵀG) with D = A W2 + W1 B. Gradient descent with
    step_size > 2/sharpness is linearly unstable. The estimate approaches from below, within a few per cent.

    For the other losses Σ stands for cΣ, c the largest curvature that a sample's loss can have in its scores
    (`_losses.CURVATURE`): the estimate is then one of an upper bound, in the order of symmetric matrices.
    """
    if more:
        return deep_sharpness(problem, (W1, W2, *more))
    if problem.loss == "squared":
        sigma = problem.covariance
        gradient = problem.cross_covariance - sigma @ (W1 @ W2)
    else:
        sigma = CURVATURE[problem.loss] * problem.covariance
        gradient = np.stack([problem.gradient(product) for product in W1 @ W2])
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(W1.shape), rng.standard_normal(W2.shape)
    # A shift by the bound on the negative curvature makes the largest eigenvalue the dominant one.
    shift = np.linalg.norm(gradient, ord=2, axis=(1, 2))[:, None, None]
    estimate = np.zeros(len(W1))
    for _ in range(_POWER_ITERATIONS):
        length = np.sqrt((a * a).sum((1, 2)) + (b * b).sum((1, 2)))[:, None, None]
        length = np.where(length > 0, length, 1.0)
        a, b = a / length, b / length
        image = sigma @ (a @ W2 + W1 @ b)
        next_a = image @ W2.transpose(0, 2, 1) - gradient @ b.transpose(0, 2, 1) + shift * a
        next_b = W1.transpose(0, 2, 1) @ image - a.transpose(0, 2, 1) @ gradient + shift * b
        estimate = (a * next_a).sum((1, 2)) + (b * next_b).sum((1, 2)) - shift[:, 0, 0]
        a, b = next_a, next_b
    return float(estimate.max())


def sharpness_bound(problem: Problem, W1: np.ndarray, W2: np.ndarray) -> float:
    """An upper bound of the sharpness at the start and of its usual size at the solution.

    At the start it is ‖Σ‖(‖W1‖² + ‖W2‖²) + ‖G‖; at the solution W1W2 = Σ⁺C the balance keeps ‖W1‖² + ‖W2‖² near at
    most its first value plus 2‖Σ⁺C‖ (spectral norms throughout).
    """
    norm = float(np.linalg.norm(problem.covariance, ord=2))
    layers = np.linalg.norm(W1, ord=2, axis=(1, 2)) ** 2 + np.linalg.norm(W2, ord=2, axis=(1, 2)) ** 2
    gradient = np.linalg.norm(problem.cross_covariance - problem.covariance @ (W1 @ W2), ord=2, axis=(1, 2))
    target = 2.0 * float(np.linalg.norm(problem.solution, ord=2))
    return float(np.maximum(norm * layers + gradient, norm * (layers + target)).max())


def default_time_step(problem: Problem, network: LinearNetwork, intensity: float) -> float:
    """The time step of the stochastic flow when none is given.

    An eighth of the stability limit 2/λ with λ from `sharpness_bound`, and never so long that the noise of one step,
    σ² h ‖K/σ²‖, exceeds 0.02 (of a deep network: that of any pair of neighbouring layers).
    """
    if network.depth > 2:
        layers = reference_starts(network)
        step = _FRACTION * 2.0 / max(deep_sharpness_bound(problem, layers), 1e-300)
        noise = intensity * deep_noise(problem, layers)
        return min(step, _LARGEST_NOISE / noise) if noise > 0 else step
    W1, W2 = reference_starts(network)
    step = _FRACTION * 2.0 / max(sharpness_bound(problem, W1, W2), 1e-300)
    noise = intensity * max(
        problem.n_outputs * float(np.linalg.norm(problem.covariance, ord=2)), float(np.trace(problem.covariance))
    )
    return min(step, _LARGEST_NOISE / noise) if noise > 0 else step
