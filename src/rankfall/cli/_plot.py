"""`rankfall plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["plot"]


def plot(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="A run that rankfall has written (NetCDF).")],
    out: Annotated[
        Path | None, typer.Option(help="Figure; its ending chooses .svg, .png or .pdf.", show_default="RUN.svg")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=2, help="Width of one or two columns of a paper.")] = 2,
) -> None:
    """Draw determinant, singular values, loss and balance of a saved run. An old figure of that name is replaced.

    [bold]Examples[/bold]

        rankfall plot run.nc
        rankfall plot run.nc --out figure.pdf --columns 1
    """
    import rankfall as rf
    from rankfall._files import write_atomically
    from rankfall.report import overview, render_figure

    target = file.with_suffix(".svg") if out is None else out
    file_format = target.suffix.lower().removeprefix(".")
    if file_format not in ("svg", "png", "pdf"):
        raise rf.InvalidInput(f"--out must end in .svg, .png or .pdf, got {target}.")
    run = rf.open_run(file)
    write_atomically(target, render_figure(overview(run, columns=1 if columns == 1 else 2), file_format))
    typer.echo(f"Figure: {target}")
