r"""Lyapunov exponents: their exact sum, and how many of them are zero.

Along a run of the stochastic gradient flow dZ = (Ĝ dt + dN̂) Z is a random linear cocycle. Its p + k exponents
μ_1 ≥ … ≥ μ_{p+k} say how fast the singular values of Z move in the long run, log σ_i(Z_t) ≈ μ_i t. A frame F of p + k
columns, orthonormal at the start and moved by the same steps, has a QR decomposition F_t = Q R at any time, and
μ_i = lim log R_ii / t (G. Benettin et al., Meccanica 15, 1980).

The sum of the log R_ii is log |det F_t|, which no realisation of the noise can change:

    Σ_i log R_ii(t) = −k σ² tr(Σ) t .

For descents and Euler–Maruyama it is, exactly, half the determinant ledger of the very steps they took
(`rankfall.laws.ledger`). Both hold for every width, also where det M = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from rankfall import _checks
from rankfall.errors import InvalidInput, LawNotApplicable
from rankfall.laws import _rounding, determinant
from rankfall.laws._judge import judge
from rankfall.laws._reading import Reading, read
from rankfall.laws._verdict import Verdict
from rankfall.methods import GradientDescent, Method
from rankfall.problem import Problem

__all__ = ["FinalRank", "check", "check_sum", "final_rank", "predicted_sum"]

# Steps between two decompositions of the frame in the kernels, and how large an increment ‖H‖ is taken to be where the
# run does not record it.
_INTERVAL = 16
_INCREMENT = 0.3
# A mode counts as surviving while it has moved by no more than e⁵ ≈ 150, in a run in which a death at this share of
# the mean rate of all modes would have moved it further; as dying when it fell by so many times what trajectories
# differ by.
_LEAST_FALL = 5.0
_RESOLUTION = 0.05
_CERTAIN = 3.0


def predicted_sum(problem: Problem, method: Method) -> float:
    """Return Σ μ_i = −k σ² tr(Σ), the sum of the Lyapunov exponents of a flow; 0 for gradient flow.

    Raises:
        LawNotApplicable: The method is a descent, whose sum is half its determinant ledger per unit of time.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> problem = rf.Problem.from_statistics(np.eye(5), np.ones((5, 2)))
        >>> flow = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)
        >>> round(rf.laws.lyapunov.predicted_sum(problem, flow), 12)
        -0.2
    """
    return 0.5 * determinant.rate(problem, method)


def check(result: xr.Dataset, problem: Problem | None = None) -> list[Verdict]:
    """Check the sum rule of a Lyapunov spectrum (or of any run with the observable "log_growth").

    Args:
        result: Dataset of `rankfall.lyapunov_spectrum`, or of `simulate(observables=["log_growth"])`.
        problem: The problem that was simulated; the statistics kept in the result when None.

    Returns:
        One verdict.

    Raises:
        NotARun: `result` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: The run kept no growth of a frame, or is one of a descent that kept no determinant ledger.
    """
    return [check_sum(result, problem)]


def check_sum(run: xr.Dataset | Reading, problem: Problem | None = None) -> Verdict:
    """Check Σ log R_ii of every replicate at every save point against the sum rule.

    Tolerance, in the notation of `rankfall.laws._rounding`: a step rounds each entry of the frame p + k + 2 times,
    which moves log |det F| by u √((p+k+2)/3) κ with κ = √(p+k) e^{2·4·‖H‖}, since the columns were orthonormal at
    most 16 steps before and the increments H of random sign (`_increments`) have moved them by about √16 ‖H‖; a
    decomposition rounds like p + k more steps. These deviations are independent, and six of them are allowed. The
    row factors of the step are rounded once and applied at every step, and so are, without noise, all roundings.
    The sums themselves are rounded at every decomposition. Ledgers add their own rounding, see
    `rankfall.laws.ledger`.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: No growth in the run, or no determinant ledger where the method needs one.
    """
    reading = read(run, problem)
    if "log_growth" not in reading.run:
        raise LawNotApplicable(
            "the run did not record 'log_growth'; use lyapunov_spectrum, or simulate with observables=['log_growth']."
        )
    growth = np.asarray(reading.run["log_growth"].transpose("replicate", "time", "mode").values, dtype=np.float64)
    n, u, steps = reading.rows, _rounding.UNIT, reading.steps
    kappa = np.sqrt(n) * np.exp(2.0 * np.sqrt(_INTERVAL) * _increments(reading))
    alike = np.full(steps.shape, n + 1.0)
    if isinstance(reading.method, GradientDescent):
        alike *= np.sqrt(n) * kappa
    decompositions = 1.0 + steps / _INTERVAL
    work = np.diff(steps + n * decompositions, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.maximum.accumulate(np.abs(growth).max(axis=-1), axis=1)
        tolerance = (
            6.0 * u * np.sqrt((n + 2) / 3) * np.sqrt(np.cumsum(kappa**2 * work, axis=1))
            + u * np.cumsum(alike * np.diff(steps, axis=1, prepend=0.0), axis=1)
            + u * n * size * np.sqrt(decompositions)
        )
    if reading.is_descent or reading.is_euler:
        predicted = 0.5 * reading.values("ledger_log_det")
        statement = "Σ log R_ii = Σ log |det((1−ηλ)I + Ĥ)| over the steps"
        fewer = min(reading.problem.n_inputs, reading.problem.n_outputs)
        places = fewer + 1.0 + (n if reading.weight_decay else 0.0)
        tolerance = tolerance + 0.5 * _rounding.repeated(steps, places) + u * np.abs(predicted) * np.sqrt(1.0 + steps)
    else:
        rate = predicted_sum(reading.problem, reading.method)
        predicted = np.broadcast_to(rate * reading.times, steps.shape)
        statement = "Σ log R_ii = −k σ² tr(Σ) t"
        tolerance = tolerance + (2 * n + 8) * u * np.abs(predicted)
    return judge(
        reading,
        "sum of the Lyapunov exponents",
        statement,
        predicted=predicted,
        measured=growth.sum(axis=-1),
        tolerance=tolerance,
        resolution=_rounding.log_det_resolution(np.abs(predicted)),
        hint=reading.increment_note(),
    )


def _increments(reading: Reading) -> np.ndarray:
    """‖H‖_F in the steps before each save point: recorded, or twice what loss and noise make of it on average.

    A descent has ‖η (C − ΣW)‖² ≤ 2η² λ₁(Σ)(L − L_min) for the squared loss; a batch of one sample has tr Σ in the place
    of λ₁, and label noise adds η² k δ tr(Σ)/b. The other losses have residuals of at most √2. Nothing is taken to be
    below 0.3.
    """
    shape = reading.steps.shape
    if "largest_increment" in reading.run:
        largest = np.asarray(reading.run["largest_increment"].values, dtype=np.float64)
        return np.broadcast_to(np.nan_to_num(largest, nan=_INCREMENT)[:, None], shape)
    if not reading.is_descent:
        return np.full(shape, _INCREMENT)
    method, problem = reading.method, reading.problem
    excess = np.ones(shape)
    if problem.loss == "squared":
        loss = np.nan_to_num(reading.values("loss"), nan=np.inf)
        excess = np.maximum(loss, np.concatenate([loss[:, :1], loss[:, :-1]], axis=1))
    noise = problem.n_outputs * getattr(method, "label_noise", 0.0) / getattr(method, "batch_size", 1)
    size = (
        2.0 * float(getattr(method, "step_size", 0.0)) * np.sqrt(np.trace(problem.covariance) * (2.0 * excess + noise))
    )
    # e^{8·40}, squared, is finite, and far beyond every resolution.
    return np.clip(size, _INCREMENT, 40.0)


@dataclass(frozen=True, eq=False)
class FinalRank:
    """How many modes survive.

    Attributes:
        rank: Number of surviving modes; None if some are undecided.
        lowest: The surviving ones alone.
        highest: The undecided ones counted as well.
        survives: By mode.
        dies: By mode; a mode that neither survives nor dies is undecided.
        note: Which modes are undecided and why, "" if none is.
    """

    rank: int | None
    lowest: int
    highest: int
    survives: np.ndarray
    dies: np.ndarray
    note: str


def final_rank(
    exponents: Any,
    standard_errors: Any,
    *,
    span: float,
    replicates: int = 1,
    confidence: float = 0.999,
    degrees_of_freedom: float = np.inf,
) -> FinalRank:
    """Count the exponents that are compatible with zero.

    With q the two-sided quantile of Student's t for `confidence`, d = se √replicates the spread of the exponent between
    single trajectories, and s = −(Σ μ_i)/(p+k) the mean rate of death:

    - a mode survives if it moved by no more than e⁵ in the time measured, |μ| + q·se ≤ 5/span and d ≤ 5/span, while a
      death at a twentieth of the mean rate would have moved it further, 0.05 s·span > 5;
    - it dies if it fell further, μ + q·se < −5/span, and did so on nearly every trajectory, |μ| > 3 d;
    - otherwise it is undecided. The run may be too short; or the mode may be critical: its logarithm then wanders like
      a Brownian motion that is reflected from above, its mean fall stays 1.3 times its spread for ever, and the
      exponent measured, below zero at all times, goes to zero with the square root of the time.

    Args:
        exponents: μ, shape (mode,).
        standard_errors: Of the exponents, shape (mode,).
        span: Time over which the exponents were measured.
        replicates: Trajectories that they are the mean of.
        confidence: Of the band, in (0, 1).
        degrees_of_freedom: Of the standard errors.

    Raises:
        InvalidInput: Shapes that do not match, or a number out of range.

    Example:
        >>> from rankfall.laws import lyapunov
        >>> found = lyapunov.final_rank([0.001, -0.9, -3.6], [0.002, 0.01, 0.02], span=200.0, replicates=16)
        >>> found.rank, found.dies.tolist()
        (1, [False, True, True])
        >>> lyapunov.final_rank([-0.1, -0.9, -3.6], [0.02, 0.01, 0.02], span=200.0, replicates=16).note
        'mode 1: -0.1 ± 0.066, single trajectories ± 0.08'
    """
    from scipy.stats import t

    mu, error = np.asarray(exponents, dtype=np.float64), np.asarray(standard_errors, dtype=np.float64)
    if mu.ndim != 1 or mu.shape != error.shape or not mu.size:
        raise InvalidInput(
            f"exponents and standard_errors must be two lists of one length, got shapes {mu.shape} and {error.shape}."
        )
    level = _checks.real_number(confidence, "confidence", above=0.0)
    if not level < 1.0:
        raise InvalidInput(f"confidence must lie between 0 and 1, got {level:g}.")
    least = _LEAST_FALL / _checks.real_number(span, "span", above=0.0)
    spread = error * np.sqrt(_checks.whole_number(replicates, "replicates"))
    band = float(t.ppf(0.5 + level / 2, degrees_of_freedom)) * error
    long_enough = -_RESOLUTION * float(mu.mean()) > least
    survives = (np.abs(mu) + band <= least) & (spread <= least) & long_enough
    dies = (mu + band < -least) & (-mu > _CERTAIN * spread)
    notes = [
        f"mode {mode + 1}: {mu[mode]:.3g} ± {band[mode]:.2g}, single trajectories ± {spread[mode]:.2g}"
        for mode in np.flatnonzero(~dies & ~survives)
    ]
    lowest, highest = int(survives.sum()), int((~dies).sum())
    return FinalRank(lowest if lowest == highest else None, lowest, highest, survives, dies, "; ".join(notes))
