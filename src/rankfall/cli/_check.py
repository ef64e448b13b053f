"""`rankfall check`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankfall.cli._errors import say
from rankfall.cli._output import check_output
from rankfall.cli._verdicts import exit_code, print_verdicts

if TYPE_CHECKING:
    from rankfall.laws import Verdict

__all__ = ["check"]


def check(
    files: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs that rankfall has written (NetCDF).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, with the error of every replicate.")] = (
        False
    ),
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page too: figure, verdicts, settings. One run only.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
) -> None:
    """Check every law that applies to a saved run; exit code 1 if one fails.

    [bold]Examples[/bold]

        rankfall check run.nc
        rankfall check --json run.nc | jq '.[].verdicts[].status'
        rankfall check run.nc --html run.html
    """
    import rankfall as rf
    from rankfall import laws

    if html is not None:
        if len(files) > 1:
            raise rf.InvalidInput(f"--html makes the page of one run, got {len(files)}; call it once for each.")
        check_output(html, overwrite, option="--html", endings=(".html", ".htm"))

    records, verdicts = [], []
    for file in files:
        found = laws.check(rf.open_run(file))
        verdicts += found
        if html is not None:
            _write_page(html, file, found)
        if as_json:
            records.append({"file": str(file), "verdicts": [verdict.to_dict() for verdict in found]})
            continue
        if len(files) > 1:
            typer.echo(f"{file}:")
        print_verdicts(found)
        if not found:
            say(f"{file}: no law applies to this run.")
    if as_json:
        typer.echo(json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False))
    if html is not None:
        say(f"Page: {html}")
    raise typer.Exit(exit_code(verdicts))


def _write_page(html: Path, file: Path, verdicts: list[Verdict]) -> None:
    import contextlib

    import rankfall as rf
    from rankfall._files import write_atomically
    from rankfall.experiments._environment import environment
    from rankfall.laws import gradient_flow
    from rankfall.report import overview, render_check_page

    run = rf.open_run(file)
    law = None
    with contextlib.suppress(rf.LawNotApplicable):
        law = gradient_flow.predict(run)
    figures = (
        (overview(run, columns=2, law=law), overview(run, columns=1, law=law))
        if run.sizes["time"] > 1
        else (None, None)
    )
    page = render_check_page(
        run,
        verdicts,
        figures,
        name=file.name,
        address=os.path.relpath(file.resolve(), html.parent.resolve()),
        command=["rankfall", "check", str(file), "--html", str(html)],
        environment=environment(),
    )
    write_atomically(html, page)
