"""What is kept at a save point: the variables of a run, their definitions and their place in the dataset.

All are functions of Z in the reduced basis, where the spectra, the product W1 W2 and the norm of Q are those of the
full network.

    loss                 L = ½ tr[(W1W2 − Σ⁺C)ᵀ Σ (W1W2 − Σ⁺C)] + its minimum; from the data for the other losses
    log_det              log det M = 2 Σ log σ_i(Z)     (never from M: squaring loses half the digits)
    singular_values_*    of W1, W2 and Z = [W1; W2ᵀ], descending
    balance              ‖Q‖_F, Q = W1ᵀW1 − W2W2ᵀ
    balance_drift        ‖Q_t − Q_0‖_F
    ledger_log_det       Σ over the steps of 2 log |det(a I + Ĥ)|
    ledger_balance       ‖B_t‖_F, B the balance that the ledger predicts
    ledger_balance_error ‖Q_t − B_t‖_F
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = [
    "FORCES",
    "FRAMED",
    "OBSERVABLES",
    "SCALARS",
    "VARIABLES",
    "Recording",
    "balance",
    "observed_numbers",
    "observed_variables",
    "record_large",
]

VARIABLES: dict[str, tuple[str, str]] = {
    "loss": ("squared loss", "L = ‖X W1 W2 − Y‖²_F / 2n"),
    "log_det": ("log det M", "2 Σ log σ_i(Z), M = ZZᵀ"),
    "balance": ("imbalance ‖Q‖_F", "Q = W1ᵀW1 − W2W2ᵀ"),
    "balance_drift": ("change of the balance ‖Q_t − Q_0‖_F", "Q = W1ᵀW1 − W2W2ᵀ"),
    "ledger_balance": ("balance that the ledger predicts, ‖B_t‖_F", "B_0 = Q_0"),
    "ledger_balance_error": ("distance from the balance ledger ‖Q_t − B_t‖_F", "B_0 = Q_0"),
    "ledger_log_det": ("determinant ledger", "Σ 2 log |det((1 − ηλ) I + Ĥ)| over the steps"),
    "singular_values_W1": ("singular values of W1", "descending"),
    "singular_values_W2": ("singular values of W2", "descending"),
    "singular_values_Z": ("singular values of Z = [W1; W2ᵀ]", "descending"),
}
# Rows of `Recording.scalars`; the ledger of the determinant is kept beside them, it is a running sum.
SCALARS = ("loss", "log_det", "balance", "balance_drift", "ledger_balance", "ledger_balance_error")


# What `simulate(observables=…)` adds: observable → variable → (dimensions after replicate and time, words, formula).
OBSERVABLES: dict[str, dict[str, tuple[tuple[str, ...], str, str]]] = {
    "eigenvalues": {"eigenvalues": (("mode_Z",), "eigenvalues of M = ZZᵀ", "λ_i = σ_i(Z)², descending")},
    # The parts of the drift of log λ_i, formulas in `rankfall._eigen`.
    "eigenvalue_forces": {
        "force_gradient": (("mode_Z",), "drift of log λ_i by the gradient", "2 u_iᵀĜu_i"),
        "force_noise": (("mode_Z",), "drift of log λ_i by the noise, repulsion apart", "−u_iᵀKu_i"),
        "force_pairs": (
            ("mode_Z", "mode_Z_other"),
            "drift of log λ_i by the repulsion from mode j",
            "2 n_ij coth((log λ_i − log λ_j)/2)",
        ),
        "force_zero_modes": (("mode_Z",), "drift of log λ_i by the repulsion from λ_j = 0", "2 Σ n_ij over λ_j = 0"),
        "noise_rates": (("mode_Z", "mode_Z_other"), "rates of the noise", "n_ij = E[(u_iᵀdN̂u_j)²]/dt"),
        "eigenvalue_covariance": (
            ("mode_Z", "mode_Z_other"),
            "covariance of the martingales of log λ_i, per time",
            "4 E[(u_iᵀdN̂u_i)(u_jᵀdN̂u_j)]/dt",
        ),
    },
    "log_growth": {
        "log_growth": (("mode",), "logarithmic growth of a frame by mode", "log R_ii of F_t = Q R, F_0 orthonormal")
    },
    "log_singular_values_Z": {"log_singular_values_Z": (("mode_Z",), "log singular values of Z", "from a graded form")},
    "log_singular_values_W1": {
        "log_singular_values_W1": (("mode_W1",), "log singular values of W1", "from a graded form")
    },
    "accuracy": {
        "accuracy": (
            (),
            "share of the samples that are classified correctly",
            "largest score at the largest label; logistic: sign of the score right, over samples and outputs",
        )
    },
}


# The variables of "eigenvalue_forces", in the order of `rankfall._eigen.Parts`.
FORCES = tuple(OBSERVABLES["eigenvalue_forces"])
# Those that need a frame moved beside Z, which gradient flow's engine does not have.
FRAMED = frozenset({"log_growth", "log_singular_values_Z", "log_singular_values_W1"})


def observed_variables(observables: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], str, str]]:
    """The variables that these observables add, by name."""
    return {name: entry for observable in observables for name, entry in OBSERVABLES[observable].items()}


def observed_numbers(observables: tuple[str, ...], p: int, width: int, k: int) -> int:
    """How many numbers these observables take per replicate and save point."""
    sizes = _mode_sizes(p, width, k)
    shapes = ([sizes[dimension] for dimension in entry[0]] for entry in observed_variables(observables).values())
    return sum(math.prod(shape) for shape in shapes)


def _mode_sizes(p: int, width: int, k: int) -> dict[str, int]:
    sizes = {"mode_W1": min(p, width), "mode_W2": min(k, width), "mode_Z": min(p + k, width)}
    return sizes | {f"{name}_other": size for name, size in sizes.items()} | {"mode": p + k}


@dataclass(frozen=True, eq=False)
class Recording:
    """Arrays that fill as the run goes on, the save point first: what is written at one time lies together.

    Attributes:
        scalars: Shape (time, 6, replicate), in the order of SCALARS.
        W1: σ(W1), shape (time, replicate, mode).
        W2: σ(W2).
        Z: σ(Z).
        ledger: The determinant ledger, shape (time, replicate), or None where it is not kept.
        weights1: W1 itself, shape (time, replicate, p, width), or None.
        weights2: W2 itself, or None.
        observed: What the observables add, by variable, shape (time, replicate, …).
    """

    scalars: np.ndarray
    W1: np.ndarray
    W2: np.ndarray
    Z: np.ndarray
    ledger: np.ndarray | None
    weights1: np.ndarray | None
    weights2: np.ndarray | None
    observed: dict[str, np.ndarray]

    @classmethod
    def empty(
        cls,
        replicates: int,
        times: int,
        p: int,
        width: int,
        k: int,
        weights: bool,
        determinant: bool = False,
        observables: tuple[str, ...] = (),
    ) -> Recording:
        """Allocate for a run of these sizes."""

        def blank(*shape: int) -> np.ndarray:
            return np.empty((times, *shape))  # only what has been written is ever shown

        sizes = _mode_sizes(p, width, k)
        observed = {
            name: blank(replicates, *(sizes[dimension] for dimension in dimensions))
            for name, (dimensions, _, _) in observed_variables(observables).items()
        }
        return cls(
            blank(len(SCALARS), replicates),
            blank(replicates, min(p, width)),
            blank(replicates, min(k, width)),
            blank(replicates, min(p + k, width)),
            blank(replicates) if determinant else None,
            blank(replicates, p, width) if weights else None,
            blank(replicates, width, k) if weights else None,
            observed,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for a checkpoint."""
        fixed = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return fixed | {f"observed_{name}": value for name, value in self.observed.items()}


def record_large(
    z: np.ndarray,
    n_inputs: int,
    curvature: np.ndarray,
    solution: np.ndarray,
    minimum_loss: float,
    start_balance: np.ndarray,
    balance_error: np.ndarray | None,
    full_rank: bool,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Variables of one save point in batched NumPy, for z (replicate, p + k, r).

    Returns the scalars (6, replicate) and σ(W1), σ(W2), σ(Z).
    """
    p = n_inputs
    w1, w2 = z[:, :p], z[:, p:]
    gap = w1 @ w2.transpose(0, 2, 1) - solution
    loss = 0.5 * np.einsum("i,bij,bij->b", curvature, gap, gap) + minimum_loss
    q = balance(z, p)
    error = np.zeros_like(q) if balance_error is None else balance_error
    spectra = tuple(np.linalg.svd(part, compute_uv=False) for part in (w1, w2, z))
    with np.errstate(divide="ignore"):
        log_det = 2.0 * np.log(spectra[2]).sum(-1) if full_rank else np.full(len(z), -np.inf)

    def norm(matrix: np.ndarray) -> np.ndarray:
        return np.sqrt((matrix * matrix).sum((1, 2)))

    scalars = np.stack([loss, log_det, norm(q), norm(q - start_balance), norm(q - error), norm(error)])
    return scalars, (spectra[0], spectra[1], spectra[2])


def balance(z: np.ndarray, n_inputs: int) -> np.ndarray:
    """Q = W1ᵀW1 − W2W2ᵀ of Z (replicate, p + k, r), shape (replicate, r, r)."""
    w1, w2 = z[:, :n_inputs], z[:, n_inputs:]
    q: np.ndarray = w1.transpose(0, 2, 1) @ w1 - w2.transpose(0, 2, 1) @ w2
    return q
