"""`rankfall plot`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from rankfall.cli._plot_sweep import draw_sweep, sweep_page

__all__ = ["plot"]

_SWEEPS = "Of a sweep"


def plot(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="A run (NetCDF) or the results of a sweep (Zarr).")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Figure; its ending chooses .svg, .png or .pdf. Of a sweep also a page, .html.", show_default="RUN.svg"
        ),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=2, help="Width of one or two columns of a paper.")] = 2,
    learning: Annotated[
        bool,
        typer.Option(
            "--learning", help="Gradient flow only: loss, singular values and modes, with the time each is learned."
        ),
    ] = False,
    x: Annotated[str | None, typer.Option("--x", help="Axis to the right.", rich_help_panel=_SWEEPS)] = None,
    y: Annotated[
        str | None, typer.Option("--y", help="Axis upwards of a map, or result of lines.", rich_help_panel=_SWEEPS)
    ] = None,
    color: Annotated[
        str | None,
        typer.Option("--color", "--colour", help="Result of a map, or axis of lines.", rich_help_panel=_SWEEPS),
    ] = None,
    panels: Annotated[
        list[str] | None,
        typer.Option(help="Axis of small multiples; twice: across and down.", rich_help_panel=_SWEEPS),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=VALUE", help="Hold an axis fixed; may be repeated.", rich_help_panel=_SWEEPS),
    ] = None,
) -> None:
    """Draw a saved run, or the results of a sweep. An old figure of that name is replaced.

    Of a run: determinant, singular values, loss and balance. Of a sweep: a heat map with contours and standard errors,
    or lines with bands, in small multiples where there are more axes; what is not named is chosen.

    Gradient flow is drawn with its closed form where there is one: whitened inputs and a balanced start, or a start
    that shares its singular vectors with the problem. With --learning an ODE solver takes its place elsewhere.

    [bold]Examples[/bold]

        rankfall plot run.nc
        rankfall plot run.nc --out figure.pdf --columns 1
        rankfall plot flow.nc --learning
        rankfall plot results.zarr
            of a sweep: a map or lines, whichever suits its axes
        rankfall plot results.zarr --x noise --y width --color final_rank
            a heat map; cells that failed or are missing are hatched
        rankfall plot results.zarr --y final_loss --color width --at depth=2
            lines with bands of two standard errors
        rankfall plot results.zarr --out results.html
            a page: figures, all cells in a table, what failed and why
    """
    import rankfall as rf
    from rankfall._files import write_atomically
    from rankfall.laws import gradient_flow
    from rankfall.report import learning as learning_figure
    from rankfall.report import overview, render_figure

    target = file.with_suffix(".svg") if out is None else out
    file_format = target.suffix.lower().removeprefix(".")
    page = file_format in ("html", "htm") and file.is_dir()
    if file_format not in ("svg", "png", "pdf") and not page:
        endings = ".svg, .png, .pdf or .html" if file.is_dir() else ".svg, .png or .pdf"
        raise rf.InvalidInput(f"--out must end in {endings}, got {target}.")
    width: Literal[1, 2] = 1 if columns == 1 else 2
    if file.is_dir():
        if learning:
            raise rf.InvalidInput("--learning is for a run of gradient flow, and this is a folder.")
        if page:
            chosen = {"x": x, "y": y, "color": color, "panels": panels or (), "at": at or ()}
            write_atomically(target, sweep_page(file, target, chosen))
            typer.echo(f"Page: {target}")
            return
        figure = draw_sweep(file, x=x, y=y, color=color, panels=panels or (), at=at or (), columns=width)
        write_atomically(target, render_figure(figure, file_format))
        typer.echo(f"Figure: {target}")
        return
    if any((x, y, color, panels, at)):
        raise rf.InvalidInput(f"--x, --y, --color, --panels and --at are for the results of a sweep, {file} is none.")
    run = rf.open_run(file)
    law = None
    with contextlib.suppress(rf.LawNotApplicable):
        law = gradient_flow.predict(run)
    if not learning:
        figure = overview(run, columns=width, law=law)
    elif run.attrs["method"] != "GradientFlow":
        raise rf.InvalidInput(f"--learning is for runs of gradient flow, this is one of {run.attrs['method']}.")
    else:
        figure = learning_figure(
            run, gradient_flow.predict(run, numerically=True) if law is None else law, columns=width
        )
    write_atomically(target, render_figure(figure, file_format))
    typer.echo(f"Figure: {target}")
