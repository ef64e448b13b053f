r"""Gradient flow: what it conserves, and where it can be solved.

Conserved along every trajectory: log det M where Z has full row rank, and Q = W1ᵀW1 − W2W2ᵀ always (`check`).

Solved in closed form

- for whitened inputs and a balanced start, any sizes and ranks: `balanced_flow`, `balanced_product` (Fukumizu 1998);
- mode by mode, for any inputs, where the balanced start shares its singular vectors with the problem
  (`decoupled_modes`): each strength is the logistic curve of Saxe et al. 2014, `logistic_mode`, and reaches a given
  share of its target at `learning_times`.

Everything else follows by a Runge–Kutta method of order 8 at a relative tolerance of 1e-12, `solve`. `predict` draws
either over the save points of a run.
"""

from __future__ import annotations

import contextlib

import xarray as xr

from rankfall.errors import LawNotApplicable
from rankfall.laws import balance, determinant
from rankfall.laws._closed_forms import balanced_flow, balanced_product, logistic_mode
from rankfall.laws._flow_oracle import solve
from rankfall.laws._flow_prediction import predict
from rankfall.laws._modes import crossing_times, decoupled_modes, learning_times, mode_strengths
from rankfall.laws._reading import Reading, read
from rankfall.laws._verdict import Verdict
from rankfall.methods import GradientFlow
from rankfall.problem import Problem

__all__ = [
    "balanced_flow",
    "balanced_product",
    "check",
    "crossing_times",
    "decoupled_modes",
    "learning_times",
    "logistic_mode",
    "mode_strengths",
    "predict",
    "solve",
]


def check(run: xr.Dataset | Reading, problem: Problem | None = None) -> list[Verdict]:
    """Check what gradient flow conserves: log det M (where it is finite) and Q.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: The method is not gradient flow.
    """
    reading = read(run, problem)
    if not isinstance(reading.method, GradientFlow):
        raise LawNotApplicable(
            f"{type(reading.method).__name__} is not gradient flow and conserves neither det M nor Q."
        )
    verdicts = []
    with contextlib.suppress(LawNotApplicable):  # det M = 0: nothing to conserve
        verdicts.append(determinant.check(reading))
    verdicts.append(balance.check(reading))
    return verdicts
