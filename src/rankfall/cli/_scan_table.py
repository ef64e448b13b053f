"""The table of a scan: aligned columns that people read and awk cuts."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import typer

from rankfall._text import printable
from rankfall.scan._words import columns_of, common_start, numbers_of, sections, summary, with_times

if TYPE_CHECKING:
    from rankfall.scan import LayerReport, Scan

__all__ = ["print_scan"]

_LEAST_NAME = 24
_LEGEND = (
    "Used: effective rank over full rank. Saves: parameters that two factors with so much of the energy would save."
)
_LEGEND_OF_ENDS = "σ₁: largest singular value. ‖W‖: root of the sum of squares."


def print_scan(scan: Scan) -> None:
    """Print a table for each section, then what there is to say about the whole; of several checkpoints, step by step.

    On a terminal, names are shortened in their middle where a row would not fit.
    """
    start = common_start(list(dict.fromkeys(layer.name for layer in scan)))
    if start and len(scan):
        typer.echo(f"Names begin with {printable(start)}")
    for heading, layers in sections(scan.layers):
        _print_section(scan, heading, layers, start)
    typer.echo()
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for line in (_LEGEND if scan.spectra else _LEGEND_OF_ENDS, *summary(scan)):
        typer.echo(textwrap.fill(line, wide))


def _print_section(scan: Scan, heading: str, layers: list[LayerReport], start: str) -> None:
    over_time = bool(scan.steps)
    table = [["step"] * over_time + ["shape", *columns_of(scan)]]
    for layer in layers:
        row = [str(layer.step)] * over_time
        if layer.problem:
            table.append([*row, with_times(layer.shape), *["—"] * (len(scan.measures) + 2)])
        else:
            table.append([*row, with_times(layer.shape), *numbers_of(scan, layer)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numbers = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    names = [printable(layer.name.removeprefix(start)) for layer in layers]
    room = max(map(len, [*names, heading]))
    if sys.stdout.isatty():
        left = shutil.get_terminal_size().columns - len(numbers[0]) - 2
        room = max(min(room, left), _LEAST_NAME)
    typer.echo()
    typer.secho(f"{_shortened(heading, room):<{room}}  {numbers[0]}", bold=True)
    for layer, name, shown in zip(layers, names, numbers[1:], strict=True):
        line = f"{_shortened(name, room):<{room}}  {shown}"
        typer.secho(line, fg="red" if layer.problem else None)
        if layer.problem or layer.note:
            typer.secho(f"    {layer.problem or layer.note}", dim=True)


def _shortened(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    end = (room - 1) * 2 // 3
    return f"{name[: room - 1 - end]}…{name[-end:]}"
