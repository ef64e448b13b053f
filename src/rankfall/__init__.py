"""rankfall: rank dynamics of gradient methods."""

from rankfall import errors
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
    "RankfallError",
    "SimulationInterrupted",
    "StepSizeWarning",
    "StochasticGradientDescent",
    "StochasticGradientFlow",
    "__version__",
    "errors",
]
