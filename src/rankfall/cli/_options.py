"""Options that commands share: what is learned, the network, the method, the run.

Each is a type for a command's parameter; the builders below turn their values into the library's objects.
"""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rankfall.network import LinearNetwork
    from rankfall.problem import Problem

MethodName = StrEnum(
    "MethodName",
    ["gradient-flow", "stochastic-gradient-flow", "gradient-descent", "label-noise-descent",
     "stochastic-gradient-descent"],
)  # fmt: skip
StartName = StrEnum("StartName", ["gaussian", "balanced"])
LedgerName = StrEnum("LedgerName", ["auto", "determinant", "balance", "both", "none"])
Precision = StrEnum("Precision", ["single", "double"])
IntegratorName = StrEnum("IntegratorName", ["geometric", "euler"])
LossName = StrEnum("LossName", ["squared", "logistic", "cross-entropy"])

DATA, METHOD, NETWORK, RUN = "Problem", "Method", "Network", "Run"

Method = Annotated[
    MethodName,
    typer.Option(metavar="NAME", help=f"How the weights move: {', '.join(MethodName)}.", rich_help_panel=METHOD),
]
Inputs = Annotated[
    Path | None, typer.Option(help="Inputs, n×p: .npy, or a table (.csv, .tsv, .txt).", rich_help_panel=DATA)
]
Labels = Annotated[Path | None, typer.Option(help="Labels, n×k or n values, of the same kinds.", rich_help_panel=DATA)]
Data = Annotated[
    str | None,
    typer.Option(help="A bundled set: diabetes, digits, breast-cancer (needs the extra 'data').", rich_help_panel=DATA),
]
Loss = Annotated[
    LossName,
    typer.Option(
        help="squared; logistic (labels 0 or 1); cross-entropy (one column of classes, or one-hot).",
        rich_help_panel=DATA,
    ),
]
NSamples = Annotated[
    int | None, typer.Option(help="Gaussian data: samples n.", show_default="1000", rich_help_panel=DATA)
]
NInputs = Annotated[int | None, typer.Option(help="Gaussian data: inputs p.", show_default="5", rich_help_panel=DATA)]
NOutputs = Annotated[
    int | None,
    typer.Option(help="Gaussian data: outputs k, or classes.", show_default="2", rich_help_panel=DATA),
]
TeacherRank = Annotated[
    int | None, typer.Option(help="Gaussian data: rank of the teacher.", show_default="full", rich_help_panel=DATA)
]
TeacherNoise = Annotated[
    float | None, typer.Option(help="Gaussian data: variance of fixed noise in the labels.", rich_help_panel=DATA)
]
ProblemSeed = Annotated[
    int | None, typer.Option(help="Gaussian data: seed.", show_default="that of --seed", rich_help_panel=DATA)
]
LabelNoise = Annotated[
    float | None,
    typer.Option(
        help="Variance δ of fresh label noise; probability of a flip where the loss is not squared.",
        rich_help_panel=METHOD,
    ),
]
StepSize = Annotated[float | None, typer.Option(help="η.", rich_help_panel=METHOD)]
BatchSize = Annotated[int | None, typer.Option(help="b.", rich_help_panel=METHOD)]
WeightDecay = Annotated[float | None, typer.Option(help="λ, descents only.", rich_help_panel=METHOD)]
Integrator = Annotated[IntegratorName | None, typer.Option(help="Of the stochastic flow.", rich_help_panel=METHOD)]
Tolerance = Annotated[float | None, typer.Option(help="Of gradient flow, local error.", rich_help_panel=METHOD)]
Width = Annotated[
    list[str] | None,
    typer.Option(
        help="Hidden units l; again, or 10,10, for every further hidden layer.",
        show_default="p + k + 3",
        rich_help_panel=NETWORK,
    ),
]
Start = Annotated[StartName, typer.Option(help="How the weights start.", rich_help_panel=NETWORK)]
Scale = Annotated[float, typer.Option(help="Standard deviation of the start.", rich_help_panel=NETWORK)]
SharedStart = Annotated[
    bool, typer.Option("--shared-start", help="All replicates start alike.", rich_help_panel=NETWORK)
]
Duration = Annotated[float | None, typer.Option(help="Time: flow time, or steps × step size.", rich_help_panel=RUN)]
Steps = Annotated[int | None, typer.Option(help="Steps, descents only.", rich_help_panel=RUN)]
Dt = Annotated[float | None, typer.Option(help="Time step, flows only.", show_default="chosen", rich_help_panel=RUN)]
Replicates = Annotated[int, typer.Option(help="Trajectories.", rich_help_panel=RUN)]
Seed = Annotated[int, typer.Option(help="Seed of starts and noise.", rich_help_panel=RUN)]
SavePoints = Annotated[int, typer.Option(help="Times that are kept.", rich_help_panel=RUN)]
Weights = Annotated[bool, typer.Option("--weights", help="Keep the weights at these times.", rich_help_panel=RUN)]
Observable = Annotated[
    list[str] | None,
    typer.Option(
        help="Keep besides, again for several: eigenvalues, eigenvalue_forces, log_singular_values_Z, "
        "log_singular_values_W1.",
        show_default="none",
        rich_help_panel=RUN,
    ),
]
Ledger = Annotated[LedgerName, typer.Option(help="What to certify the run with.", rich_help_panel=RUN)]
NoisePrecision = Annotated[Precision, typer.Option(help="Of the normal random numbers.", rich_help_panel=RUN)]
Threads = Annotated[int | None, typer.Option(help="Threads; the numbers do not depend on it.", rich_help_panel=RUN)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.", rich_help_panel=RUN)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.", rich_help_panel=RUN)]


def hidden_widths(words: list[str] | None) -> int | list[int] | None:
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


def make_network(problem: Problem, width: list[str] | None, start: StartName, scale: float) -> LinearNetwork:
    """The network for a problem, p + k + 3 hidden units wide unless told."""
    import rankfall as rf

    chosen = hidden_widths(width)
    units = problem.n_inputs + problem.n_outputs + 3 if chosen is None else chosen
    make = rf.LinearNetwork.balanced if start is StartName.balanced else rf.LinearNetwork.gaussian
    return make(problem.n_inputs, units, problem.n_outputs, scale)


def make_method(name: str, **options: Any) -> Any:
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


def make_problem(
    inputs: Path | None, labels: Path | None, data: str | None, synthetic: dict[str, Any], seed: int, loss: Any
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
        features, targets = datasets.read_matrix(inputs, "inputs"), datasets.read_matrix(labels, "labels")
        return rf.Problem.from_data(features, targets, loss=loss)
    if data is not None:
        return datasets.load(data, loss=loss)
    if loss == "logistic":
        raise rf.InvalidInput(
            "--loss logistic needs --inputs and --labels, or --data; for random data use cross-entropy."
        )
    defaults: dict[str, Any] = {
        "n_samples": 1000,
        "n_inputs": 5,
        "n_outputs": 2,
        "problem_seed": seed,
        "teacher_noise": 0.0,
    }
    chosen: dict[str, Any] = {name: defaults.get(name) if value is None else value for name, value in synthetic.items()}
    if loss == "cross_entropy":
        if synthetic["teacher_noise"] is not None:
            raise rf.InvalidInput(
                "--teacher-noise is for the squared loss; the classes of random data are those of the teacher."
            )
        sizes = chosen["n_samples"], chosen["n_inputs"], chosen["n_outputs"]
        return rf.Problem.classification(*sizes, seed=chosen["problem_seed"], rank=chosen["teacher_rank"])
    return rf.Problem.gaussian(
        chosen["n_samples"],
        chosen["n_inputs"],
        chosen["n_outputs"],
        seed=chosen["problem_seed"],
        rank=chosen["teacher_rank"],
        noise=chosen["teacher_noise"],
    )
