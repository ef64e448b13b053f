"""Lyapunov spectra: `simulate` with a frame beside the network, and the statistics of its growth."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall import _checks
from rankfall._plan import NoisePrecision
from rankfall._progress import ProgressCallback
from rankfall._simulate import simulate
from rankfall.errors import InvalidInput, SimulationInterrupted
from rankfall.methods import Flow, GradientFlow, Method, StochasticGradientFlow
from rankfall.network import LinearNetwork
from rankfall.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws.lyapunov import FinalRank

__all__ = ["Spectrum", "batch_ends", "lyapunov_spectrum", "spectrum_of"]

# From so many replicates on, their spread is the better measure of the error than the batches in time.
_ENOUGH_REPLICATES = 8


def lyapunov_spectrum(
    problem: Problem,
    network: LinearNetwork,
    method: Method,
    *,
    duration: float | None = None,
    steps: int | None = None,
    dt: float | None = None,
    replicates: int = 16,
    seed: int = 0,
    burn_in: float = 0.2,
    batches: int = 20,
    noise_precision: NoisePrecision = "single",
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Measure how fast every singular value of Z = [W1; W2ᵀ] dies, and how many survive.

    The steps of a run multiply Z from the left; the p + k Lyapunov exponents of these products are
    μ_i = lim log σ_i(Z_t)/t. They are measured with a frame of p + k orthonormal columns that moves beside the network
    and is re-orthonormalised every 16 steps, μ_i = Σ log R_ii / t (Benettin et al., Meccanica 15, 1980): without limit
    in time, since nothing underflows. The networks themselves move exactly as in `simulate` with the same seed.

    Args:
        problem: What is learned.
        network: Widths and start; also narrow networks have all p + k exponents.
        method: `StochasticGradientFlow`, or a descent; `GradientFlow` has no exponents but zero.
        duration: Length of the run in flow time. The rates are of the order of σ² tr Σ: take some hundred times its
            inverse.
        steps: Length in steps, for descents, in place of the duration.
        dt: Time step of the flow, as in `simulate`.
        replicates: Independent trajectories.
        seed: Whole number in [0, 2^64).
        burn_in: Share of the run, in [0, 1), that is left out at its beginning, while the start is being forgotten.
        batches: Parts of equal length into which the rest is cut, at least 2.
        noise_precision: As in `simulate`.
        threads: As in `simulate`.
        progress: As in `simulate`.
        checkpoint: As in `simulate`.

    Returns:
        The run, as `simulate` gives it at the ends of the batches, and with it, per unit of time: `exponents` (mode),
        descending, and `standard_error` (mode), from the spread of the replicates, or from all batches if there are
        fewer than 8 replicates; `replicate_exponents` (replicate, mode); `batch_exponents` (replicate, batch, mode).
        Replicates that diverged are left out. Attributes: `final_rank`, the number of exponents that are compatible
        with zero (−1 if undecided), `final_rank_lowest`, `final_rank_highest` and `final_rank_note`, see
        `laws.lyapunov.final_rank`; `sum_rule_error`, the largest distance from the exact sum relative to it.

    Raises:
        InvalidInput: An argument is unusable; nothing was computed.
        OutputError: The checkpoint's folder cannot be written.
        SimulationInterrupted: Ctrl-C; carries the spectrum of the finished batches and the checkpoint.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=1000, n_inputs=3, n_outputs=1, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=3, width=4, n_outputs=1)
        >>> method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.1)
        >>> found = rf.lyapunov_spectrum(problem, network, method, duration=4000.0, seed=1)
        >>> found.attrs["final_rank"], found.exponents.shape
        (1, (4,))
        >>> print(rf.laws.lyapunov.check(found)[0].status)
        PASS
    """
    if isinstance(method, GradientFlow):
        raise InvalidInput("gradient flow conserves det M and all its exponents are zero; use StochasticGradientFlow.")
    if isinstance(network, LinearNetwork) and network.depth > 2:
        raise InvalidInput(
            f"Lyapunov spectra are measured for two layers, the network has {network.depth}; simulate it and look at "
            "the slopes of log singular_values_W1, …"
        )
    if steps is not None and duration is not None:
        raise InvalidInput("give duration or steps, not both.")
    if steps is None and duration is None:
        raise InvalidInput("give the duration of the run, or the steps of a descent.")
    points = batch_ends(_length(method, duration, steps), burn_in, batches)
    share = float(burn_in)
    exact = isinstance(method, StochasticGradientFlow) and method.integrator == "geometric"
    arguments: dict[str, Any] = {"duration": duration, "steps": steps, "dt": dt}
    try:
        run = simulate(
            problem,
            network,
            method,
            **arguments,
            replicates=replicates,
            seed=seed,
            save_points=points.tolist(),
            observables=["log_growth"],
            ledger="none" if exact else "determinant",
            noise_precision=noise_precision,
            threads=threads,
            progress=progress,
            checkpoint=checkpoint,
        )
    except SimulationInterrupted as stop:
        raise SimulationInterrupted(str(stop), _with_spectrum(stop.run, share), stop.checkpoint) from None
    return _with_spectrum(run, share)


def batch_ends(length: float, burn_in: float, batches: int) -> np.ndarray:
    """The times between which the growth of the frame is measured, for a run of this length."""
    parts = _checks.whole_number(batches, "batches", at_least=2)
    share = _checks.real_number(burn_in, "burn_in", at_least=0.0)
    if not share < 1.0:
        raise InvalidInput(f"burn_in must be a share of the run in [0, 1), got {share:g}.")
    return length * np.linspace(share, 1.0, parts + 1)


def _length(method: Method, duration: float | None, steps: int | None) -> float:
    """The end of the run; what is wrong with the method is for `simulate` to say."""
    if steps is None:
        return _checks.real_number(duration, "duration", above=0.0)
    if isinstance(method, Flow):
        raise InvalidInput("a flow has no steps; give its duration (and dt, the time step, if you must).")
    return _checks.whole_number(steps, "steps") * float(getattr(method, "step_size", 1.0))


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Statistics of the growth of a frame, modes in descending order of their exponents.

    Attributes:
        exponents: μ, shape (mode,).
        errors: Their standard errors.
        freedom: Degrees of freedom of these.
        each: Exponents of each replicate, (replicate, mode).
        slopes: Exponents of each batch, (replicate, batch, mode).
        found: How many survive.
        rank: Their number, −1 if undecided or nothing was measured.
    """

    exponents: np.ndarray
    errors: np.ndarray
    freedom: int
    each: np.ndarray
    slopes: np.ndarray
    found: FinalRank
    rank: int


def spectrum_of(growth: np.ndarray, time: np.ndarray) -> Spectrum:
    """The Lyapunov spectrum from log R_ii (replicate, time, mode) at the ends of the batches."""
    from rankfall.laws import lyapunov

    _, saved, n = growth.shape
    count = len(growth)
    with np.errstate(invalid="ignore"):
        slopes = np.diff(growth, axis=1) / np.diff(time)[None, :, None]
    each = (growth[:, -1] - growth[:, 0]) / (time[-1] - time[0]) if saved > 1 else np.full((count, n), np.nan)
    kept = np.isfinite(each).all(axis=1)
    exponents, errors, freedom = _summary(each[kept], slopes[kept])
    # The frame orders the modes by their rates but for noise between equal ones.
    order = np.argsort(-exponents, kind="stable")
    span = float(time[-1] - time[0])
    found = lyapunov.final_rank(
        exponents[order],
        errors[order],
        span=span if span > 0.0 else np.finfo(float).tiny,
        replicates=max(1, int(kept.sum())),
        degrees_of_freedom=max(freedom, 1),
    )
    rank = -1 if found.rank is None or not kept.any() else found.rank
    return Spectrum(exponents[order], errors[order], freedom, each[:, order], slopes[:, :, order], found, rank)


def _with_spectrum(run: xr.Dataset, burn_in: float) -> xr.Dataset:
    """Add exponents, errors and attributes to a run that recorded `log_growth`."""
    growth = run["log_growth"].values
    spectrum = spectrum_of(growth, run["time"].values)
    found = spectrum.found
    words = {"long_name": "Lyapunov exponents", "formula": "μ_i = Σ log R_ii / t, per unit of time"}
    result = run.assign(
        exponents=("mode", spectrum.exponents, words),
        standard_error=("mode", spectrum.errors, {"long_name": "standard error of the exponents"}),
        replicate_exponents=(("replicate", "mode"), spectrum.each, {"long_name": "exponents of each replicate"}),
        batch_exponents=(("replicate", "batch", "mode"), spectrum.slopes, {"long_name": "exponents of each batch"}),
    ).assign_coords(batch=np.arange(1, growth.shape[1]))
    return result.assign_attrs(
        title=f"rankfall Lyapunov spectrum of {run.attrs['method']}",
        burn_in=burn_in,
        degrees_of_freedom=spectrum.freedom,
        final_rank=spectrum.rank,
        final_rank_lowest=found.lowest,
        final_rank_highest=found.highest,
        final_rank_note=found.note,
        sum_rule_error=_sum_rule_error(run, growth),
    )


def _summary(each: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean exponents, their standard errors, and the degrees of freedom of these."""
    count, n = each.shape
    batches = slopes.shape[1]
    if count == 0:
        return np.full(n, np.nan), np.full(n, np.nan), 0
    if count >= _ENOUGH_REPLICATES:
        return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(count), count - 1
    if count * batches < 2:
        return each.mean(axis=0), np.full(n, np.nan), 0
    flat = slopes.reshape(-1, n)
    return each.mean(axis=0), flat.std(axis=0, ddof=1) / np.sqrt(len(flat)), len(flat) - 1


def _sum_rule_error(run: xr.Dataset, growth: np.ndarray) -> float:
    """Largest |Σ log R_ii − predicted| over replicates at their last save point, relative to the prediction."""
    from rankfall import laws, runs

    measured = growth[:, -1].sum(axis=-1)
    if "ledger_log_det" in run:
        predicted = 0.5 * run["ledger_log_det"].values[:, -1]
    else:
        rate = laws.lyapunov.predicted_sum(runs.problem_of(run), runs.method_of(run))
        predicted = np.full(len(measured), rate * float(run["time"].values[-1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.abs(measured - predicted) / np.abs(predicted)
    return float(np.nanmax(errors)) if np.isfinite(errors).any() else float("nan")
