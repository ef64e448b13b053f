r"""The exact determinant ledger of the descents.

A step of any descent is Z ← (a I + ηĜ) Z with a = 1 − ηλ and Ĝ = [[0, G], [Gᵀ, 0]], whatever the loss, the batch and
the step size; the eigenvalues of Ĝ are ±σ_i(G) and |p − k| zeros. Hence, exactly,

    log det M_{t+1} = log det M_t + 2 log | a^{|p−k|} Π_i (a² − η² σ_i(G_t)²) | .

The kernels add these terms up at every step (`ledger_log_det`), so that a run which keeps only its save points can be
certified. The Euler–Maruyama step of the stochastic flow is of the same kind, with H = G h + σ√h L_Σ N in place of ηG.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from rankfall.errors import InvalidInput, LawNotApplicable
from rankfall.laws import _rounding
from rankfall.laws._judge import judge
from rankfall.laws._reading import Reading, read
from rankfall.laws._verdict import Verdict
from rankfall.problem import Problem

__all__ = ["check", "predict", "step_change"]

_NAME = "determinant ledger"


def step_change(gradient: Any, step_size: float, weight_decay: float = 0.0) -> np.ndarray:
    """Return the change of log det M in one step of a descent.

    Args:
        gradient: G = −∂L/∂(W1 W2) that the step used, shape (..., n_inputs, n_outputs).
        step_size: η.
        weight_decay: λ, with ηλ < 1.

    Returns:
        2 log |(1−ηλ)^{|p−k|} Π_i ((1−ηλ)² − η²σ_i²)|, shape (...); −inf where the step destroys the determinant.

    Raises:
        InvalidInput: The gradient is not a matrix, or ηλ ≥ 1.

    Example:
        >>> import numpy as np
        >>> from rankfall.laws import ledger
        >>> round(float(ledger.step_change(np.eye(2), step_size=0.1)), 12)   # 2 · 2 · log(1 − 0.01)
        -0.040201343414
    """
    matrices = np.asarray(gradient, dtype=np.float64)
    if matrices.ndim < 2:
        raise InvalidInput(f"gradient must have shape (..., n_inputs, n_outputs), got {matrices.shape}.")
    if not 0.0 <= step_size * weight_decay < 1.0:
        raise InvalidInput(f"step_size · weight_decay must lie in [0, 1), got {step_size * weight_decay:g}.")
    kept = 1.0 - step_size * weight_decay
    ratios = step_size / kept * np.linalg.svd(matrices, compute_uv=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        small, large = np.log1p(-(ratios**2)), np.log(np.abs(1.0 - ratios)) + np.log1p(ratios)
        factors = np.where(ratios < 0.5, small, large)
    return 2.0 * (sum(matrices.shape[-2:]) * np.log1p(-step_size * weight_decay) + factors.sum(axis=-1))


def predict(run: xr.Dataset | Reading) -> np.ndarray:
    """Return log det M at the save points, shape (replicate, time), from its start and the recorded ledger.

    Raises:
        NotARun: `run` is not a run.
        LawNotApplicable: The run kept no determinant ledger, or det M = 0.
    """
    reading = read(run)
    reading.require_full_rank()
    ledger = reading.values("ledger_log_det")
    return reading.values("log_det")[:, :1] + (ledger - ledger[:, :1])


def check(run: xr.Dataset | Reading, problem: Problem | None = None) -> Verdict:
    """Check log det M of every replicate against the ledger of the steps it took.

    The tolerance is that of `rankfall.laws._rounding`, 12 u √((p+k+2)/3) κ √steps, plus the ledger's own rounding: the
    determinant of I − η²GᵀG is rounded to the grid of 1 in min(p, k) + 1 places per step, always the same way while
    η²σ² is far below u (so this adds up as the number of steps); with weight decay, 1 − ηλ is rounded p + k times; and
    the running sum is rounded as it grows.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: Not a method with a ledger, no determinant ledger in the run, or det M = 0.
    """
    reading = read(run, problem)
    if not (reading.is_descent or reading.is_euler):
        raise LawNotApplicable(
            f"{type(reading.method).__name__} follows the determinant law of the flow, see rankfall.laws.determinant."
        )
    reading.require_full_rank()
    change = np.abs(reading.values("ledger_log_det"))
    fewer = min(reading.problem.n_inputs, reading.problem.n_outputs)
    places = fewer + 1.0 + (reading.rows if reading.weight_decay else 0.0)
    tolerance = (
        _rounding.determinant_spread(*reading.rounding)
        + _rounding.repeated(reading.steps, places)
        + _rounding.logarithm_floor(reading.singular_values, change * np.sqrt(1.0 + reading.steps), reading.rows)
    )
    factor = "|1 − η²σ_i(G)²|" if not reading.weight_decay else "|(1−ηλ)² − η²σ_i(G)²|, (1−ηλ)^|p−k|"
    return judge(
        reading,
        _NAME,
        f"log det M_t = log det M_0 + 2 Σ log {factor}",
        predicted=predict(reading),
        measured=reading.values("log_det"),
        tolerance=tolerance,
        resolution=_rounding.log_det_resolution(change),
        lost=_rounding.beyond_float(reading.singular_values),
    )
