"""An ensemble dense enough in time to measure drift, covariance and repulsion, kept as a few numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.stats import ks_2samp

import rankfall as rf
from rankfall.experiments._target import Work
from rankfall.laws import eigenvalues

if TYPE_CHECKING:
    from rankfall.experiments.repulsion import Settings

__all__ = ["measure"]

# Small networks with strong noise: the forces must be seen above the noise within a short time.
_DURATION, _INTERVALS, _STEPS_PER_INTERVAL = 0.5, 50, 16
_INTENSITY = 0.5
_EDGES = np.array([0.3, 0.45, 0.65, 0.9, 1.2, 1.55, 1.95, 2.4, 2.9, 3.5, 4.2, 5.0])
# A bin of gaps is measured where the noise of one interval moves a gap by less than a quarter of it.
_NOISE_SHARE = 0.25


def measure(settings: Settings, work: Work) -> xr.Dataset:
    """Simulate the ensemble, test the martingale, measure the repulsion by the gap and compare with the process.

    Trajectories start from independent Gaussian weights with 2 inputs, 2 outputs and 4 hidden units. They are computed in
    slabs, of which only sums are kept.
    """
    problem = rf.Problem.gaussian(settings.n_samples, 2, 2, seed=settings.seed)
    problem = rf.Problem.from_statistics(problem.covariance, 0.3 * problem.cross_covariance)
    network = rf.LinearNetwork.gaussian(2, 4, 2, 0.7)
    method = rf.StochasticGradientFlow(_INTENSITY, 1.0)
    dt = _DURATION / (_INTERVALS * _STEPS_PER_INTERVAL)
    options: dict[str, Any] = {
        "duration": _DURATION,
        "dt": dt,
        "replicates": settings.ensemble,
        "threads": work.threads,
        "progress": work.progress,
    }
    run = rf.simulate(
        problem,
        network,
        method,
        seed=settings.seed + 1,
        save_points=_INTERVALS + 1,
        observables=["eigenvalue_forces"],
        ledger="none",
        **options,
    )
    parts = eigenvalues.decompose(run)
    found = eigenvalues.martingale(parts)
    stronger = parts.assign(drift=parts["drift"] + 0.05 * parts["repulsion"])
    larger = parts.assign(covariance=1.05 * parts["covariance"])
    own = rf.eigenvalue_process(problem, network, method, seed=settings.seed + 2, save_points=2, **options)
    theirs, ours = (each["log_eigenvalues"].values[:, -1] for each in (parts, own))
    pushed, error, centre = _push_by_gap(parts)
    return xr.Dataset(
        {
            "gap": ("bin", centre),
            "push": ("bin", pushed, {"long_name": "repulsion in units of 4n"}),
            "push_error": ("bin", error, {"long_name": "its standard error"}),
            "residual_mean": ("mode", found.mean),
            "residual_error": ("mode", found.mean_error),
            "covariance_measured": (("mode", "mode_other"), found.measured),
            "covariance_predicted": (("mode", "mode_other"), found.predicted),
            "agreement_p": ("mode_Z", [float(ks_2samp(ours[:, i], theirs[:, i]).pvalue) for i in range(ours.shape[1])]),
        },
        attrs={
            "drift_p": found.drift_p,
            "covariance_p": found.covariance_p,
            "drift_p_wrong": eigenvalues.martingale(stronger).drift_p,
            "covariance_p_wrong": eigenvalues.martingale(larger).covariance_p,
            "replicates": settings.ensemble,
            "seed": settings.seed,
        },
    )


def _push_by_gap(parts: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What drives neighbours apart, Δ(s_i − s_j) less all other forces, over 4 n_ij Δt: mean, its error, mean gap.

    By the gap when the interval begins. Means are ratios of sums over the replicates, errors by the delta method from
    the replicates, which are independent.
    """
    steps = np.diff(parts["time"].values)
    logs, drift = parts["log_eigenvalues"].values, parts["drift"].values
    upper = [np.diagonal(parts[name].values, 1, -2, -1) for name in ("rates", "pairs", "covariance")]
    rates, pairs, beside = upper
    own = np.diagonal(parts["covariance"].values, axis1=-2, axis2=-1)
    gap = logs[..., :-1] - logs[..., 1:]
    others = drift[..., :-1] - drift[..., 1:] - 2.0 * pairs
    left = np.diff(gap, axis=1) - 0.5 * (others[:, 1:] + others[:, :-1]) * steps[:, None]
    unit = 4.0 * 0.5 * (rates[:, 1:] + rates[:, :-1]) * steps[:, None]
    begin = gap[:, :-1]
    noise = np.sqrt(np.maximum(own[..., :-1] + own[..., 1:] - 2.0 * beside, 0.0)[:, :-1] * steps[:, None])
    # neighbours of the pair must stand apart as well: next to a collision no rule integrates their push
    clear = np.pad(begin > noise / _NOISE_SHARE, ((0, 0), (0, 0), (1, 1)), constant_values=True)
    counted = clear[..., :-2] & clear[..., 1:-1] & clear[..., 2:]
    pushed, error, centre = (np.full(len(_EDGES) - 1, np.nan) for _ in range(3))
    for i in range(len(pushed)):
        here = counted & (begin >= _EDGES[i]) & (begin < _EDGES[i + 1])
        above = np.where(here, left, 0.0).sum(axis=(1, 2))
        below = np.where(here, unit, 0.0).sum(axis=(1, 2))
        if not below.sum() > 0.0:
            continue
        pushed[i] = above.sum() / below.sum()
        error[i] = np.sqrt(np.sum((above - pushed[i] * below) ** 2)) / below.sum()
        # where on the curve: the gap at which coth is the mean of its values
        curve = np.where(here, unit / np.tanh(0.5 * begin), 0.0).sum() / below.sum()
        centre[i] = 2.0 * np.arctanh(1.0 / curve)
    return pushed, error, centre
