"""`rankfall simulate`."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rankfall.cli._errors import INTERRUPTED, say
from rankfall.cli._progress import ProgressDisplay
from rankfall.cli._verdicts import exit_code, print_verdicts

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.problem import Problem

__all__ = ["simulate"]

MethodName = StrEnum(
    "MethodName",
    ["gradient-flow", "stochastic-gradient-flow", "gradient-descent", "label-noise-descent",
     "stochastic-gradient-descent"],
)  # fmt: skip
Start = StrEnum("Start", ["gaussian", "balanced"])
Ledger = StrEnum("Ledger", ["auto", "determinant", "balance", "both", "none"])
Precision = StrEnum("Precision", ["single", "double"])
Integrator = StrEnum("Integrator", ["geometric", "euler"])

_DATA, _METHOD, _NETWORK, _RUN = "Problem", "Method", "Network", "Run"


def simulate(
    method: Annotated[
        MethodName,
        typer.Option(metavar="NAME", help=f"How the weights move: {', '.join(MethodName)}.", rich_help_panel=_METHOD),
    ],
    inputs: Annotated[
        Path | None, typer.Option(help="Inputs, n×p: .npy, or a table (.csv, .tsv, .txt).", rich_help_panel=_DATA)
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels, n×k or n values, of the same kinds.", rich_help_panel=_DATA)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A bundled set: diabetes, digits, breast-cancer (needs the extra 'data').", rich_help_panel=_DATA
        ),
    ] = None,
    n_samples: Annotated[
        int | None, typer.Option(help="Gaussian data: samples n.", show_default="1000", rich_help_panel=_DATA)
    ] = None,
    n_inputs: Annotated[
        int | None, typer.Option(help="Gaussian data: inputs p.", show_default="5", rich_help_panel=_DATA)
    ] = None,
    n_outputs: Annotated[
        int | None, typer.Option(help="Gaussian data: outputs k.", show_default="2", rich_help_panel=_DATA)
    ] = None,
    teacher_rank: Annotated[
        int | None, typer.Option(help="Gaussian data: rank of the teacher.", show_default="full", rich_help_panel=_DATA)
    ] = None,
    teacher_noise: Annotated[
        float | None, typer.Option(help="Gaussian data: variance of fixed noise in the labels.", rich_help_panel=_DATA)
    ] = None,
    problem_seed: Annotated[
        int | None, typer.Option(help="Gaussian data: seed.", show_default="that of --seed", rich_help_panel=_DATA)
    ] = None,
    label_noise: Annotated[
        float | None, typer.Option(help="Variance δ of fresh label noise.", rich_help_panel=_METHOD)
    ] = None,
    step_size: Annotated[float | None, typer.Option(help="η.", rich_help_panel=_METHOD)] = None,
    batch_size: Annotated[int | None, typer.Option(help="b.", rich_help_panel=_METHOD)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="λ, descents only.", rich_help_panel=_METHOD)] = None,
    integrator: Annotated[
        Integrator | None, typer.Option(help="Of the stochastic flow.", rich_help_panel=_METHOD)
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Of gradient flow, local error.", rich_help_panel=_METHOD)
    ] = None,
    width: Annotated[
        list[str] | None,
        typer.Option(
            help="Hidden units l; again, or 10,10, for every further hidden layer.",
            show_default="p + k + 3",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    start: Annotated[Start, typer.Option(help="How the weights start.", rich_help_panel=_NETWORK)] = Start.gaussian,
    scale: Annotated[float, typer.Option(help="Standard deviation of the start.", rich_help_panel=_NETWORK)] = 1.0,
    shared_start: Annotated[
        bool, typer.Option("--shared-start", help="All replicates start alike.", rich_help_panel=_NETWORK)
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the run is written (NetCDF).", rich_help_panel=_RUN)] = Path(
        "run.nc"
    ),
    duration: Annotated[
        float | None, typer.Option(help="Time: flow time, or steps × step size.", rich_help_panel=_RUN)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps, descents only.", rich_help_panel=_RUN)] = None,
    dt: Annotated[
        float | None, typer.Option(help="Time step, flows only.", show_default="chosen", rich_help_panel=_RUN)
    ] = None,
    replicates: Annotated[int, typer.Option(help="Trajectories.", rich_help_panel=_RUN)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of starts and noise.", rich_help_panel=_RUN)] = 0,
    save_points: Annotated[int, typer.Option(help="Times that are kept.", rich_help_panel=_RUN)] = 200,
    weights: Annotated[
        bool, typer.Option("--weights", help="Keep the weights at these times.", rich_help_panel=_RUN)
    ] = False,
    ledger: Annotated[Ledger, typer.Option(help="What to certify the run with.", rich_help_panel=_RUN)] = Ledger.auto,
    noise_precision: Annotated[
        Precision, typer.Option(help="Of the normal random numbers.", rich_help_panel=_RUN)
    ] = Precision.single,
    threads: Annotated[
        int | None, typer.Option(help="Threads; the numbers do not depend on it.", rich_help_panel=_RUN)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.", rich_help_panel=_RUN)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.", rich_help_panel=_RUN)] = False,
) -> None:
    r"""Simulate any problem with any method, write the run as NetCDF and check the laws on it.

    Ctrl-C keeps what was finished in a file beside --out, and the same command continues it.

    [bold]Examples[/bold]

        rankfall simulate --method stochastic-gradient-flow --label-noise 2 \
            --step-size 0.01 --duration 100 --replicates 64 --out run.nc

        rankfall simulate --method gradient-flow --duration 50 \
            --inputs a.npy --labels b.npy --width 20 --out flow.nc

        rankfall simulate --method stochastic-gradient-descent --step-size 0.01 \
            --batch-size 8 --steps 100000 --data diabetes --scale 0.3

        rankfall simulate --method gradient-flow --duration 50 --width 10,10,10 --scale 0.4
    """
    import rankfall as rf
    from rankfall import laws
    from rankfall._files import check_folder

    if out.suffix.lower() != ".nc":
        raise rf.InvalidInput(f"--out must end in .nc, got {out}.")
    if not out.parent.is_dir():
        raise rf.InvalidInput(f"--out: there is no folder {out.parent}.")
    if out.is_dir() or (out.exists() and not overwrite):
        raise rf.InvalidInput(
            f"{out} is there already; choose another --out" + ("." if out.is_dir() else ", or --overwrite.")
        )
    check_folder(out.parent)
    synthetic = {
        "n_samples": n_samples, "n_inputs": n_inputs, "n_outputs": n_outputs, "teacher_rank": teacher_rank,
        "teacher_noise": teacher_noise, "problem_seed": problem_seed,
    }  # fmt: skip
    chosen_method = _method(
        method.value,
        label_noise=label_noise,
        step_size=step_size,
        batch_size=batch_size,
        weight_decay=weight_decay,
        integrator=None if integrator is None else integrator.value,
        tolerance=tolerance,
    )
    problem = _problem(inputs, labels, data, synthetic, seed)
    hidden = _widths(width)
    units = problem.n_inputs + problem.n_outputs + 3 if hidden is None else hidden
    make = rf.LinearNetwork.balanced if start is Start.balanced else rf.LinearNetwork.gaussian
    network = make(problem.n_inputs, units, problem.n_outputs, scale)
    checkpoint, partial = out.with_suffix(".checkpoint"), out.with_suffix(".partial.nc")
    with ProgressDisplay(quiet) as display:
        try:
            run = rf.simulate(
                problem,
                network,
                chosen_method,
                duration=duration,
                steps=steps,
                dt=dt,
                replicates=replicates,
                seed=seed,
                save_points=save_points,
                start="shared" if shared_start else "independent",
                weights=weights,
                ledger=cast(Any, ledger.value),
                noise_precision=cast(Any, noise_precision.value),
                threads=threads,
                progress=False if quiet else lambda state: display(method.value, state),
                checkpoint=checkpoint,
            )
        except rf.SimulationInterrupted as stop:
            rf.save_run(stop.run, partial)
            further = "The same command continues it." if stop.checkpoint else "It cannot be continued: no checkpoint."
            say(f"rankfall: stopped; what was finished is in {partial}. {further}")
            raise typer.Exit(INTERRUPTED) from None
    rf.save_run(run, out)
    partial.unlink(missing_ok=True)
    verdicts = laws.check(run, problem)
    typer.echo(_summary(run))
    print_verdicts(verdicts)
    typer.echo(f"Run: {out}")
    raise typer.Exit(exit_code(verdicts))


def _widths(words: list[str] | None) -> int | list[int] | None:
    """The hidden layers of --width, given several times or with commas; one number for a single one."""
    import rankfall as rf

    parts = [part.strip() for word in words or () for part in word.split(",")]
    try:
        widths = [int(part) for part in parts]
    except ValueError:
        raise rf.InvalidInput(f"--width takes whole numbers, like 10 or 10,10; got {', '.join(words or ())}.") from None
    if not widths:
        return None
    return widths[0] if len(widths) == 1 else widths


def _method(name: str, **options: Any) -> Any:
    import rankfall as rf

    kind = getattr(rf, "".join(word.capitalize() for word in name.split("-")))
    allowed = {field.name for field in fields(kind)}
    given = {option: value for option, value in options.items() if value is not None}
    foreign = [_option(option) for option in given if option not in allowed]
    if foreign:
        raise rf.InvalidInput(
            f"{', '.join(foreign)} does not belong to --method {name}, which takes "
            f"{', '.join(_option(option) for option in options if option in allowed)}."
        )
    required = [field.name for field in fields(kind) if field.default is _missing()]
    absent = [_option(option) for option in required if option not in given]
    if absent:
        raise rf.InvalidInput(f"--method {name} needs {', '.join(absent)}.")
    return kind(**given)


def _missing() -> Any:
    from dataclasses import MISSING

    return MISSING


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _problem(
    inputs: Path | None, labels: Path | None, data: str | None, synthetic: dict[str, Any], seed: int
) -> Problem:
    import rankfall as rf
    from rankfall import datasets

    given = [_option(name) for name, value in synthetic.items() if value is not None]
    if (inputs is None) != (labels is None):
        raise rf.InvalidInput("--inputs and --labels belong together; one of them is missing.")
    if inputs is not None and data is not None:
        raise rf.InvalidInput("--data cannot be used together with --inputs and --labels.")
    if given and (inputs is not None or data is not None):
        raise rf.InvalidInput(f"{', '.join(given)}: only for Gaussian data, not together with --inputs or --data.")
    if inputs is not None and labels is not None:
        return rf.Problem.from_data(datasets.read_matrix(inputs, "inputs"), datasets.read_matrix(labels, "labels"))
    if data is not None:
        return datasets.load(data)
    defaults: dict[str, Any] = {
        "n_samples": 1000,
        "n_inputs": 5,
        "n_outputs": 2,
        "problem_seed": seed,
        "teacher_noise": 0.0,
    }
    chosen: dict[str, Any] = {name: defaults.get(name) if value is None else value for name, value in synthetic.items()}
    return rf.Problem.gaussian(
        chosen["n_samples"],
        chosen["n_inputs"],
        chosen["n_outputs"],
        seed=chosen["problem_seed"],
        rank=chosen["teacher_rank"],
        noise=chosen["teacher_noise"],
    )


def _summary(run: xr.Dataset) -> str:
    import numpy as np

    sizes, outcomes = run.attrs, [str(outcome) for outcome in run["outcome"].values]
    deep = "depth" in sizes
    width = f"widths {sizes['widths']}" if deep else f"width {sizes['width']}"
    completed = sum(outcome == "completed" for outcome in outcomes)
    lines = [
        f"{sizes['method']}: p = {sizes['n_inputs']}, k = {sizes['n_outputs']}, {width}, "
        f"until t = {float(run['time'][-1]):g}; {completed} of {len(outcomes)} replicates completed"
    ]
    lines += [f"  replicate {i}: {outcome}" for i, outcome in enumerate(outcomes) if outcome != "completed"][:10]
    if len(outcomes) - completed > 10:
        lines.append(f"  … and {len(outcomes) - completed - 10} more")
    alive = np.isfinite(run["loss"].values[:, -1])
    if alive.any():
        last = run.isel(time=-1, replicate=np.flatnonzero(alive))
        if deep:
            names = [*(f"W{i}" for i in range(1, int(sizes["depth"]) + 1)), "product"]
            lines.append(f"  medians at the end: loss {float(np.median(last['loss'])):.4g}, singular values of")
            for name in names:
                spectrum = np.median(last[f"singular_values_{name}"].values, axis=0)
                shown = ", ".join(f"{value:.3g}" for value in spectrum[:6]) + (" …" if len(spectrum) > 6 else "")
                lines.append(f"    {name}: {shown}")
            return "\n".join(lines)
        spectrum = np.median(last["singular_values_W1"].values, axis=0)
        lines.append(
            f"  medians at the end: loss {float(np.median(last['loss'])):.4g}, "
            f"log det M {float(np.median(last['log_det'])):.6g}, balance {float(np.median(last['balance'])):.4g}, "
            f"singular values of W1 {', '.join(f'{value:.3g}' for value in spectrum[:5])}"
            + (" …" if len(spectrum) > 5 else "")
        )
    return "\n".join(lines)
