"""What the first call of a session costs: with an empty cache of compiled kernels, and with a filled one."""

from __future__ import annotations

import tempfile

from benchmarks.machine import describe, load
from benchmarks.subprocesses import run_snippet

_SNIPPET = """
import time
begin = time.perf_counter()
import rankfall as rf
imported = time.perf_counter()
problem = rf.Problem.gaussian(n_samples=max(1000, 10 * p), n_inputs=p, n_outputs=k, seed=0)
network = rf.LinearNetwork.gaussian(n_inputs=p, width=width, n_outputs=k, scale=(p + k + width) ** -0.5)
method = getattr(rf, method)(**arguments)
length = {"duration": 0.064} if "Flow" in type(method).__name__ else {"steps": 64}
started = time.perf_counter()
rf.simulate(problem, network, method, replicates=replicates, save_points=2, **length)
first = time.perf_counter()
rf.simulate(problem, network, method, replicates=replicates, save_points=2, **length)
second = time.perf_counter()
print(json.dumps({"import": imported - begin, "first": first - started, "second": second - first}))
"""
_NOISE = {"step_size": 1e-3, "label_noise": 2.0}
CASES = [
    ("LabelNoiseDescent", _NOISE, 5, 2, 10, 512),
    ("LabelNoiseDescent", _NOISE, 5, 2, 10, 1),
    ("StochasticGradientFlow", _NOISE, 5, 2, 10, 512),
    ("StochasticGradientDescent", {"step_size": 1e-3, "batch_size": 8}, 5, 2, 10, 512),
    ("GradientFlow", {}, 5, 2, 10, 512),
    ("LabelNoiseDescent", _NOISE, 10, 2, 10, 512),
    ("StochasticGradientFlow", _NOISE, 10, 2, 10, 512),
    ("LabelNoiseDescent", _NOISE, 4, 5, 10, 512),
    ("StochasticGradientFlow", _NOISE, 4, 5, 10, 512),
    ("LabelNoiseDescent", _NOISE, 50, 10, 100, 64),
]


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    rows = []
    for method, arguments, p, k, width, replicates in CASES[:2] if quick else CASES:
        with tempfile.TemporaryDirectory() as folder:
            values = {
                "method": method,
                "arguments": arguments,
                "p": p,
                "k": k,
                "width": width,
                "replicates": replicates,
            }
            cold = run_snippet(_SNIPPET, cache_folder=folder, **values)
            warm = run_snippet(_SNIPPET, cache_folder=folder, **values)
        rows.append({**values, "cold": cold, "warm": warm})
        print(
            f"    {method} ({p}, {k}, {width}): {cold['first']:.1f} s cold, {warm['first']:.2f} s from the cache",
            flush=True,
        )
    return {"machine": machine, "rows": rows, "load_after": load(), "goal_seconds": 20}
