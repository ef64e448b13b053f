"""Deeper networks: label-noise descent at widths 5-10-10-2 against hand-written JAX, and the cost against the depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

import rankfall as rf
from benchmarks.machine import describe, load
from benchmarks.peers import jax_deep
from benchmarks.peers.jax_scan import Layout, layouts
from benchmarks.timing import Contender, Run, interleave, seconds_of

HAND, OURS = "written by hand", "rankfall"
DEPTHS = (2, 3, 4, 5, 6)
MAIN = "rankfall, default recording and ledgers"
BARE = "rankfall, no ledger, nothing recorded on the way"
LEDGERS = "rankfall, default ledgers, nothing recorded on the way"
BEST = "JAX, ensemble last, best layout"
PLAIN = "JAX, scan + vmap"


@dataclass(frozen=True)
class DeepWorkload:
    """The workload of the headline with more than one hidden layer, started with entries of variance 1/width."""

    depth: int = 3
    width: int = 10
    replicates: int = 512
    step_size: float = 0.01
    label_noise: float = 2.0

    @cached_property
    def problem(self) -> rf.Problem:
        return rf.Problem.gaussian(n_samples=1000, n_inputs=5, n_outputs=2, seed=0)

    @cached_property
    def starts(self) -> tuple[np.ndarray, ...]:
        hidden = [self.width] * (self.depth - 1)
        return rf.LinearNetwork.gaussian(5, hidden, 2, self.width**-0.5 / 2).draw(self.replicates, seed=0)

    @property
    def covariance(self) -> np.ndarray:
        return self.problem.covariance

    @property
    def cross_covariance(self) -> np.ndarray:
        return self.problem.cross_covariance

    @cached_property
    def noise_factor(self) -> np.ndarray:
        return np.sqrt(self.label_noise) * np.linalg.cholesky(self.covariance)


def ours(workload: DeepWorkload, steps: int, weights: bool = False, **options: Any) -> Run:
    network = rf.LinearNetwork.from_weights(*workload.starts)
    method = rf.LabelNoiseDescent(step_size=workload.step_size, label_noise=workload.label_noise)

    def run() -> Any:
        result = rf.simulate(
            workload.problem,
            network,
            method,
            steps=steps,
            replicates=workload.replicates,
            seed=1,
            weights=weights,
            **options,
        )
        return tuple(result[f"W{i}"].values[:, -1] for i in range(1, workload.depth + 1)) if weights else ()

    return run


def same_work(workload: DeepWorkload, layout: Layout) -> float:
    """Largest difference of the final weights of all contenders over 100 steps without noise."""
    quiet = replace(workload, label_noise=0.0)
    reference = ours(quiet, 100, weights=True)()
    others = [jax_deep.scan_vmap(quiet, 100)(), jax_deep.ensemble_last(quiet, 100, layout)()]
    return max(float(np.abs(a - b).max()) for other in others for a, b in zip(reference, other, strict=True))


def best_layout(workload: DeepWorkload, *, quick: bool) -> tuple[Layout, list[dict[str, object]]]:
    """Try every layout briefly."""
    steps, tried = (100 if quick else 200), []
    best: tuple[float, Layout] | None = None
    for layout in layouts(workload.replicates, reduced=False, quick=quick):
        run = jax_deep.ensemble_last(workload, steps, layout)
        run()
        nanoseconds = 1e9 * min(seconds_of(run) for _ in range(3)) / steps / workload.replicates
        tried.append({"layout": str(layout), "nanoseconds": round(nanoseconds, 1)})
        if best is None or nanoseconds < best[0]:
            best = (nanoseconds, layout)
    assert best is not None
    print(f"    best JAX layout at depth {workload.depth}: {best[1]}", flush=True)
    return best[1], tried


def contenders(layout: Layout, *, only_main: bool) -> list[Contender]:
    def one(name: str, kind: str, steps: int, prepare: Any, note: str = "") -> Contender:
        return Contender(name, kind, kind == OURS, 512, steps, prepare, note)

    ledgers = one(LEDGERS, OURS, 10_000, partial(ours, save_points=2), "all balance ledgers, kept at every step")
    bare = one(BARE, OURS, 10_000, partial(ours, save_points=2, ledger="none"), "the kernel alone")
    best = one(BEST, HAND, 600, partial(jax_deep.ensemble_last, layout=layout), f"{layout}, 2 threads")
    if only_main:
        return [ledgers, bare, best]
    return [
        one(MAIN, OURS, 100_000, ours, "200 save points, all balance ledgers"),
        bare,
        ledgers,
        best,
        one(
            "rankfall, default, one thread", OURS, 50_000, partial(ours, threads=1, save_points=100), "100 save points"
        ),
        one(PLAIN, HAND, 300, jax_deep.scan_vmap, "as most people write it"),
        one(f"{PLAIN}, 2 threads", HAND, 300, partial(jax_deep.scan_vmap, threads=2)),
    ]


def measure(*, quick: bool) -> dict[str, object]:
    machine, rounds = describe(), 2 if quick else 5
    workload = DeepWorkload()
    layout, tried = best_layout(workload, quick=quick)
    difference = same_work(workload, layout)
    assert difference < 1e-11, difference
    timings = interleave(contenders(layout, only_main=False), workload, rounds=rounds, shorten=10 if quick else 1)
    main, bare = timings[0], timings[1]
    ratios = {
        timing.contender.name: {
            "default": round(timing.times_slower_than(main), 1),
            "no ledger, nothing recorded": round(timing.times_slower_than(bare), 1),
        }
        for timing in timings
        if timing.contender.kind == HAND
    }
    print(f"    slower than rankfall by: {ratios}", flush=True)
    depths = []
    for depth in DEPTHS[::2] if quick else DEPTHS:
        deeper = DeepWorkload(depth=depth, step_size=0.01 if depth < 5 else 0.005)
        chosen, _ = (layout, None) if quick else best_layout(deeper, quick=True)
        row = interleave(contenders(chosen, only_main=True), deeper, rounds=rounds, shorten=10 if quick else 1)
        depths.append({"depth": depth, **{timing.contender.name: round(timing.median, 2) for timing in row}})
    return {
        "machine": machine,
        "widths": [5, 10, 10, 2],
        "difference_without_noise": difference,
        "layouts": tried,
        "timings": [timing.to_dict() for timing in timings],
        "times_slower": ratios,
        "depths": depths,
        "load_after": load(),
    }
