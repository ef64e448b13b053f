"""What a kernel needs of the data: for mini-batches, and for all methods where the loss is not squared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rankfall import _losses
from rankfall._kernels.flips import flip_threshold
from rankfall._kernels.loss_increment import LossData, room_size
from rankfall._kernels.losses import CODES
from rankfall._kernels.minibatch import batch_buffer
from rankfall._kernels.vector import aligned_zeros
from rankfall._plan import Plan
from rankfall.methods import LabelNoiseDescent, Method, StochasticGradientDescent
from rankfall.problem import Problem

__all__ = ["Measure", "rotated", "thread_data"]


def rotated(problem: Problem, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in the eigenbasis of Σ, and labels."""
    assert problem.inputs is not None and problem.labels is not None
    return np.ascontiguousarray(problem.inputs @ plan.eigenvectors), np.ascontiguousarray(problem.labels)


def thread_data(problem: Problem, method: Method, plan: Plan) -> Callable[[int], tuple[Any, ...]] | None:
    """A function of the lanes that makes the `data` of `minibatch_increment`, with buffers of its own at every call.

    None where the sufficient statistics are enough.
    """
    if problem.loss != "squared":
        return _of_loss(problem, method, plan)
    if not isinstance(method, StochasticGradientDescent):
        return None
    inputs, labels = rotated(problem, plan)
    b, k = method.batch_size, problem.n_outputs
    numbers = plan.step_length / b, float(np.sqrt(method.label_noise)), b, plan.precision == "double"

    def make(lanes: int) -> tuple[Any, ...]:
        buffers = batch_buffer(b, len(inputs), lanes), aligned_zeros((b * k + 4) * lanes)
        return inputs, labels, *buffers, *numbers

    return make


def _of_loss(problem: Problem, method: Method, plan: Plan) -> Callable[[int], LossData]:
    inputs, labels = rotated(problem, plan)
    n, b = len(inputs), int(getattr(method, "batch_size", len(inputs)))
    threshold = flip_threshold(getattr(method, "label_noise", 0.0))
    # Flips of all samples need no second pass beside the full gradient.
    beside = isinstance(method, LabelNoiseDescent) and threshold > 0.0 and b < n
    whole = not isinstance(method, StochasticGradientDescent)
    h = plan.step_length
    gain = h / n if whole else h / b
    noise_gain = h / b if beside else 0.0
    if whole and not beside:
        b = n

    def make(lanes: int) -> LossData:
        drawn = b if b < n else 0
        return LossData(
            inputs,
            labels,
            batch_buffer(drawn, n, lanes),
            aligned_zeros(room_size(inputs.shape[1], labels.shape[1], lanes)),
            gain,
            noise_gain,
            CODES[problem.loss],
            threshold,
            b,
        )

    return make


class Measure:
    """Loss and accuracy on the data, for the losses that the sufficient statistics do not give."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        """Take the data into the eigenbasis of Σ."""
        self._inputs, self._labels = rotated(problem, plan)
        self._loss = problem.loss

    @classmethod
    def of(cls, problem: Problem, plan: Plan) -> Measure | None:
        """None for the squared loss."""
        return None if problem.loss == "squared" else cls(problem, plan)

    def __call__(self, product: np.ndarray) -> tuple[float, float]:
        """Of one product W1 W2 (p, k) in the eigenbasis."""
        scores = self._inputs @ product
        return (
            _losses.mean_loss(scores, self._labels, self._loss),
            _losses.accuracy(scores, self._labels, self._loss),
        )
