"""`rankfall reproduce`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rankfall.cli._errors import INTERRUPTED, say
from rankfall.cli._progress import ProgressDisplay
from rankfall.cli._verdicts import exit_code, print_verdicts
from rankfall.experiments._catalogue import TARGETS

__all__ = ["reproduce"]


def reproduce(
    target: Annotated[
        str | None,
        typer.Argument(help=f"What to reproduce: {', '.join(TARGETS)}.", show_default="dichotomy", metavar="[TARGET]"),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every target, each in a folder of its own, and an index.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Report folder: figure, data, verdicts, index.html.",
            show_default="rankfall-report, or rankfall-TARGET",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer trajectories and save points; done in seconds.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Real data instead of Gaussian: diabetes, digits or breast-cancer (needs the extra 'data')."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="For beyond: folder of images in IDX files, like Fashion-MNIST, instead of digits."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="For beyond: this experiment only, e.g. relu; repeat it for several.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is in the folder.")] = False,
    n_samples: Annotated[int | None, typer.Option(help="Samples n of the Gaussian data.", show_default="1000")] = None,
    n_inputs: Annotated[int | None, typer.Option(help="Inputs p.", show_default="5")] = None,
    n_outputs: Annotated[int | None, typer.Option(help="Outputs k.", show_default="2")] = None,
    width: Annotated[int | None, typer.Option(help="Hidden units l; det M needs l ≥ p + k.", show_default="10")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Standard deviation of the starting weights.", show_default="1")
    ] = None,
    label_noise: Annotated[
        list[float] | None,
        typer.Option(help="Variance δ of the label noise; repeat it for several runs.", show_default="0 and 2"),
    ] = None,
    step_size: Annotated[
        float | None,
        typer.Option(help="η of the descent that the flow is the limit of; σ² = ηδ/b.", show_default="0.01"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="b.", show_default="1")] = None,
    duration: Annotated[float | None, typer.Option(help="Flow time.", show_default="420")] = None,
    dt: Annotated[
        float | None, typer.Option(help="Time step of the stochastic flow.", show_default="chosen to be stable")
    ] = None,
    replicates: Annotated[int | None, typer.Option(help="Trajectories per run.", show_default="64")] = None,
    save_points: Annotated[int | None, typer.Option(help="Times that are kept.", show_default="200")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data, starts and noise.", show_default="0")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads; the numbers do not depend on it.", show_default="all")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")] = False,
) -> None:
    """Make a figure, check every claim and law behind it, and write a report that opens without a network.

    Ctrl-C keeps a partial report, and the same command continues it.
    Defaults differ between targets and with --data; the report lists them.

    [bold]Examples[/bold]

        rankfall reproduce
            the paper's figure: det M and the singular values of W1, with and without label noise
        rankfall reproduce --quick --out trial
        rankfall reproduce --label-noise 0 --label-noise 0.5 --out half
        rankfall reproduce --data digits --out digits
        rankfall reproduce beyond --quick
            networks with activations (needs the extras 'torch' and 'data')
        rankfall reproduce --all --quick
            all of it, small
    """
    from rankfall.experiments._catalogue import choose_target
    from rankfall.experiments._runner import run_target

    chosen = {
        "data": data,
        "only": tuple(only) if only else None,
        "data_dir": None if data_dir is None else str(data_dir),
        "n_samples": n_samples,
        "n_inputs": n_inputs,
        "n_outputs": n_outputs,
        "width": width,
        "scale": scale,
        "label_noise": tuple(label_noise) if label_noise else None,
        "step_size": step_size,
        "batch_size": batch_size,
        "duration": duration,
        "dt": dt,
        "replicates": replicates,
        "save_points": save_points,
        "seed": seed,
    }
    words = [*(["--quick"] if quick else []), *_words(chosen)]
    if every:
        _reproduce_all(target, chosen, words, out, quick=quick, overwrite=overwrite, threads=threads, quiet=quiet)
        return
    name = "dichotomy" if target is None else target
    wanted = choose_target(name, quick=quick, **chosen)
    if not wanted.options:
        wanted = replace(wanted, options=words)
    folder = out or Path("rankfall-report" if name == "dichotomy" else f"rankfall-{name}")
    with ProgressDisplay(quiet) as display:
        outcome = run_target(wanted, folder, overwrite=overwrite, threads=threads, progress=display)
    page = outcome.folder / "index.html"
    if outcome.was_complete:
        say(f"{outcome.folder} holds this report already, nothing to do; --overwrite makes it again.")
    print_verdicts(outcome.claims)
    for heading, verdicts in outcome.laws.items():
        typer.echo(f"Laws, {heading}:")
        print_verdicts(verdicts)
    if outcome.status == "partial":
        say(f"rankfall: stopped; a partial report is in {page}. The same command continues it.")
        raise typer.Exit(INTERRUPTED)
    typer.echo(f"Report: {page}")
    raise typer.Exit(exit_code(outcome.verdicts))


def _reproduce_all(
    target: str | None,
    chosen: dict[str, Any],
    words: list[str],
    out: Path | None,
    *,
    quick: bool,
    overwrite: bool,
    threads: int | None,
    quiet: bool,
) -> None:
    from rankfall.errors import InvalidInput
    from rankfall.experiments._everything import run_all

    if target is not None:
        raise InvalidInput(f"--all runs every target; leave out {target!r}, or leave out --all.")
    foreign = [
        word for word in _words({name: value for name, value in chosen.items() if name != "seed"}) if "--" in word
    ]
    if foreign:
        raise InvalidInput(
            f"{', '.join(dict.fromkeys(foreign))} cannot be used with --all: its targets have their own."
        )
    folder = out or Path("rankfall-all")
    with ProgressDisplay(quiet) as display:
        result = run_all(
            folder,
            quick=quick,
            seed=chosen["seed"],
            overwrite=overwrite,
            threads=threads,
            progress=display,
            begin=display.chapter,
            options=words,
        )
    for name, outcome in result.outcomes.items():
        typer.echo(f"{name} ({outcome.seconds:.0f} s): {outcome.target.title}")
        print_verdicts(outcome.claims)
        print_verdicts(v for verdicts in outcome.laws.values() for v in verdicts if v.passed is False)
    page = folder / "index.html"
    if result.interrupted:
        say(f"rankfall: stopped; what there is, is in {page}. The same command continues it.")
        raise typer.Exit(INTERRUPTED)
    typer.echo(f"Report: {page}")
    raise typer.Exit(exit_code(v for outcome in result.outcomes.values() for v in outcome.verdicts))


def _words(chosen: dict[str, Any]) -> list[str]:
    """The options as they were typed."""
    words = []
    for name, value in chosen.items():
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None:
                words += [f"--{name.replace('_', '-')}", str(each)]
    return words
