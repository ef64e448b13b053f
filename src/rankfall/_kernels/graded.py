"""Singular values of matrices whose rows lie hundreds of orders of magnitude apart, as logarithms.

A row is kept as e^{ℓ_i} v_i with |v_i| = 1. To make rows i and j (ℓ_i ≥ ℓ_j) orthogonal, one-sided Jacobi rotates by an
angle of tangent t = ρτ with ρ = e^{ℓ_j − ℓ_i} ≤ 1 and

    τ = 2γ / (1 − ρ² + √((1 − ρ²)² + 4ρ²γ²)),   γ = ⟨v_i, v_j⟩,

    e^{ℓ_i} v_i + t e^{ℓ_j} v_j = e^{ℓ_i} (v_i + ρ²τ v_j),     e^{ℓ_j} v_j − t e^{ℓ_i} v_i = e^{ℓ_j} (v_j − τ v_i):

only ρ² appears, and where it underflows it does not count. Every singular value comes out to a relative accuracy that
depends on the v_i alone, not on the ℓ_i (J. Demmel & K. Veselić, SIAM J. Matrix Anal. Appl. 13, 1992).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from rankfall._kernels import loader

__all__ = ["graded_spectra", "spectra_of"]

_COMPILE: dict[str, Any] = {"error_model": "numpy", "nogil": True}
_MAX_SWEEPS = 60
# Rows of m entries count as orthogonal below m times this: what rounding leaves of an inner product.
_COSINE = 2.3e-16


@njit(**_COMPILE)
def _normalise(v, level, i):  # type: ignore[no-untyped-def]
    """Bring row i to length one."""
    largest = 0.0
    for e in range(v.shape[1]):
        largest = max(largest, abs(v[i, e]))
    if not largest > 0.0:
        level[i] = -math.inf
        return
    total = 0.0
    for e in range(v.shape[1]):
        total += (v[i, e] / largest) ** 2
    length = math.sqrt(total)
    for e in range(v.shape[1]):
        v[i, e] = v[i, e] / largest / length
    level[i] += math.log(largest * length)


@njit(**_COMPILE)
def _rotate(v, level, i, j, square, tau):  # type: ignore[no-untyped-def]
    """Rows i and j turned by the tangent ρτ, with ρ² given."""
    cosine = 1.0 / math.sqrt(1.0 + square * tau * tau)
    for e in range(v.shape[1]):
        x, y = v[i, e], v[j, e]
        v[i, e] = cosine * (x + square * tau * y)
        v[j, e] = cosine * (y - tau * x)
    _normalise(v, level, i)
    _normalise(v, level, j)
    return cosine


@njit(**_COMPILE)
def orthogonalise(v, level, carried):  # type: ignore[no-untyped-def]
    """Make the rows of diag(e^level) v orthogonal; the columns of `carried` undergo the same rotations."""
    tolerance = v.shape[1] * _COSINE
    for _ in range(_MAX_SWEEPS):
        rotated = False
        for a in range(len(level) - 1):
            for b in range(a + 1, len(level)):
                i, j = (a, b) if level[a] >= level[b] else (b, a)
                if not level[j] > -math.inf:
                    continue
                gamma = 0.0
                for e in range(v.shape[1]):
                    gamma += v[i, e] * v[j, e]
                if not abs(gamma) > tolerance:
                    continue
                rotated = True
                apart = level[j] - level[i]
                square, gap = math.exp(2.0 * apart), -math.expm1(2.0 * apart)
                tau = 2.0 * gamma / (gap + math.sqrt(gap * gap + 4.0 * square * gamma * gamma))
                tangent = math.exp(apart) * tau
                cosine = _rotate(v, level, i, j, square, tau)
                for e in range(carried.shape[0]):
                    x, y = carried[e, i], carried[e, j]
                    carried[e, i] = cosine * (x + tangent * y)
                    carried[e, j] = cosine * (y - tangent * x)
        if not rotated:
            break


@njit(**_COMPILE)
def eliminate(v, level):  # type: ignore[no-untyped-def]
    """Reduce r rows of p < r entries to p rows of the same singular values, by rotations that follow the scales.

    The row of largest scale is the pivot row and its largest entry the pivot, so that |τ| ≤ √p in every rotation.
    """
    r, p = v.shape
    for c in range(p):
        top = c
        for i in range(c + 1, r):
            if level[i] > level[top]:
                top = i
        if not level[top] > -math.inf:
            break
        place = c
        for e in range(c + 1, p):
            if abs(v[top, e]) > abs(v[top, place]):
                place = e
        for e in range(p):
            v[c, e], v[top, e] = v[top, e], v[c, e]
        level[c], level[top] = level[top], level[c]
        for i in range(r):
            v[i, c], v[i, place] = v[i, place], v[i, c]
        for j in range(c + 1, r):
            if level[j] > -math.inf and v[j, c] != 0.0:
                tau = v[j, c] / v[c, c]
                square = math.exp(2.0 * (level[j] - level[c]))
                cosine = 1.0 / math.sqrt(1.0 + square * tau * tau)
                for e in range(c, p):
                    x, y = v[c, e], v[j, e]
                    v[c, e] = cosine * (x + square * tau * y)
                    v[j, e] = cosine * (y - tau * x)
                v[j, c] = 0.0
                _normalise(v, level, c)
                _normalise(v, level, j)


@njit(**_COMPILE)
def _descending(level, out):  # type: ignore[no-untyped-def]
    out[:] = np.sort(level)[::-1][: len(out)]


@njit(**_COMPILE)
def spectra_of(q, upper, growth, start, triangle, p, out_z, out_w1):  # type: ignore[no-untyped-def]
    """Log singular values of Z = Q·upper·T and of its first p rows, for every replicate.

    q and upper (replicate, n, n): an orthonormal frame and what is left of the frame's last decomposition, diagonal
    positive. growth (replicate, n), start (replicate, r) and triangle (replicate, r, r): T, see `frame.py`.
    """
    replicates, r = start.shape
    v, level = np.empty((r, r)), np.empty(r)
    for replicate in range(replicates):
        u, t = upper[replicate], triangle[replicate]
        for i in range(r):
            level[i] = growth[replicate, i] + start[replicate, i]
        for i in range(r):
            for j in range(r):
                v[i, j] = 0.0
            v[i, i] = 1.0
            for j in range(i + 1, r):
                total = u[i, j]
                for m in range(j - 1, i - 1, -1):
                    g = math.exp(level[m + 1] - level[m]) if level[m + 1] > -math.inf else 0.0
                    total = total * g + u[i, m] * t[m, j]
                v[i, j] = total / u[i, i]
        for i in range(r):
            level[i] += math.log(u[i, i])
            _normalise(v, level, i)
        frame = q[replicate, :p, :r].copy()
        orthogonalise(v, level, frame)
        _descending(level, out_z[replicate])
        rows = frame.T.copy()  # W1 = frame · diag(e^level) · (orthonormal rows)
        for i in range(r):
            _normalise(rows, level, i)
        if r > p:
            eliminate(rows, level)
        top = min(r, p)
        orthogonalise(rows[:top], level[:top], np.empty((0, top)))
        _descending(level[:top], out_w1[replicate])


_TEXT = """\
from numba import njit
from rankfall._kernels.graded import spectra_of

@njit(error_model='numpy', nogil=True, cache=True)
def advance(q, upper, growth, start, triangle, p, out_z, out_w1):
    spectra_of(q, upper, growth, start, triangle, p, out_z, out_w1)
"""


def graded_spectra() -> Callable[..., None]:
    """The compiled `spectra_of`, by the loader, whose cache sees when a module that it is made from has changed."""
    return loader.load("graded_spectra", _TEXT)
