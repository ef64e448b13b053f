"""`rankfall doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from rankfall.cli._health import Finding, examine

__all__ = ["doctor"]

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "red")}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Look at the installation: versions, threads, vector width, caches, extras, and one law checked on a small run.

    Takes a few seconds; the first time a kernel is compiled. Exit code 1 if something is wrong. Put its output into
    a bug report.

    [bold]Examples[/bold]

        rankfall doctor
        rankfall doctor --json
    """
    found: list[Finding] = []
    for finding in examine():
        found.append(finding)
        if not as_json:
            _print(finding)
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=1, ensure_ascii=False))
    else:
        typer.echo(f"\n{problems} problem{'' if problems == 1 else 's'}." if problems else "\nAll is well.")
    raise typer.Exit(1 if problems else 0)


def _print(finding: Finding) -> None:
    mark, colour = _MARKS[finding.level]
    typer.secho(f"{mark:8}", fg=colour, nl=False)
    typer.echo(f"{finding.topic}: {finding.value}" + (f". {finding.advice}" if finding.advice else ""))
