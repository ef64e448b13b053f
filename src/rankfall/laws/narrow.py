r"""Where det M = 0: the balance equation as certificate, its fixed points, and the rank they allow.

Along every realisation of the stochastic flow, whatever the width,

    dQ = σ² ( tr(Σ) W2W2ᵀ − k W1ᵀΣW1 ) dt .                                                           (1)

At a fixed point tr(Σ) W2W2ᵀ = k W1ᵀΣW1, so that Σ^{1/2}W1 and W2 have the same rank, at most n_outputs
(`predicted_rank`). Away from it, the (r+1)st eigenvalue of k W1ᵀΣW1 with r = rank W2 is at most the distance
‖tr(Σ) W2W2ᵀ − k W1ᵀΣW1‖ (Weyl), so the distance bounds what is left above that rank.

How far the balance relaxes (derivation in docs/theory.md):

- Σ = s I and p = k: to the fixed point, exactly and exponentially, Q_t = Q_0 e^{−σ²kst}.
- Always: the mean of the bracket in (1) over [0, T] is (Q_T − Q_0)/(σ²T), which vanishes as 1/T while Q is bounded.
- Otherwise the bracket itself does not vanish: noise of intensity σ² never rests, and W1, W2 fluctuate about the
  fixed point. The mean distance is proportional to σ (measured; it is the amplitude of the noise), so that the fixed
  point is reached only in the limit of small noise, seen on the time scale 1/σ². There, gradient and noise are
  orthogonal to the orbits W1 → W1 R, W2 → R⁻¹W2, and the Itô term leads along them down the function
  tr(Σ)‖W2‖² + k tr(W1ᵀΣW1), convex along each orbit, whose critical points are the fixed points.

Two certificates. The recorded ledger (`rankfall.laws.balance.check_ledger`) says, to rounding, that every step of the
integrator changed Q as its own scalings do. `check` here says that Q obeys (1) with the constants of this page,
computed from the recorded weights alone, to the accuracy of an integral over the save points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage
import xarray as xr

from rankfall import _checks
from rankfall.errors import InvalidInput, LawNotApplicable
from rankfall.laws import _rounding, balance
from rankfall.laws._judge import judge
from rankfall.laws._reading import Reading, read
from rankfall.laws._verdict import Verdict
from rankfall.methods import StochasticGradientFlow
from rankfall.network import LinearNetwork
from rankfall.problem import Problem

__all__ = ["check", "distance", "final_rank", "fixed_point_distance", "predicted_rank"]

# Standard deviations of the integral's error; neighbours on either side that say how much F changes in an interval.
_DEVIATIONS = 4.0
_NEIGHBOURS = 10
# Share of the change of Q that the tolerance may be at most.
_SHARP = 0.02
_WHITE = 1e-10
_UNIT_NOISE = StochasticGradientFlow(label_noise=1.0, step_size=1.0)


def distance(W1: Any, W2: Any, problem: Problem) -> np.ndarray:
    """Return how far weights are from a fixed point of the balance, between 0 and 1.

    Args:
        W1: Shape (..., n_inputs, width).
        W2: Shape (..., width, n_outputs).
        problem: Gives Σ and k.

    Returns:
        ‖tr(Σ) W2W2ᵀ − k W1ᵀΣW1‖ / (‖tr(Σ) W2W2ᵀ‖ + ‖k W1ᵀΣW1‖) in Frobenius norms, shape (...); 0 for zero weights.

    Raises:
        InvalidInput: The shapes do not fit together.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import narrow
        >>> problem = rf.Problem.from_statistics(np.eye(2), np.ones((2, 1)))   # tr Σ = 2, k = 1
        >>> [round(float(narrow.distance(W1, [[1.0]], problem)), 4) for W1 in ([[1.0], [1.0]], [[3.0], [1.0]])]
        [0.0, 0.6667]
    """
    first, second = np.asarray(W1, dtype=np.float64), np.asarray(W2, dtype=np.float64)
    force = np.linalg.norm(balance.drift(first, second, problem, _UNIT_NOISE), axis=(-2, -1))
    first_size, second_size = (np.linalg.norm(part, axis=(-2, -1)) for part in _sides(first, second, problem))
    total = first_size + second_size
    return np.divide(force, total, out=np.zeros_like(total), where=total > 0.0)


def fixed_point_distance(run: xr.Dataset | Reading, problem: Problem | None = None) -> np.ndarray:
    """Return the `distance` of every replicate at every save point, shape (replicate, time).

    From the recorded weights. Without them for whitened inputs, where norms suffice: with A = W1ᵀW1, B = W2W2ᵀ and
    ‖Q‖² = ‖A‖² + ‖B‖² − 2⟨A, B⟩ the singular values and the balance of a run determine ‖pB − kA‖ (to 1e-8 of its
    terms where it is nearly zero; for p = k it is k‖Q‖ and as accurate as that).

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: The run kept no weights and its inputs are not whitened.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import narrow
        >>> problem = rf.Problem.from_statistics(np.eye(3), np.eye(3))
        >>> method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.1)
        >>> run = rf.simulate(problem, rf.LinearNetwork.gaussian(3, 4, 3), method, duration=100.0, seed=1)
        >>> distance = narrow.fixed_point_distance(run)
        >>> bool(distance[0, 0] > 0.1), bool(distance[0, -1] < 1e-10)
        (True, True)
    """
    reading = read(run, problem)
    task = reading.problem
    if "W1" in reading.run and "W2" in reading.run:
        return np.stack([distance(first, second, task) for first, second in _weights(reading)])
    p, k = task.n_inputs, task.n_outputs
    variance = float(np.trace(task.covariance)) / p
    if np.abs(task.covariance - variance * np.eye(p)).max() > _WHITE * variance:
        raise LawNotApplicable(
            "without the weights the distance from the fixed point is known for whitened inputs only; simulate again "
            "with weights=True."
        )
    squares = [
        np.asarray(reading.run[f"singular_values_{name}"].transpose("replicate", "time", f"mode_{name}").values) ** 4
        for name in ("W1", "W2")
    ]
    first, second = (each.sum(axis=-1) for each in squares)
    imbalance = reading.values("balance")
    if p == k:
        force = k * imbalance
    else:
        both = (first + second - imbalance**2) / 2.0
        force = np.sqrt(np.maximum(p**2 * second + k**2 * first - 2.0 * p * k * both, 0.0))
    total = p * np.sqrt(second) + k * np.sqrt(first)
    return np.divide(force, total, out=np.zeros_like(total), where=total > 0.0)


def predicted_rank(problem: Problem, network: LinearNetwork) -> int:
    """Return the largest rank that Σ^{1/2}W1 and W2 can have at a fixed point of the balance reached from a start.

    Their ranks are equal there, and Z never gains rank: min(rank Σ, n_outputs, width, rank Z(0)). A layer on its own
    can gain rank (a W1 that starts at zero does), so that rank W1(0) and rank W2(0) do not count. It is a bound: where
    the teacher has a lower rank, simulations fall to that one.

    Raises:
        InvalidInput: The network is not one for this problem.
        LawNotApplicable: It has more than two layers.

    Example:
        >>> import rankfall as rf
        >>> from rankfall.laws import narrow
        >>> problem = rf.Problem.gaussian(n_samples=100, n_inputs=5, n_outputs=2, seed=0)
        >>> narrow.predicted_rank(problem, rf.LinearNetwork.gaussian(n_inputs=5, width=4, n_outputs=2))
        2
    """
    p, k, width = problem.n_inputs, problem.n_outputs, network.width
    if (network.n_inputs, network.n_outputs) != (p, k):
        raise InvalidInput(
            f"the network has {network.n_inputs} inputs and {network.n_outputs} outputs, the problem {p} and {k}."
        )
    if getattr(network, "hidden", None) is not None:
        raise LawNotApplicable("the bound is that of two layers.")
    bound = min(int((problem.eigenbasis()[0] > 0.0).sum()), k, width)
    return bound if network.start_rank is None else min(bound, network.start_rank)


def final_rank(run: xr.Dataset | Reading, problem: Problem | None = None, *, share: float = 1e-3) -> np.ndarray:
    """Return the rank of W1 at the end of a run: how many singular values exceed `share` of the largest.

    Every replicate is read at its last finite save point. Inputs that never vary (Σ singular) move no weights; where
    there are some, they are projected out of W1, for which the run must have kept its weights.

    Args:
        run: Dataset of `simulate` or `open_run`.
        problem: The problem that was simulated; the statistics kept in the run when None.
        share: Between 0 and 1; a thousandth by default.

    Returns:
        Whole numbers, shape (replicate,).

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run, or the share is not in (0, 1).
        LawNotApplicable: Σ is singular and the run kept no weights.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import narrow
        >>> problem = rf.Problem.gaussian(n_samples=100, n_inputs=4, n_outputs=1, seed=0)
        >>> method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.1)
        >>> run = rf.simulate(problem, rf.LinearNetwork.gaussian(4, 3, 1), method, duration=600.0, replicates=2)
        >>> narrow.final_rank(run)
        array([1, 1])
    """
    reading = read(run, problem)
    part = _checks.real_number(share, "share", above=0.0)
    if part >= 1.0:
        raise InvalidInput(f"share must lie between 0 and 1, got {part:g}.")
    variances, basis = reading.problem.eigenbasis()
    if (variances > 0.0).all():
        spectra = np.asarray(
            reading.run["singular_values_W1"].transpose("replicate", "time", "mode_W1").values, dtype=np.float64
        )
    elif "W1" in reading.run:
        first = reading.run["W1"].transpose("replicate", "time", "input", "hidden").values
        finite: np.ndarray = np.isfinite(first).all(axis=(-2, -1))
        seen = np.where(finite[..., None, None], first, 0.0)
        spectra = np.linalg.svd(basis[:, variances > 0.0].T @ seen, compute_uv=False)
        spectra[~finite] = np.nan
    else:
        raise LawNotApplicable("some inputs never vary; simulate with weights=True to project them out of W1.")
    known = np.asarray(np.isfinite(spectra).all(axis=-1))
    last = known.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    ends = spectra[np.arange(len(spectra)), last]
    ranks: np.ndarray = (ends > part * ends[:, :1]).sum(axis=-1)
    return ranks


def check(run: xr.Dataset | Reading, problem: Problem | None = None) -> Verdict:
    """Check Q_t − Q_0 = σ² ∫ (tr(Σ) W2W2ᵀ − k W1ᵀΣW1) dt for every replicate, from its recorded weights.

    The integral is the trapezoidal rule over the save points. Its error comes from the noise between them. Given the
    ends of an interval of length h, across which the bracket F typically changes by ΔF, a Brownian path has an integral
    of variance h²‖ΔF‖²/12; a path that has forgotten its past after a fraction of h, so that the save points are
    independent samples, contributes h²‖ΔF‖²/2. The larger is taken, with the largest change in the 21 intervals around
    for ΔF, since a single one may be small by chance; errors of different intervals add up in quadrature. The tolerance
    is four such standard deviations (ten where F is Brownian), plus the integrator's own ‖K‖dt/2 of the path and
    rounding. Smooth change is covered: the rule errs by h/12 times the difference of the first and the last ΔF.

    A save point is judged only if the tolerance is at most 2 % of ‖Q_t − Q_0‖ there, so that 5 % off in a constant
    would fail. Where that is nowhere so the verdict is undecided: take more save points.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run.
        LawNotApplicable: Not the geometric stochastic flow, no noise, or the run kept no weights.

    Example:
        >>> import rankfall as rf
        >>> from rankfall.laws import narrow
        >>> problem = rf.Problem.gaussian(n_samples=100, n_inputs=5, n_outputs=2, seed=0)
        >>> method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.05)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=5, width=4, n_outputs=2)
        >>> run = rf.simulate(problem, network, method, duration=40.0, save_points=2001, weights=True, replicates=4)
        >>> narrow.check(run).status
        'PASS'
    """
    reading = read(run, problem)
    if "depth" in reading.run.attrs:
        raise LawNotApplicable("the balance equation is integrated for two layers only.")
    method, task = reading.method, reading.problem
    if not isinstance(method, StochasticGradientFlow) or reading.is_euler or method.intensity == 0.0:
        raise LawNotApplicable(
            "the balance equation is that of the stochastic flow with noise, followed by the geometric integrator."
        )
    if "W1" not in reading.run or "W2" not in reading.run:
        raise LawNotApplicable("the integral of the balance equation needs the weights; simulate with weights=True.")
    lengths = np.diff(reading.times)
    predicted, measured, error, path, spread = (np.zeros((len(reading.outcomes), len(reading.times))) for _ in range(5))
    for index, (first, second) in enumerate(_weights(reading)):
        force = balance.drift(first, second, task, method)
        imbalance = np.swapaxes(first, -1, -2) @ first - second @ np.swapaxes(second, -1, -2)
        integral = np.cumsum(lengths[:, None, None] * (force[1:] + force[:-1]) / 2.0, axis=0)
        change = imbalance - imbalance[0]
        measured[index], predicted[index, 1:] = _norm(change), _norm(integral)
        error[index, 1:] = _norm(change[1:] - integral)
        path[index, 1:] = np.cumsum(lengths * (_norm(force[1:]) + _norm(force[:-1])) / 2.0)
        steps = np.nan_to_num(_norm(np.diff(force, axis=0)))  # after a divergence nothing is judged
        steps = scipy.ndimage.maximum_filter1d(steps, 2 * _NEIGHBOURS + 1, mode="nearest")
        spread[index, 1:] = np.sqrt(np.cumsum((lengths * steps) ** 2) / 2.0)
        measured[index, ~np.isfinite(imbalance).all(axis=(-2, -1))] = np.nan
    trace, top = float(np.trace(task.covariance)), float(task.eigenbasis()[0][-1])
    damping = method.intensity * max(task.n_outputs * top, trace)
    bias = damping * float(reading.run.attrs.get("step_length", 0.0)) / 2.0
    tolerance = _DEVIATIONS * spread + bias * path + _rounding.balance_spread(*reading.rounding)
    return judge(
        reading,
        "balance equation",
        "Q_t − Q_0 = σ²∫(tr(Σ)·W2W2ᵀ − k·W1ᵀΣW1)dt",
        predicted=predicted,
        measured=measured,
        error=error,
        tolerance=tolerance,
        resolution=_SHARP * measured,
        hint=reading.increment_note(),
        blind_words="save points too far apart",
    )


def _weights(reading: Reading) -> list[tuple[np.ndarray, np.ndarray]]:
    """W1 (time, p, l) and W2 (time, l, k) of each replicate."""
    first = reading.run["W1"].transpose("replicate", "time", "input", "hidden").values
    second = reading.run["W2"].transpose("replicate", "time", "hidden", "output").values
    return list(zip(first, second, strict=True))


def _sides(W1: np.ndarray, W2: np.ndarray, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """k W1ᵀΣW1 and tr(Σ) W2W2ᵀ."""
    spread = problem.n_outputs * (np.swapaxes(W1, -1, -2) @ problem.covariance @ W1)
    return spread, float(np.trace(problem.covariance)) * (W2 @ np.swapaxes(W2, -1, -2))


def _norm(matrices: np.ndarray) -> np.ndarray:
    norms: np.ndarray = np.linalg.norm(matrices, axis=(-2, -1))
    return norms
