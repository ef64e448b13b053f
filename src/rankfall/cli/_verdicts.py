"""Verdicts as lines that people read and grep finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rankfall.laws import Verdict

__all__ = ["exit_code", "print_verdicts"]

_COLOURS = {True: "green", False: "red", None: "yellow"}


def print_verdicts(verdicts: Iterable[Verdict]) -> None:
    """Print one line for each verdict, its status coloured on a terminal."""
    for verdict in verdicts:
        status, _, rest = str(verdict).partition(" ")
        if verdict.replicate < 0:  # a median has no worst replicate
            rest = rest.replace(f"(replicate -1, worst of {verdict.n_checked})", f"(of {verdict.n_checked} replicates)")
        typer.secho(status, fg=_COLOURS[verdict.passed], bold=True, nl=False)
        typer.echo(f" {rest}")


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """1 if any verdict failed, else 0: what float64 cannot decide is no failure."""
    return int(any(verdict.passed is False for verdict in verdicts))
