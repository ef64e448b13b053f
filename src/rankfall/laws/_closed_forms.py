r"""Gradient flow in closed form: balanced starts on whitened inputs, and single modes.

For Σ = s I and Q_0 = 0, Ĝ = F − s offdiag(M) with F = [[0, C], [Cᵀ, 0]] and M J M = Z Q Zᵀ = 0 give
dZ = F Z − (s/2) Z ZᵀZ, so that M = ZZᵀ obeys a matrix Riccati equation, dM = FM + MF − s M², with the solution of
Fukumizu, "Effect of batch learning in multilayer neural networks", ICONIP 1998 (see also Braun, Dominé, Fitzgerald &
Saxe, "Exact learning dynamics of deep linear networks with prior knowledge", NeurIPS 2022):

    M_t = e^{Ft} Z_0 ( I + s Z_0ᵀ S_t Z_0 )⁻¹ Z_0ᵀ e^{Ft} ,     S_t = ∫_0^t e^{2Fτ} dτ .

It holds for all sizes and ranks, widths below min(n_inputs, n_outputs) and a C of low rank included. M contains W1W1ᵀ,
the product W1W2 and W2ᵀW2: everything but a rotation of the hidden units.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg

from rankfall import _checks
from rankfall.errors import InvalidInput, LawNotApplicable
from rankfall.problem import Problem

__all__ = [
    "ROUNDING",
    "balanced_factors",
    "balanced_flow",
    "balanced_product",
    "layers",
    "logistic_mode",
    "mode_numbers",
    "moments",
    "require_balanced",
]

# Largest ‖Q_0‖ / ‖Z_0‖² and relative departure of Σ from s I that count as rounding.
ROUNDING = 1e-10
# Fading rows of Z below this have decayed for good; relative change of M that is rounding.
_VANISHED = 1e-150
_ARRIVED = 16 * np.finfo(float).eps


def logistic_mode(target: Any, start: Any, times: Any, variance: Any = 1.0) -> np.ndarray:
    """Return the strength of one balanced mode, the solution of ds/dt = 2 d s (s* − s).

    Source: Saxe, McClelland & Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", ICLR 2014.

    Args:
        target: s*, any sign (a negative or zero one is forgotten); broadcast against `start` and `variance`.
        start: s_0 ≥ 0, the product of two equal weights.
        times: t ≥ 0, one dimension.
        variance: d > 0 of the input.

    Returns:
        s_0 / (e^{−x} + s_0 (1 − e^{−x}) / s*) with x = 2 d s* t, in a form that cannot overflow; shape
        (*broadcast shape, time).

    Raises:
        InvalidInput: A negative start or time, or a variance that is not positive.

    Example:
        >>> from rankfall.laws import gradient_flow
        >>> gradient_flow.logistic_mode(target=2.0, start=0.01, times=[0.0, 1.0, 1000.0]).round(6)
        array([0.01    , 0.430588, 2.      ])
    """
    goal, begin, spread = mode_numbers(target, start, variance)
    when = moments(times)
    s, initial, rate = goal[..., None], begin[..., None], 2.0 * spread[..., None]
    reach = rate * when * _fraction(np.abs(rate * s * when))  # (1 − e^{−|x|}) / |s*|
    fade = np.exp(-np.abs(rate * s * when))
    return np.where(s > 0.0, initial / (fade + initial * reach), initial * fade / (1.0 + initial * reach))


def mode_numbers(target: Any, start: Any, variance: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check and broadcast s*, s_0 and d; raises InvalidInput."""
    try:
        numbers = [np.asarray(value, dtype=np.float64) for value in (target, start, variance)]
        goal, begin, spread = np.broadcast_arrays(*numbers)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"target, start and variance must be numbers or arrays that broadcast: {error}.") from None
    if not (np.isfinite(goal).all() and np.isfinite(begin).all() and (begin >= 0.0).all()):
        raise InvalidInput("target must be finite and start finite and at least 0.")
    if not (np.isfinite(spread).all() and (spread > 0.0).all()):
        raise InvalidInput("variance must be finite and greater than 0.")
    return goal, begin, spread


def balanced_product(problem: Problem, W1: Any, W2: Any, times: Any) -> np.ndarray:
    """Return the product W1 W2 of a balanced network under gradient flow on whitened inputs.

    Arguments and errors as for `balanced_flow`.

    Returns:
        Shape (time, n_inputs, n_outputs).

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import gradient_flow
        >>> problem = rf.Problem.from_statistics(np.eye(1), [[2.0]])
        >>> gradient_flow.balanced_product(problem, [[0.1]], [[0.1]], [0.0, 1.0, 1000.0]).ravel().round(6)
        array([0.01    , 0.430588, 2.      ])
    """
    p = problem.n_inputs
    return balanced_flow(problem, W1, W2, times)[:, :p, p:]


def balanced_flow(problem: Problem, W1: Any, W2: Any, times: Any) -> np.ndarray:
    r"""Return M = ZZᵀ of a balanced network under gradient flow on whitened inputs.

    The solution (see the module) is applied to a factor Z in the eigenbasis of F, Z ← e^{Fh} Z R⁻¹ with
    RᵀR = I + s ZᵀS_hZ from a QR decomposition, over pieces h with h ‖F‖ ≤ 1. Nothing overflows or cancels then however
    large t is; rows that are exactly zero (modes the start does not contain) and the rank are kept.

    Args:
        problem: With Σ = s I.
        W1: Start, shape (n_inputs, width).
        W2: Start, shape (width, n_outputs), with W1ᵀW1 = W2W2ᵀ.
        times: t ≥ 0, one dimension, in any order. The work grows as max(times) · ‖C‖₂ until all modes rest.

    Returns:
        Shape (time, n_inputs + n_outputs, n_inputs + n_outputs).

    Raises:
        LawNotApplicable: The inputs are not whitened, or the start is not balanced.
        InvalidInput: The weights do not fit the problem, or a time is negative.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import gradient_flow
        >>> problem = rf.Problem.from_statistics(np.eye(3), np.diag([3.0, 2.0, 1.0])[:, :2])
        >>> W1, W2 = (weights[0] for weights in rf.LinearNetwork.balanced(3, 4, 2).draw(replicates=1, seed=0))
        >>> M = gradient_flow.balanced_flow(problem, W1, W2, [0.0, 1e4])
        >>> M[1].round(6) + 0.0
        array([[3., 0., 0., 3., 0.],
               [0., 2., 0., 0., 2.],
               [0., 0., 0., 0., 0.],
               [3., 0., 0., 3., 0.],
               [0., 2., 0., 0., 2.]])
    """
    when = moments(times)
    rows = balanced_factors(problem, *layers(problem, W1, W2), when)
    return rows @ rows.transpose(0, 2, 1)


def balanced_factors(problem: Problem, W1: np.ndarray, W2: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Z up to a rotation of its columns, shape (time, p + k, columns); raises as `balanced_flow` does."""
    p, k = problem.n_inputs, problem.n_outputs
    if problem.loss != "squared":
        raise LawNotApplicable(
            f"the closed form is known for the squared loss only, the problem has loss={problem.loss!r}."
        )
    variance = float(np.trace(problem.covariance)) / p
    if np.abs(problem.covariance - variance * np.eye(p)).max() > ROUNDING * variance:
        raise LawNotApplicable("the closed form needs whitened inputs: a covariance that is a multiple of I.")
    require_balanced(W1, W2)
    growth, basis = _eigenbasis(problem.cross_covariance)
    factor = basis.T @ np.concatenate([W1, W2.T])
    if factor.shape[1] > p + k:  # fewer columns with the same M
        factor = np.transpose(np.linalg.qr(factor.T, mode="r"))
    result = np.empty((len(when), *factor.shape))
    now = 0.0
    for index in np.argsort(when):
        factor = _advance(factor, growth, variance, float(when[index]) - now)
        now = float(when[index])
        result[index] = basis @ factor
    return result


def layers(problem: Problem, W1: Any, W2: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check that two weight matrices fit the problem; raises InvalidInput."""
    first, second = _checks.finite_matrix(W1, "W1"), _checks.finite_matrix(W2, "W2")
    p, k = problem.n_inputs, problem.n_outputs
    if first.shape[0] != p or second.shape[1] != k or first.shape[1] != second.shape[0]:
        raise InvalidInput(
            f"W1 and W2 must have shapes ({p}, width) and (width, {k}), got {first.shape} and {second.shape}."
        )
    return first, second


def require_balanced(W1: np.ndarray, W2: np.ndarray) -> None:
    """Raise LawNotApplicable unless W1ᵀW1 = W2W2ᵀ to rounding."""
    imbalance = float(np.linalg.norm(W1.T @ W1 - W2 @ W2.T))
    if imbalance > ROUNDING * float(np.sum(W1 * W1) + np.sum(W2 * W2)):
        raise LawNotApplicable(
            f"the closed form needs a balanced start, W1ᵀW1 = W2W2ᵀ, but ‖W1ᵀW1 − W2W2ᵀ‖ = {imbalance:.3g}; "
            "LinearNetwork.balanced draws one."
        )


def _eigenbasis(cross: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors (columns) of F = [[0, C], [Cᵀ, 0]], from the SVD of C; rounding noise made zero."""
    p, k = cross.shape
    left, strengths, right = np.linalg.svd(cross)
    strengths[strengths <= strengths[0] * max(p, k) * np.finfo(float).eps] = 0.0
    q = len(strengths)
    half = math.sqrt(0.5)
    basis = np.zeros((p + k, p + k))
    basis[:p, :q], basis[p:, :q] = half * left[:, :q], half * right[:q].T
    basis[:p, q : 2 * q], basis[p:, q : 2 * q] = half * left[:, :q], -half * right[:q].T
    basis[:p, 2 * q : p + q], basis[p:, p + q :] = left[:, q:], right[q:].T
    return np.concatenate([strengths, -strengths, np.zeros(p + k - 2 * q)]), basis


def _advance(factor: np.ndarray, growth: np.ndarray, variance: float, time: float) -> np.ndarray:
    """Advance a factor Z of M by `time`, in the eigenbasis of F, up to a rotation of its columns."""
    if time == 0.0:
        return factor
    pieces = max(1, math.ceil(time * float(growth.max())))
    h = time / pieces
    swell = np.exp(growth * h)[:, None]
    # √(s S_h) = √(s (e^{2fh} − 1) / 2f), written for both signs of f without cancellation
    gather = np.sqrt(variance * h * _fraction(2.0 * np.abs(growth) * h))[:, None] * np.maximum(swell, 1.0)
    identity = np.eye(factor.shape[1])
    gram = factor @ factor.T
    for _ in range(pieces):
        triangle = np.linalg.qr(np.concatenate([gather * factor, identity]), mode="r")
        factor = scipy.linalg.solve_triangular(triangle, (swell * factor).T, trans="T", check_finite=False).T
        factor[(growth < 0.0) & (np.abs(factor).max(axis=1) < _VANISHED)] = 0.0
        before, gram = gram, factor @ factor.T
        sizes = np.sqrt(np.diagonal(gram))
        if (np.abs(gram - before) <= _ARRIVED * np.multiply.outer(sizes, sizes)).all():
            break  # every mode, small ones too, has come to rest
    return factor


def _fraction(x: np.ndarray) -> np.ndarray:
    """(1 − e^{−x}) / x for x ≥ 0, 1 at 0."""
    return np.divide(-np.expm1(-x), x, out=np.ones_like(x), where=x > 0.0)


def moments(times: Any) -> np.ndarray:
    """Check times t ≥ 0, one dimension; raises InvalidInput."""
    try:
        when = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"times must be numbers: {error}.") from None
    if when.ndim != 1 or not (np.isfinite(when).all() and (when >= 0.0).all()):
        raise InvalidInput("times must be one-dimensional, finite and at least 0.")
    return when
