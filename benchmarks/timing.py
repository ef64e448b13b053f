"""Interleaved timing: every round times every contender once, so that a drifting machine drifts for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.workload import Weights, Workload

Run = Callable[[], Weights]
Prepare = Callable[..., Run]


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: What the table calls it.
        kind: "rankfall", "general solver" or "written by hand".
        exact_reduction: Whether it evolves the reduced problem (see docs/benchmarks.md).
        replicates: Trajectories of one call.
        steps: Steps of one timed call.
        prepare: Given the workload and a number of steps, returns a function that does all of them, waits until they
            are done, and returns the final weights, shapes (replicates, p, l) and (replicates, l, k).
        compare: What the check that it does the same work calls instead, where the timed call returns no weights.
        note: Further settings, for the table.
    """

    name: str
    kind: str
    exact_reduction: bool
    replicates: int
    steps: int
    prepare: Prepare
    note: str = ""
    compare: Prepare | None = None


@dataclass(frozen=True)
class Timing:
    """What one contender took; `nanoseconds` are per step and trajectory, one entry per round."""

    contender: Contender
    steps: int
    first_call_seconds: float
    nanoseconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.nanoseconds)

    def times_slower_than(self, other: Timing) -> float:
        """Median over the rounds of the ratio within a round."""
        return statistics.median(a / b for a, b in zip(self.nanoseconds, other.nanoseconds, strict=True))

    def to_dict(self) -> dict[str, object]:
        c = self.contender
        return {
            "name": c.name,
            "kind": c.kind,
            "exact_reduction": c.exact_reduction,
            "note": c.note,
            "replicates": c.replicates,
            "steps": self.steps,
            "nanoseconds": [round(value, 3) for value in self.nanoseconds],
            "median": round(self.median, 3),
            "first_call_seconds": round(self.first_call_seconds, 3),
        }


def seconds_of(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def interleave(contenders: Sequence[Contender], workload: Workload, *, rounds: int, shorten: int = 1) -> list[Timing]:
    """Time all contenders `rounds` times in turn; the first call of each, with its compilation, is reported apart."""
    steps = [max(20, c.steps // shorten) for c in contenders]
    runs = [c.prepare(workload, n) for c, n in zip(contenders, steps, strict=True)]
    first = []
    for contender, run in zip(contenders, runs, strict=True):
        first.append(seconds_of(run))
        print(f"    {contender.name}: first call {first[-1]:.2f} s", flush=True)
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for samples, run in zip(seconds, runs, strict=True):
            samples.append(seconds_of(run))
    timings = [
        Timing(c, n, f, [1e9 * s / (n * c.replicates) for s in samples])
        for c, n, f, samples in zip(contenders, steps, first, seconds, strict=True)
    ]
    for timing in timings:
        print(f"    {timing.contender.name}: {timing.median:,.1f} ns", flush=True)
    return timings
