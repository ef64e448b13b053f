"""What is kept at a save point of a network of more than two layers, and its place in the dataset.

    loss                       L of the product, as for two layers
    singular_values_W1 … WL    of every layer, descending
    singular_values_product    of W1 W2 … WL; absolute accuracy eps·Π‖W_i‖, since the product itself is rounded
    singular_values_Z1 …       of Z_i = [W_i; W_{i+1}ᵀ]

and for every pair of neighbouring layers, dimension `pair` (i stands for layers i and i + 1):

    log_det                    log det M_i = 2 Σ log σ(Z_i); −∞ where the pair is too narrow
    balance                    ‖Q_i‖_F, Q_i = W_iᵀW_i − W_{i+1}W_{i+1}ᵀ
    balance_drift              ‖Q_i − Q_i(0)‖_F
    ledger_log_det             Σ over the steps of 2 log |det(a I + Ĥ_i)|, H_i the increment of the pair's product
    ledger_balance             ‖B_i‖_F, B_i the balance that the ledger predicts
    ledger_balance_error       ‖Q_i − B_i‖_F
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PAIR_SCALARS", "DeepRecording", "pair_balances", "record_by_lapack", "spectra_sizes"]

PAIR_SCALARS: dict[str, tuple[str, str]] = {
    "log_det": ("log det M_i", "2 Σ log σ(Z_i), M_i = Z_i Z_iᵀ"),
    "balance": ("imbalance ‖Q_i‖_F", "Q_i = W_iᵀW_i − W_{i+1}W_{i+1}ᵀ"),
    "balance_drift": ("change of the balance ‖Q_i(t) − Q_i(0)‖_F", "Q_i = W_iᵀW_i − W_{i+1}W_{i+1}ᵀ"),
    "ledger_balance": ("balance that the ledger predicts, ‖B_i‖_F", "B_i(0) = Q_i(0)"),
    "ledger_balance_error": ("distance from the balance ledger ‖Q_i − B_i‖_F", "B_i(0) = Q_i(0)"),
}


def spectra_sizes(widths: Sequence[int]) -> dict[str, int]:
    """How many singular values there are of W1, …, WL, the product, and Z1, …, Z(L−1), in this order."""
    depth = len(widths) - 1
    sizes = {f"W{i + 1}": min(widths[i], widths[i + 1]) for i in range(depth)}
    sizes["product"] = min(widths[0], widths[-1])
    return sizes | {f"Z{i}": min(widths[i - 1] + widths[i + 1], widths[i]) for i in range(1, depth)}


@dataclass(frozen=True, eq=False)
class DeepRecording:
    """Arrays that fill as the run goes on, the save point first.

    Attributes:
        loss: Shape (time, replicate).
        pairs: Shape (time, 5, pair, replicate), in the order of PAIR_SCALARS.
        spectra: Shape (time, replicate, mode): the singular values of `spectra_sizes`, one after the other.
        ledger: The determinant ledgers, shape (time, pair, replicate), or None where they are not kept.
        integration_error: Sum of the estimated local errors of gradient flow, (time, replicate), or None.
        weights: The layers, each (time, replicate, rows, columns), or None.
        accuracy: Shape (time, replicate), or None for the squared loss.
    """

    loss: np.ndarray
    pairs: np.ndarray
    spectra: np.ndarray
    ledger: np.ndarray | None
    integration_error: np.ndarray | None
    weights: tuple[np.ndarray, ...] | None
    accuracy: np.ndarray | None

    @classmethod
    def empty(
        cls,
        replicates: int,
        times: int,
        widths: Sequence[int],
        *,
        weights: bool,
        determinant: bool,
        flow: bool,
        accuracy: bool,
    ) -> DeepRecording:
        """Allocate for a run of these sizes; only what has been written is ever shown."""
        pairs, modes = len(widths) - 2, sum(spectra_sizes(widths).values())
        layers = tuple(np.empty((times, replicates, a, b)) for a, b in itertools.pairwise(widths)) if weights else None
        return cls(
            np.empty((times, replicates)),
            np.empty((times, len(PAIR_SCALARS), pairs, replicates)),
            np.empty((times, replicates, modes)),
            np.empty((times, pairs, replicates)) if determinant else None,
            np.empty((times, replicates)) if flow else None,
            layers,
            np.empty((times, replicates)) if accuracy else None,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for a checkpoint."""
        fixed = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return fixed | {f"weights{i}": layer for i, layer in enumerate(self.weights or (), start=1)}


def pair_balances(layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Q_i = W_iᵀW_i − W_{i+1}W_{i+1}ᵀ of every pair, layers (replicates, rows, columns)."""
    return [left.swapaxes(-1, -2) @ left - right @ right.swapaxes(-1, -2) for left, right in itertools.pairwise(layers)]


def record_by_lapack(
    layers: Sequence[np.ndarray],
    start_balances: Sequence[np.ndarray],
    ledger_balances: Sequence[np.ndarray] | None,
    full: Sequence[bool],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The product, the pair scalars (5, pair) and the spectra of one replicate, layers (rows, columns)."""
    product = layers[0]
    for layer in layers[1:]:
        product = product @ layer
    both = [np.concatenate([left, right.T]) for left, right in itertools.pairwise(layers)]
    spectra = [np.linalg.svd(matrix, compute_uv=False) for matrix in (*layers, product, *both)]
    pairs = np.full((len(PAIR_SCALARS), len(both)), np.nan)
    for i, q in enumerate(pair_balances(layers)):
        with np.errstate(divide="ignore"):
            pairs[0, i] = 2.0 * np.log(spectra[len(layers) + 1 + i]).sum() if full[i] else -np.inf
        pairs[1, i], pairs[2, i] = np.linalg.norm(q), np.linalg.norm(q - start_balances[i])
        if ledger_balances is not None:
            pairs[3, i], pairs[4, i] = np.linalg.norm(ledger_balances[i]), np.linalg.norm(q - ledger_balances[i])
    return product, pairs, np.concatenate(spectra)
