"""What an executor is given, and how any of them computes one cell."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rankfall.sweep._cell import Cell, CellResult, Quantity

__all__ = ["RUN_CELL", "Job", "compute", "failure", "limit_blas", "read_cell", "write_cell"]

# By name, as workers import it: nothing is sent to them that they would have to trust.
RUN_CELL = "rankfall.sweep._run_cell:run_cell"


@dataclass(frozen=True)
class Job:
    """The same for all cells of a sweep.

    Attributes:
        quantities: What is kept of each.
        threads: For the kernels of one cell; None where the executor chooses.
        tell: Called with what the user should know besides: a worker that died, a scheduler's dashboard.
        idle: Called now and then while cells are under way.
        function: module:name of what computes a cell.
    """

    quantities: Sequence[Quantity]
    threads: int | None
    tell: Callable[[str], None]
    idle: Callable[[], None]
    function: str = RUN_CELL


@cache
def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def limit_blas() -> Any:
    """Give BLAS one thread, until the limits that are returned are restored.

    Sums of LAPACK depend on the number of threads in their last bits, and results must not.
    """
    # A limit holds for what is loaded.
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")


def compute(
    cell: Cell,
    quantities: Sequence[Quantity],
    threads: int | None,
    function: str = RUN_CELL,
    stop: Callable[[], bool] | None = None,
) -> CellResult:
    """Compute a cell in this process; whatever it raises but an interruption is the reason of its failure."""
    begun = time.perf_counter()
    try:
        found = _function(function)(cell.settings, cell.seed, quantities, threads=threads, stop=stop)
        return CellResult(cell.key, found.status, found.reason, found.values, time.perf_counter() - begun)
    except Exception as error:
        return failure(cell, f"{type(error).__name__}: {error}".splitlines()[0])


def write_cell(cell: Cell) -> str:
    """A cell as text, for a worker."""
    return json.dumps({"index": cell.index, "key": cell.key, "settings": dict(cell.settings), "seed": cell.seed})


def read_cell(text: str) -> Cell:
    """The cell that `write_cell` has written."""
    found = json.loads(text)
    return Cell(tuple(found["index"]), found["key"], found["settings"], found["seed"])


def failure(cell: Cell, reason: str) -> CellResult:
    """The result of a cell that was not computed."""
    return CellResult(cell.key, "failed", reason, {}, 0.0)
