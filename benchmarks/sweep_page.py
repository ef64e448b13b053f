"""The section of docs/benchmarks.md on sweeps."""

from __future__ import annotations

from typing import Any

from benchmarks import page

Results = dict[str, Any]


def section(r: Results) -> str:
    goals, scaling, dask, machine = r["goals"], r["scaling"], r["dask"], r["machine"]
    largest = r["sizes"][-1]
    head = ["cells", "ms of processor per cell", "by the clock", "files", "MB on disk", "MB of memory", "s to open"]
    rows = (
        [
            f"{row['cells']:,}",
            f"{row['overhead_ms_per_cell']:.2f}",
            f"{row['wall_ms_per_cell']:.2f}",
            row["files"],
            f"{row['store_bytes'] / 1e6:.2f}",
            f"{row['grown_bytes'] / 1e6:.1f}",
            f"{row['opening']['open']['wall_seconds']:.2f}",
        ]
        for row in r["sizes"]
    )
    overhead = max(row["overhead_ms_per_cell"] for row in r["sizes"])
    opening = largest["opening"]["open"]["wall_seconds"]
    faster = scaling["times_faster_by_the_clock"]
    return "\n".join(
        [
            "## Sweeps\n",
            f"{machine['processor']}, {machine['date']}, load {machine['load_before']} before, "
            f"{r['load_after']} after.\n",
            "Cells of one step of a tiny network, so that what is left is what a cell costs besides its simulation: "
            "drawing the problem and the start, taking the numbers, committing them.\n",
            page.table(head, rows),
            f"Goals: at most {goals['overhead_ms']:g} ms per cell: {_met(overhead <= goals['overhead_ms'])}; opened "
            f"in less than {goals['opening_s']:g} s: {_met(opening < goals['opening_s'])}; two workers "
            f"{goals['scaling']:g} times as fast as one on cells of one thread: {_met(faster >= goals['scaling'])}, "
            f"{faster:.2f} by the clock. Running a finished sweep again takes "
            f"{largest['opening']['run again, nothing to do']['wall_seconds']:.2f} s at {largest['cells']:,} cells, in "
            "which every checksum is compared.\n",
            f"Through Dask (a LocalCluster of {dask['workers']} processes, {dask['cells']:,} cells that compute "
            f"nothing) a cell takes {dask['scheduler_cpu_ms_per_cell']:.2f} ms of the scheduler and "
            f"{dask['client_cpu_ms_per_cell']:.2f} ms of the sweep: {dask['plan']['cells_per_second_at_most']:,} cells "
            f"a second at most, so that {dask['plan']['workers']:,} workers are kept busy by cells of "
            f"{dask['plan']['seconds_of_a_cell_that_keep_them_busy']:.2f} s and more.\n",
        ]
    )


def _met(reached: bool) -> str:
    return "met" if reached else "**missed**"
