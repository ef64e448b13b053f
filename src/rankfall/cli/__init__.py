"""The command line: parse, call the library, print. Commands import what they need when they run."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated

import typer

from rankfall._version import __version__
from rankfall.cli import (
    _check,
    _doctor,
    _explore,
    _lyapunov,
    _plot,
    _reproduce,
    _scan,
    _simulate,
    _sweep,
    _sweep_status,
)
from rankfall.cli._errors import EPILOG, guarded
from rankfall.cli._words import TwoWords

__all__ = ["app", "main"]

app = typer.Typer(
    name="rankfall",
    cls=TwoWords,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rankfall {__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    r"""Rank dynamics of gradient methods: why, how fast and how far training lowers the rank of a network's weights.

    [bold]Examples[/bold]

        rankfall reproduce
            the figure of Varre, Sagitova & Flammarion (2024), every law checked

        rankfall reproduce --quick --out trial
            the same in seconds, with fewer trajectories

        rankfall simulate --method stochastic-gradient-flow --label-noise 2 \
                --step-size 0.01 --duration 100 --replicates 64 --out run.nc
            any problem, any method

        rankfall lyapunov --label-noise 2 --step-size 0.01 --duration 10000
            how fast every singular value dies, and which rank is left

        rankfall check run.nc
            the verdict of every law; exit code 1 if one fails

        rankfall plot run.nc

        rankfall scan model.safetensors
            the rank of every weight matrix of a trained network

        rankfall sweep study.toml --out results.zarr
            a grid of ensembles, that may be stopped at any moment and continued

        rankfall explore
            a page with sliders: see it while it runs

        rankfall doctor
            is this installation sound?
    """


app.command("reproduce", epilog=EPILOG)(guarded(_reproduce.reproduce))
app.command("simulate", epilog=EPILOG)(guarded(_simulate.simulate))
app.command("lyapunov", epilog=EPILOG)(guarded(_lyapunov.lyapunov))
app.command("check", epilog=EPILOG)(guarded(_check.check))
app.command("plot", epilog=EPILOG)(guarded(_plot.plot))
app.command("scan", epilog=EPILOG)(guarded(_scan.scan))
app.command("sweep", epilog=EPILOG)(guarded(_sweep.sweep))
app.command("sweep status", epilog=EPILOG)(guarded(_sweep_status.status))
app.command("explore", epilog=EPILOG)(guarded(_explore.explore))
app.command("doctor", epilog=EPILOG)(guarded(_doctor.doctor))


def main() -> None:
    """Entry point of the `rankfall` command."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # A job system that ends a job politely gets the same partial results as Ctrl-C.
    signal.signal(signal.SIGTERM, stop)
    app()


if __name__ == "__main__":
    main()
