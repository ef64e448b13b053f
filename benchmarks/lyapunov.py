"""What the frame of a Lyapunov run costs beside the same run without it."""

from __future__ import annotations

from benchmarks import ours
from benchmarks.machine import describe, load
from benchmarks.timing import interleave
from benchmarks.workload import Workload

GOAL = 2.5
# The headline's size first; narrow, square, and one in tiles.
SIZES = ((5, 2, 10), (5, 2, 3), (3, 3, 10), (6, 5, 20))


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    rounds, shorten = (3, 5) if quick else (9, 1)
    rows = []
    for p, k, width in SIZES[:1] if quick else SIZES:
        workload = Workload(n_inputs=p, n_outputs=k, width=width, scale=1.0 if width < 20 else 0.3)
        for name, method in (("geometric flow", ours.geometric), ("label-noise descent", None)):
            options = {"steps": 20_000 if p * k <= 20 else 4_000, "replicates": 512, "save_points": 21}
            kept = {} if method else {"ledger": "none"}
            contenders = [
                ours.contender(f"{name} ({p}, {k}, {width})", method=method, **options, **kept),
                ours.contender(
                    f"{name} ({p}, {k}, {width}), frame", method=method, observables=["log_growth"], **options, **kept
                ),
            ]
            plain, framed = interleave(contenders, workload, rounds=rounds, shorten=shorten)
            rows.append(
                {
                    "method": name,
                    "n_inputs": p,
                    "n_outputs": k,
                    "width": width,
                    "plain": plain.to_dict(),
                    "frame": framed.to_dict(),
                    "ratio": round(framed.times_slower_than(plain), 3),
                }
            )
    return {"machine": machine, "goal": GOAL, "rows": rows, "load_after": load()}
