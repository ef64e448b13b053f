"""Gradients of the losses in function space, for kernels that hold the data.

With scores s = xᵀW of one sample and its labels y the residual is y − link(s): the identity for the squared loss, the
logistic function entry by entry for "logistic", the softmax for "cross_entropy". In all three cases
G = −∂L/∂W = Xᵀ(Y − link(XW))/n.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

__all__ = ["CODES", "flow_gradient", "residual"]

CODES = {"squared": 0, "logistic": 1, "cross_entropy": 2}
_COMPILE: dict[str, Any] = {"error_model": "numpy", "nogil": True}


@njit(**_COMPILE)
def residual(scores, labels, loss, out):  # type: ignore[no-untyped-def]
    """out = labels − link(scores) for one sample; loss is one of CODES."""
    k = len(scores)
    if loss == 0:
        for j in range(k):
            out[j] = labels[j] - scores[j]
    elif loss == 1:
        for j in range(k):
            small = math.exp(-abs(scores[j]))  # never overflows
            out[j] = labels[j] - (1.0 if scores[j] >= 0.0 else small) / (1.0 + small)
    else:
        largest = scores[0]
        for j in range(1, k):
            largest = max(largest, scores[j])
        total = 0.0
        for j in range(k):
            out[j] = math.exp(scores[j] - largest)
            total += out[j]
        for j in range(k):
            out[j] = labels[j] - out[j] / total


@njit(**_COMPILE)
def flow_gradient(product, cross, curvature, inputs, labels, loss, scores, difference, out):  # type: ignore[no-untyped-def]
    """out = G of the product W (p, k): C − diag(d) W for the squared loss, Xᵀ(Y − link(XW))/n for the others.

    scores and difference are room for k numbers each; inputs and labels are not looked at for the squared loss.
    """
    p, k = product.shape
    if loss == 0:
        for i in range(p):
            for j in range(k):
                out[i, j] = cross[i, j] - curvature[i] * product[i, j]
        return
    out[:] = 0.0
    n = len(inputs)
    for t in range(n):
        scores[:] = 0.0
        for i in range(p):
            x = inputs[t, i]
            for j in range(k):  # along the rows of the product: neighbours in memory
                scores[j] += x * product[i, j]
        residual(scores, labels[t], loss, difference)
        for i in range(p):
            for j in range(k):
                out[i, j] += inputs[t, i] * difference[j]
    for i in range(p):
        for j in range(k):
            out[i, j] /= n
