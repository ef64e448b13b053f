"""`rankfall check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rankfall.cli._errors import say
from rankfall.cli._verdicts import exit_code, print_verdicts

__all__ = ["check"]


def check(
    files: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs that rankfall has written (NetCDF).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, with the error of every replicate.")] = (
        False
    ),
) -> None:
    """Check every law that applies to a saved run; exit code 1 if one fails.

    [bold]Examples[/bold]

        rankfall check run.nc
        rankfall check --json run.nc | jq '.[].verdicts[].status'
    """
    import rankfall as rf
    from rankfall import laws

    records, verdicts = [], []
    for file in files:
        found = laws.check(rf.open_run(file))
        verdicts += found
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
    raise typer.Exit(exit_code(verdicts))
