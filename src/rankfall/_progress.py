"""What a running simulation tells about itself, and the bar that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rankfall.errors import InvalidInput

__all__ = ["Progress", "ProgressCallback", "make_callback"]


@dataclass(frozen=True)
class Progress:
    """Where a simulation stands.

    Attributes:
        stage: "compiling" (once per size and machine, cached afterwards) or "running".
        completed: Steps done, summed over the replicates.
        total: Steps to do.
        message: The same in words.
        unit: What is counted: "steps", or "save intervals" for adaptive gradient flow, "operations" of a scan, "cells"
            of a sweep.
    """

    stage: Literal["compiling", "running"]
    completed: int
    total: int
    message: str
    unit: Literal["steps", "save intervals", "operations", "cells"] = "steps"


ProgressCallback = Callable[[Progress], None]


def make_callback(progress: bool | ProgressCallback) -> tuple[ProgressCallback, Callable[[], None]]:
    """The function to report to, and one to call at the end."""
    if progress is False:
        return (lambda state: None), (lambda: None)
    if progress is True:
        return _bar()
    if not callable(progress):
        raise InvalidInput(f"progress must be True, False or a function of one Progress, got {progress!r}.")
    return progress, (lambda: None)


def _bar() -> tuple[ProgressCallback, Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar: Any = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
    task = bar.add_task("rankfall", total=None)
    bar.start()

    def show(state: Progress) -> None:
        bar.update(task, description=state.message, completed=state.completed, total=state.total or None)

    return show, bar.stop
