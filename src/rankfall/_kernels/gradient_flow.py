"""Gradient flow by a commutator-free Lie-group method of order 4 with step control, one trajectory at a time.

dZ/dt = Ĝ(Z) Z lives on the group of matrices that keep J = diag(I_p, −I_k). The method multiplies Z by exponentials of
linear combinations of Ĝ at four stages (E. Celledoni, A. Marthinsen, B. Owren, "Commutator-free Lie group methods",
Future Generation Computer Systems 19, 2003); with K_i = h G(Y_i):

    Y1 = Z,  Y2 = e(K1/2) Z,  Y3 = e(K2/2) Z,  Y4 = e(K3 − K1/2) Y2,
    Z' = e(−K1/12 + K2/6 + K3/6 + K4/4) · e(K1/4 + K2/6 + K3/6 − K4/12) Z,      e(H) = exp [[0, H], [Hᵀ, 0]].

Each factor is symmetric of trace zero, so det M and Q are conserved to rounding at any step. The step is controlled by
doubling: two half steps against a whole one, /15 (order 4), relative to ‖Z‖. Everything is in the eigenbasis of Σ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numba.extending import overload

from rankfall._kernels import loader
from rankfall._kernels.losses import flow_gradient

__all__ = ["ORDER", "advance_flow", "data_flow_kernel", "move_flow"]

ORDER = 4
_COMPILE: dict[str, Any] = {"error_model": "numpy", "nogil": True}
# Above this trace of HᵀH the series below would lose digits; such a step is refused and halved.
_LARGEST_TRACE = 1.0
_TERMS = 10


@njit(**_COMPILE)
def _apply_exponential(h, z, out, gram, c, s, power, t, u):  # type: ignore[no-untyped-def]
    """out = exp(Ĥ) z by the closed form in M = HᵀH (HHᵀ if smaller); False if H is too large for the series."""
    p, k = h.shape
    r = z.shape[1]
    tall = p >= k
    small, large = (k, p) if tall else (p, k)
    near, far = (p, 0) if tall else (0, p)  # first row of the smaller and of the larger side
    trace = 0.0
    for a in range(small):
        for b in range(small):
            total = 0.0
            for n in range(large):
                total += (h[n, a] * h[n, b]) if tall else (h[a, n] * h[b, n])
            gram[a, b] = total
        trace += gram[a, a]
    if not trace <= _LARGEST_TRACE:
        return False
    # Terms until they fall below rounding: ‖M‖^n/(2n+1)! with ‖M‖ ≤ trace.
    for a in range(small):
        for b in range(small):
            c[a, b], s[a, b] = (0.5, 1.0) if a == b else (0.0, 0.0)
            power[0, a, b] = 1.0 if a == b else 0.0
    bound, factorial, now = 1.0, 1.0, 0
    for n in range(1, _TERMS):
        factorial *= 2.0 * n * (2.0 * n + 1.0)
        bound *= trace
        if bound / factorial < 1e-18:
            break
        for a in range(small):
            for b in range(small):
                total = 0.0
                for e in range(small):
                    total += gram[a, e] * power[now, e, b]
                power[1 - now, a, b] = total
        now = 1 - now
        for a in range(small):
            for b in range(small):
                s[a, b] += power[now, a, b] / factorial
                c[a, b] += power[now, a, b] / (factorial * (2.0 * n + 2.0))
    for a in range(small):
        for m in range(r):
            t[a, m] = 0.0
        for n in range(large):
            weight = h[n, a] if tall else h[a, n]
            for m in range(r):
                t[a, m] += weight * z[far + n, m]
    for a in range(small):
        for m in range(r):
            u[a, m] = 0.0
            out[near + a, m] = z[near + a, m]
        for b in range(small):
            total = 0.0  # (M c)_ab
            for e in range(small):
                total += gram[a, e] * c[e, b]
            for m in range(r):
                u[a, m] += c[a, b] * t[b, m] + s[a, b] * z[near + b, m]
                out[near + a, m] += total * z[near + b, m] + s[a, b] * t[b, m]
    for n in range(large):
        for m in range(r):
            out[far + n, m] = z[far + n, m]
        for a in range(small):
            weight = h[n, a] if tall else h[a, n]
            for m in range(r):
                out[far + n, m] += weight * u[a, m]
    return True


def _stage(z: Any, h: Any, cross: Any, curvature: Any, data: Any, room: Any, out: Any) -> None:
    """out = h G(W1 W2): h (C − diag(d) W1 W2) without data, from the data (inputs, labels, loss) otherwise."""
    raise NotImplementedError


@overload(_stage)
def _overloaded_stage(z, h, cross, curvature, data, room, out):  # type: ignore[no-untyped-def]
    if len(data) == 0:

        def squared(z, h, cross, curvature, data, room, out):  # type: ignore[no-untyped-def]
            p, k = cross.shape
            for i in range(p):
                for j in range(k):
                    product = 0.0
                    for m in range(z.shape[1]):
                        product += z[i, m] * z[p + j, m]
                    out[i, j] = h * (cross[i, j] - curvature[i] * product)

        return squared

    def from_data(z, h, cross, curvature, data, room, out):  # type: ignore[no-untyped-def]
        p, k = cross.shape
        inputs, labels, loss = data
        product = room[:p]
        for i in range(p):
            for j in range(k):
                total = 0.0
                for m in range(z.shape[1]):
                    total += z[i, m] * z[p + j, m]
                product[i, j] = total
        flow_gradient(product, cross, curvature, inputs, labels, loss, room[p], room[p + 1], out)
        for i in range(p):
            for j in range(k):
                out[i, j] *= h

    return from_data


@njit(**_COMPILE)
def _step(z, h, cross, curvature, data, out, stages, combined, y, small, room, t, u):  # type: ignore[no-untyped-def]
    """One step of length h: out ← Φ_h(z); False if it was too long to be computed."""
    gram, c, s, power = small[0], small[1], small[2], small[3:5]
    k1, k2, k3, k4 = stages[0], stages[1], stages[2], stages[3]
    _stage(z, h, cross, curvature, data, room, k1)
    combined[:] = 0.5 * k1
    if not _apply_exponential(combined, z, y, gram, c, s, power, t, u):
        return False
    _stage(y, h, cross, curvature, data, room, k2)
    combined[:] = 0.5 * k2
    if not _apply_exponential(combined, z, out, gram, c, s, power, t, u):
        return False
    _stage(out, h, cross, curvature, data, room, k3)
    combined[:] = k3 - 0.5 * k1
    if not _apply_exponential(combined, y, out, gram, c, s, power, t, u):
        return False
    _stage(out, h, cross, curvature, data, room, k4)
    combined[:] = 0.25 * k1 + (k2 + k3) / 6.0 - k4 / 12.0
    if not _apply_exponential(combined, z, y, gram, c, s, power, t, u):
        return False
    combined[:] = -k1 / 12.0 + (k2 + k3) / 6.0 + 0.25 * k4
    return _apply_exponential(combined, y, out, gram, c, s, power, t, u)


@njit(**_COMPILE)
def move_flow(  # type: ignore[no-untyped-def]
    state, first, last, begin, end, cross, curvature, tolerance, fixed_step, proposed, taken, failed_at, data=()
):
    """Advance trajectories first … last−1 of state (replicate, row, column) from time `begin` to `end`.

    fixed_step: length of the steps, or 0 for step control by `tolerance`. proposed (replicate): the controller's next
    step, carried from call to call. taken (replicate): accepted steps. failed_at (replicate): time at which the step
    underflowed or the weights stopped being finite, −1 otherwise. data: () for the squared loss, whose gradient is
    C − diag(d) W; (inputs, labels, code of the loss) for the others.
    """
    p, k = cross.shape
    n, r = state.shape[1:]
    side = min(p, k)
    whole, half, double, y = np.empty((n, r)), np.empty((n, r)), np.empty((n, r)), np.empty((n, r))
    stages, combined = np.empty((4, p, k)), np.empty((p, k))
    small, t, u = np.empty((5, side, side)), np.empty((side, r)), np.empty((side, r))
    room = np.empty((p + 2, k))
    for b in range(first, last):
        z = state[b]
        if failed_at[b] >= 0.0:
            continue
        if fixed_step > 0.0:
            count = max(1, round((end - begin) / fixed_step))
            for step in range(count):
                ok = _step(z, fixed_step, cross, curvature, data, whole, stages, combined, y, small, room, t, u)
                if not ok:
                    failed_at[b] = begin + (step + 1) * fixed_step
                    z[:] = math.nan
                    break
                z[:] = whole
                taken[b] += 1
            continue
        now = begin
        while now < end:
            h = proposed[b]
            final = now + h >= end - 1e-14 * end
            if final:
                h = end - now
            if h < 1e-14 * max(end, 1e-300):
                failed_at[b] = now
                z[:] = math.nan
                break
            error = math.inf
            if (
                _step(z, h, cross, curvature, data, whole, stages, combined, y, small, room, t, u)
                and _step(z, 0.5 * h, cross, curvature, data, half, stages, combined, y, small, room, t, u)
                and _step(half, 0.5 * h, cross, curvature, data, double, stages, combined, y, small, room, t, u)
            ):
                gap, size = 0.0, 0.0
                for i in range(n):
                    for m in range(r):
                        gap += (double[i, m] - whole[i, m]) ** 2
                        size += double[i, m] ** 2
                error = math.sqrt(gap) / (15.0 * tolerance * math.sqrt(size)) if size > 0.0 else 0.0
            if error <= 1.0:
                z[:] = double
                taken[b] += 2
                now = end if final else now + h
                grown = h * min(4.0, 0.9 * max(error, 1e-10) ** -0.2)
                # A step cut short to land on a save point says nothing against the longer one that was planned.
                proposed[b] = max(grown, proposed[b]) if final else grown
            else:
                shrink = 0.9 * error**-0.2 if error < math.inf else 0.25
                proposed[b] = h * min(0.9, max(0.1, shrink))


# Without data nothing of another module is compiled in, and numba's own cache sees every change.
advance_flow: Any = njit(cache=True, **_COMPILE)(move_flow.py_func)

_TEXT = """\
from numba import njit
from rankfall._kernels.gradient_flow import move_flow

@njit(error_model='numpy', nogil=True, cache=True)
def advance(state, first, last, begin, end, cross, curvature, tolerance, fixed_step, proposed, taken, failed_at, data):
    move_flow(state, first, last, begin, end, cross, curvature, tolerance, fixed_step, proposed, taken, failed_at, data)
"""


def data_flow_kernel() -> Any:
    """`advance_flow` for data of a loss that is not squared; through the loader, whose cache sees all modules."""
    return loader.load("gradient_flow_data", _TEXT)
