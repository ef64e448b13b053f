"""Measure, write JSON, and make the page and figures of the documentation from the JSON.

python -m benchmarks                    everything (about half an hour on 2 cores)
python -m benchmarks --quick            small sizes, into benchmarks/results/quick; the documentation stays
python -m benchmarks --only headline    one part
python -m benchmarks --page             only remake docs/benchmarks.md and the figures from the results on disk
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

from benchmarks import (
    compilation,
    deep,
    headline,
    lyapunov,
    machine,
    memory,
    minibatch,
    monitor,
    page,
    scaling,
    scan,
    sweep,
)

PARTS = {
    "headline": headline.measure,
    "scaling": scaling.measure,
    "deep": deep.measure,
    "minibatch": minibatch.measure,
    "lyapunov": lyapunov.measure,
    "memory": memory.measure,
    "scan": scan.measure,
    "monitor": monitor.measure,
    "sweep": sweep.measure,
    "compilation": compilation.measure,
}
RESULTS = Path(__file__).parent / "results"


def write(path: Path, results: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument("--page", action="store_true", help="measure nothing, remake the page from the results")
    arguments = parser.parse_args()
    folder = RESULTS / "quick" if arguments.quick else RESULTS
    if not arguments.page:
        busy = machine.load()
        if busy is not None and busy > 0.3:
            warnings.warn(f"the load is {busy}: other programs disturb the timings", stacklevel=1)
        for name in arguments.only:
            print(f"{name}:", flush=True)
            begin = time.perf_counter()
            write(folder / f"{name}.json", PARTS[name](quick=arguments.quick))
            print(f"  {name} took {time.perf_counter() - begin:.0f} s", flush=True)
    if arguments.quick:
        print(page.text(folder))
    else:
        page.write(folder, Path(__file__).parent.parent / "docs")


if __name__ == "__main__":
    main()
