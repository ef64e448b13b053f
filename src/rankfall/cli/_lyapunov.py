"""`rankfall lyapunov`."""

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

__all__ = ["lyapunov"]


def lyapunov(
    method: options.Method = options.MethodName["stochastic-gradient-flow"],
    inputs: options.Inputs = None,
    labels: options.Labels = None,
    data: options.Data = None,
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
    width: options.Width = None,
    start: options.Start = options.StartName.gaussian,
    scale: options.Scale = 1.0,
    out: Annotated[
        Path, typer.Option(help="Where the spectrum is written (NetCDF).", rich_help_panel=options.RUN)
    ] = Path("lyapunov.nc"),
    duration: options.Duration = None,
    steps: options.Steps = None,
    dt: options.Dt = None,
    burn_in: Annotated[
        float, typer.Option(help="Share of the run that is left out at its beginning.", rich_help_panel=options.RUN)
    ] = 0.2,
    replicates: options.Replicates = 16,
    seed: options.Seed = 0,
    noise_precision: options.NoisePrecision = options.Precision.single,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    r"""Measure how fast every singular value of Z = [W1; W2ᵀ] dies, and how many survive.

    Prints all p + k Lyapunov exponents with standard errors, the check of their exact sum, and the rank that is left.
    Ctrl-C keeps what was finished in a file beside --out, and the same command continues it.

    [bold]Examples[/bold]

        rankfall lyapunov --label-noise 2 --step-size 0.01 --duration 10000
        rankfall lyapunov --label-noise 2 --step-size 0.01 --duration 10000 \
            --n-inputs 5 --n-outputs 3 --teacher-rank 1
        rankfall lyapunov --method stochastic-gradient-descent --step-size 0.01 \
            --batch-size 4 --label-noise 1 --steps 500000 --data diabetes --scale 0.3
    """
    import rankfall as rf
    from rankfall import laws

    check_output(out, overwrite)
    synthetic = {
        "n_samples": n_samples, "n_inputs": n_inputs, "n_outputs": n_outputs, "teacher_rank": teacher_rank,
        "teacher_noise": teacher_noise, "problem_seed": problem_seed,
    }  # fmt: skip
    chosen = options.make_method(
        method.value,
        label_noise=label_noise,
        step_size=step_size,
        batch_size=batch_size,
        weight_decay=weight_decay,
        integrator=None if integrator is None else integrator.value,
    )
    problem = options.make_problem(inputs, labels, data, synthetic, seed, "squared")
    network = options.make_network(problem, width, start, scale)
    partial = out.with_suffix(".partial.nc")
    with ProgressDisplay(quiet) as display:
        try:
            found = rf.lyapunov_spectrum(
                problem,
                network,
                chosen,
                duration=duration,
                steps=steps,
                dt=dt,
                burn_in=burn_in,
                replicates=replicates,
                seed=seed,
                noise_precision=cast(Any, noise_precision.value),
                threads=threads,
                progress=False if quiet else lambda state: display("Lyapunov spectrum", state),
                checkpoint=out.with_suffix(".checkpoint"),
            )
        except rf.SimulationInterrupted as stop:
            keep_partial(stop, partial)
            raise typer.Exit(INTERRUPTED) from None
    rf.save_run(found, out)
    partial.unlink(missing_ok=True)
    typer.echo(_table(found))
    verdicts = laws.lyapunov.check(found)
    print_verdicts(verdicts)
    typer.echo(f"Spectrum: {out}")
    raise typer.Exit(exit_code(verdicts))


def _table(found: xr.Dataset) -> str:
    """Exponents with their errors, and the time in which each mode falls to a tenth."""
    import math

    lines = ["mode   exponent      standard error   falls tenfold in"]
    for mode, (value, error) in enumerate(
        zip(found["exponents"].values, found["standard_error"].values, strict=True), 1
    ):
        tenfold = f"{math.log(10) / -value:.4g}" if value < -3 * error else "–"
        lines.append(f"{mode:4d} {value:12.5g} {error:16.2g}     {tenfold:>12}")
    rank = int(found.attrs["final_rank"])
    if rank >= 0:
        lines.append(f"rank that is left: {rank} (exponents compatible with zero)")
    else:
        lowest, highest = found.attrs["final_rank_lowest"], found.attrs["final_rank_highest"]
        lines.append(f"rank that is left: undecided, {lowest} to {highest}; try a longer duration")
        lines.append(f"  {found.attrs['final_rank_note']}")
    return "\n".join(lines)
