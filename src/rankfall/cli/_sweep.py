"""`rankfall sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankfall._text import printable
from rankfall.cli._errors import FAILED_LAW, INTERRUPTED, say
from rankfall.cli._sweep_progress import SweepDisplay

if TYPE_CHECKING:
    from rankfall.sweep import Study
    from rankfall.sweep._summary import Summary

__all__ = ["place_in_words", "print_reasons", "sweep"]

WHERE = "Where it is computed"
_SHOWN = 10


def sweep(
    study: Annotated[Path | None, typer.Argument(metavar="STUDY.toml", help="The study.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The store of the results (Zarr).", show_default="STUDY.zarr")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes on this machine, a cell and a thread each.",
            show_default="none: cell after cell, on all processors",
            rich_help_panel=WHERE,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Dask cluster: tcp://host:8786, or a scheduler file (needs the extra 'dask').",
            rich_help_panel=WHERE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="For one cell; the numbers do not depend on it.",
            show_default="all processors, in a worker 1",
            rich_help_panel=WHERE,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the study, print its size and what it will take.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute failed cells of earlier runs again.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="The study has got more axis values than the store: add them.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="If another run writes to the store, wait for its end.")] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a commented study to begin with; NAME after it: another one.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")] = False,
) -> None:
    r"""Run a study: one ensemble for every point of a grid of settings, all results in one store.

    The study is checked completely before anything runs. A sweep may be stopped at any moment, by Ctrl-C
    or by force: the same command continues, and computes no finished cell again. Exit code 1 if cells failed.

    [bold]Examples[/bold]

        rankfall sweep --example > study.toml
            others by name: phase-noise, phase-width, phase-step
        rankfall sweep study.toml --dry-run
        rankfall sweep study.toml --out results.zarr
        rankfall sweep study.toml --out results.zarr --workers 8
        rankfall sweep study.toml --out results.zarr --scheduler tcp://head:8786
        rankfall sweep status results.zarr
            from another terminal: how far it is, and what failed
    """
    import rankfall as rf

    if example:
        from rankfall.sweep import _example

        typer.echo(_example.example() if study is None else _example.example(str(study)), nl=False)
        return
    if study is None:
        raise rf.InvalidInput("which study? rankfall sweep STUDY.toml; --example prints one to begin with.")
    chosen = rf.sweep.Study.from_toml(study)
    name = printable(chosen.name)
    target = out or study.with_suffix(".zarr")
    if dry_run:
        _print_plan(chosen, target)
        return
    if not quiet:
        say(f"{name}: {_size(chosen)}")
        say(f"{name}: {chosen.estimate(trial=False)}")
    with SweepDisplay(name, quiet) as display:
        try:
            summary = rf.sweep.run(
                chosen,
                target,
                workers=workers,
                scheduler=scheduler,
                retry_failed=retry_failed,
                extend=extend,
                wait=wait,
                threads=threads,
                progress=display,
            )
            stopped = False
        except rf.errors.SweepInterrupted as interruption:
            summary, stopped = interruption.summary, True
    typer.echo(f"{name}: {summary}")
    _print_failures(chosen, summary)
    typer.echo(f"Results: {target}")
    if stopped:
        say("rankfall: stopped; the same command continues it.")
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(FAILED_LAW if summary.failed else 0)


def _size(study: Study) -> str:
    axes = " × ".join(f"{length} {printable(name)}" for name, length in study.dims.items())
    return f"{study.n_cells:,} cell{'s' if study.n_cells != 1 else ''}" + (f" ({axes})" if axes else "")


def _print_plan(study: Study, target: Path) -> None:
    typer.echo(f"{printable(study.name)}: {_size(study)}")
    typer.echo(f"{study.estimate()}")
    typer.echo(f"Would be written to {target}; nothing was run.")


def _print_failures(study: Study, summary: Summary) -> None:
    """Which cells failed, by their coordinates, and why."""
    found = (cell for cell in study.cells() if cell.key in summary.reasons) if summary.reasons else ()
    shown = [
        (place_in_words(_coordinates(study, cell.index)), summary.reasons[cell.key]) for cell in islice(found, _SHOWN)
    ]
    print_reasons(shown, summary.failed)
    if summary.failed:
        say("rankfall: some cells failed; --retry-failed computes them again.")


def print_reasons(reasons: list[tuple[str, str]], count: int) -> None:
    """Print the first few of the failed cells."""
    for place, reason in reasons:
        typer.echo(f"  failed at {place}: {printable(reason)}")
    if count > len(reasons):
        typer.echo(f"  … and {count - len(reasons)} more")


def place_in_words(coordinates: Mapping[str, Any]) -> str:
    """The values of a cell's coordinates."""
    return printable(", ".join(f"{name}={value}" for name, value in coordinates.items())) or "the only cell"


def _coordinates(study: Study, index: tuple[int, ...]) -> dict[str, Any]:
    place = dict(zip(study.dims, index, strict=True))
    return {name: values[place[dim]] for name, (dim, values) in study.coords.items()}
