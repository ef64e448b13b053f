"""rankfall itself, through the public `simulate` only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import rankfall as rf
from benchmarks.timing import Contender, Run
from benchmarks.workload import Weights, Workload

KIND = "rankfall"


def contender(
    name: str, *, steps: int, replicates: int, note: str = "", method: Any = None, **options: Any
) -> Contender:
    """A way to call `simulate`: `method` and `options` differ from the defaults, everything else is the workload."""
    return Contender(
        name=name,
        kind=KIND,
        exact_reduction=True,
        replicates=replicates,
        steps=steps,
        prepare=_caller(method, replicates, options, weights=False),
        compare=_caller(method, replicates, options, weights=True),
        note=note,
    )


def _caller(method: Any, replicates: int, options: dict[str, Any], *, weights: bool) -> Callable[[Workload, int], Run]:
    def prepare(workload: Workload, steps: int) -> Run:
        # The first trajectories of the workload's starts, so that one alone begins where the peers' one begins.
        w1, w2 = (w[:replicates] for w in workload.starts)
        network = rf.LinearNetwork.from_weights(w1, w2)
        chosen = method(workload) if method else workload.method
        length: dict[str, Any] = {"steps": steps}
        if isinstance(chosen, rf.StochasticGradientFlow | rf.GradientFlow):
            length = {"duration": steps * workload.step_size, "dt": workload.step_size}

        def run() -> Weights:
            result = rf.simulate(
                workload.problem, network, chosen, replicates=replicates, seed=1, weights=weights, **length, **options
            )
            if not weights:
                return np.empty(0), np.empty(0)
            return result.W1.values[:, -1], result.W2.values[:, -1]

        return run

    return prepare


def geometric(workload: Workload) -> rf.StochasticGradientFlow:
    return workload.flow


def euler(workload: Workload) -> rf.StochasticGradientFlow:
    return dataclasses.replace(workload.flow, integrator="euler")
