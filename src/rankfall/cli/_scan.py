"""`rankfall scan`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rankfall.cli._errors import FAILED_LAW, INTERRUPTED, say
from rankfall.cli._progress import ProgressDisplay

if TYPE_CHECKING:
    from rankfall.scan import Scan

__all__ = ["scan"]

WHAT = "What is measured"
WRITTEN = "What is written"
_FIGURES = (".svg", ".png", ".pdf")


class _Method(StrEnum):
    auto = "auto"
    svd = "svd"
    gram = "gram"


def scan(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A .safetensors file; a .pt, .pth, .bin or .ckpt of PyTorch (read without running code in it); a "
            "folder with a model, its shards or a PEFT adapter; or a folder of checkpoints over time.",
        ),
    ],
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="A rank measure, again for several, or all.",
            show_default="stable, effective, energy, numerical rank",
            rich_help_panel=WHAT,
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Only matrices in whose name this is found.", rich_help_panel=WHAT),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="N|config",
            help="Attention heads one by one: their number, or config to read it from config.json.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    energy: Annotated[
        float, typer.Option(help="Share of the energy ‖W‖² that a factorisation is to keep.", rich_help_panel=WHAT)
    ] = 0.99,
    over_time: Annotated[
        bool,
        typer.Option(
            "--over-time",
            help="Follow the steps in a folder that holds a model of its own as well.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    method: Annotated[
        _Method,
        typer.Option(
            help="svd: LAPACK's. gram: faster, and cannot see singular values below about 1e-7 of the largest. auto: "
            "gram for float32 and shorter, where it is also closer, svd for float64. The error is stated.",
            rich_help_panel=WHAT,
        ),
    ] = _Method.auto,
    ends: Annotated[
        bool,
        typer.Option(
            "--norms",
            help="Only what needs no spectra: stable and numerical rank, σ₁ and ‖W‖. Faster, most of all for large "
            "matrices; nothing to draw.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(help="Matrices at a time; the numbers do not depend on it.", show_default="all processors"),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(help="file, name, size, saved (largest first), share or a measure (lowest first)."),
    ] = "file",
    reverse: Annotated[bool, typer.Option("--reverse", help="Sort the other way round.")] = False,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="All numbers as JSON; - for the terminal.", rich_help_panel=WRITTEN
        ),
    ] = None,
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Singular values in the JSON file too.", rich_help_panel=WRITTEN)
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A page with table and spectra, one file.", rich_help_panel=WRITTEN),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The figure alone: .svg, .png or .pdf.", rich_help_panel=WRITTEN),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The dataset with all spectra (NetCDF).", rich_help_panel=WRITTEN),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")] = False,
) -> None:
    r"""Measure the rank of every weight matrix of a trained network.

    Prints a row for each: its shape, the measures, the share of the rank that it uses (effective rank over full rank),
    and the parameters that two factors with 99 % of its energy would save. Attention, LoRA pairs (the product B·A),
    convolutions and embeddings apart. Exit code 1 if a matrix is not finite. Old files of the names given are replaced.

    [bold]Examples[/bold]

        rankfall scan model.safetensors
        rankfall scan adapter/ --sort share
            a PEFT folder: which adapters use their rank
        rankfall scan model/ --select 'layer\.0\.' --heads config --measure all
        rankfall scan run/ --html run.html
            checkpoint-500, checkpoint-1000, …: rank against training step
    """
    import rankfall as rf
    from rankfall.cli._scan_table import print_scan
    from rankfall.scan import scan_checkpoint
    from rankfall.scan._measuring import check_measures
    from rankfall.scan._result import sorting_key
    from rankfall.scan._sources import steps_of
    from rankfall.scan._words import problems

    _check_outputs(json_file, html, plot, data)
    if ends and (html or plot or spectra):
        raise rf.InvalidInput("--norms leaves out the spectra that --html, --plot and --spectra show. Choose one.")
    sorting_key(sort, check_measures(measure or None, not ends), not ends)  # not after the work
    with ProgressDisplay(quiet) as display:
        try:
            found, code = (
                scan_checkpoint(
                    path,
                    measures=measure or None,
                    select=select,
                    energy=energy,
                    heads=_heads(heads),
                    over_time=True if over_time else None,
                    method=method.value,
                    spectra=not ends,
                    threads=threads,
                    progress=lambda state: display("scan", state),
                ),
                0,
            )
        except rf.errors.ScanInterrupted as stopped:
            say(f"rankfall: {stopped}; what is finished follows.")
            found, code = stopped.scan, INTERRUPTED
    if path.is_dir() and not found.steps and not quiet:
        beside = steps_of(path)
        if beside:
            say(f"{path} holds {len(beside)} checkpoints over time as well; --over-time follows them.")
    found = found.sorted_by(sort, reverse=reverse)
    to_terminal = json_file is not None and str(json_file) == "-"
    if to_terminal:
        typer.echo(_json(found, spectra))
    else:
        print_scan(found)
    if len(found):
        # JSON for another program has the standard output for itself.
        _write(found, None if to_terminal else json_file, spectra, html, plot, data, quietly=to_terminal)
    if found.problems and not code:
        code = FAILED_LAW
        say(f"rankfall: {problems(found)}.")
    raise typer.Exit(code)


def _heads(given: str | None) -> int | Literal["config"] | None:
    import rankfall as rf

    if given is None or given == "config":
        return None if given is None else "config"
    try:
        return int(given)
    except ValueError:
        raise rf.InvalidInput(f"--heads takes a number, or config; got {given!r}.") from None


def _check_outputs(json_file: Path | None, html: Path | None, plot: Path | None, data: Path | None) -> None:
    """Before any work: endings and folders."""
    import rankfall as rf
    from rankfall._files import check_folder

    endings = {"--plot": (plot, _FIGURES), "--html": (html, (".html", ".htm")), "--data": (data, (".nc",))}
    for option, (file, allowed) in endings.items():
        if file is not None and file.suffix.lower() not in allowed:
            raise rf.InvalidInput(f"{option} must end in {' or '.join(allowed)}, got {file}.")
    for option, file in (("--json", json_file), ("--html", html), ("--plot", plot), ("--data", data)):
        if file is None or str(file) == "-":
            continue
        if file.is_dir() or not file.parent.is_dir():
            what = "is a folder" if file.is_dir() else f"there is no folder {file.parent}"
            raise rf.InvalidInput(f"{option} {file}: {what}. Choose a file in a folder that exists.")
        check_folder(file.parent)


def _json(found: Scan, spectra: bool) -> str:
    return json.dumps(found.to_dict(spectra=spectra), indent=1, ensure_ascii=False, allow_nan=False)


def _write(
    found: Scan,
    json_file: Path | None,
    spectra: bool,
    html: Path | None,
    plot: Path | None,
    data: Path | None,
    *,
    quietly: bool,
) -> None:
    from rankfall._files import write_atomically

    written: list[tuple[str, Path, Any]] = []
    if json_file is not None:
        written.append(("JSON", json_file, _json(found, spectra) + "\n"))
    if html is not None:
        from rankfall.report.scan_page import render_scan_page

        written.append(("Page", html, render_scan_page(found)))
    if plot is not None:
        from rankfall.report import render_figure
        from rankfall.report.scan_figure import scan_figure

        written.append(("Figure", plot, render_figure(scan_figure(found), plot.suffix.lower().removeprefix("."))))
    if data is not None:
        written.append(("Dataset", data, bytes(found.to_dataset().to_netcdf(engine="h5netcdf"))))
    for what, file, content in written:
        write_atomically(file, content)
        typer.echo(f"{what}: {file}", err=quietly)
