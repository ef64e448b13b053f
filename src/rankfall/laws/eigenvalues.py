r"""The law of the eigenvalues of M = ZZᵀ, and the repulsion in it that makes the rank fall.

M = UΛUᵀ with u_i = [a_i; b_i] and s_i = log λ_i. Along the stochastic gradient flow dZ = Ĝ Z dt + dN̂ Z

    ds_i = [ 2 u_iᵀĜu_i − u_iᵀKu_i + Σ_{j≠i} 2 n_ij coth((s_i − s_j)/2) ] dt + 2 u_iᵀdN̂u_i ,

    n_ij = E[(u_iᵀdN̂u_j)²]/dt = σ² ‖(L_Σᵀa_i) b_jᵀ + (L_Σᵀa_j) b_iᵀ‖²_F ,   Σ_j n_ij = u_iᵀKu_i .

The drift is split so that each part has a sum of its own, over a complete set of modes (width ≥ p + k):

- *gradient*, 2 u_iᵀĜu_i: sums to 0, as tr Ĝ = 0; it moves weight between the modes;
- *noise*, −u_iᵀKu_i, which collects the −1 of (λ_i + 3λ_j)/(λ_i − λ_j) = −1 + 2 coth((s_i − s_j)/2) and −n_ii: sums to
  −tr K = −2kσ² tr Σ, the decay of log det M; it pulls every mode down;
- *repulsion*, from each pair 2 n_ij coth((s_i − s_j)/2), antisymmetric: sums to 0; the larger of two eigenvalues goes
  up and the smaller down, at a rate that stays at 2 n_ij however far apart they are.

It is the Itô form of ds_i = 2 u_iᵀ∘dA u_i with dA = (Ĝ − K/2) dt + dN̂: the repulsion is what the turning of the
eigenvectors, u_jᵀ∘du_i = coth((s_i − s_j)/2) u_jᵀ∘dA u_i, makes of the noise. The same mechanism drives Dyson's
Brownian motion (Dyson, "A Brownian-motion model for the eigenvalues of a random matrix", J. Math. Phys. 3, 1962) and
Bru's Wishart processes ("Diffusions of perturbed principal component analysis", J. Multivariate Anal. 29, 1989).

Below the width p + k, M has eigenvalues that are zero at all times. Each repels with coth = 1 (λ_i/λ_i), so that the l
others feel Σ 2 n_ij over them on top, whichever basis of the null space is meant: `Forces.zero_modes`. Where σ_i(Z) has
fallen below 1e-14 σ_1(Z) the vector of mode i is rounding noise: its numbers are NaN; what it does to the resolved
modes is kept. Above that a vector is accurate to about 1e-16 σ_1/σ_i.

Descents with label noise follow this law in the limit of small steps, with σ² = η δ/b and −2λ for the weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from rankfall import _eigen
from rankfall._diffusion import diffusion
from rankfall.errors import InvalidInput, LawNotApplicable
from rankfall.laws._martingale import Martingale, martingale, residuals
from rankfall.laws._reading import Reading, read
from rankfall.methods import Method
from rankfall.problem import Problem

__all__ = ["Forces", "Martingale", "decompose", "forces", "martingale", "residuals"]

# Weights are decomposed in slabs of about this many numbers.
_SLAB = 1 << 22
_RECORDED = (
    "force_gradient",
    "force_noise",
    "force_pairs",
    "force_zero_modes",
    "noise_rates",
    "eigenvalue_covariance",
)


@dataclass(frozen=True, eq=False)
class Forces:
    """The drift of s_i = log λ_i in its parts; shapes (..., mode), pairs (..., mode, mode), modes descending.

    Attributes:
        log_eigenvalues: s_i.
        gradient: 2 u_iᵀĜu_i.
        noise: −u_iᵀKu_i.
        pairs: 2 n_ij coth((s_i − s_j)/2), the push that mode j gives mode i.
        zero_modes: The push of the eigenvalues that are zero at all times; 0 for width ≥ p + k.
        decay: −2λ, from the weight decay of a descent.
        rates: n_ij.
        covariance: Of the martingales 2 u_iᵀdN̂u_i per time, 16 σ² (a_iᵀΣa_j)(b_iᵀb_j); 4 n_ii on the diagonal.
    """

    log_eigenvalues: np.ndarray
    gradient: np.ndarray
    noise: np.ndarray
    pairs: np.ndarray
    zero_modes: np.ndarray
    decay: float
    rates: np.ndarray
    covariance: np.ndarray

    @property
    def repulsion(self) -> np.ndarray:
        """What all other modes together push mode i, shape (..., mode)."""
        total: np.ndarray = self.pairs.sum(axis=-1) + self.zero_modes
        return total

    @property
    def drift(self) -> np.ndarray:
        """The drift of s_i, shape (..., mode)."""
        total: np.ndarray = self.gradient + self.noise + self.repulsion + self.decay
        return total


def forces(W1: Any, W2: Any, problem: Problem, method: Method) -> Forces:
    """Return drift and covariance of the log eigenvalues of M at given weights, in parts.

    Args:
        W1: Shape (..., n_inputs, width), e.g. all replicates and times of a run.
        W2: Shape (..., width, n_outputs).
        problem: Gives Σ and C.
        method: Gives σ²: a flow, or a descent for the limit of small steps.

    Returns:
        min(p + k, width) modes; NaN for the modes below 1e-14 σ_1(Z).

    Raises:
        InvalidInput: The shapes do not fit, the weights are not finite, or the method has no such diffusion.

    Example:
        One input, one output and two hidden units, one for each: the noise −0.1 pulls both modes down, the repulsion
        2 · 0.1 · (1 + ¼)/(1 − ¼) lifts the larger and sinks the smaller.

        >>> import numpy as np, rankfall as rf
        >>> problem = rf.Problem.from_statistics(np.eye(1), np.ones((1, 1)))
        >>> method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.1)
        >>> force = rf.laws.eigenvalues.forces([[1.0, 0.0]], [[0.0], [0.5]], problem, method)
        >>> np.exp(force.log_eigenvalues), force.noise.round(4), force.repulsion.round(4)
        (array([1.  , 0.25]), array([-0.1, -0.1]), array([ 0.3333, -0.3333]))
    """
    first, second = _weights(W1, W2, problem)
    intensity, decay = diffusion(problem, method)
    variances, basis = problem.eigenbasis()
    z = np.concatenate([basis.T @ first, np.swapaxes(second, -1, -2)], axis=-2)
    cross = variances[:, None] * (basis.T @ problem.solution)
    values, parts = _eigen.decompose(z, variances, cross, intensity, complete=z.shape[-1] >= z.shape[-2])
    with np.errstate(divide="ignore"):
        return Forces(2.0 * np.log(values), *parts[:4], -2.0 * decay, *parts[4:])


def decompose(run: xr.Dataset | Reading, problem: Problem | None = None) -> xr.Dataset:
    """Return the forces on the log eigenvalues at the save points of a run, after the fact.

    Taken from what `simulate(observables=["eigenvalue_forces"])` recorded, or else from the weights of
    `simulate(weights=True)`.

    Args:
        run: Dataset of `simulate` or `open_run`.
        problem: The problem that was simulated; the statistics kept in the run when None.

    Returns:
        Dataset over (replicate, time, mode_Z): `log_eigenvalues`, `drift` and its parts `gradient`, `noise`,
        `repulsion`; over (…, mode_Z_other) also `pairs`, `rates` and `covariance`; the weight decay's part, the same
        for all modes, is the attribute `decay`. See `Forces`.

    Raises:
        NotARun: `run` is not a run.
        InvalidInput: The problem is not the one of the run, or its method has no such diffusion.
        LawNotApplicable: The run kept neither the forces nor the weights.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=50, n_inputs=2, n_outputs=1, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=2, width=3, n_outputs=1)
        >>> method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.1)
        >>> run = rf.simulate(problem, network, method, duration=1.0, save_points=3, observables=["eigenvalue_forces"])
        >>> parts = rf.laws.eigenvalues.decompose(run)
        >>> total = parts.drift.sum("mode_Z") - rf.laws.determinant.rate(problem, method)
        >>> bool(abs(total).max() < 1e-12)
        True
    """
    reading = read(run, problem)
    run, problem = reading.run, reading.problem
    _, decay = diffusion(problem, reading.method)
    over = ("replicate", "time", "mode_Z")
    if _RECORDED[0] in run:
        gradient, noise, pairs, zero_modes, rates, covariance = (
            np.asarray(run[name].transpose(*over, ...).values, dtype=np.float64) for name in _RECORDED
        )
        with np.errstate(divide="ignore"):
            logs = 2.0 * np.log(reading.singular_values)
        force = Forces(logs, gradient, noise, pairs, zero_modes, -2.0 * decay, rates, covariance)
    elif "W1" in run and "W2" in run:
        force = _from_weights(run, problem, reading.method)
    else:
        raise LawNotApplicable(
            "the run kept neither the forces on the eigenvalues nor the weights; simulate again with "
            "observables=['eigenvalue_forces'] or weights=True."
        )
    pair = (*over, "mode_Z_other")
    words = {
        "log_eigenvalues": (over, force.log_eigenvalues, "log λ_i"),
        "drift": (over, force.drift, "drift of log λ_i"),
        "gradient": (over, force.gradient, "drift by the gradient"),
        "noise": (over, force.noise, "drift by the noise, repulsion apart"),
        "repulsion": (over, force.repulsion, "drift by the repulsion"),
        "pairs": (pair, force.pairs, "drift by the repulsion from mode j"),
        "rates": (pair, force.rates, "n_ij"),
        "covariance": (pair, force.covariance, "covariance of the martingales per time"),
    }
    return xr.Dataset(
        {name: (dims, values, {"long_name": words}) for name, (dims, values, words) in words.items()},
        coords={name: run.coords[name] for name in ("replicate", "time", "mode_Z") if name in run.coords},
        attrs={"decay": force.decay, "complete": int(reading.width >= reading.rows)},
    )


def _from_weights(run: xr.Dataset, problem: Problem, method: Method) -> Forces:
    first = run["W1"].transpose("replicate", "time", "input", "hidden").values
    second = run["W2"].transpose("replicate", "time", "hidden", "output").values
    gone = ~(np.isfinite(first).all(axis=(2, 3)) & np.isfinite(second).all(axis=(2, 3)))
    first, second = (np.where(gone[..., None, None], 0.0, layer) for layer in (first, second))
    slab = max(1, _SLAB // max(1, first[0].size + second[0].size))
    pieces = [forces(first[i : i + slab], second[i : i + slab], problem, method) for i in range(0, len(first), slab)]
    joined = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in _ARRAYS}
    joined["log_eigenvalues"][gone] = np.nan
    return Forces(**joined, decay=pieces[0].decay)


_ARRAYS = ("log_eigenvalues", "gradient", "noise", "pairs", "zero_modes", "rates", "covariance")


def _weights(W1: Any, W2: Any, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    try:
        first, second = np.asarray(W1, dtype=np.float64), np.asarray(W2, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput("W1 and W2 must be numeric arrays; give the weights of a network.") from None
    if (
        first.ndim < 2
        or second.ndim < 2
        or first.shape[-1] != second.shape[-2]
        or first.shape[:-2] != second.shape[:-2]
    ):
        raise InvalidInput(
            "W1 must have shape (..., n_inputs, width) and W2 (..., width, n_outputs) with the same leading axes, got "
            f"{first.shape} and {second.shape}."
        )
    if (first.shape[-2], second.shape[-1]) != (problem.n_inputs, problem.n_outputs):
        raise InvalidInput(
            f"the weights map {first.shape[-2]} inputs to {second.shape[-1]} outputs, the problem "
            f"{problem.n_inputs} to {problem.n_outputs}; give the problem that they belong to."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InvalidInput("the weights must be finite, but some are NaN or infinite; leave out diverged replicates.")
    return first, second
