"""The two exact reductions: what of the starting weights the kernels need to carry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Start", "reduce_start"]

_SLAB = 1 << 22


@dataclass(frozen=True, eq=False)
class Start:
    """Z₀ = [Uᵀ W1; W2ᵀ] = R V, of which only R moves.

    Attributes:
        reduced: R, shape (replicates, p + k, r) with r = min(width, p + k).
        basis: V with orthonormal rows, shape (replicates, r, width); None for V = I or where it is not needed.
    """

    reduced: np.ndarray
    basis: np.ndarray | None


def reduce_start(W1: np.ndarray, W2: np.ndarray, eigenvectors: np.ndarray, keep_basis: bool) -> Start:
    """Rotate the rows of W1 into the eigenbasis of Σ and drop the directions of hidden space that Z₀ does not reach.

    A step multiplies Z from the left, so that Z_t = R_t V with the V of the start; M, the products, the spectra and the
    balance are those of R. W1 and W2 come back as U R[:p] V and (R[p:] V)ᵀ.
    """
    count, p, width = W1.shape
    rows = p + W2.shape[2]
    if width <= rows:
        reduced = np.concatenate([eigenvectors.T @ W1, W2.transpose(0, 2, 1)], axis=1)
        return Start(reduced, None)
    reduced = np.empty((count, rows, rows))
    basis = np.empty((count, rows, width)) if keep_basis else None
    slab = max(1, _SLAB // (rows * width))
    for begin in range(0, count, slab):
        part = slice(begin, begin + slab)
        stacked = np.concatenate([eigenvectors.T @ W1[part], W2[part].transpose(0, 2, 1)], axis=1)
        if basis is None:
            triangle: np.ndarray = np.linalg.qr(stacked.transpose(0, 2, 1), mode="r")  # type: ignore[assignment]
            reduced[part] = triangle.transpose(0, 2, 1)
        else:
            q, upper = np.linalg.qr(stacked.transpose(0, 2, 1))
            reduced[part], basis[part] = upper.transpose(0, 2, 1), q.transpose(0, 2, 1)
    return Start(reduced, basis)
