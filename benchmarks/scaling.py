"""Cost against the sizes of the network, the number of trajectories and threads."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

import rankfall as rf
from benchmarks.machine import cores, describe, load
from benchmarks.peers import jax_scan, numpy_loop
from benchmarks.timing import Prepare, Run, seconds_of
from benchmarks.workload import Weights, Workload

# (p, k, l) along each axis from the headline size, and a few on the way to the largest.
AXES: dict[str, list[tuple[int, int, int]]] = {
    "n_inputs": [(p, 2, 10) for p in (1, 2, 3, 5, 8, 10, 15, 20, 50, 100, 200)],
    "n_outputs": [(5, k, 10) for k in (1, 2, 3, 4, 5, 8, 10, 20)],
    "width": [(5, 2, width) for width in (1, 2, 4, 7, 10, 30, 100, 1000)],
    "size": [(2, 1, 4), (5, 2, 10), (10, 5, 20), (20, 5, 50), (50, 10, 100), (100, 10, 200), (200, 10, 400)],
}
REPLICATES = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048, 8192, 32768)


def _workload(p: int, k: int, width: int, replicates: int) -> Workload:
    """Starts scaled down with the size and a small step: stable, and the cost does not depend on either."""
    return Workload(
        n_inputs=p,
        n_outputs=k,
        width=width,
        replicates=replicates,
        step_size=1e-3,
        scale=(p + k + width) ** -0.5,
        n_samples=max(1000, 10 * p),
    )


def _simulate(workload: Workload, steps: int, **options: Any) -> Run:
    network = workload.gaussian

    def run() -> Weights:
        rf.simulate(
            workload.problem,
            network,
            workload.method,
            steps=steps,
            replicates=workload.replicates,
            save_points=2,
            seed=1,
            **options,
        )
        return np.empty(0), np.empty(0)

    return run


def _cost(
    workload: Workload, prepare: Prepare, *, seconds: float, rounds: int, first_steps: int = 64
) -> dict[str, float]:
    """Median ns per step and trajectory, with as many steps as fill `seconds`; set-up is subtracted.

    Two lengths are timed in every round, and the difference is what the steps cost: for large sizes the start, the
    decompositions at the save points and the copies of the weights are not negligible in a short run.
    """
    begin = prepare(workload, first_steps)
    first_call = seconds_of(begin)
    short = min(seconds_of(begin) for _ in range(2))
    steps = first_steps
    while True:  # lengthen until the run is long enough to be told from its set-up
        longer = prepare(workload, steps * 4)
        taken = seconds_of(longer)
        steps *= 4
        if taken - short > seconds or steps >= 1 << 24:
            break
    samples = []
    for _ in range(rounds):
        base = seconds_of(begin)
        samples.append(1e9 * (seconds_of(longer) - base) / (steps - first_steps) / workload.replicates)
    return {
        "nanoseconds": round(statistics.median(samples), 3),
        "steps": steps,
        "first_call_seconds": round(first_call, 2),
    }


def _size_row(size: tuple[int, int, int], replicates: int, **arguments: Any) -> dict[str, object]:
    workload = _workload(*size, replicates)
    row = _cost(workload, _simulate, **arguments)
    print(f"    (p, k, l) = {size}: {row['nanoseconds']:,} ns", flush=True)
    return {
        "n_inputs": size[0],
        "n_outputs": size[1],
        "width": size[2],
        "replicates": replicates,
        "multiply_adds": workload.multiply_adds,
        **row,
    }


def _quicker_layout(workload: Workload) -> jax_scan.Layout:
    """Broadcast sums win for small matrices; for large ones they would only fill the memory."""
    layouts = [jax_scan.Layout("einsum", workload.replicates // 2, 20, "float32")]
    if workload.n_inputs * workload.n_outputs * workload.width < 10_000:
        layouts.append(jax_scan.Layout("sum", workload.replicates // 2, 20, "float32"))

    def seconds(layout: jax_scan.Layout) -> float:
        run = jax_scan.ensemble_last(workload, 200, layout)
        run()
        return min(seconds_of(run) for _ in range(3))

    return min(layouts, key=seconds)


def _against_peers(sizes: Iterable[tuple[int, int, int]], replicates: int, **arguments: Any) -> list[dict[str, object]]:
    rows = []
    for size in sizes:
        workload = _workload(*size, replicates)
        layout = _quicker_layout(workload)
        row: dict[str, object] = {"n_inputs": size[0], "n_outputs": size[1], "width": size[2], "replicates": replicates}
        for name, prepare in (
            ("rankfall", _simulate),
            ("NumPy", numpy_loop.ensemble),
            ("JAX, ensemble last", partial(jax_scan.ensemble_last, layout=layout)),
            ("JAX, scan + vmap", partial(jax_scan.scan_vmap, threads=2)),
        ):
            steps = 20 if name.startswith("JAX") else 5  # JAX needs whole groups of steps
            row[name] = _cost(workload, prepare, first_steps=steps, **arguments)["nanoseconds"]
        print(f"    (p, k, l) = {size} against peers: {row}", flush=True)
        rows.append(row)
    return rows


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    arguments: dict[str, Any] = {"seconds": 0.05, "rounds": 1} if quick else {"seconds": 0.3, "rounds": 5}
    axes = {}
    for name, sizes in AXES.items():
        chosen = sizes[:: max(1, len(sizes) // 3)] if quick else sizes
        axes[name] = [_size_row(size, 64 if size[0] >= 50 else 512, **arguments) for size in chosen]
    replicates = []
    for count in REPLICATES[::3] if quick else REPLICATES:
        replicates.append({"replicates": count, **_cost(_workload(5, 2, 10, count), _simulate, **arguments)})
        print(f"    {count} trajectories: {replicates[-1]['nanoseconds']:,} ns", flush=True)
    threads = []
    for count in range(1, cores() + 1):

        def prepare(workload: Workload, steps: int, count: int = count) -> Run:
            return _simulate(workload, steps, threads=count)

        threads.append({"threads": count, **_cost(_workload(5, 2, 10, 512), prepare, **arguments)})
    peers = [s for s in AXES["size"] if not quick or s[0] <= 10]
    return {
        "machine": machine,
        "axes": axes,
        "replicates": replicates,
        "threads": threads,
        "peers": _against_peers(peers, 64, **arguments),
        "load_after": load(),
    }
