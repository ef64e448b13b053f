"""Sweeps: what a cell costs besides its simulation, ten thousand of them, two workers against one, Dask's scheduler.

On a machine that others use as well, processor time says more than the clock; both are in the results. The two workers
and the one take turns.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe, load
from benchmarks.subprocesses import run_snippet

OVERHEAD_GOAL_MS, OPENING_GOAL_S, SCALING_GOAL = 5.0, 1.0, 1.8
WORKERS_PLANNED = 1_000
ROOT = Path(__file__).parent.parent

# One step of four networks: the simulation itself takes microseconds, what is left is overhead.
_GRID = """
import pathlib, resource, sys, time
import rankfall as rf

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def study(rows, columns):
    return rf.sweep.Study(
        name="tiny",
        problem={"n_samples": 100, "n_inputs": 5, "n_outputs": 2},
        method={"name": "label-noise-descent", "step_size": 0.01},
        run={"steps": 1, "replicates": 4, "save_points": 2},
        axes={
            "label_noise": {"linear": [0.1, 1.0], "count": rows},
            "scale": {"linear": [0.1, 1.0], "count": columns},
        },
    )
"""

_SIZES = (
    _GRID
    + """
rf.sweep.run(study(2, 3), path + "-warm", threads=1)
before, wall, cpu = peak(), time.perf_counter(), time.process_time()
made = study(rows, columns)
checked = time.process_time()
summary = rf.sweep.run(made, path, threads=1)
wall, cpu, check = time.perf_counter() - wall, time.process_time() - checked, checked - cpu
assert summary.done == rows * columns, summary
files = [file for file in pathlib.Path(path).rglob("*") if file.is_file()]
print(json.dumps({
    "cells": summary.done, "wall_seconds": wall, "cpu_seconds": cpu, "check_cpu_seconds": check,
    "grown_bytes": peak() - before, "files": len(files), "store_bytes": sum(file.stat().st_size for file in files),
}))
"""
)

_OPENING = (
    _GRID
    + """
import xarray, zarr
def timed(call):
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
found = {
    "open": timed(lambda: rf.sweep.open_results(path)),
    "open and load everything": timed(lambda: rf.sweep.open_results(path).load()),
    "status": timed(lambda: rf.sweep.status(path)),
    "run again, nothing to do": timed(lambda: rf.sweep.run(study(rows, columns), path, threads=1)),
}
print(json.dumps(found))
"""
)

_CLUSTER = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(n_workers=int(sys.argv[1]), **options) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    results: dict[str, object] = {
        "machine": machine,
        "goals": {"overhead_ms": OVERHEAD_GOAL_MS, "opening_s": OPENING_GOAL_S, "scaling": SCALING_GOAL},
    }
    results["sizes"] = _sizes(((10, 10), (30, 30)) if quick else ((10, 10), (20, 50), (100, 100)))
    results["scaling"] = _scaling(rounds=1 if quick else 5, cells=16 if quick else 60)
    results["dask"] = _dask(cells=500 if quick else 10_000)
    return {**results, "load_after": load()}


def _sizes(grids: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Stores of growing size: time per cell, memory, files, opening."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for a, b in grids:
            path = str(Path(folder) / f"{a}x{b}.zarr")
            row = run_snippet(_SIZES, path=path, rows=a, columns=b)
            row["overhead_ms_per_cell"] = round(1e3 * row["cpu_seconds"] / row["cells"], 3)
            row["wall_ms_per_cell"] = round(1e3 * row["wall_seconds"] / row["cells"], 3)
            row["opening"] = run_snippet(_OPENING, path=path, rows=a, columns=b)
            rows.append(row)
            print(
                f"    {row['cells']} cells: {row['overhead_ms_per_cell']} ms of processor each, {row['files']} files, "
                f"{row['grown_bytes'] / 1e6:.1f} MB of memory, open in {row['opening']['open']['wall_seconds']:.3f} s",
                flush=True,
            )
    return rows


def _scaling(rounds: int, cells: int) -> dict[str, Any]:
    """Cells of about 0.05 s on one thread, by one worker and by two, in turns.

    On a machine that others use, two workers get less than twice the processor. What does not depend on the others: how
    much processor time a cell takes beside another worker and alone, and which share of their time the workers are at a
    cell and not waiting for the next one. "undisturbed" is the ratio that follows from these two.
    """
    import rankfall as rf

    study = rf.sweep.Study(
        name="busy",
        problem={"n_samples": 100, "n_inputs": 5, "n_outputs": 2},
        method={"name": "label-noise-descent", "step_size": 0.01},
        run={"steps": 600_000, "replicates": 8, "save_points": 2},
        axes={"label_noise": {"linear": [0.1, 1.0], "count": cells}},
    )
    rows: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for workers, found in rows.items():
                # From the second result of every worker on: starting and loading the kernels is another matter. Until
                # some cells before the end, when one of two has nothing to do any more.
                times: list[tuple[float, float]] = []
                path = Path(folder) / f"{turn}-{workers}.zarr"
                rf.sweep.run(study, path, workers=workers, progress=lambda state, times=times: times.append(_clocks()))
                first, last = times[2 * workers + 1], times[-2 * workers]
                wall, cpu = (end - begin for begin, end in zip(first, last, strict=True))
                count = len(times) - 4 * workers - 1
                took = np.sort(rf.sweep.open_results(path)["wall_time"].values)[: -2 * workers].mean()
                found.append(
                    {
                        "wall_seconds_per_cell": wall / count,
                        "cpu_seconds_per_cell": cpu / count,
                        "share_at_cells": float(min(1.0, took * count / (wall * workers))),
                    }
                )

    def ratio(one: dict[str, float], two: dict[str, float]) -> float:
        same_speed = one["cpu_seconds_per_cell"] / two["cpu_seconds_per_cell"]
        return 2.0 * same_speed * two["share_at_cells"] / one["share_at_cells"]

    clock = [a["wall_seconds_per_cell"] / b["wall_seconds_per_cell"] for a, b in zip(rows[1], rows[2], strict=True)]
    undisturbed = [ratio(a, b) for a, b in zip(rows[1], rows[2], strict=True)]
    result = {
        "rows": {
            str(workers): [{name: round(value, 4) for name, value in row.items()} for row in found]
            for workers, found in rows.items()
        },
        "times_faster_by_the_clock": round(statistics.median(clock), 3),
        "times_faster_undisturbed": round(statistics.median(undisturbed), 3),
        "share_at_cells_of_two": round(statistics.median(row["share_at_cells"] for row in rows[2]), 4),
    }
    print(
        f"    two workers: {result['times_faster_by_the_clock']} times faster by the clock, "
        f"{result['times_faster_undisturbed']} undisturbed",
        flush=True,
    )
    return result


def _clocks() -> tuple[float, float]:
    """The time, and the processor time of all workers; seconds."""
    return time.perf_counter(), sum(_cpu_of(worker.pid) for worker in multiprocessing.active_children())


def noop(settings: Any, seed: int, quantities: Any, threads: int | None = None, stop: Any = None) -> Any:
    """A cell that computes nothing, for workers to import."""
    from rankfall.sweep import CellResult

    return CellResult("", "done", "", {"value": np.asarray(float(settings["place"]))}, 0.0)


def _dask(cells: int) -> dict[str, Any]:
    """No-op cells on a LocalCluster in a process of its own: processor time per cell of the scheduler and of ours."""
    from rankfall.sweep import Cell, Quantity
    from rankfall.sweep._dask import in_dask
    from rankfall.sweep._job import Job

    quantities = [Quantity("value")]
    grid = [Cell((i,), f"{i:032x}", {"place": i, "section": {"text": "x" * 500}}, i) for i in range(cells)]
    with ExitStack() as stack:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        script = Path(folder) / "cluster.py"
        script.write_text(_CLUSTER)
        cluster = stack.enter_context(
            subprocess.Popen(
                [sys.executable, script, "2"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )
        )  # fmt: skip
        assert cluster.stdin is not None and cluster.stdout is not None
        stack.callback(cluster.stdin.close)
        address = cluster.stdout.readline().strip()
        job = Job(quantities, 1, lambda notice: None, lambda: None, "benchmarks.sweep:noop")
        list(in_dask(iter(grid[:50]), job, address))
        before, ours, wall = _cpu_of(cluster.pid), time.process_time(), time.perf_counter()
        done = sum(result.status == "done" for result in chain.from_iterable(in_dask(iter(grid), job, address)))
        wall, ours, scheduler = time.perf_counter() - wall, time.process_time() - ours, _cpu_of(cluster.pid) - before
    assert done == cells
    scheduler_ms, client_ms = 1e3 * scheduler / cells, 1e3 * ours / cells
    worst = max(scheduler_ms, client_ms)
    found = {
        "cells": cells,
        "workers": 2,
        "wall_ms_per_cell": round(1e3 * wall / cells, 3),
        "scheduler_cpu_ms_per_cell": round(scheduler_ms, 3),
        "client_cpu_ms_per_cell": round(client_ms, 3),
        "plan": {
            "workers": WORKERS_PLANNED,
            "cells_per_second_at_most": round(1e3 / worst),
            "seconds_of_a_cell_that_keep_them_busy": round(WORKERS_PLANNED * worst / 1e3, 2),
        },
    }
    print(f"    dask: {json.dumps(found)}", flush=True)
    return found


def _cpu_of(pid: int | None) -> float:
    """Processor seconds of a process so far, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
