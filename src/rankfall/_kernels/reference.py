"""The steps of the kernels in plain NumPy, one trajectory at a time: what the generated code must agree with.

All are written in the eigenbasis of Σ = U diag(d) Uᵀ, on Z = [Uᵀ W1; W2ᵀ], with the increment

    H = h (C − diag(d) W1 W2) + noise,   Ĥ = [[0, H], [Hᵀ, 0]].
"""

from __future__ import annotations

from math import factorial

import numpy as np

from rankfall._kernels.generator import SERIES_TERMS

__all__ = ["descent_step", "exponential_factors", "geometric_step", "hat", "increment"]


def hat(h: np.ndarray) -> np.ndarray:
    """Return Ĥ = [[0, H], [Hᵀ, 0]]."""
    p, k = h.shape
    return np.block([[np.zeros((p, p)), h], [h.T, np.zeros((k, k))]])


def increment(
    z: np.ndarray, gain: np.ndarray, curvature: np.ndarray, amplitude: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """H = gain − curvature · W1W2 + amplitude · N, row by row (gain = h C, curvature = h d)."""
    p = len(gain)
    return gain - curvature[:, None] * (z[:p] @ z[p:].T) + amplitude[:, None] * normals


def descent_step(z: np.ndarray, h: np.ndarray, keep: float = 1.0) -> np.ndarray:
    """Z ← a Z + Ĥ Z, with a = 1 − ηλ; Euler–Maruyama is the same with a = 1."""
    return keep * z + hat(h) @ z


def exponential_factors(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return c(M) = (cosh√M − 1)/M and s(M) = sinh√M/√M by their Taylor series.

    With J terms the first one left out is ‖M‖^J/(2J+1)! relative to the identity: 9 terms are exact to 1e-16 for
    ‖M‖ = ‖H‖² ≤ 1.3.
    """
    c, s = np.zeros_like(gram), np.zeros_like(gram)
    power = np.eye(len(gram))
    for n in range(SERIES_TERMS):
        c += power / factorial(2 * n + 2)
        s += power / factorial(2 * n + 1)
        power = power @ gram
    return c, s


def geometric_step(z: np.ndarray, h: np.ndarray, row_factors: np.ndarray) -> np.ndarray:
    """Z ← e^{−K h/2} exp(Ĥ) Z on the half-scaled state Z = e^{−K h/4} Z_true.

    The Strang step is e^{−K h/4} exp(Ĥ) e^{−K h/4}; the kernels keep the state behind the first half scaling, so that
    the two half scalings of neighbouring steps merge into the one of `row_factors` = e^{−K h/2}, and H is evaluated
    at that state.
    """
    p, k = h.shape
    if p >= k:
        c, s = exponential_factors(h.T @ h)
        upper = np.block([[np.eye(p) + h @ c @ h.T, h @ s], [s @ h.T, np.eye(k) + h.T @ h @ c]])
    else:
        c, s = exponential_factors(h @ h.T)
        upper = np.block([[np.eye(p) + h @ h.T @ c, s @ h], [h.T @ s, np.eye(k) + h.T @ c @ h]])
    return row_factors[:, None] * (upper @ z)
