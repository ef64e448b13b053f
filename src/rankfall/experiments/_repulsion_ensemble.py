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
_DURATION, _INTERVALS, _STEPS_PER_INTERVAL = 0.5, 50, 64
# The eigenvalues on their own cost more a step, and are compared at the end only.
_STEPS_OF_PROCESS = 800
_INTENSITY = 0.5
_SLAB = 4000
_EDGES = np.array([0.3, 0.45, 0.65, 0.9, 1.2, 1.55, 1.95, 2.4, 2.9, 3.5, 4.2, 5.0])
# A bin of gaps is measured where the noise of one interval moves a gap by less than a quarter of it.
_NOISE_SHARE = 0.25


def measure(settings: Settings, work: Work) -> xr.Dataset:
    """Simulate the ensemble, test the martingale, measure the repulsion by the gap and compare with the process.

    Trajectories start from independent Gaussian weights with 2 inputs, 2 outputs and 4 hidden units. They are computed
    in slabs, of which only each trajectory's sums are kept.
    """
    given = rf.Problem.gaussian(settings.n_samples, 2, 2, seed=settings.seed)
    problem = rf.Problem.from_statistics(given.covariance, 0.3 * given.cross_covariance)
    network = rf.LinearNetwork.gaussian(2, 4, 2, 0.7)
    method = rf.StochasticGradientFlow(_INTENSITY, 1.0)
    options: dict[str, Any] = {
        "duration": _DURATION,
        "threads": work.threads,
        "progress": work.progress,
    }
    kept: dict[str, list[xr.Dataset]] = {"as predicted": [], "stronger": [], "larger": []}
    sums, ends = [], []
    try:
        for slab, begin in enumerate(range(0, settings.ensemble, _SLAB)):
            run = rf.simulate(
                problem,
                network,
                method,
                dt=_DURATION / (_INTERVALS * _STEPS_PER_INTERVAL),
                replicates=min(_SLAB, settings.ensemble - begin),
                seed=(settings.seed + 1 + slab) % 2**64,
                save_points=_INTERVALS + 1,
                observables=["eigenvalue_forces"],
                ledger="none",
                **options,
            )
            parts = eigenvalues.decompose(run)
            variants = (
                parts,
                parts.assign(drift=parts["drift"] + 0.2 * parts["repulsion"]),
                parts.assign(covariance=1.05 * parts["covariance"]),
            )
            for residuals, each in zip(kept.values(), variants, strict=True):
                residuals.append(eigenvalues.residuals(each))
            sums.append(_sums_by_gap(parts))
            ends.append(parts["log_eigenvalues"].values[:, -1])
        own = rf.eigenvalue_process(
            problem,
            network,
            method,
            dt=_DURATION / _STEPS_OF_PROCESS,
            replicates=settings.ensemble,
            seed=settings.seed,
            save_points=2,
            **options,
        )
    except rf.SimulationInterrupted:
        raise KeyboardInterrupt from None  # a part of an ensemble is no result
    found, stronger, larger = (
        eigenvalues.martingale(xr.concat(each, "replicate", data_vars="all")) for each in kept.values()
    )
    theirs, ours = np.concatenate(ends), own["log_eigenvalues"].values[:, -1]
    pushed, error, centre = _push(np.concatenate(sums, axis=1))
    return xr.Dataset(
        {
            "gap": ("bin", centre, {"long_name": "log λ_i − log λ_j of neighbours"}),
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
            "drift_p_wrong": stronger.drift_p,
            "covariance_p_wrong": larger.covariance_p,
            "replicates": settings.ensemble,
            "seed": settings.seed,
        },
    )


def _sums_by_gap(parts: xr.Dataset) -> np.ndarray:
    """Sums over the intervals of each trajectory, by the gap of neighbours when an interval begins.

    Returns shape (3, replicate, bin): what drives them apart, Δ(s_i − s_j) less all other forces; 4 n_ij Δt; and that
    times coth(gap/2).
    """
    steps = np.diff(parts["time"].values)
    logs, drift = parts["log_eigenvalues"].values, parts["drift"].values
    rates, pairs, beside = (np.diagonal(parts[name].values, 1, -2, -1) for name in ("rates", "pairs", "covariance"))
    own = np.diagonal(parts["covariance"].values, axis1=-2, axis2=-1)
    gap = logs[..., :-1] - logs[..., 1:]
    others = drift[..., :-1] - drift[..., 1:] - 2.0 * pairs
    left = np.diff(gap, axis=1) - 0.5 * (others[:, 1:] + others[:, :-1]) * steps[:, None]
    unit = 2.0 * (rates[:, 1:] + rates[:, :-1]) * steps[:, None]
    begin = gap[:, :-1]
    noise = np.sqrt(np.maximum(own[..., :-1] + own[..., 1:] - 2.0 * beside, 0.0)[:, :-1] * steps[:, None])
    # neighbours of the pair must stand apart as well: next to a collision no rule integrates their push
    clear = np.pad(begin > noise / _NOISE_SHARE, ((0, 0), (0, 0), (1, 1)), constant_values=True)
    counted = clear[..., :-2] & clear[..., 1:-1] & clear[..., 2:]
    sums = np.zeros((3, len(logs), len(_EDGES) - 1))
    for i in range(len(_EDGES) - 1):
        here = counted & (begin >= _EDGES[i]) & (begin < _EDGES[i + 1])
        for row, values in enumerate((left, unit, unit / np.tanh(0.5 * begin))):
            sums[row, :, i] = np.where(here, values, 0.0).sum(axis=(1, 2))
    return sums


def _push(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The repulsion in units of 4n by bin, its standard error, and the gap at which the coth has its mean there.

    A ratio of sums over the replicates, which are independent; its error by the delta method.
    """
    above, below, curve = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        pushed = above.sum(axis=0) / below.sum(axis=0)
        error = np.sqrt(np.sum((above - pushed * below) ** 2, axis=0)) / below.sum(axis=0)
        centre = 2.0 * np.arctanh(below.sum(axis=0) / curve.sum(axis=0))
    return pushed, error, centre
