r"""The laws of the balance Q = W1ᵀW1 − W2W2ᵀ, for every width.

- Gradient flow conserves Q.
- A step of a descent, Z ← (a I + ηĜ) Z with a = 1 − ηλ, changes it exactly by

      Q_{t+1} = a² Q_t + η² (W2 GᵀG W2ᵀ − W1ᵀ G Gᵀ W1) ,

  whatever the loss, the batch and the step size. The kernels evolve this ledger beside the weights.
- The stochastic flow has no noise in Q: dQ = σ² (tr(Σ) W2W2ᵀ − k W1ᵀΣW1) dt along every realisation. The geometric
  integrator multiplies Z by exp(Ĥ), which leaves Q as it is, and by e^{−Kh/4}, which changes it; the ledger of such a
  run adds up the second, the integrator's exact version of the integral. Where Σ = s I and p = k the equation
  closes: Q_t = Q_0 exp(−σ² k s t), and the geometric integrator obeys this to rounding at any dt.

Where det M = 0 (width < n_inputs + n_outputs) these are the laws to certify a run with. The idea of the balance is that
of Arora, Cohen & Hazan, "On the optimization of deep networks: implicit acceleration by overparameterization", ICML
2018.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from rankfall.errors import InvalidInput, LawNotApplicable
from rankfall.laws import _rounding
from rankfall.laws._judge import judge
from rankfall.laws._reading import Reading, read, require_squared_loss
from rankfall.laws._verdict import Verdict
from rankfall.methods import GradientFlow, Method, StochasticGradientFlow
from rankfall.problem import Problem

__all__ = ["check", "check_ledger", "drift", "predict", "predict_from_ledger", "step_change"]

# Inputs count as whitened if Σ departs from s I by less than this; the tolerance carries the departure.
_WHITE = 1e-10


def step_change(W1: Any, W2: Any, gradient: Any, step_size: float, weight_decay: float = 0.0) -> np.ndarray:
    """Return the change of Q in one step of a descent.

    Args:
        W1: Before the step, shape (..., n_inputs, width).
        W2: Before the step, shape (..., width, n_outputs).
        gradient: G = −∂L/∂(W1 W2) that the step used, shape (..., n_inputs, n_outputs).
        step_size: η.
        weight_decay: λ.

    Returns:
        (a²−1) Q + η² (W2 GᵀG W2ᵀ − W1ᵀ G Gᵀ W1) with a = 1 − ηλ, shape (..., width, width).

    Raises:
        InvalidInput: The shapes do not fit together.

    Example:
        >>> import numpy as np
        >>> from rankfall.laws import balance
        >>> balance.step_change([[1.0]], [[3.0]], [[2.0]], step_size=0.5)   # 0.25 · (3² − 1²) · 2²
        array([[8.]])
    """
    first, second, g = (np.asarray(value, dtype=np.float64) for value in (W1, W2, gradient))
    _fit(first, second)
    if g.shape[-2:] != (first.shape[-2], second.shape[-1]):
        raise InvalidInput(
            f"gradient must have shape (..., {first.shape[-2]}, {second.shape[-1]}) like W1 W2, got {g.shape}."
        )
    input_side, output_side = _turned(first) @ g, second @ _turned(g)
    change = step_size**2 * (output_side @ _turned(output_side) - input_side @ _turned(input_side))
    if weight_decay:
        shrink = step_size * weight_decay
        change = change - shrink * (2.0 - shrink) * (_turned(first) @ first - second @ _turned(second))
    return change


def drift(W1: Any, W2: Any, problem: Problem, method: Method) -> np.ndarray:
    """Return dQ/dt of a flow, σ² (tr(Σ) W2W2ᵀ − k W1ᵀΣW1); zero for gradient flow.

    Args:
        W1: Shape (..., n_inputs, width).
        W2: Shape (..., width, n_outputs).
        problem: Gives Σ and k.
        method: A flow.

    Returns:
        Shape (..., width, width).

    Raises:
        LawNotApplicable: The method is a descent.
        InvalidInput: The shapes do not fit together.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import balance
        >>> problem = rf.Problem.from_statistics(np.eye(1), np.ones((1, 1)))
        >>> balance.drift([[1.0]], [[2.0]], problem, rf.StochasticGradientFlow(label_noise=1.0, step_size=0.5))
        array([[1.5]])
    """
    intensity = _intensity(method)
    if intensity:
        require_squared_loss(problem, "the stochastic flow")
    first, second = np.asarray(W1, dtype=np.float64), np.asarray(W2, dtype=np.float64)
    _fit(first, second)
    if (first.shape[-2], second.shape[-1]) != (problem.n_inputs, problem.n_outputs):
        raise InvalidInput(
            f"the weights map {first.shape[-2]} inputs to {second.shape[-1]} outputs, the problem "
            f"{problem.n_inputs} to {problem.n_outputs}."
        )
    trace = float(np.trace(problem.covariance))
    spread = _turned(first) @ problem.covariance @ first
    return intensity * (trace * (second @ _turned(second)) - problem.n_outputs * spread)


def predict(problem: Problem, method: Method, start_balance: Any, times: Any) -> np.ndarray:
    """Return Q at the given times from its value at t = 0, where the law closes.

    Args:
        problem: For the stochastic flow, with Σ = s I and n_inputs = n_outputs.
        method: A flow.
        start_balance: Q_0, or its norm, or any array that is linear in it.
        times: Flow times, one dimension.

    Returns:
        Q_0 for gradient flow, Q_0 exp(−σ² k s t) for the stochastic flow; shape (time, *start_balance.shape).

    Raises:
        LawNotApplicable: A descent, or a problem for which Q alone does not determine its own future, as where the
            loss is not squared.
        InvalidInput: The times are not one-dimensional.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import balance
        >>> problem = rf.Problem.from_statistics(np.eye(2), np.ones((2, 2)))
        >>> method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.5)
        >>> balance.predict(problem, method, 3.0, [0.0, 1.0]).round(4)
        array([3.    , 1.1036])
    """
    moments = np.asarray(times, dtype=np.float64)
    if moments.ndim != 1:
        raise InvalidInput(f"times must have one dimension, got shape {moments.shape}.")
    return np.multiply.outer(np.exp(-_decay_rate(problem, method) * moments), np.asarray(start_balance, dtype=float))


def predict_from_ledger(run: xr.Dataset | Reading) -> np.ndarray:
    """Return ‖Q‖_F at the save points, shape (replicate, time), as the recorded balance ledger has it.

    Raises:
        NotARun: `run` is not a run.
        LawNotApplicable: The run kept no balance ledger.
    """
    return read(run).values("ledger_balance")


def check(run: xr.Dataset | Reading, problem: Problem | None = None) -> Verdict:
    """Check Q of every replicate of a flow against its closed law: conserved, or decaying as Q_0 exp(−σ² k s t).

    Two recorded norms decide about the whole matrix: with 0 ≤ c ≤ 1, ‖Q_t‖ = c‖Q_0‖ and ‖Q_t − Q_0‖ = (1 − c)‖Q_0‖
    hold together only for Q_t = c Q_0 (equality in the triangle inequality). The error is the larger of the two
    deviations; for c = 1 it is ‖Q_t − Q_0‖ itself.

    The tolerance is that of `rankfall.laws._rounding`, 12 u √((p+k+2)/3) σ₁‖Z‖_F √steps; for the decay also the factors
    e^{−Kh/2}, rounded the same way at every step (twice, squared in Q), and the departure of Σ from s I.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: A descent, the Euler integrator, or a problem for which the law does not close.
    """
    reading = read(run, problem)
    decay = _decay_rate(reading.problem, reading.method)
    if reading.is_euler:
        raise LawNotApplicable(
            "the balance law holds for the Euler integrator only in the limit dt → 0; its steps follow the balance "
            "ledger exactly (simulate with ledger='balance')."
        )
    norm, moved = reading.values("balance"), reading.values("balance_drift")
    elapsed = reading.times - reading.times[0]
    predicted = norm[:, :1] * np.exp(-decay * elapsed)
    gone = -norm[:, :1] * np.expm1(-decay * elapsed)
    tolerance = _rounding.balance_spread(*reading.rounding) + reading.integration_spread[1]
    if decay:
        size = np.maximum.accumulate(_rounding.balance_size(reading.singular_values), axis=1)
        departure = _departure(reading.problem) * decay * elapsed * 2.0
        tolerance = tolerance + (_rounding.repeated(reading.steps, 4.0) + departure) * size
        return judge(
            reading,
            "balance law",
            "Q_t = Q_0 exp(−σ²ks·t)",
            predicted=predicted,
            measured=norm,
            error=np.maximum(np.abs(norm - predicted), np.abs(moved - gone)),
            tolerance=tolerance,
            resolution=_resolution(reading),
            hint=reading.increment_note(),
        )
    return judge(
        reading,
        "balance law",
        "‖Q_t − Q_0‖ = 0",
        predicted=np.zeros_like(moved),
        measured=moved,
        tolerance=tolerance,
        resolution=_resolution(reading),
        hint=reading.increment_note(),
    )


def check_ledger(run: xr.Dataset | Reading, problem: Problem | None = None) -> Verdict:
    """Check Q of every replicate against the balance ledger of the steps it took: ‖Q_t − B_t‖_F.

    The tolerance is that of `rankfall.laws._rounding`, 12 u √((p+k+2)/3) σ₁‖Z‖_F √steps, doubled because the ledger B,
    of the size of Q, is rounded as the weights are; and what repeats at every step: the rounding of the scalings of the
    geometric integrator and of (1 − ηλ)² against the factors that the weights were multiplied by.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: The run kept no balance ledger.
    """
    reading = read(run, problem)
    tolerance = 2.0 * _rounding.balance_spread(*reading.rounding)
    if reading.weight_decay or not (reading.is_descent or reading.is_euler):
        size = np.maximum.accumulate(_rounding.balance_size(reading.singular_values), axis=1)
        tolerance = tolerance + _rounding.repeated(reading.steps, 4.0) * size
    if reading.is_descent or reading.is_euler:
        old = "(1−ηλ)²Q" if reading.weight_decay else "Q"
        statement = f"Q ← {old} + η²(W2GᵀGW2ᵀ − W1ᵀGGᵀW1)"
    else:
        statement = "dQ = σ²(tr(Σ)·W2W2ᵀ − k·W1ᵀΣW1)dt"
    return judge(
        reading,
        "balance ledger",
        statement,
        predicted=predict_from_ledger(reading),
        measured=reading.values("balance"),
        error=reading.values("ledger_balance_error"),
        tolerance=tolerance,
        resolution=_resolution(reading),
        hint=reading.increment_note(),
    )


def _resolution(reading: Reading) -> np.ndarray:
    """A tolerance above 1e-4 σ₁‖Z‖_F would say nothing about Q."""
    return 1e-4 * _rounding.balance_size(reading.singular_values)


def _intensity(method: Method) -> float:
    if isinstance(method, GradientFlow):
        return 0.0
    if isinstance(method, StochasticGradientFlow):
        return method.intensity
    raise LawNotApplicable(
        f"{type(method).__name__} moves in steps: its balance follows the ledger of these steps, see "
        "rankfall.laws.balance.step_change."
    )


def _decay_rate(problem: Problem, method: Method) -> float:
    """σ² k s, 0 without noise; raises where the balance ODE does not close."""
    intensity = _intensity(method)
    if intensity == 0.0:
        return 0.0
    require_squared_loss(problem, "the stochastic flow")
    p, k = problem.n_inputs, problem.n_outputs
    if p != k or _departure(problem) > _WHITE:
        reason = f"n_inputs = {p} and n_outputs = {k} differ" if p != k else "the covariance is no multiple of I"
        raise LawNotApplicable(
            f"the balance of the stochastic flow has a closed form only for whitened inputs and as many inputs as "
            f"outputs, but {reason}; use the recorded ledger (simulate with ledger='balance')."
        )
    return intensity * k * float(np.trace(problem.covariance)) / p


def _departure(problem: Problem) -> float:
    """‖Σ − s I‖₂ / s with s = tr(Σ)/p; 0 for Σ = 0."""
    sigma = problem.covariance
    mean = float(np.trace(sigma)) / len(sigma)
    if mean == 0.0:
        return 0.0
    return float(np.linalg.norm(sigma / mean - np.eye(len(sigma)), 2))


def _turned(matrices: np.ndarray) -> np.ndarray:
    """Transpose of the last two axes."""
    return np.swapaxes(matrices, -1, -2)


def _fit(W1: np.ndarray, W2: np.ndarray) -> None:
    if W1.ndim < 2 or W2.ndim < 2 or W1.shape[-1] != W2.shape[-2]:
        raise InvalidInput(
            f"W1 must have shape (..., n_inputs, width) and W2 (..., width, n_outputs), got {W1.shape} and {W2.shape}."
        )
