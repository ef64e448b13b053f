"""The problem, network and method of a cell, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rankfall._plan import method_for
from rankfall.methods import GradientFlow, Method, StochasticGradientFlow
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.sweep._build import make_method, make_network, make_problem
from rankfall.sweep._quantities import Measure

__all__ = ["Model", "applies"]


@dataclass(frozen=True, eq=False)
class Model:
    """What a cell simulates."""

    problem: Problem
    network: LinearNetwork
    method: Method

    @classmethod
    def make(cls, settings: Mapping[str, Any]) -> Model:
        """Of the settings of a cell; raises `InvalidInput` where they make none."""
        problem = make_problem(settings["problem"])
        network = make_network(settings["network"], problem.n_inputs, problem.n_outputs)
        return cls(problem, network, method_for(network, make_method(settings["method"])))

    @property
    def is_two_layered(self) -> bool:
        """Whether W1, W2 is all there is."""
        return self.network.depth == 2

    @property
    def is_framed(self) -> bool:
        """Whether a frame can be moved beside the network."""
        return self.is_two_layered and not isinstance(self.method, GradientFlow)

    @cached_property
    def has_determinant(self) -> bool:
        """Whether det M is not zero throughout."""
        return self.is_two_layered and any(self.network.full_pairs)

    @property
    def rate(self) -> float | None:
        """d log det M/dt where a law of the flow gives it."""
        from rankfall.laws import determinant

        flow = isinstance(self.method, GradientFlow | StochasticGradientFlow)
        return determinant.rate(self.problem, self.method) if flow else None

    @property
    def has_ledger(self) -> bool:
        """Whether the determinant's ledger is what the slope is to be compared with."""
        return self.has_determinant and self.rate is None


def applies(measure: Measure, model: Model) -> bool:
    """Whether a cell has such a number."""
    if measure.needs == "determinant":
        return model.has_determinant
    if measure.needs == "two layers":
        return model.is_two_layered
    if measure.needs == "accuracy":
        return model.problem.loss != "squared"
    return measure.needs == "" or model.is_framed
