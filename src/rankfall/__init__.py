"""rankfall: rank dynamics of gradient methods."""

from typing import TYPE_CHECKING, Any

from rankfall import errors, runs
from rankfall._progress import Progress
from rankfall._simulate import simulate
from rankfall._version import __version__
from rankfall.errors import (
    InvalidInput,
    LawNotApplicable,
    NotARun,
    OutputError,
    RankfallError,
    SimulationInterrupted,
    StepSizeWarning,
)
from rankfall.methods import (
    GradientDescent,
    GradientFlow,
    LabelNoiseDescent,
    StochasticGradientDescent,
    StochasticGradientFlow,
)
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.runs import open_run, rerun, save_run

if TYPE_CHECKING:
    from rankfall import laws, ranks

__all__ = [
    "GradientDescent",
    "GradientFlow",
    "InvalidInput",
    "LabelNoiseDescent",
    "LawNotApplicable",
    "LinearNetwork",
    "NotARun",
    "OutputError",
    "Problem",
    "Progress",
    "RankfallError",
    "SimulationInterrupted",
    "StepSizeWarning",
    "StochasticGradientDescent",
    "StochasticGradientFlow",
    "__version__",
    "errors",
    "laws",
    "open_run",
    "ranks",
    "rerun",
    "runs",
    "save_run",
    "simulate",
]


def __getattr__(name: str) -> Any:
    # The laws bring xarray, which takes most of a second to import; `rankfall --help` can do without. The ranks bring
    # array-api-compat, and torch only where a tensor is passed.
    if name in ("laws", "ranks"):
        import importlib

        return importlib.import_module(f"rankfall.{name}")
    raise AttributeError(f"module 'rankfall' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
