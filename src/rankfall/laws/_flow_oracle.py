"""Gradient flow of any problem and start by a trusted solver: what closed forms and kernels are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.integrate
import scipy.special

from rankfall.errors import LawNotApplicable
from rankfall.laws._closed_forms import layers, moments
from rankfall.problem import Problem

__all__ = ["solve"]

_RELATIVE, _ABSOLUTE = 1e-12, 1e-14


def solve(problem: Problem, W1: Any, W2: Any, times: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights under gradient flow, dW1 = G W2ᵀ dt, dW2 = W1ᵀG dt with G = −∂L/∂(W1W2), for any problem.

    By SciPy's DOP853 (Runge–Kutta of order 8, Hairer, Nørsett & Wanner 1993) at a relative tolerance of 1e-12 and an
    absolute one of 1e-14 of the largest weight: of local errors, so what the flow amplifies can be larger. It shares no
    code with the simulator. Explicit: the number of steps grows as the sharpness times the longest time.

    Args:
        problem: With any loss.
        W1: Start, shape (n_inputs, width).
        W2: Start, shape (width, n_outputs).
        times: t ≥ 0, one dimension, in any order.

    Returns:
        W1 and W2, shapes (time, n_inputs, width) and (time, width, n_outputs).

    Raises:
        InvalidInput: The weights do not fit the problem, or a time is negative.
        LawNotApplicable: The solver gave up.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import gradient_flow
        >>> problem = rf.Problem.from_statistics(np.eye(1), [[2.0]])
        >>> W1, W2 = gradient_flow.solve(problem, [[0.1]], [[0.1]], [0.0, 1.0, 1000.0])
        >>> (W1 * W2).ravel().round(6)
        array([0.01    , 0.430588, 2.      ])
    """
    first, second = layers(problem, W1, W2)
    when = moments(times)
    p, width = first.shape
    split = p * width

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        a, b = state[:split].reshape(p, width), state[split:].reshape(width, -1)
        slope = _slope(problem, a @ b)
        return np.concatenate([(slope @ b.T).ravel(), (a.T @ slope).ravel()])

    state = np.concatenate([first.ravel(), second.ravel()])
    states = np.empty((len(when), len(state)))
    largest = float(np.abs(state).max())
    end = float(when.max(initial=0.0))
    if end == 0.0 or largest == 0.0:  # all zero is at rest
        states[:] = state
    else:
        moments_asked, places = np.unique(when, return_inverse=True)
        result = scipy.integrate.solve_ivp(
            velocity,
            (0.0, end),
            state,
            method="DOP853",
            t_eval=moments_asked,
            rtol=_RELATIVE,
            atol=_ABSOLUTE * largest,
        )
        if not result.success:
            raise LawNotApplicable(f"the solver gave up: {result.message}")
        states[:] = result.y.T[places]
    return states[:, :split].reshape(-1, p, width), states[:, split:].reshape(-1, *second.shape)


def _slope(problem: Problem, product: np.ndarray) -> np.ndarray:
    """G = −∂L/∂W of the product: C − ΣW, or Xᵀ(Y − link(XW))/n for the losses that need the data."""
    if problem.loss == "squared":
        return problem.cross_covariance - problem.covariance @ product
    assert problem.inputs is not None and problem.labels is not None
    scores = problem.inputs @ product
    link = scipy.special.expit(scores) if problem.loss == "logistic" else scipy.special.softmax(scores, axis=1)
    slope: np.ndarray = problem.inputs.T @ (problem.labels - link) / len(problem.inputs)
    return slope
