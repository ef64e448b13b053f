"""Peak memory, measured in a fresh process per size: O(replicates × (weights + save points))."""

from __future__ import annotations

import numpy as np

from benchmarks.machine import describe
from benchmarks.subprocesses import run_snippet

_SNIPPET = """
import pathlib, resource, sys
import rankfall as rf

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

problem = rf.Problem.gaussian(n_samples=1000, n_inputs=5, n_outputs=2, seed=0)
network = rf.LinearNetwork.gaussian(n_inputs=5, width=width, n_outputs=2)
method = rf.LabelNoiseDescent(step_size=0.01, label_noise=2.0)
rf.simulate(problem, network, method, steps=64, replicates=8, save_points=2)
before = peak()
options = {"steps": steps, "replicates": replicates, "save_points": save_points, "weights": weights}
run = rf.simulate(problem, network, method, **options)
print(json.dumps({"before": before, "peak": peak(), "result": run.nbytes}))
"""


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    counts = (100, 1_000, 10_000) if quick else (100, 1_000, 10_000, 100_000)
    rows = []
    for width, save_points, weights in ((10, 2, False), (10, 20, False), (100, 2, False), (10, 20, True)):
        for replicates in counts:
            found = run_snippet(
                _SNIPPET, width=width, replicates=replicates, save_points=save_points, weights=weights, steps=200
            )
            grown = max(0, found["peak"] - found["before"])
            rows.append(
                {
                    "width": width,
                    "save_points": save_points,
                    "weights_kept": weights,
                    "replicates": replicates,
                    "interpreter_bytes": found["before"],
                    "grown_bytes": grown,
                    "result_bytes": found["result"],
                    "bytes_per_replicate": round(grown / replicates),
                }
            )
            print(f"    width {width}, {save_points} save points, {replicates}: {grown / 1e6:,.1f} MB", flush=True)
    return {"machine": machine, "rows": rows, "growth": _growth(rows)}


def _growth(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Exponent of memory against replicates from the two largest runs of each kind: 1 is linear."""
    kinds: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for row in rows:
        kind = (row["width"], row["save_points"], row["weights_kept"])
        kinds.setdefault(kind, []).append((float(row["replicates"]), float(row["grown_bytes"])))  # type: ignore[arg-type]
    found: list[dict[str, object]] = []
    for (width, save_points, weights), points in kinds.items():
        (r0, b0), (r1, b1) = points[-2:]
        exponent = float(np.log(b1 / b0) / np.log(r1 / r0)) if b0 > 0 else None
        found.append({"width": width, "save_points": save_points, "weights_kept": weights, "exponent": exponent})
    return found
