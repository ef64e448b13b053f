"""diffrax, a general solver of differential equations: Euler–Maruyama on the same stochastic flow.

Its fastest settings of those tried: forward mode only (no bookkeeping for gradients), a constant step, nothing saved
but the end, a Brownian path that is not kept (`UnsafeBrownianPath`), a matrix-free diffusion operator, normals of
single precision (the state is float64), half of the ensemble in each of two Python threads.
"""

from __future__ import annotations

import itertools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np

from benchmarks.peers.jax_scan import cut, in_threads, join
from benchmarks.timing import Run
from benchmarks.workload import Weights, Workload


def vmap(
    workload: Workload,
    steps: int,
    threads: int = 1,
    seed: int = 1,
    path: str = "unsafe",
    noise: str = "float32",
    replicates: int | None = None,
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

        return lineax.FunctionLinearOperator(apply, increments)

    increments = jax.ShapeDtypeStruct(cross.shape, jnp.dtype(noise))
    compiled = jax.jit(jax.vmap(lambda key, *y: _solve(workload, steps, drift, diffusion, increments, path, key, y)))
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


def ensemble_in_state(
    workload: Workload, steps: int, threads: int = 2, seed: int = 1, chunk: int = 32, noise: str = "float32"
) -> Run:
    """One solve for `chunk` trajectories together, as one state with the ensemble as its last axis."""
    sigma, cross, factor = (m[:, :, None] for m in _statistics(workload))
    increments = jax.ShapeDtypeStruct((*cross.shape[:2], chunk), jnp.dtype(noise))

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

        return lineax.FunctionLinearOperator(apply, increments)

    def block(part: Any) -> Any:
        return _solve(workload, steps, drift, diffusion, increments, "unsafe", part[0], part[1:])

    compiled = jax.jit(lambda keys, w1, w2: jax.lax.map(block, (keys, w1, w2)))
    first, second = (cut(w, threads, chunk) for w in workload.starts)
    keys = jax.random.split(jax.random.key(seed), first.shape[:2])
    parts = [(keys[i], first[i], second[i]) for i in range(threads)]

    def run() -> Weights:
        results = in_threads(compiled, parts)
        return join([r[0] for r in results]), join([r[1] for r in results])

    return run


def _statistics(workload: Workload) -> tuple[Any, Any, Any]:
    """Σ, C and σ L: dN = σ L dB with σ² = ηδ."""
    factor = np.sqrt(workload.step_size) * workload.noise_factor
    return jnp.asarray(workload.covariance), jnp.asarray(workload.cross_covariance), jnp.asarray(factor)


def _solve(
    workload: Workload, steps: int, drift: Any, diffusion: Any, noise: Any, path: str, key: Any, start: Any
) -> tuple[Any, Any]:
    eta = workload.step_size
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
