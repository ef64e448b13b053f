"""Problems, networks and methods made in Python, as the settings that make them again."""

from __future__ import annotations

import dataclasses
from typing import Any

from rankfall.errors import InvalidInput
from rankfall.methods import Method
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.sweep._build import METHODS

__all__ = ["as_settings"]

_NAMES = {kind: name for name, kind in METHODS.items()}


def as_settings(given: Any, section: str) -> Any:
    """The table that stands for an object of this section; anything else as it is.

    Raises:
        InvalidInput: The object holds arrays that belong into a file.

    Example:
        >>> import rankfall as rf
        >>> from rankfall.sweep._objects import as_settings
        >>> as_settings(rf.GradientDescent(step_size=0.1), "method")
        {'name': 'gradient-descent', 'step_size': 0.1, 'weight_decay': 0.0}
    """
    if section == "problem" and isinstance(given, Problem):
        return _problem(given)
    if section == "network" and isinstance(given, LinearNetwork):
        return _network(given)
    if section == "method" and isinstance(given, Method):
        return {"name": _NAMES[type(given)], **dataclasses.asdict(given)}
    return given


def _problem(problem: Problem) -> dict[str, Any]:
    """By its statistics, on which the squared loss depends; mini-batches cannot be drawn from these."""
    if problem.loss != "squared":
        raise InvalidInput(
            f"a problem with loss={problem.loss!r} is its data: save these with numpy.save and give the study "
            "the files, problem={'inputs': 'x.npy', 'labels': 'y.npy', 'loss': …}, or let it draw them."
        )
    return {
        "kind": "statistics",
        "covariance": problem.covariance,
        "cross_covariance": problem.cross_covariance,
        "n_samples": problem.n_samples,
        "label_second_moment": problem.label_second_moment,
    }


def _network(network: LinearNetwork) -> dict[str, Any]:
    if network.start == "given":
        raise InvalidInput(
            "a network of given weights is its arrays: save these with numpy.save and give the study the files, "
            "network={'W1': 'w1.npy', 'W2': 'w2.npy'}."
        )
    width = network.width if network.hidden is None else list(network.hidden)
    return {"width": width, "start": network.start, "scale": network.scale}
