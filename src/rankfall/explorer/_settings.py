"""What a visitor chooses, checked: from the controls of the page and from its address, back to an address."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from urllib.parse import urlencode

from rankfall._stream import Stream, stream
from rankfall.errors import InvalidInput, StepSizeWarning
from rankfall.methods import (
    GradientDescent,
    GradientFlow,
    LabelNoiseDescent,
    Method,
    StochasticGradientDescent,
    StochasticGradientFlow,
)
from rankfall.network import LinearNetwork
from rankfall.problem import Problem

__all__ = ["CHOICES", "CONTROLS", "Control", "Settings"]

N_SAMPLES = 1000
SAVE_POINTS = 301
SPECTRA = ["log_singular_values_Z", "log_singular_values_W1"]
# What a run of the page may take: steps × trajectories × entries of Z. About ten seconds of one core.
_MOST_WORK = 2.5e10
# `warnings.catch_warnings` changes the process, and visitors come in several threads.
_WARNINGS = Lock()

CHOICES: dict[str, dict[str, str]] = {
    "method": {
        "gradient-flow": "gradient flow",
        "stochastic-gradient-flow": "stochastic gradient flow",
        "gradient-descent": "gradient descent",
        "label-noise-descent": "descent with label noise",
        "stochastic-gradient-descent": "mini-batches (SGD)",
    },
    "integrator": {"geometric": "geometric", "euler": "Euler–Maruyama"},
}


@dataclass(frozen=True)
class Control:
    """A slider: name in the address, bounds, and whether its scale is logarithmic or whole numbers.

    Attributes:
        field: Field of `Settings`.
        symbol: What the page writes before the value.
        words: What it is.
        low: Smallest value.
        high: Largest.
        scale: "linear", "log" or "whole".
        step: Distance of two positions; of a logarithmic slider in powers of ten.
    """

    field: str
    symbol: str
    words: str
    low: float
    high: float
    scale: str
    step: float

    def check(self, value: Any, name: str) -> float:
        """The value as a number within the bounds."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        whole = self.scale == "whole"
        if not self.low <= number <= self.high or (whole and number != int(number)) or isinstance(value, bool):
            kind = "a whole number" if whole else "a number"
            shown = f"{value}"[:40]
            raise InvalidInput(f"{name} ({self.words}) must be {kind} from {self.low:g} to {self.high:g}, got {shown}.")
        return int(number) if whole else number


# By name in the address.
CONTROLS: dict[str, Control] = {
    "delta": Control("label_noise", "δ", "label noise, variance", 0.0, 10.0, "linear", 0.1),
    "eta": Control("step_size", "η", "step size", 1e-3, 0.5, "log", 0.05),
    "b": Control("batch_size", "b", "batch size", 1, 64, "whole", 1),
    "p": Control("n_inputs", "p", "inputs", 1, 10, "whole", 1),
    "k": Control("n_outputs", "k", "outputs", 1, 5, "whole", 1),
    "l": Control("width", "l", "hidden units", 1, 30, "whole", 1),
    "rank": Control("teacher_rank", "r", "rank of the teacher", 0, 5, "whole", 1),
    "scale": Control("scale", "s", "size of the start", 0.01, 3.0, "log", 0.05),
    "replicates": Control("replicates", "n", "trajectories", 8, 64, "whole", 8),
    "duration": Control("duration", "T", "length of the run, in time", 1.0, 2000.0, "log", 0.05),
    "seed": Control("seed", "seed", "seed of data, starts and noise", 0, 2**32 - 1, "whole", 1),
}


@dataclass(frozen=True)
class Settings:
    """One run of the page. Gaussian data of 1000 samples, Gaussian start.

    Raises:
        InvalidInput: A value is out of its bounds, the rank is above min(p, k), or the run would take too long.
    """

    method: str = "stochastic-gradient-flow"
    integrator: str = "geometric"
    label_noise: float = 4.0
    step_size: float = 0.02
    batch_size: int = 1
    n_inputs: int = 5
    n_outputs: int = 2
    width: int = 10
    teacher_rank: int = 2
    scale: float = 1.0
    replicates: int = 32
    duration: float = 200.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            if getattr(self, name) not in options:
                raise InvalidInput(f"{name} must be one of {', '.join(options)}, got {getattr(self, name)!s:.40}.")
        for name, control in CONTROLS.items():
            object.__setattr__(self, control.field, control.check(getattr(self, control.field), name))
        most = min(self.n_inputs, self.n_outputs)
        if self.teacher_rank > most:
            raise InvalidInput(
                f"rank (rank of the teacher) must be at most min(p, k) = {most}, got {self.teacher_rank}."
            )

    @classmethod
    def from_query(cls, arguments: Mapping[str, Sequence[str]], base: Settings | None = None) -> Settings:
        """Read the address of the page.

        Args:
            arguments: By name, all values that were given.
            base: What is not given is taken from here.

        Raises:
            InvalidInput: An unknown name, a name given twice, or a value that is no good.
        """
        known = {**{name: name for name in CHOICES}, **{name: control.field for name, control in CONTROLS.items()}}
        chosen: dict[str, Any] = {}
        for name, values in arguments.items():
            if name not in known:
                raise InvalidInput(f"{name[:40]!r} is no setting of this page; it has {', '.join(known)}.")
            if len(values) != 1:
                raise InvalidInput(f"{name} was given {len(values)} times; give it once.")
            chosen[known[name]] = values[0]
        return dataclasses.replace(base or cls(), **chosen)

    @classmethod
    def from_values(cls, values: Any) -> Settings:
        """Take what the controls hold; a rank above min(p, k) is lowered to it, as the slider does.

        Raises:
            InvalidInput: Not exactly the settings, or a value that is no good.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise InvalidInput("the page sent settings that are not those of this version; reload it.")
        chosen = dict(values)
        most = [CONTROLS[name].check(chosen[CONTROLS[name].field], name) for name in ("rank", "p", "k")]
        chosen["teacher_rank"] = min(most)
        return cls(**chosen)

    def to_query(self) -> str:
        """The address's part after the question mark: what differs from the defaults."""
        plain = Settings()
        names = {**{name: name for name in CHOICES}, **{name: control.field for name, control in CONTROLS.items()}}
        given = {name: getattr(self, field) for name, field in names.items()}
        changed = {name: value for name, value in given.items() if value != getattr(plain, names[name])}
        return urlencode({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in changed.items()})

    def to_values(self) -> dict[str, Any]:
        """All settings by field, as plain numbers and words."""
        return dataclasses.asdict(self)

    @property
    def acting(self) -> frozenset[str]:
        """The controls, by name in the address, that this method listens to."""
        names = {"method", *CONTROLS}
        if self.method == "gradient-flow":
            return frozenset(names - {"delta", "eta", "b"})
        if self.method == "gradient-descent":
            return frozenset(names - {"delta", "b"})
        return frozenset(names | {"integrator"}) if self.method == "stochastic-gradient-flow" else frozenset(names)

    @property
    def make_problem(self) -> dict[str, Any]:
        """Arguments of `Problem.gaussian`."""
        return {
            "n_samples": N_SAMPLES,
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            "seed": self.seed,
            "rank": self.teacher_rank,
        }

    @property
    def make_network(self) -> dict[str, Any]:
        """Arguments of `LinearNetwork.gaussian`."""
        return {"n_inputs": self.n_inputs, "width": self.width, "n_outputs": self.n_outputs, "scale": self.scale}

    def make_method(self) -> Method:
        """The method of the library."""
        eta, delta, b = self.step_size, self.label_noise, self.batch_size
        if self.method == "gradient-flow":
            return GradientFlow()
        if self.method == "gradient-descent":
            return GradientDescent(eta)
        if self.method == "label-noise-descent":
            return LabelNoiseDescent(eta, delta, b)
        if self.method == "stochastic-gradient-descent":
            return StochasticGradientDescent(eta, b, delta)
        return StochasticGradientFlow(delta, eta, b, "euler" if self.integrator == "euler" else "geometric")

    @property
    def simulate(self) -> dict[str, Any]:
        """Arguments of `simulate` and `stream` besides problem, network and method."""
        flow = self.method == "gradient-flow"
        # The sum of the growths of a frame has a verdict where the increments are small or recorded. Steps of descents
        # may be as large as the visitor likes, and a frame that sixteen of them have flattened says nothing.
        growth = ["log_growth"] if self.method == "stochastic-gradient-flow" else []
        return {
            "duration": self.duration,
            "replicates": self.replicates,
            "seed": self.seed,
            "save_points": SAVE_POINTS,
            "weights": True,
            "observables": [] if flow else growth + SPECTRA,
            "ledger": "auto" if flow else "both",
        }

    def begin(self) -> tuple[Stream, str]:
        """Lay the run out; returns it with what there is to warn of, "" if nothing.

        Raises:
            InvalidInput: The run would take too long.
        """
        problem, network = Problem.gaussian(**self.make_problem), LinearNetwork.gaussian(**self.make_network)
        with _WARNINGS, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", StepSizeWarning)
            run = stream(problem, network, self.make_method(), **self.simulate, threads=1, any_size=True)
        steps = run._run.plan.steps
        size = (self.n_inputs + self.n_outputs) * min(self.width, self.n_inputs + self.n_outputs)
        if steps is not None and float(steps[-1]) * self.replicates * size > _MOST_WORK:
            raise InvalidInput(
                f"this run would take {int(steps[-1]):,} steps of {self.replicates} trajectories, too many for a page: "
                "shorten it, take a larger step or a smaller start, or use `rankfall simulate`."
            )
        return run, " ".join(str(each.message) for each in caught)

    def script(self) -> str:
        """A Python program that makes this run."""
        return _SCRIPT.format(
            problem=_arguments(self.make_problem),
            network=_arguments(self.make_network),
            method=repr(self.make_method()),
            options="".join(f"    {name}={_code(value)},\n" for name, value in self.simulate.items()),
        )


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_code(value)}" for name, value in values.items())


def _code(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | list) else repr(value)


_SCRIPT = '''"""A run of `rankfall explore`: the same numbers up to rounding.

The page uses kernels that serve any size; `simulate` compiles one for this size, which rounds in another order.
"""

import rankfall as rf
from rankfall import laws

problem = rf.Problem.gaussian({problem})
network = rf.LinearNetwork.gaussian({network})
method = rf.{method}
run = rf.simulate(
    problem,
    network,
    method,
{options})
for verdict in laws.check(run, problem):
    print(verdict)
rf.save_run(run, "rankfall-run.nc")
'''
