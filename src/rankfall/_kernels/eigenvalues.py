"""One step of the eigenvalues and eigenvectors of M on their own, without the weights that M comes from.

State of a trajectory: s_i = log λ_i, descending, and the vectors u_i as columns of U. A step of length h with the
increment H = h (C − ΣW) + σ√h L_Σ N, W the off-diagonal block of UΛUᵀ, in the eigenbasis of Σ:

1.  y_i = s_i + 2 u_iᵀĤu_i − h u_iᵀKu_i, Euler–Maruyama without the repulsion.
2.  s'_i = y_i + h Σ_j 2 n_ij coth((s'_i − s'_j)/2), implicit in the repulsion, which is unbounded where two eigenvalues
    meet: the minimum of the convex function ½|s' − y|² − 4h Σ_{i<j} n_ij log sinh((s'_i − s'_j)/2), found by Newton's
    method, which never leaves the cone s'_1 > s'_2 > … (such schemes: Li & Menon, "Numerical solution of Dyson Brownian
    motion and a sampling scheme for invariant matrix ensembles", J. Stat. Phys. 153, 2013). Without repulsion s' is y,
    sorted.
3.  U' from the left singular vectors of (I + Ĥ + ½Ĥ² − ½hK) U Λ^½ by one-sided Jacobi rotations: orthonormal to
    rounding at every step, free of the quotients 1/(λ_i − λ_j), and exact to high relative accuracy however graded Λ is
    (Demmel & Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. 13, 1992). Vectors belong to
    eigenvalues by rank. Where two eigenvalues meet, the noise alone decides about the two vectors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

__all__ = ["advance_eigenvalues"]

_COMPILE: dict[str, Any] = {"error_model": "numpy", "nogil": True, "cache": True}
# ‖H‖_F² of a step beyond which a trajectory counts as diverged: it would change the eigenvalues by factors of e⁴ at
# once, and a step that overshoots by so much need not blow up here as it does in the weights.
_LARGEST = 4.0
# coth(60/2) is 1 to rounding: wider gaps turn the vectors no differently. Together they must not underflow.
_WIDEST_GAP = 60.0
_WIDEST_RANGE = 600.0
_NEWTON_STEPS = 200
_SWEEPS = 60
_ORTHOGONAL = 5e-15


@njit(**_COMPILE)
def _solve(matrix, right):  # type: ignore[no-untyped-def]
    """Overwrite `right` with the solution of a symmetric positive definite system, `matrix` with its factor."""
    m = len(right)
    for i in range(m):
        for j in range(i + 1):
            total = matrix[i, j]
            for o in range(j):
                total -= matrix[i, o] * matrix[j, o]
            matrix[i, j] = math.sqrt(total) if i == j else total / matrix[j, j]
        total = right[i]
        for o in range(i):
            total -= matrix[i, o] * right[o]
        right[i] = total / matrix[i, i]
    for i in range(m - 1, -1, -1):
        total = right[i]
        for o in range(i + 1, m):
            total -= matrix[o, i] * right[o]
        right[i] = total / matrix[i, i]


@njit(**_COMPILE)
def _repel(x, y, weights, matrix, move):  # type: ignore[no-untyped-def]
    """Solve x_i = y_i + Σ_j weights_ij coth((x_i − x_j)/2) from x, which is descending; False if it did not succeed."""
    m = len(x)
    for i in range(1, m):  # a pair alone goes 2√weight apart: nearer it would only make the first steps ill-conditioned
        x[i] = min(x[i], x[i - 1] - math.sqrt(weights[i - 1, i]) - 1e-12)
    for _ in range(_NEWTON_STEPS):
        for i in range(m):
            move[i] = y[i] - x[i]
            for j in range(m):
                matrix[i, j] = 1.0 if i == j else 0.0
        for i in range(m):
            for j in range(i + 1, m):
                small = math.exp(x[j] - x[i])
                rest = -math.expm1(x[j] - x[i])
                push = weights[i, j] * (1.0 + small) / rest
                slope = 2.0 * weights[i, j] * small / (rest * rest)
                move[i] += push
                move[j] -= push
                matrix[i, i] += slope
                matrix[j, j] += slope
                matrix[j, i] -= slope
        _solve(matrix, move)
        # a thin gap between large numbers is only known to their rounding
        share, settled, rounding = 1.0, True, 1e-14 * (1.0 + max(abs(x[0]), abs(x[m - 1])))
        for i in range(m - 1):
            gap, change = x[i] - x[i + 1], move[i] - move[i + 1]
            if not abs(change) <= 1e-8 * min(gap, 1.0) + rounding:
                settled = False
            if change < -0.9 * gap:
                share = min(share, -0.9 * gap / change)
        for i in range(m):
            x[i] += share * move[i]
        if settled:
            return True
        if not math.isfinite(x[0]):
            return False
    return False


@njit(**_COMPILE)
def _orthogonalise(x, squares):  # type: ignore[no-untyped-def]
    """Rotate the columns of x until they are orthogonal, then norm them and sort them by their lengths, descending."""
    n, m = x.shape
    for _ in range(_SWEEPS):
        turned = False
        for i in range(m - 1):
            for j in range(i + 1, m):
                alpha, beta, gamma = 0.0, 0.0, 0.0
                for a in range(n):
                    alpha += x[a, i] * x[a, i]
                    beta += x[a, j] * x[a, j]
                    gamma += x[a, i] * x[a, j]
                if not abs(gamma) > _ORTHOGONAL * math.sqrt(alpha) * math.sqrt(beta):
                    continue
                turned = True
                zeta = (beta - alpha) / (2.0 * gamma)
                tangent = math.copysign(1.0, zeta) / (abs(zeta) + math.hypot(1.0, zeta))
                cosine = 1.0 / math.hypot(1.0, tangent)
                sine = cosine * tangent
                for a in range(n):
                    first, second = x[a, i], x[a, j]
                    x[a, i] = cosine * first - sine * second
                    x[a, j] = sine * first + cosine * second
        if not turned:
            break
    for i in range(m):
        squares[i] = 0.0
        for a in range(n):
            squares[i] += x[a, i] * x[a, i]
    for i in range(m):
        best = i
        for j in range(i + 1, m):
            if squares[j] > squares[best]:
                best = j
        length = math.sqrt(squares[best])
        squares[best] = squares[i]
        for a in range(n):
            other = x[a, i]
            x[a, i] = x[a, best] / length
            if best != i:
                x[a, best] = other


@njit(**_COMPILE)
def _hat(h, x, out):  # type: ignore[no-untyped-def]
    """out = Ĥ x."""
    p, k = h.shape
    for c in range(x.shape[1]):
        for a in range(p):
            out[a, c] = 0.0
        for b in range(k):
            total = 0.0
            for a in range(p):
                total += h[a, b] * x[a, c]
                out[a, c] += h[a, b] * x[p + b, c]
            out[p + b, c] = total


@njit(**_COMPILE)
def advance_eigenvalues(  # type: ignore[no-untyped-def]
    logs, vectors, first, last, noise, begin, h, variances, cross, amplitude, intensity, strength, failed_at
):
    """Move the trajectories [first, last) by noise.shape[1] steps from step `begin`.

    Args:
        logs: s, shape (replicate, mode).
        vectors: U, shape (replicate, p + k, mode).
        first: First trajectory.
        last: One after the last.
        noise: Normals, shape (last − first, step, p·k).
        begin: Number of the first step.
        h: Time step.
        variances: d.
        cross: UᵀC.
        amplitude: σ √(h d).
        intensity: σ².
        strength: Factor of the repulsion: 1, or 0 for none.
        failed_at: Step in which a trajectory diverged, −1 if it did not.
    """
    n, m = vectors.shape[1:]
    p, k = cross.shape
    trace = variances.sum()
    inputs, outputs = np.empty((m, m)), np.empty((m, m))
    weights, matrix = np.empty((m, m)), np.empty((m, m))
    y, move, step = np.empty(m), np.empty(m), np.empty((p, k))
    x, once, twice = np.empty((n, m)), np.empty((n, m)), np.empty((n, m))
    for r in range(first, last):
        s, u = logs[r], vectors[r]
        for number in range(noise.shape[1]):
            if failed_at[r] >= 0:
                break
            size = 0.0
            for a in range(p):
                for b in range(k):
                    product = 0.0
                    for i in range(m):
                        product += math.exp(s[i]) * u[a, i] * u[p + b, i]
                    step[a, b] = h * (cross[a, b] - variances[a] * product)
                    step[a, b] += amplitude[a] * noise[r - first, number, a * k + b]
                    size += step[a, b] * step[a, b]
            for i in range(m):
                for j in range(i + 1):
                    inputs[i, j] = 0.0
                    outputs[i, j] = 0.0
                    for a in range(p):
                        inputs[i, j] += variances[a] * u[a, i] * u[a, j]
                    for b in range(p, n):
                        outputs[i, j] += u[b, i] * u[b, j]
            # 2h n_ij; what the rates lack to uᵀKu is the push of the eigenvalues that are zero at all times
            for i in range(m):
                left = k * inputs[i, i] + trace * outputs[i, i] - 4.0 * inputs[i, i] * outputs[i, i]
                y[i] = s[i] - h * intensity * (k * inputs[i, i] + trace * outputs[i, i])
                for j in range(m):
                    if i != j:
                        low, high = (j, i) if j < i else (i, j)
                        rate = inputs[i, i] * outputs[j, j] + inputs[j, j] * outputs[i, i]
                        rate = max(0.0, rate + 2.0 * inputs[high, low] * outputs[high, low])
                        weights[i, j] = 2.0 * h * strength * intensity * rate
                        left -= rate
                if m < n:
                    y[i] += 2.0 * h * strength * intensity * max(0.0, left)
            for i in range(m):
                for a in range(p):
                    for b in range(k):
                        y[i] += 4.0 * u[a, i] * step[a, b] * u[p + b, i]
            scale, widest = 1.0, min(_WIDEST_GAP, _WIDEST_RANGE / m)
            for i in range(m):
                if i > 0:
                    scale *= math.exp(-0.5 * min(s[i - 1] - s[i], widest))
                for a in range(n):
                    x[a, i] = scale * u[a, i]
            _hat(step, x, once)
            _hat(step, once, twice)
            for i in range(m):
                for a in range(n):
                    shrink = k * variances[a] if a < p else trace
                    x[a, i] += once[a, i] + 0.5 * twice[a, i] - 0.5 * h * intensity * shrink * x[a, i]
            done = True
            if strength > 0.0:
                done = _repel(s, y, weights, matrix, move)
            else:
                s[:] = np.sort(y)[::-1]
            _orthogonalise(x, move)
            u[:] = x
            if not done or not size < _LARGEST or not math.isfinite(s[0]):
                failed_at[r] = begin + number + 1
                s[:] = math.nan
