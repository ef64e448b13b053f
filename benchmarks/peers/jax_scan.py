"""Hand-written JAX: scan + vmap as most people write it, and the ensemble as the last axis with the best chunking.

XLA keeps such small work on one core, so the ensemble is also split over two Python threads (it releases the
interpreter lock while it computes).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Run
from benchmarks.workload import Weights, Workload

jax.config.update("jax_enable_x64", True)

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
_POOL = ThreadPoolExecutor(16)


def in_threads(compiled: Callable[..., Any], parts: list[tuple[Any, ...]]) -> list[Any]:
    """Call a compiled function on every part, each in a thread of its own, and wait for all results."""
    jobs = [_POOL.submit(lambda part=part: jax.block_until_ready(compiled(*part))) for part in parts]
    return [job.result() for job in jobs]


def scan_vmap(workload: Workload, steps: int, threads: int = 1, seed: int = 1) -> Run:
    """One trajectory as a scan over the steps, vmapped over the ensemble."""
    sigma, cross, factor = map(jnp.asarray, (workload.covariance, workload.cross_covariance, workload.noise_factor))
    eta = workload.step_size

    def trajectory(key: Any, w1: Any, w2: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            w1, w2, key = carry
            key, sub = jax.random.split(key)
            g = cross - sigma @ (w1 @ w2) + factor @ jax.random.normal(sub, cross.shape)
            return (w1 + eta * (g @ w2.T), w2 + eta * (w1.T @ g), key), None

        return jax.lax.scan(step, (w1, w2, key), None, length=steps)[0][:2]

    compiled = jax.jit(jax.vmap(trajectory))
    keys = jax.random.split(jax.random.key(seed), workload.replicates)
    edges = np.linspace(0, workload.replicates, threads + 1).astype(int)
    parts = [
        (keys[a:b], jnp.asarray(workload.starts[0][a:b]), jnp.asarray(workload.starts[1][a:b]))
        for a, b in itertools.pairwise(edges)
    ]

    def run() -> Weights:
        results = in_threads(compiled, parts)
        return np.concatenate([r[0] for r in results]), np.concatenate([r[1] for r in results])

    return run


def scan_single(workload: Workload, steps: int, seed: int = 1) -> Run:
    """The first trajectory alone, noise drawn for a thousand steps at a time."""
    sigma, cross, factor = map(jnp.asarray, (workload.covariance, workload.cross_covariance, workload.noise_factor))
    eta, group = workload.step_size, min(1000, steps)

    @jax.jit
    def trajectory(key: Any, w1: Any, w2: Any) -> Any:
        def several(carry: Any, key: Any) -> Any:
            noise = factor @ jax.random.normal(key, (group, *cross.shape))

            def step(carry: Any, n: Any) -> Any:
                w1, w2 = carry
                g = cross - sigma @ (w1 @ w2) + n
                return (w1 + eta * (g @ w2.T), w2 + eta * (w1.T @ g)), None

            return jax.lax.scan(step, carry, noise)[0], None

        return jax.lax.scan(several, (w1, w2), jax.random.split(key, steps // group))[0]

    key = jax.random.key(seed)
    start = jnp.asarray(workload.starts[0][0]), jnp.asarray(workload.starts[1][0])

    def run() -> Weights:
        w1, w2 = jax.block_until_ready(trajectory(key, *start))
        return np.asarray(w1)[None], np.asarray(w2)[None]

    return run


@dataclass(frozen=True)
class Layout:
    """A way to lay the ensemble-last computation out.

    Attributes:
        products: "sum" (broadcast, multiply, sum: XLA fuses it) or "einsum" (dot_general).
        chunk: Trajectories that go through all steps together.
        group: Steps whose noise is drawn in one call.
        noise: "float64" or "float32", the precision of the normals; the state is float64 in any case.
        reduced: Whether it evolves the reduced problem, rankfall's exact reduction, instead of the literal one.
    """

    products: str
    chunk: int
    group: int
    noise: str
    reduced: bool = False

    def __str__(self) -> str:
        return f"{self.products}, chunks of {self.chunk}, noise {self.noise} for {self.group} steps at once"


def layouts(replicates: int, *, reduced: bool, quick: bool = False) -> list[Layout]:
    """The layouts that the search tries."""
    per_thread = replicates // 2
    chunks = sorted({min(c, per_thread) for c in ((32, 128) if quick else (16, 32, 64, 128, 256))})
    return [
        Layout(products, chunk, group, noise, reduced)
        for products in ("sum", "einsum")
        for noise in ("float64", "float32")
        for chunk in chunks
        for group in ((20,) if quick else (20, 100))
    ]


def ensemble_last(workload: Workload, steps: int, layout: Layout, threads: int = 2, seed: int = 1) -> Run:
    """The ensemble as the last axis, in chunks, over `threads` Python threads."""
    if layout.reduced:
        start1, start2, restore = _reduce(workload)
    else:
        start1, start2, restore = *workload.starts, lambda w1, w2: (w1, w2)
    step = _step(workload, layout)
    group = min(layout.group, steps)
    per_thread = workload.replicates // threads
    chunk = min(layout.chunk, per_thread)
    if workload.replicates % threads or per_thread % chunk:
        raise ValueError(f"{workload.replicates} trajectories do not split into {threads} threads of chunks of {chunk}")
    dtype = jnp.dtype(layout.noise)
    p, k = workload.n_inputs, workload.n_outputs

    def block(key: Any, w1: Any, w2: Any) -> Any:
        def several(carry: Any, key: Any) -> Any:
            noise = jax.random.normal(key, (group, p, k, chunk), dtype)
            return jax.lax.scan(lambda c, n: (step(*c, n), None), carry, noise)[0], None

        return jax.lax.scan(several, (w1, w2), jax.random.split(key, steps // group))[0]

    compiled = jax.jit(lambda keys, w1, w2: jax.lax.map(lambda part: block(*part), (keys, w1, w2)))
    keys = jax.random.split(jax.random.key(seed), (threads, per_thread // chunk))
    cut1, cut2 = (cut(w, threads, chunk) for w in (start1, start2))
    parts = [(keys[i], cut1[i], cut2[i]) for i in range(threads)]

    def run() -> Weights:
        results = in_threads(compiled, parts)
        return restore(join([r[0] for r in results]), join([r[1] for r in results]))

    return run


def cut(w: np.ndarray, threads: int, chunk: int) -> jax.Array:
    """(replicates, a, b) to (threads, chunks, a, b, chunk)."""
    return jnp.asarray(w.reshape(threads, -1, chunk, *w.shape[1:]).transpose(0, 1, 3, 4, 2))


def join(parts: list[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(w).transpose(0, 3, 1, 2).reshape(-1, *w.shape[1:3]) for w in parts])


def _step(workload: Workload, layout: Layout) -> Step:
    """One step on W1 (p, l, B), W2 (l, k, B) and normals (p, k, B)."""
    eta = workload.step_size
    if layout.products == "sum":

        def times(a: Any, b: Any) -> Any:
            return (a[:, :, None, :] * b[None]).sum(1)

        swap = functools.partial(jnp.swapaxes, axis1=0, axis2=1)

        def update(w1: Any, w2: Any, g: Any) -> tuple[Any, Any]:
            return w1 + eta * times(g, swap(w2)), w2 + eta * times(swap(w1), g)
    else:

        def times(a: Any, b: Any) -> Any:
            return jnp.einsum("ilB,ljB->ijB", a, b)

        def update(w1: Any, w2: Any, g: Any) -> tuple[Any, Any]:
            return w1 + eta * jnp.einsum("pkB,lkB->plB", g, w2), w2 + eta * jnp.einsum("plB,pkB->lkB", w1, g)

    if layout.reduced:
        eigenvalues, basis = np.linalg.eigh(workload.covariance)
        diagonal = jnp.asarray(eigenvalues)[:, None, None]
        amplitude = jnp.sqrt(workload.label_noise * diagonal)
        turned = jnp.asarray(basis.T @ workload.cross_covariance)[:, :, None]

        def step(w1: Any, w2: Any, noise: Any) -> tuple[Any, Any]:
            return update(w1, w2, turned - diagonal * times(w1, w2) + amplitude * noise)
    else:
        sigma, factor = jnp.asarray(workload.covariance)[:, :, None], jnp.asarray(workload.noise_factor)[:, :, None]
        cross = jnp.asarray(workload.cross_covariance)[:, :, None]

        def step(w1: Any, w2: Any, noise: Any) -> tuple[Any, Any]:
            return update(w1, w2, cross - times(sigma, times(w1, w2)) + times(factor, noise))

    return step


def _reduce(workload: Workload) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray, np.ndarray], Weights]]:
    """Starts in Σ's eigenbasis with only r = min(l, p+k) hidden directions, and the way back."""
    w1, w2 = workload.starts
    p = workload.n_inputs
    basis = np.linalg.eigh(workload.covariance)[1]
    stacked = np.concatenate([basis.T @ w1, w2.transpose(0, 2, 1)], axis=1)  # Z, (replicates, p+k, l)
    rows, upper = np.linalg.qr(stacked.transpose(0, 2, 1))  # Zᵀ = V R, so Z = Rᵀ Vᵀ
    small = upper.transpose(0, 2, 1)

    def restore(v1: np.ndarray, v2: np.ndarray) -> Weights:
        return basis @ v1 @ rows.transpose(0, 2, 1), rows @ v2

    return small[:, :p], small[:, p:].transpose(0, 2, 1), restore
