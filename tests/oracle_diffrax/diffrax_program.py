"""Solves the stochastic gradient flow with diffrax; run as a program of its own by the tests beside it.

JAX starts threads that must not be forked and changes global settings, so the process that runs the tests never
imports it. Usage: python diffrax_program.py INPUT.npz OUTPUT.npz. The input holds `covariance` Σ, `cross_covariance`
C, a `factor` F with F Fᵀ = Σ, the starts `W1`, `W2`, the `intensity` σ² of the noise, the step `dt`, the number of
`steps`, and either `normals` (replicates, steps, p, k), the increments of the Brownian motion divided by √dt, or
`replicates` and a `seed`. The output holds the final `W1`, `W2`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np


def solve(problem: Any) -> tuple[Any, Any]:
    import diffrax
    import jax
    import jax.numpy as jnp
    import lineax

    jax.config.update("jax_enable_x64", True)
    sigma, cross = jnp.asarray(problem["covariance"]), jnp.asarray(problem["cross_covariance"])
    factor = jnp.asarray(np.sqrt(problem["intensity"]) * problem["factor"])
    dt, steps = float(problem["dt"]), int(problem["steps"])

    def drift(t: Any, y: Any, args: Any) -> Any:
        w1, w2 = y
        g = cross - sigma @ w1 @ w2
        return g @ w2.T, w1.T @ g

    def diffusion(t: Any, y: Any, args: Any) -> Any:
        w1, w2 = y

        def along(increment: Any) -> Any:
            noise = factor @ increment
            return noise @ w2.T, w1.T @ noise

        return lineax.FunctionLinearOperator(along, jax.ShapeDtypeStruct(cross.shape, cross.dtype))

    def trajectory(path: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)),
            diffrax.Euler(),
            t0=0.0,
            t1=steps * dt,
            dt0=None,
            stepsize_controller=diffrax.StepTo(ts=dt * jnp.arange(steps + 1)),
            y0=(jnp.asarray(problem["W1"]), jnp.asarray(problem["W2"])),
            saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(),
            max_steps=steps + 1,
        )
        return solution.ys[0][0], solution.ys[1][0]

    if "normals" in problem:
        increments = np.sqrt(dt) * problem["normals"]
        motion = np.concatenate([np.zeros_like(increments[:, :1]), increments.cumsum(axis=1)], axis=1)
        times = dt * jnp.arange(steps + 1)
        return jax.jit(jax.vmap(lambda b: trajectory(diffrax.LinearInterpolation(times, b))))(jnp.asarray(motion))
    shape = jax.ShapeDtypeStruct(cross.shape, cross.dtype)
    keys = jax.random.split(jax.random.key(int(problem["seed"])), int(problem["replicates"]))
    return jax.jit(jax.vmap(lambda key: trajectory(diffrax.UnsafeBrownianPath(shape, key))))(keys)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with np.load(sys.argv[1], allow_pickle=False) as file:
        given = dict(file)
    first, second = solve(given)
    np.savez(sys.argv[2], W1=np.asarray(first), W2=np.asarray(second))
