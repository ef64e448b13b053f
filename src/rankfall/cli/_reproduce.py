"""`rankfall reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankfall.cli._errors import INTERRUPTED, say
from rankfall.cli._progress import ProgressDisplay
from rankfall.cli._verdicts import exit_code, print_verdicts

__all__ = ["reproduce"]


def reproduce(
    out: Annotated[Path, typer.Option(help="Report folder: figure, data, verdicts, index.html.")] = Path(
        "rankfall-report"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer trajectories and save points; done in seconds.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Real data instead of Gaussian: diabetes, digits or breast-cancer (needs the extra 'data')."),
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
    """Make the paper's figure: det M and the singular values of W1, with and without label noise.

    Writes a report folder whose index.html opens without a network.
    Ctrl-C keeps a partial report, and the same command continues it.
    Defaults differ with --data; the report lists them.

    [bold]Examples[/bold]

        rankfall reproduce
        rankfall reproduce --quick --out trial
        rankfall reproduce --label-noise 0 --label-noise 0.5 --out half
        rankfall reproduce --data digits --out digits
    """
    from rankfall.experiments import dichotomy

    settings = dichotomy.Settings.choose(
        data,
        quick=quick,
        n_samples=n_samples,
        n_inputs=n_inputs,
        n_outputs=n_outputs,
        width=width,
        scale=scale,
        label_noise=tuple(label_noise) if label_noise else None,
        step_size=step_size,
        batch_size=batch_size,
        duration=duration,
        dt=dt,
        replicates=replicates,
        save_points=save_points,
        seed=seed,
    )
    with ProgressDisplay(quiet) as display:
        outcome = dichotomy.run(settings, out, overwrite=overwrite, threads=threads, progress=display)
    page = outcome.folder / "index.html"
    if outcome.was_complete:
        say(f"{outcome.folder} holds this report already, nothing to do; --overwrite makes it again.")
    print_verdicts(outcome.claims)
    for name, verdicts in outcome.laws.items():
        typer.echo(f"Laws, {name}:")
        print_verdicts(verdicts)
    if outcome.status == "partial":
        say(f"rankfall: stopped; a partial report is in {page}. The same command continues it.")
        raise typer.Exit(INTERRUPTED)
    typer.echo(f"Report: {page}")
    raise typer.Exit(exit_code(outcome.verdicts))
