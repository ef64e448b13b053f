"""Hand-written JAX for networks of any depth: scan + vmap, and the ensemble as the last axis with the best chunking.

Both do no more arithmetic than rankfall: D_{i+1} = W_iᵀD_i from the input side, B_{i−1} = W_iB_i from the output side,
and W_i ← W_i + D_iB_iᵀ.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.jax_scan import Layout, cut, in_threads, join

jax.config.update("jax_enable_x64", True)


def scan_vmap(workload: Any, steps: int, threads: int = 1, seed: int = 1) -> Any:
    """One trajectory as a scan over the steps, vmapped over the ensemble; returns a function that runs it."""
    sigma, cross, factor = map(jnp.asarray, (workload.covariance, workload.cross_covariance, workload.noise_factor))
    eta = workload.step_size

    def trajectory(key: Any, *layers: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            layers, key = carry
            key, sub = jax.random.split(key)
            behind = [jnp.eye(cross.shape[1])]
            for w in layers[::-1]:
                behind.append(w @ behind[-1])
            behind = behind[::-1]
            d = eta * (cross - sigma @ behind[0] + factor @ jax.random.normal(sub, cross.shape))
            moved = []
            for w, b in zip(layers, behind[1:], strict=True):
                moved.append(w + d @ b.T)
                d = w.T @ d
            return (tuple(moved), key), None

        return jax.lax.scan(step, (layers, key), None, length=steps)[0][0]

    compiled = jax.jit(jax.vmap(trajectory))
    keys = jax.random.split(jax.random.key(seed), workload.replicates)
    edges = np.linspace(0, workload.replicates, threads + 1).astype(int)
    parts = [(keys[a:b], *(jnp.asarray(w[a:b]) for w in workload.starts)) for a, b in itertools.pairwise(edges)]

    def run() -> tuple[np.ndarray, ...]:
        results = in_threads(compiled, parts)
        return tuple(np.concatenate([np.asarray(r[i]) for r in results]) for i in range(len(workload.starts)))

    return run


def ensemble_last(workload: Any, steps: int, layout: Layout, threads: int = 2, seed: int = 1) -> Any:
    """The ensemble as the last axis, in chunks, over `threads` Python threads."""
    eta, group = workload.step_size, min(layout.group, steps)
    p, k = workload.cross_covariance.shape
    sigma, factor = jnp.asarray(workload.covariance)[:, :, None], jnp.asarray(workload.noise_factor)[:, :, None]
    cross = jnp.asarray(workload.cross_covariance)[:, :, None]
    per_thread = workload.replicates // threads
    chunk = min(layout.chunk, per_thread)

    if layout.products == "sum":

        def times(a: Any, b: Any) -> Any:
            return (a[:, :, None, :] * b[None]).sum(1)

        def turned_times(a: Any, b: Any) -> Any:
            return (a[:, :, None, :] * b[:, None]).sum(0)

        def times_turned(a: Any, b: Any) -> Any:
            return (a[:, None] * b[None]).sum(2)
    else:

        def times(a: Any, b: Any) -> Any:
            return jnp.einsum("ilB,ljB->ijB", a, b)

        def turned_times(a: Any, b: Any) -> Any:
            return jnp.einsum("liB,ljB->ijB", a, b)

        def times_turned(a: Any, b: Any) -> Any:
            return jnp.einsum("ilB,jlB->ijB", a, b)

    def fixed(a: Any, b: Any) -> Any:
        return (
            (a[:, :, None, :] * b[None]).sum(1) if layout.products == "sum" else jnp.einsum("il,ljB->ijB", a[..., 0], b)
        )

    def step(layers: Any, noise: Any) -> Any:
        behind = [layers[-1]]
        for w in layers[-2::-1]:
            behind.append(times(w, behind[-1]))
        behind = behind[::-1]
        d = eta * (cross - fixed(sigma, behind[0]) + fixed(factor, noise))
        moved = []
        for w, b in zip(layers[:-1], behind[1:], strict=True):
            moved.append(w + times_turned(d, b))
            d = turned_times(w, d)
        return (*moved, layers[-1] + d)

    def block(key: Any, *layers: Any) -> Any:
        def several(carry: Any, key: Any) -> Any:
            noise = jax.random.normal(key, (group, p, k, chunk), jnp.dtype(layout.noise))
            return jax.lax.scan(lambda c, n: (step(c, n), None), carry, noise)[0], None

        return jax.lax.scan(several, layers, jax.random.split(key, steps // group))[0]

    compiled = jax.jit(lambda keys, *layers: jax.lax.map(lambda part: block(*part), (keys, *layers)))
    keys = jax.random.split(jax.random.key(seed), (threads, per_thread // chunk))
    pieces = [cut(w, threads, chunk) for w in workload.starts]
    parts = [(keys[i], *(piece[i] for piece in pieces)) for i in range(threads)]

    def run() -> tuple[np.ndarray, ...]:
        results = in_threads(compiled, parts)
        return tuple(join([r[i] for r in results]) for i in range(len(workload.starts)))

    return run
