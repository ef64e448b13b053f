"""What the forces on the eigenvalues and the eigenvalue process cost; prints JSON. Not part of the page.

python -m benchmarks.forces
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

import rankfall as rf
from benchmarks.machine import describe


def nanoseconds(work: Callable[[], object], count: int, repeats: int = 5) -> float:
    """Least time of a few repeats, per item."""
    work()
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return 1e9 * best / count


def main() -> None:
    found = {}
    method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)
    for p, k, l in ((5, 2, 10), (5, 5, 10), (20, 5, 30)):
        problem = rf.Problem.gaussian(n_samples=200, n_inputs=p, n_outputs=k, seed=0)
        network = rf.LinearNetwork.gaussian(p, l, k)
        W1, W2 = network.draw(2000, seed=0)
        Z = np.concatenate([W1, W2.transpose(0, 2, 1)], axis=1)
        steps, replicates = 2000, 16
        options = {"duration": 1e-4 * steps, "dt": 1e-4, "replicates": replicates, "save_points": 2, "threads": 1}
        found[f"{p}x{l}x{k}"] = {
            "ns per state, forces": nanoseconds(
                lambda W1=W1, W2=W2, problem=problem: rf.laws.eigenvalues.forces(W1, W2, problem, method), 2000
            ),
            "of which the vectors (LAPACK)": nanoseconds(lambda Z=Z: np.linalg.svd(Z, full_matrices=False), 2000),
            "ns per step and trajectory, eigenvalue process": nanoseconds(
                lambda problem=problem, network=network, options=options: rf.eigenvalue_process(
                    problem, network, method, **options
                ),
                steps * replicates,
            ),
            "ns per step and trajectory, networks": nanoseconds(
                lambda problem=problem, network=network, options=options: rf.simulate(
                    problem, network, method, ledger="none", **options
                ),
                steps * replicates,
            ),
        }
    print(json.dumps({"machine": describe(), "forces": found}, indent=1))


if __name__ == "__main__":
    main()
