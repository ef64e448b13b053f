"""`rankfall plot`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["plot"]


def plot(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="A run that rankfall has written (NetCDF).")],
    out: Annotated[
        Path | None, typer.Option(help="Figure; its ending chooses .svg, .png or .pdf.", show_default="RUN.svg")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=2, help="Width of one or two columns of a paper.")] = 2,
    learning: Annotated[
        bool,
        typer.Option(
            "--learning", help="Gradient flow only: loss, singular values and modes, with the time each is learned."
        ),
    ] = False,
) -> None:
    """Draw determinant, singular values, loss and balance of a saved run. An old figure of that name is replaced.

    Gradient flow is drawn with its closed form where there is one: whitened inputs and a balanced start, or a start
    that shares its singular vectors with the problem. With --learning an ODE solver takes its place elsewhere.

    [bold]Examples[/bold]

        rankfall plot run.nc
        rankfall plot run.nc --out figure.pdf --columns 1
        rankfall plot flow.nc --learning
    """
    import rankfall as rf
    from rankfall._files import write_atomically
    from rankfall.laws import gradient_flow
    from rankfall.report import learning as learning_figure
    from rankfall.report import overview, render_figure

    target = file.with_suffix(".svg") if out is None else out
    file_format = target.suffix.lower().removeprefix(".")
    if file_format not in ("svg", "png", "pdf"):
        raise rf.InvalidInput(f"--out must end in .svg, .png or .pdf, got {target}.")
    run = rf.open_run(file)
    width: Literal[1, 2] = 1 if columns == 1 else 2
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
