"""The function that travels to Dask's workers, as code and not by name.

A worker that has no rankfall, or another one, can then say so. By name, dask.distributed could not even read the
message there: the worker would drop out, and its cells would kill one worker after the other.
"""

from __future__ import annotations

import builtins
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from rankfall._version import __version__
from rankfall.sweep._cell import CellResult, Quantity

__all__ = ["common_text", "compute_text", "portable", "read_answer", "task"]


# Everything that it uses is imported inside, and text goes in: it is all that a worker has to have in common with us.
def task(cell, common):  # type: ignore[no-untyped-def]
    import socket

    try:
        from rankfall._version import __version__ as version
        from rankfall.sweep._dask_task import compute_text
    except ImportError as error:
        return {"unusable": f"{socket.gethostname()} has no rankfall with sweeps ({error})"}
    wanted = common[: common.index(" ")]
    if version != wanted:
        return {"unusable": f"{socket.gethostname()} has rankfall {version}, here it is {wanted}"}
    return compute_text(cell, common)


def portable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of no module, which is sent by its code."""
    namespace = {"__builtins__": builtins, "__name__": "__main__"}
    return types.FunctionType(function.__code__, namespace, function.__name__)


def common_text(quantities: Sequence[Quantity], threads: int, function: str) -> str:
    """What all cells need, after our version and a space."""
    described = [{**asdict(each), "attrs": dict(each.attrs)} for each in quantities]
    return f"{__version__} {json.dumps({'quantities': described, 'threads': threads, 'function': function})}"


@cache
def _limit_blas() -> None:
    """Once, and for the life of the worker: several cells may be under way in its threads."""
    from rankfall.sweep._job import limit_blas

    limit_blas()


def compute_text(cell: str, common: str) -> dict[str, Any]:
    """Compute a cell on a worker: from text, to a dictionary of text, numbers and arrays."""
    from rankfall.sweep._job import compute, read_cell

    _limit_blas()
    shared = json.loads(common.partition(" ")[2])
    quantities = [
        Quantity(**{**each, "dims": tuple(each["dims"]), "shape": tuple(each["shape"])})
        for each in shared["quantities"]
    ]
    result = compute(read_cell(cell), quantities, shared["threads"], shared["function"])
    return {
        "key": result.key,
        "status": result.status,
        "reason": result.reason,
        "values": dict(result.values),
        "wall_time": result.wall_time,
    }


def read_answer(answer: Mapping[str, Any]) -> CellResult:
    """The result in what a worker answered."""
    return CellResult(**answer)
