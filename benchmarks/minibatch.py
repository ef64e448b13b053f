"""Real mini-batch descent (batches drawn from the data) against the loops in NumPy and PyTorch."""

from __future__ import annotations

from functools import partial

import rankfall as rf
from benchmarks import ours
from benchmarks.machine import describe, load
from benchmarks.peers import numpy_loop, torch_loop
from benchmarks.timing import Contender, interleave
from benchmarks.workload import Workload

BATCH_SIZES = (1, 4, 16, 64, 256, 1000)


def measure(*, quick: bool) -> dict[str, object]:
    machine, workload = describe(), Workload()
    rounds, shorten = (3, 5) if quick else (7, 1)
    rows = []
    for batch_size in BATCH_SIZES[::2] if quick else BATCH_SIZES:

        def method(workload: Workload, batch_size: int = batch_size) -> rf.StochasticGradientDescent:
            return rf.StochasticGradientDescent(step_size=workload.step_size, batch_size=batch_size)

        steps = max(400, 40_000 // batch_size)
        contenders = [
            ours.contender("rankfall, 512 trajectories", steps=steps, replicates=512, method=method),
            ours.contender("rankfall, 1 trajectory", steps=20 * steps, replicates=1, method=method),
            Contender(
                "NumPy loop, 1 trajectory",
                "written by hand",
                False,
                1,
                3000,
                partial(numpy_loop.minibatch, batch_size=batch_size),
            ),
            Contender(
                "PyTorch loop, 1 trajectory",
                "written by hand",
                False,
                1,
                1000,
                partial(torch_loop.minibatch, batch_size=batch_size),
            ),
        ]
        print(f"  batch size {batch_size}", flush=True)
        timings = interleave(contenders, workload, rounds=rounds, shorten=shorten)
        rows.append({"batch_size": batch_size, "timings": [t.to_dict() for t in timings]})
    return {"machine": machine, "rows": rows, "load_after": load()}
