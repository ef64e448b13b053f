"""One cell after the other in this process; the kernels use its processors."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from rankfall.sweep._cell import Cell, CellResult
from rankfall.sweep._job import Job, compute, limit_blas

__all__ = ["in_process"]


def in_process(cells: Iterator[Cell], job: Job) -> Generator[list[CellResult], None, None]:
    """Compute the cells in their order; Ctrl-C abandons the one in flight."""

    def look_up() -> bool:
        job.idle()
        return False

    with limit_blas():
        for cell in cells:
            yield [compute(cell, job.quantities, job.threads, job.function, look_up)]
