"""The losses as plain NumPy functions of scores S = XW and labels Y, and the labels that each of them takes.

    squared          ½‖s − y‖²                  link(s) = s
    logistic         Σ_j log(1 + e^{s_j}) − y_j s_j     link(s)_j = 1/(1 + e^{−s_j})   (each output on its own)
    cross_entropy    log Σ_j e^{s_j} − Σ_j y_j s_j      link(s) = softmax(s)

per sample; the loss of a product W is their mean, and G = −∂L/∂W = Xᵀ(Y − link(XW))/n in all three cases.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rankfall import _checks
from rankfall.errors import InvalidInput

__all__ = ["CURVATURE", "FORMULAS", "Loss", "accuracy", "checked_labels", "link", "mean_loss"]

Loss = Literal["squared", "logistic", "cross_entropy"]

# Largest eigenvalue that the Hessian of a sample's loss in its scores can have: σ(1 − σ) ≤ 1/4 for the logistic
# function; for the softmax diag(q) − qqᵀ has no row with Σ|entries| = 2 q_j(1 − q_j) above 1/2 (Gershgorin).
CURVATURE: dict[str, float] = {"squared": 1.0, "logistic": 0.25, "cross_entropy": 0.5}
# Name and formula of the variable `loss` of a run.
FORMULAS: dict[str, tuple[str, str]] = {
    "squared": ("squared loss", "L = ‖X W1 W2 − Y‖²_F / 2n"),
    "logistic": ("logistic loss", "L = Σ_ij [log(1 + exp s_ij) − y_ij s_ij] / n, S = X W1 W2"),
    "cross_entropy": ("cross-entropy", "L = Σ_i [log Σ_j exp s_ij − Σ_j y_ij s_ij] / n, S = X W1 W2"),
}
# How far from 1 the sum of a row of class probabilities may be.
_SUM_TOLERANCE = 1e-9


def link(scores: np.ndarray, loss: str) -> np.ndarray:
    """The predicted labels, of the shape of the scores (…, k)."""
    if loss == "squared":
        return scores
    if loss == "logistic":
        small = np.exp(-np.abs(scores))  # never overflows
        return np.where(scores >= 0.0, 1.0, small) / (1.0 + small)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def mean_loss(scores: np.ndarray, labels: np.ndarray, loss: str) -> float:
    """The mean over the samples (n, k)."""
    if loss == "squared":
        each = 0.5 * np.square(scores - labels).sum(axis=1)
    elif loss == "logistic":
        # log(1 + e^s) − y s in the form that neither overflows nor cancels: y(1−σ) and (1−y)σ have their own softplus
        softplus = np.log1p(np.exp(-np.abs(scores)))
        each = (softplus + np.where(scores > 0.0, (1.0 - labels) * scores, -labels * scores)).sum(axis=1)
    else:
        gaps = scores - scores.max(axis=1, keepdims=True)  # ≤ 0
        each = np.log(np.exp(gaps).sum(axis=1)) - (labels * gaps).sum(axis=1)
    return float(each.mean())


def accuracy(scores: np.ndarray, labels: np.ndarray, loss: str) -> float:
    """Share of samples whose largest score is that of the largest label; logistic: of signs that are right."""
    if loss == "logistic":
        return float(np.mean((scores > 0.0) == (labels > 0.5)))
    return float(np.mean(scores.argmax(axis=1) == labels.argmax(axis=1)))


def checked_labels(labels: Any, loss: str) -> np.ndarray:
    """Labels as a read-only matrix (n, k), or say which labels the loss takes.

    Raises:
        InvalidInput: They are none that this loss takes.
    """
    if loss == "squared":
        return _checks.finite_matrix(labels, "labels", columns_ok=True)
    if loss == "logistic":
        return _zero_one(labels)
    given = _as_array(labels)
    if given.ndim == 1 or (given.ndim == 2 and given.shape[1] == 1):
        return _one_hot(given.ravel())
    return _distributions(labels)


def _as_array(labels: Any) -> np.ndarray:
    try:
        return np.asarray(labels)
    except ValueError as error:  # ragged
        raise InvalidInput(f"labels must be an array: {error}.") from None


def _zero_one(labels: Any) -> np.ndarray:
    if _as_array(labels).dtype.kind not in "biuf":
        raise InvalidInput(
            "labels of the logistic loss must be numbers, 0 or 1; for named classes use loss='cross_entropy', or "
            "(labels == name)."
        )
    matrix = _checks.finite_matrix(labels, "labels", columns_ok=True)
    low, high = float(matrix.min()), float(matrix.max())
    if low < 0.0 or high > 1.0:
        raise InvalidInput(
            f"labels of the logistic loss must lie between 0 and 1, got values from {low:g} to {high:g}. "
            "For labels ±1 give (labels + 1) / 2; for several classes use loss='cross_entropy'."
        )
    return matrix


def _one_hot(values: np.ndarray) -> np.ndarray:
    """A row per sample with a 1 in the column of its class, the classes sorted."""
    if values.size == 0:
        raise InvalidInput("labels must not be empty.")
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        values = values.astype(str)
    if values.dtype.kind not in "biufUS":
        raise InvalidInput(f"class labels must be numbers or text, got an array of {values.dtype}.")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        wrong = values[~(np.isfinite(values) & (values == np.rint(values)))][0]
        raise InvalidInput(
            f"class numbers must be whole, got {wrong:g}; for probabilities give one column per class, for one output "
            "with labels from 0 to 1 use loss='logistic'."
        )
    classes, which = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise InvalidInput(f"labels must have two classes or more, all {len(values)} are {classes[0]!s}.")
    matrix = np.zeros((len(values), len(classes)))
    matrix[np.arange(len(values)), which] = 1.0
    matrix.setflags(write=False)
    return matrix


def _distributions(labels: Any) -> np.ndarray:
    matrix = _checks.finite_matrix(labels, "labels")
    sums = matrix.sum(axis=1)
    wrong = (matrix < 0.0).any(axis=1) | (np.abs(sums - 1.0) > _SUM_TOLERANCE)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidInput(
            f"labels of the cross-entropy must be one-hot or class probabilities: rows of numbers ≥ 0 with sum 1. "
            f"{int(wrong.sum())} of {len(matrix)} rows are not, the first is row {row} with sum {sums[row]:g} and "
            f"smallest entry {matrix[row].min():g}. Give one column of class numbers, or do not centre the labels."
        )
    return matrix
