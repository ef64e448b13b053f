"""diffrax, a general solver of differential equations: Euler–Maruyama on the same stochastic flow.

Its fastest settings of those tried: forward mode only (no bookkeeping for gradients), a constant step, nothing saved
but the end, a Brownian path that is not kept (`UnsafeBrownianPath`), a matrix-free diffusion operator.
"""

from __future__ import annotations

import itertools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np

from benchmarks.peers.jax_scan import in_threads
from benchmarks.timing import Run
from benchmarks.workload import Weights, Workload


def vmap(
    workload: Workload, steps: int, threads: int = 1, seed: int = 1, path: str = "unsafe", replicates: int | None = None
) -> Run:
    """One trajectory per solve, vmapped over the ensemble, the ensemble over `threads` Python threads."""
    sigma, cross, factor = _statistics(workload)

    def drift(t: Any, y: Any, args: Any) -> Any:
        w1, w2 = y
        g = cross - sigma @ (w1 @ w2)
        return g @ w2.T, w1.T @ g

    def diffusion(t: Any, y: Any, args: Any) -> Any:
        w1, w2 = y

        def apply(increment: Any) -> Any:
            n = factor @ increment
            return n @ w2.T, w1.T @ n

        return lineax.FunctionLinearOperator(apply, jax.ShapeDtypeStruct(cross.shape, cross.dtype))

    compiled = jax.jit(jax.vmap(lambda key, *y: _solve(workload, steps, drift, diffusion, cross.shape, path, key, y)))
    count = replicates or workload.replicates
    keys = jax.random.split(jax.random.key(seed), count)
    edges = np.linspace(0, count, threads + 1).astype(int)
    start1, start2 = map(jnp.asarray, workload.starts)
    parts = [(keys[a:b], start1[a:b], start2[a:b]) for a, b in itertools.pairwise(edges)]

    def run() -> Weights:
        results = in_threads(compiled, parts)
        return np.concatenate([r[0] for r in results]), np.concatenate([r[1] for r in results])

    return run


def single(workload: Workload, steps: int, seed: int = 1) -> Run:
    """The first trajectory alone."""
    return vmap(workload, steps, seed=seed, replicates=1)


def ensemble_in_state(workload: Workload, steps: int, threads: int = 2, seed: int = 1) -> Run:
    """One solve of the whole ensemble as one state with the ensemble as its last axis."""
    sigma, cross, factor = (m[:, :, None] for m in _statistics(workload))
    per_thread = workload.replicates // threads
    shape = (*cross.shape[:2], per_thread)

    def times(a: Any, b: Any) -> Any:
        return (a[:, :, None, :] * b[None]).sum(1)

    def drift(t: Any, y: Any, args: Any) -> Any:
        w1, w2 = y
        g = cross - times(sigma, times(w1, w2))
        return times(g, w2.swapaxes(0, 1)), times(w1.swapaxes(0, 1), g)

    def diffusion(t: Any, y: Any, args: Any) -> Any:
        w1, w2 = y

        def apply(increment: Any) -> Any:
            n = times(factor, increment)
            return times(n, w2.swapaxes(0, 1)), times(w1.swapaxes(0, 1), n)

        return lineax.FunctionLinearOperator(apply, jax.ShapeDtypeStruct(shape, cross.dtype))

    compiled = jax.jit(lambda key, *y: _solve(workload, steps, drift, diffusion, shape, "unsafe", key, y))
    keys = jax.random.split(jax.random.key(seed), threads)
    last = [w.reshape(threads, per_thread, *w.shape[1:]).transpose(0, 2, 3, 1) for w in workload.starts]
    parts = [(keys[i], jnp.asarray(last[0][i]), jnp.asarray(last[1][i])) for i in range(threads)]

    def run() -> Weights:
        results = in_threads(compiled, parts)
        first, second = (np.concatenate([np.asarray(r[i]).transpose(2, 0, 1) for r in results]) for i in (0, 1))
        return first, second

    return run


def _statistics(workload: Workload) -> tuple[Any, Any, Any]:
    """Σ, C and σ L: dN = σ L dB with σ² = ηδ."""
    factor = np.sqrt(workload.step_size) * workload.noise_factor
    return jnp.asarray(workload.covariance), jnp.asarray(workload.cross_covariance), jnp.asarray(factor)


def _solve(
    workload: Workload, steps: int, drift: Any, diffusion: Any, shape: tuple[int, ...], path: str, key: Any, start: Any
) -> tuple[Any, Any]:
    eta = workload.step_size
    noise = jax.ShapeDtypeStruct(shape, jnp.float64)
    brownian: diffrax.AbstractBrownianPath
    if path == "unsafe":
        brownian = diffrax.UnsafeBrownianPath(noise, key)
    else:
        brownian = diffrax.VirtualBrownianTree(0.0, steps * eta, eta / 2, noise, key)
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, brownian)),
        diffrax.Euler(),
        0.0,
        steps * eta,
        dt0=eta,
        y0=start,
        saveat=diffrax.SaveAt(t1=True),
        adjoint=diffrax.ForwardMode(),
        max_steps=None,
        throw=False,
    )
    return solution.ys[0][0], solution.ys[1][0]
