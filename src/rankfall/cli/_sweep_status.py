"""`rankfall sweep status`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankfall._text import printable
from rankfall.cli._sweep import place_in_words, print_reasons

if TYPE_CHECKING:
    from rankfall.sweep import Status

__all__ = ["status"]

_SHOWN = 10


def status(
    store: Annotated[Path, typer.Argument(metavar="RESULTS.zarr", help="A store that a sweep has written.")],
) -> None:
    """Say how far a sweep is, whether it runs, and which cells failed; also while it runs.

    [bold]Examples[/bold]

        rankfall sweep status results.zarr
            watch repeats it: watch rankfall sweep status results.zarr
    """
    import rankfall as rf

    found = rf.sweep.status(store)
    typer.echo(f"{printable(str(found.study.get('name', store)))}: {_counts(found)}")
    typer.echo(_activity(found))
    reasons = [(place_in_words(cell.coordinates), cell.reason) for cell in found.failures[:_SHOWN]]
    print_reasons(reasons, found.failed)


def _counts(found: Status) -> str:
    return f"{found.done} of {found.total} cells done, {found.failed} failed, {found.left} left"


def _activity(found: Status) -> str:
    from rankfall.sweep._progress import duration

    if found.writer is not None:
        text = f"Running: {found.writer}"
        if found.rate is not None:
            text += f"; {found.rate:.3g} cells/s"
        if found.left and found.seconds_left is not None:
            text += f", about {duration(found.seconds_left)} left"
        return text
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.updated))
    return f"Not running, last written {when}" + ("; the command that began it continues it" if found.left else "")
