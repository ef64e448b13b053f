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
    from rankfall import laws, ranks, scan, sweep
    from rankfall._eigenvalue_process import eigenvalue_process
    from rankfall._lyapunov import lyapunov_spectrum
    from rankfall._stream import Stream, stream

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
    "Stream",
    "__version__",
    "eigenvalue_process",
    "errors",
    "laws",
    "lyapunov_spectrum",
    "open_run",
    "ranks",
    "rerun",
    "runs",
    "save_run",
    "scan",
    "simulate",
    "stream",
    "sweep",
]


# What brings xarray, which takes most of a second to import, or torch where a tensor is passed, comes on first use.
_LAZY = {
    "eigenvalue_process": "rankfall._eigenvalue_process",
    "lyapunov_spectrum": "rankfall._lyapunov",
    "stream": "rankfall._stream",
    "Stream": "rankfall._stream",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("laws", "ranks", "scan", "sweep"):
        return importlib.import_module(f"rankfall.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rankfall' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
