"""`rankfall sweep status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["status"]


def status(
    store: Annotated[Path, typer.Argument(metavar="RESULTS.zarr", help="A store that a sweep has written.")],
) -> None:
    """Say how far a sweep is, whether it runs, and which cells failed; also while it runs.

    [bold]Examples[/bold]

        rankfall sweep status results.zarr
            watch repeats it: watch rankfall sweep status results.zarr
    """
    from rankfall.sweep._status import read_status

    typer.echo(str(read_status(store)))
