"""The exact reductions of a deep network: what of the starting weights the kernels need to carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["DeepStart", "reduce_layers", "reduced_widths"]


@dataclass(frozen=True, eq=False)
class DeepStart:
    """The layers that move, and the way back to the given ones.

    Attributes:
        layers: (replicates, rows, columns) each, in the eigenbasis of Σ.
        bases: For every hidden layer V_i (replicates, reduced width, width) of orthonormal rows, or None for V = I.
    """

    layers: tuple[np.ndarray, ...]
    bases: tuple[np.ndarray | None, ...]

    def restore(self, layers: Sequence[np.ndarray], eigenvectors: np.ndarray, here: slice) -> list[np.ndarray]:
        """Turn layers of the replicates `here` back into the original bases."""
        turned = list(layers)
        turned[0] = eigenvectors @ turned[0]
        for i, basis in enumerate(self.bases):
            if basis is not None:
                turned[i] = turned[i] @ basis[here]
                turned[i + 1] = basis[here].transpose(0, 2, 1) @ turned[i + 1]
        return turned


def reduced_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """l_i ← min(l_i, l_{i−1} + l_{i+1}) for the hidden layers.

    Of two neighbours at most one is ever reduced (l_i > l_{i−1} + l_{i+1} > l_{i+1} excludes the same of i + 1, also
    after the reduction), so the order does not matter and once is enough.
    """
    hidden = [min(widths[i], widths[i - 1] + widths[i + 1]) for i in range(1, len(widths) - 1)]
    return (widths[0], *hidden, widths[-1])


def reduce_layers(layers: Sequence[np.ndarray], eigenvectors: np.ndarray) -> DeepStart:
    """Rotate the rows of W1 into the eigenbasis of Σ and drop the hidden directions that no weight reaches.

    A step multiplies every Z_i = [W_i; W_{i+1}ᵀ] from the left, so that Z_i = R_i V_i keeps the V_i of the start; the
    product, the spectra and the balances of the network are those of the reduced one.
    """
    moving = list(layers)
    moving[0] = eigenvectors.T @ moving[0]
    bases: list[np.ndarray | None] = []
    for i in range(len(moving) - 1):
        rows, width = moving[i].shape[1] + moving[i + 1].shape[2], moving[i].shape[2]
        if width <= rows:
            bases.append(None)
            continue
        stacked = np.concatenate([moving[i].transpose(0, 2, 1), moving[i + 1]], axis=2)  # Z_iᵀ = V_iᵀ R_iᵀ
        q, upper = np.linalg.qr(stacked)
        lower, cut = upper.transpose(0, 2, 1), moving[i].shape[1]
        moving[i], moving[i + 1] = lower[:, :cut], lower[:, cut:].transpose(0, 2, 1)
        bases.append(q.transpose(0, 2, 1))
    return DeepStart(tuple(np.ascontiguousarray(layer) for layer in moving), tuple(bases))
