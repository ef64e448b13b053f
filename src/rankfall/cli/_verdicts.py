"""Verdicts as lines that people read and grep finds."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rankfall.laws import Verdict

__all__ = ["exit_code", "print_verdicts"]

_COLOURS = {True: "green", False: "red", None: "yellow"}
_INDENT = "     "


def print_verdicts(verdicts: Iterable[Verdict]) -> None:
    """Print one line for each verdict; on a terminal its parts below each other, the status coloured."""
    wide = shutil.get_terminal_size().columns
    for verdict in verdicts:
        line = str(verdict)
        if not sys.stdout.isatty():
            typer.echo(line)
            continue
        head, *details = line.split(" | ")
        status, _, statement = head.partition(" ")
        text = textwrap.fill(f"{status} {statement}", wide, subsequent_indent=_INDENT)
        typer.secho(status, fg="white" if verdict.negative else _COLOURS[verdict.passed], bold=True, nl=False)
        typer.echo(text.removeprefix(status))
        for detail in details:
            typer.secho(textwrap.fill(detail, wide, initial_indent=_INDENT, subsequent_indent=_INDENT), dim=True)


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """1 if any verdict failed, else 0: what float64 cannot decide is no failure."""
    return int(any(verdict.passed is False for verdict in verdicts))
