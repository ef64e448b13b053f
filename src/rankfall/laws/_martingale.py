"""Whether an ensemble's log eigenvalues move as the law says: a statistical test of drift and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import chi2

from rankfall.errors import LawNotApplicable

__all__ = ["Martingale", "martingale", "residuals"]


@dataclass(frozen=True, eq=False)
class Martingale:
    """What `martingale` found.

    Attributes:
        drift_p: p-value of "what the drift leaves has mean zero".
        covariance_p: p-value of "its products are the predicted covariance".
        mean: Mean over replicates of X_i at the end of the run, shape (mode,).
        mean_error: Its standard error.
        measured: Mean over replicates of Σ w_i w_j ΔX_i ΔX_j, shape (mode, mode).
        predicted: Mean of Σ w_i w_j ∫ cov_ij dt.
        used: Share of the intervals that counted, by mode.
        n_replicates: Replicates used.
    """

    drift_p: float
    covariance_p: float
    mean: np.ndarray
    mean_error: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    used: np.ndarray
    n_replicates: int


def residuals(parts: xr.Dataset, *, separation: float = 8.0) -> xr.Dataset:
    r"""Return what the predicted drift and covariance leave of each trajectory's increments.

    With ΔX = Δs − ∫ drift dt over a save interval (trapezoidal rule: dense save points are needed), both
    X_i = Σ w_i ΔX_i and D_ij = Σ w_i w_j (ΔX_iΔX_j − ∫ cov_ij dt) have mean zero whatever the start, for any weights w
    that are known when the interval begins. They are 1 where mode i stands apart from its neighbours j then, by more
    than `separation` times what the noise does to the gap in the interval, √((cov_ii + cov_jj − 2 cov_ij + 4 n_ij) Δt),
    and 0 elsewhere: next to a collision the drift grows without bound, and no rule integrates it from its ends.

    Args:
        parts: Dataset of `decompose`.
        separation: How far apart two modes must be, in standard deviations.

    Returns:
        Dataset over replicate: `total` X_i (…, mode), `measured` Σ w_i w_j ΔX_iΔX_j and `predicted`
        Σ w_i w_j ∫ cov_ij dt (…, mode, mode), `used` (…, mode), the share of the intervals with weight 1. Where the
        modes are complete the last is left out, since their sum has no noise.

    Raises:
        LawNotApplicable: Too few modes or save points, or modes that diverged or fell below rounding.
    """
    modes = parts.sizes["mode_Z"] - int(parts.attrs.get("complete", 0))
    times = parts["time"].values
    if times.size < 2 or modes < 1:
        raise LawNotApplicable(
            f"the martingale test needs two save points and two modes, got {times.size} and {parts.sizes['mode_Z']}."
        )
    logs, drift = (parts[name].values[..., :modes] for name in ("log_eigenvalues", "drift"))
    covariance = parts["covariance"].values[..., :modes, :modes]
    if not (np.isfinite(logs).all() and np.isfinite(drift).all() and np.isfinite(covariance).all()):
        raise LawNotApplicable(
            "some modes diverged or fell below 1e-14 of the largest: leaving them out would bias the test; take the "
            "run up to an earlier time."
        )
    steps = np.diff(times)
    counted = _apart(parts, steps, separation)[..., :modes]
    change = np.diff(logs, axis=1) - 0.5 * (drift[:, 1:] + drift[:, :-1]) * steps[:, None]
    change = np.where(counted, change, 0.0)
    weights = 0.5 * steps[:, None, None] * (counted[..., None] & counted[..., None, :])
    pair = ("replicate", "mode", "mode_other")
    return xr.Dataset(
        {
            "total": (("replicate", "mode"), change.sum(axis=1)),
            "measured": (pair, np.matmul(change.swapaxes(1, 2), change)),
            "predicted": (pair, ((covariance[:, 1:] + covariance[:, :-1]) * weights).sum(axis=1)),
            "used": (("replicate", "mode"), counted.mean(axis=1)),
        }
    )


def martingale(parts: xr.Dataset, *, separation: float = 8.0) -> Martingale:
    r"""Test that log λ minus its integrated drift is a martingale with the predicted covariance.

    The residuals X and D of `residuals` are tested to have mean zero over the independent replicates, by R x̄ᵀS⁻¹x̄, S
    the sample's second moment (Hotelling, "The generalization of Student's ratio", Ann. Math. Stat. 2, 1931), against
    its limit χ².

    Args:
        parts: Dataset of `decompose`, or of `residuals` (joined along the replicates where the ensemble is computed in
            slabs), with many more replicates than modes².
        separation: See `residuals`.

    Raises:
        LawNotApplicable: Too few replicates, modes or save points, or modes that diverged or fell below rounding.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=50, n_inputs=2, n_outputs=1, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=2, width=3, n_outputs=1)
        >>> method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.1)
        >>> run = rf.simulate(problem, network, method, duration=0.2, dt=0.001, save_points=101, replicates=200,
        ...                   observables=["eigenvalue_forces"])
        >>> found = rf.laws.eigenvalues.martingale(rf.laws.eigenvalues.decompose(run))
        >>> found.drift_p > 1e-4, found.covariance_p > 1e-4
        (True, True)
    """
    left = parts if "total" in parts else residuals(parts, separation=separation)
    total, measured, predicted = (left[name].values for name in ("total", "measured", "predicted"))
    replicates, modes = total.shape
    needed = 2 * modes * (modes + 1)
    if replicates < needed:
        raise LawNotApplicable(
            f"the martingale test of {modes} modes needs at least {needed} replicates, got {replicates}."
        )
    row, column = np.triu_indices(modes)
    return Martingale(
        drift_p=_mean_is_zero(total),
        covariance_p=_mean_is_zero((measured - predicted)[:, row, column]),
        mean=total.mean(axis=0),
        mean_error=total.std(axis=0) / np.sqrt(replicates),
        measured=measured.mean(axis=0),
        predicted=predicted.mean(axis=0),
        used=left["used"].values.mean(axis=0),
        n_replicates=replicates,
    )


def _apart(parts: xr.Dataset, steps: np.ndarray, separation: float) -> np.ndarray:
    """Whether modes stand apart from their neighbours when an interval begins, shape (replicate, interval, mode)."""
    logs, rates, covariance = (parts[name].values[:, :-1] for name in ("log_eigenvalues", "rates", "covariance"))
    own = np.diagonal(covariance, axis1=-2, axis2=-1)
    beside, between = (np.diagonal(matrices, 1, -2, -1) for matrices in (covariance, rates))
    spread = np.maximum(own[..., 1:] + own[..., :-1] - 2.0 * beside, 0.0) + 4.0 * between
    wide = logs[..., :-1] - logs[..., 1:] > separation * np.sqrt(spread * steps[:, None])
    apart = np.ones(logs.shape, dtype=bool)
    apart[..., :-1] &= wide
    apart[..., 1:] &= wide
    return apart


def _mean_is_zero(sample: np.ndarray) -> float:
    """p-value of a sample (replicate, variable) having mean zero."""
    count, size = sample.shape
    scale = np.sqrt((sample * sample).mean(axis=0))
    scaled = sample / np.where(scale > 0.0, scale, 1.0)
    mean = scaled.mean(axis=0)
    statistic = count * float(mean @ np.linalg.pinv(scaled.T @ scaled / count, hermitian=True) @ mean)
    return float(chi2.sf(statistic, size))
