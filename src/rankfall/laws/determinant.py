r"""The determinant law of the flows.

For Z = [W1; W2ᵀ] of full row rank (width ≥ n_inputs + n_outputs), along every realisation of the noise,

    log det(Z_t Z_tᵀ) = log det(Z_0 Z_0ᵀ) − 2 k σ² tr(Σ) t .

The noise enters the drift of log det M through a trace that vanishes, so the decay is deterministic; with σ² = 0 the
determinant is conserved. The idea is that of Varre, Sagitova & Flammarion, "SGD vs GD: Rank Deficiency in Linear
Networks", NeurIPS 2024.

Descents do not follow this law but their own exact ledger (`rankfall.laws.ledger`), and so does the Euler–Maruyama
integrator: its step changes log det M by 2 Σ log |1 − σ_i(H)²| with H the random increment, whose expectation differs
from the law at first order in dt and whose fluctuation sums up to order √(dt · t). A tolerance wide enough for both
would not be a check of anything, so such runs are checked against the ledger of the very steps they took.
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

__all__ = ["check", "predict", "rate"]

_NAME = "determinant law"


def rate(problem: Problem, method: Method) -> float:
    """Return d log det M / dt = −2 k σ² tr(Σ) of a flow; 0 for gradient flow.

    Raises:
        LawNotApplicable: The method is a descent, or the stochastic flow of a loss that is not squared.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import determinant
        >>> problem = rf.Problem.from_statistics(np.eye(5), np.ones((5, 2)))
        >>> round(determinant.rate(problem, rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)), 12)
        -0.4
    """
    if isinstance(method, GradientFlow):
        return 0.0
    if isinstance(method, StochasticGradientFlow):
        require_squared_loss(problem, "the stochastic flow")
        return -2.0 * problem.n_outputs * method.intensity * float(np.trace(problem.covariance))
    raise LawNotApplicable(
        f"{type(method).__name__} moves in steps: its determinant follows the ledger of these steps, see "
        "rankfall.laws.ledger, not the law of the flow."
    )


def predict(problem: Problem, method: Method, start_log_det: Any, times: Any) -> np.ndarray:
    """Return log det M at the given times from its value at t = 0.

    Args:
        problem: Gives k and tr Σ.
        method: A flow.
        start_log_det: log det M_0, a number or an array of any shape, finite.
        times: Flow times, one dimension.

    Returns:
        Shape (*start_log_det.shape, time).

    Raises:
        LawNotApplicable: The method is a descent, or det M_0 = 0 (too narrow a network, or a start of low rank).
        InvalidInput: The times are not one-dimensional.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import determinant
        >>> problem = rf.Problem.from_statistics(np.eye(5), np.ones((5, 2)))
        >>> method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)
        >>> determinant.predict(problem, method, 3.0, [0.0, 10.0])
        array([ 3., -1.])
    """
    moments = np.asarray(times, dtype=np.float64)
    if moments.ndim != 1:
        raise InvalidInput(f"times must have one dimension, got shape {moments.shape}.")
    start = np.asarray(start_log_det, dtype=np.float64)
    if np.isneginf(start).any():
        raise LawNotApplicable("det M_0 = 0: the determinant law needs a start of rank n_inputs + n_outputs.")
    return start[..., None] + rate(problem, method) * moments


def check(run: xr.Dataset | Reading, problem: Problem | None = None) -> Verdict:
    """Check log det M of every replicate against the law.

    The tolerance is that of `rankfall.laws._rounding`, 12 u √((p+k+2)/3) κ √steps, plus what repeats at every step of
    the stochastic flow: each of the p + k factors e^{−Kh/2} is off by up to a unit in the last place, 2u, the same one
    at every step and, where Σ has equal eigenvalues, in every row. The floor is the rounding of the sums of logarithms
    and of tr Σ.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: A descent, the Euler integrator, or det M = 0.
    """
    reading = read(run, problem)
    slope = rate(reading.problem, reading.method)
    if reading.is_euler:
        raise LawNotApplicable(
            "the determinant law holds for the Euler integrator only in the limit dt → 0; its steps follow the "
            "determinant ledger exactly (simulate with ledger='determinant')."
        )
    reading.require_full_rank()
    measured = reading.values("log_det")
    predicted = predict(reading.problem, reading.method, measured[:, 0], reading.times - reading.times[0])
    change = np.abs(predicted - predicted[:, :1])
    tolerance = (
        _rounding.determinant_spread(*reading.rounding)
        + _rounding.repeated(reading.steps, 2.0 * reading.rows if slope else 0.0)
        + _rounding.logarithm_floor(reading.singular_values, change, reading.rows)
        + reading.integration_spread[0]
    )
    statement = "log det M_t = log det M_0" + (" − 2kσ²tr(Σ)·t" if slope else "")
    return judge(
        reading,
        _NAME,
        statement,
        predicted=predicted,
        measured=measured,
        tolerance=tolerance,
        resolution=_rounding.log_det_resolution(change),
        lost=_rounding.beyond_float(reading.singular_values),
        hint=reading.increment_note(),
    )
