"""`rankfall simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rankfall.cli import _options as options
from rankfall.cli._errors import INTERRUPTED
from rankfall.cli._output import check_output, keep_partial
from rankfall.cli._progress import ProgressDisplay
from rankfall.cli._verdicts import exit_code, print_verdicts

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["simulate"]


def simulate(
    method: options.Method,
    inputs: options.Inputs = None,
    labels: options.Labels = None,
    data: options.Data = None,
    loss: options.Loss = options.LossName.squared,
    n_samples: options.NSamples = None,
    n_inputs: options.NInputs = None,
    n_outputs: options.NOutputs = None,
    teacher_rank: options.TeacherRank = None,
    teacher_noise: options.TeacherNoise = None,
    problem_seed: options.ProblemSeed = None,
    label_noise: options.LabelNoise = None,
    step_size: options.StepSize = None,
    batch_size: options.BatchSize = None,
    weight_decay: options.WeightDecay = None,
    integrator: options.Integrator = None,
    tolerance: options.Tolerance = None,
    width: options.Width = None,
    start: options.Start = options.StartName.gaussian,
    scale: options.Scale = 1.0,
    shared_start: options.SharedStart = False,
    out: Annotated[Path, typer.Option(help="Where the run is written (NetCDF).", rich_help_panel=options.RUN)] = Path(
        "run.nc"
    ),
    duration: options.Duration = None,
    steps: options.Steps = None,
    dt: options.Dt = None,
    replicates: options.Replicates = 1,
    seed: options.Seed = 0,
    save_points: options.SavePoints = 200,
    weights: options.Weights = False,
    observable: options.Observable = None,
    ledger: options.Ledger = options.LedgerName.auto,
    noise_precision: options.NoisePrecision = options.Precision.single,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
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

        rankfall simulate --method stochastic-gradient-descent --step-size 0.05 \
            --batch-size 32 --label-noise 0.1 --steps 5000 --data digits \
            --loss cross-entropy --scale 0.1

        rankfall simulate --method gradient-flow --duration 50 --width 10,10,10 --scale 0.4
    """
    import rankfall as rf
    from rankfall import laws

    check_output(out, overwrite)
    synthetic = {
        "n_samples": n_samples, "n_inputs": n_inputs, "n_outputs": n_outputs, "teacher_rank": teacher_rank,
        "teacher_noise": teacher_noise, "problem_seed": problem_seed,
    }  # fmt: skip
    chosen_method = options.make_method(
        method.value,
        label_noise=label_noise,
        step_size=step_size,
        batch_size=batch_size,
        weight_decay=weight_decay,
        integrator=None if integrator is None else integrator.value,
        tolerance=tolerance,
    )
    problem = options.make_problem(inputs, labels, data, synthetic, seed, loss.value.replace("-", "_"))
    network = options.make_network(problem, width, start, scale)
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
                observables=observable or (),
                ledger=cast(Any, ledger.value),
                noise_precision=cast(Any, noise_precision.value),
                threads=threads,
                progress=False if quiet else lambda state: display(method.value, state),
                checkpoint=checkpoint,
            )
        except rf.SimulationInterrupted as stop:
            keep_partial(stop, partial)
            raise typer.Exit(INTERRUPTED) from None
    rf.save_run(run, out)
    partial.unlink(missing_ok=True)
    verdicts = laws.check(run, problem)
    typer.echo(_summary(run))
    print_verdicts(verdicts)
    typer.echo(f"Run: {out}")
    raise typer.Exit(exit_code(verdicts))


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
            + (f"accuracy {float(np.median(last['accuracy'])):.4g}, " if "accuracy" in last else "")
            + f"log det M {float(np.median(last['log_det'])):.6g}, balance {float(np.median(last['balance'])):.4g}, "
            f"singular values of W1 {', '.join(f'{value:.3g}' for value in spectrum[:5])}"
            + (" …" if len(spectrum) > 5 else "")
        )
    return "\n".join(lines)
