"""Gradient flow of a network of more than two layers by DOP853, one trajectory at a time.

dW_i/dt = A_iᵀ G B_iᵀ with A_i = W_1 … W_{i−1}, B_i = W_{i+1} … W_L; as in the descents through D_1 = G,
D_{i+1} = W_iᵀ D_i and B_{i−1} = W_i B_i. The explicit Runge–Kutta method of order 8 and its two error estimates (of
orders 5 and 3) are Dormand and Prince's: E. Hairer, S. P. Nørsett, G. Wanner, "Solving Ordinary Differential Equations
I", 2nd ed., section II.10, with the coefficients that SciPy has. The norm of the estimate is relative to that of all
weights together. Everything is in the eigenbasis of Σ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from rankfall._kernels import loader
from rankfall._kernels.losses import flow_gradient

__all__ = ["ORDER", "advance_deep_flow", "tableau"]

ORDER = 8
_COMPILE: dict[str, Any] = {"error_model": "numpy", "nogil": True}


@njit(**_COMPILE)
def _velocity(state, widths, data, inner, outer, product, gradient, room, out):  # type: ignore[no-untyped-def]
    """out = the velocities of all layers, flat as the state: layer by layer, (row, column)."""
    cross, curvature, inputs, labels, loss = data
    depth, k = len(widths) - 1, widths[len(widths) - 1]
    units, weights = 0, 0
    for i in range(depth):
        units += widths[i]
        weights += widths[i] * widths[i + 1]
    # B_i (l_i, k) lies at (l_0 + … + l_{i−1}) k of outer; B_{L−1} = W_L, B_0 = P
    at, layer = units - widths[depth - 1], weights - widths[depth - 1] * k
    for e in range(widths[depth - 1] * k):
        outer[at * k + e] = state[layer + e]
    for i in range(depth - 2, -1, -1):
        rows, columns = widths[i], widths[i + 1]
        layer -= rows * columns
        for r in range(rows):
            for j in range(k):
                total = 0.0
                for m in range(columns):
                    total += state[layer + r * columns + m] * outer[(at + m) * k + j]
                outer[(at - rows + r) * k + j] = total
        at -= rows
    for i in range(widths[0]):
        for j in range(k):
            product[i, j] = outer[i * k + j]
    flow_gradient(product, cross, curvature, inputs, labels, loss, room[0], room[1], gradient)
    for i in range(widths[0]):
        for j in range(k):
            inner[i * k + j] = gradient[i, j]
    at, layer = 0, 0
    for i in range(depth - 1):
        rows, columns = widths[i], widths[i + 1]
        for m in range(columns):
            for j in range(k):
                inner[(at + rows + m) * k + j] = 0.0
        for r in range(rows):
            for m in range(columns):
                weight, speed = state[layer + r * columns + m], 0.0
                for j in range(k):
                    inner[(at + rows + m) * k + j] += weight * inner[(at + r) * k + j]
                    speed += inner[(at + r) * k + j] * outer[(at + rows + m) * k + j]
                out[layer + r * columns + m] = speed
        at, layer = at + rows, layer + rows * columns
    for e in range(widths[depth - 1] * k):
        out[layer + e] = inner[at * k + e]


@njit(**_COMPILE)
def follow(  # type: ignore[no-untyped-def]
    state, widths, first, last, begin, end, data, method, tolerance, fixed_step, proposed, taken, error_sum, failed_at
):
    """Advance trajectories first … last−1 of state (replicate, weight) from time `begin` to `end`.

    data: (UᵀC, d, inputs in the eigenbasis, labels, code of the loss). method: (A, B, E3, E5). fixed_step: length of
    the steps, or 0 for step control by `tolerance`. proposed, taken, failed_at: as in `gradient_flow`. error_sum
    (replicate): the norms of the estimated local errors, added up.
    """
    a, b, e3, e5 = method
    stages, n = len(b), state.shape[1]
    p, k = data[0].shape
    units = 0
    for i in range(len(widths) - 1):
        units += widths[i]
    slopes, y, new = np.empty((stages + 1, n)), np.empty(n), np.empty(n)
    inner, outer, product, gradient = np.empty(units * k), np.empty(units * k), np.empty((p, k)), np.empty((p, k))
    room = np.empty((2, k))
    for trajectory in range(first, last):
        if failed_at[trajectory] >= 0.0:
            continue
        z = state[trajectory]
        now, count = begin, 0
        steps = max(1, round((end - begin) / fixed_step)) if fixed_step > 0.0 else 0
        _velocity(z, widths, data, inner, outer, product, gradient, room, slopes[0])
        while (count < steps) if fixed_step > 0.0 else (now < end):
            final = True
            if fixed_step > 0.0:
                h = fixed_step
            else:
                h = proposed[trajectory]
                final = now + h >= end - 1e-14 * end
                if final:
                    h = end - now
                if h < 1e-14 * max(end, 1e-300):
                    failed_at[trajectory] = now
                    z[:] = math.nan
                    break
            for stage in range(1, stages + 1):
                for e in range(n):
                    total = 0.0
                    for earlier in range(stage):
                        total += (a[stage, earlier] if stage < stages else b[earlier]) * slopes[earlier, e]
                    y[e] = z[e] + h * total
                if stage == stages:
                    new[:] = y
                _velocity(y, widths, data, inner, outer, product, gradient, room, slopes[stage])
            fifth, third, size = 0.0, 0.0, 0.0
            for e in range(n):
                high, low = 0.0, 0.0
                for stage in range(stages + 1):
                    high += e5[stage] * slopes[stage, e]
                    low += e3[stage] * slopes[stage, e]
                fifth += high * high
                third += low * low
                size += new[e] * new[e]
            error = 0.0
            if fifth > 0.0 or third > 0.0 or math.isnan(fifth + third):
                error = h * fifth / math.sqrt(fifth + 0.01 * third)
            if fixed_step > 0.0:
                count += 1
                now = begin + count * fixed_step
                if not math.isfinite(error) or not math.isfinite(size):
                    failed_at[trajectory] = now
                    z[:] = math.nan
                    break
                share = 0.0
            else:
                share = error / (tolerance * math.sqrt(size)) if size > 0.0 else error
                if not math.isfinite(share):
                    share = math.inf
            if share <= 1.0:
                z[:] = new
                slopes[0] = slopes[stages]
                taken[trajectory] += 1
                error_sum[trajectory] += error
                if fixed_step == 0.0:
                    now = end if final else now + h
                    grown = h * min(4.0, 0.9 * max(share, 1e-10) ** -0.125)
                    # A step cut short to land on a save point says nothing against the longer one that was planned.
                    proposed[trajectory] = max(grown, proposed[trajectory]) if final else grown
            else:
                proposed[trajectory] = h * (min(0.9, max(0.1, 0.9 * share**-0.125)) if share < math.inf else 0.25)


_TEXT = """\
from numba import njit
from rankfall._kernels.deep_flow import follow

@njit(error_model='numpy', nogil=True, cache=True)
def advance(state, widths, first, last, begin, end, data, method, tolerance, fixed_step, proposed, taken, error_sum,
            failed_at):
    follow(state, widths, first, last, begin, end, data, method, tolerance, fixed_step, proposed, taken, error_sum,
           failed_at)
"""


def advance_deep_flow() -> Callable[..., None]:
    """`follow`, compiled; it comes through the loader, whose cache sees changes in what it is made from."""
    return loader.load("deep_flow", _TEXT)


def tableau() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, B, E3 and E5 of DOP853."""
    from scipy.integrate import DOP853

    return tuple(np.ascontiguousarray(part, dtype=np.float64) for part in (DOP853.A, DOP853.B, DOP853.E3, DOP853.E5))  # type: ignore[return-value]
