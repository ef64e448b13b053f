"""From a problem, a network, a method and the arguments of `simulate` to the numbers that a kernel takes."""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from rankfall import _checks, _stability
from rankfall._diffusion import diffusion
from rankfall.errors import InvalidInput, StepSizeWarning
from rankfall.methods import (
    Flow,
    GradientFlow,
    LabelNoiseDescent,
    Method,
    StochasticGradientDescent,
    StochasticGradientFlow,
)
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.recording import FRAMED, OBSERVABLES

__all__ = ["LedgerChoice", "Plan", "check_arguments", "make_plan", "method_for"]

LedgerChoice = Literal["auto", "determinant", "balance", "both", "none"]
NoisePrecision = Literal["single", "double"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be computed, in the eigenbasis of Σ.

    Attributes:
        times: Save times, ascending.
        steps: Step at each save time; None for gradient flow with step control.
        step_length: η or the time step; 0 for gradient flow with step control.
        integrator: What the step is, for the reader of a run.
        order: Its (weak) order.
        eigenvalues: d, shape (p,).
        eigenvectors: U, shape (p, p).
        solution: UᵀΣ⁺C; zeros where the loss is not squared.
        gain: h UᵀC; UᵀC for gradient flow, whose steps vary.
        amplitude: Standard deviation of the noise in H by row.
        row_factors: a = 1 − ηλ (one number), or e^{−K h/2} by row for the geometric step.
        unscale: e^{+K h/4} by row: from the geometric integrator's state to Z; ones otherwise.
        full_rank: Whether M can have full rank.
        determinant: Whether the determinant ledger is kept.
        balance: Whether the balance ledger is kept.
        precision: Of the normals.
        observables: What is recorded besides the variables that every run has.
        force_intensity: σ² of the diffusion whose forces on the eigenvalues are recorded.
        start_rank: Rank of Z at the start where it is known.
        full_pairs: Whether M_i can have full rank, for every pair of neighbouring layers.
    """

    times: np.ndarray
    steps: np.ndarray | None
    step_length: float
    integrator: str
    order: int
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    solution: np.ndarray
    gain: np.ndarray
    amplitude: np.ndarray
    row_factors: np.ndarray
    unscale: np.ndarray
    full_rank: bool
    determinant: bool
    balance: bool
    precision: NoisePrecision
    observables: tuple[str, ...] = ()
    force_intensity: float = 0.0
    start_rank: int | None = None
    full_pairs: tuple[bool, ...] = ()

    @property
    def framed(self) -> bool:
        """Whether a frame moves beside Z."""
        return not FRAMED.isdisjoint(self.observables)

    @property
    def adaptive(self) -> bool:
        """Whether gradient flow chooses its own steps."""
        return self.steps is None

    @property
    def edges(self) -> np.ndarray:
        """Save times with the start before them, between which adaptive gradient flow moves."""
        return self.times if self.times[0] == 0.0 else np.concatenate([[0.0], self.times])

    @property
    def ticks(self) -> np.ndarray:
        """Where the save points lie, in steps, or in intervals between the edges where the steps are adaptive."""
        if self.steps is not None:
            return self.steps
        return np.arange(len(self.times)) + (len(self.edges) - len(self.times))


def method_for(network: Any, method: Any) -> Any:
    """The method that is run: the geometric step is one of two layers, deeper networks take Euler–Maruyama."""
    deep = isinstance(network, LinearNetwork) and network.depth > 2
    if deep and isinstance(method, StochasticGradientFlow):
        return dataclasses.replace(method, integrator="euler")
    return method


def make_plan(
    problem: Problem,
    network: LinearNetwork,
    method: Method,
    *,
    duration: float | None,
    steps: int | None,
    dt: float | None,
    save_points: int | Sequence[float],
    ledger: LedgerChoice,
    noise_precision: NoisePrecision,
    observables: Sequence[str] = (),
) -> Plan:
    """Check everything that does not depend on the replicates; raises `InvalidInput` before any work."""
    observed, wanted, end, dt, ledgers = check_arguments(
        problem,
        network,
        method,
        duration=duration,
        steps=steps,
        dt=dt,
        save_points=save_points,
        ledger=ledger,
        noise_precision=noise_precision,
        observables=observables,
    )
    flow = isinstance(method, Flow)
    intensity = method.intensity if isinstance(method, StochasticGradientFlow) else 0.0
    d, basis = problem.eigenbasis()
    cross = basis.T @ problem.cross_covariance
    cross[d == 0.0] = 0.0  # rounding there would drive the directions that the data do not see
    step_numbers: np.ndarray | None
    if isinstance(method, GradientFlow) and dt is None:
        times, step_numbers, h = _grid(wanted, end), None, 0.0
    elif flow:
        times, step_numbers, h = _flow_steps(problem, network, method, end, dt, wanted)
    else:
        h = method.step_size  # type: ignore[union-attr]
        step_numbers = _spread(wanted, round(end / h), h)
        times = step_numbers * h
    if not (flow and dt is None and network.depth == 2):  # whose step is chosen below a bound of the stability limit
        _warn_of_large_steps(problem, network, method, h)
    full_pairs = network.full_pairs
    full_rank = any(full_pairs)
    determinant, balance = ledgers

    amplitude, row_factors = np.zeros(len(d)), np.ones(1)
    unscale = np.ones(_rows(problem))
    name, order = "explicit step", 1
    if isinstance(method, GradientFlow):
        name, order = "commutator-free Lie group method of order 4" + (", step control" if dt is None else ""), 4
        if network.depth > 2:
            name, order = "DOP853, Runge–Kutta of order 8" + (", step control" if dt is None else ""), 8
    elif isinstance(method, StochasticGradientFlow):
        amplitude = np.sqrt(intensity * h * d)
        if method.integrator == "geometric":
            k_diagonal = intensity * np.concatenate(
                [problem.n_outputs * d, np.full(problem.n_outputs, float(np.sum(d)))]
            )
            row_factors, unscale = np.exp(-k_diagonal * h / 2), np.exp(k_diagonal * h / 4)
            name = "geometric (Strang splitting of a Lie group step), strong order 1/2"
        else:
            name = "Euler–Maruyama, strong order 1/2"
    elif isinstance(method, LabelNoiseDescent) and problem.loss == "squared":
        amplitude = h * np.sqrt(method.label_noise / method.batch_size * d)
    if not flow:
        row_factors = np.array([1.0 - h * method.weight_decay])  # type: ignore[union-attr]
    return Plan(
        times=times,
        steps=step_numbers,
        step_length=h,
        integrator=name,
        order=order,
        eigenvalues=d,
        eigenvectors=basis,
        solution=np.ascontiguousarray(basis.T @ problem.solution)
        if problem.loss == "squared"
        else np.zeros_like(cross),
        gain=np.ascontiguousarray(cross if isinstance(method, GradientFlow) else h * cross),
        amplitude=amplitude,
        row_factors=row_factors,
        unscale=unscale,
        full_rank=full_rank,
        determinant=determinant,
        balance=balance,
        precision=noise_precision,
        observables=observed,
        force_intensity=diffusion(problem, method)[0] if "eigenvalue_forces" in observed else 0.0,
        start_rank=network.start_rank,
        full_pairs=full_pairs,
    )


def check_arguments(
    problem: Problem,
    network: LinearNetwork,
    method: Method,
    *,
    duration: float | None,
    steps: int | None,
    dt: float | None,
    save_points: int | Sequence[float],
    ledger: LedgerChoice = "auto",
    noise_precision: NoisePrecision = "single",
    observables: Sequence[str] = (),
) -> tuple[tuple[str, ...], int | np.ndarray, float, float | None, tuple[bool, bool]]:
    """Raise `InvalidInput` for what `simulate` would refuse, without computing anything (some tens of microseconds).

    Returns the observables, save points, end and time step as they will be used, and which ledgers are kept.
    """
    _check_kinds(problem, network, method)
    if noise_precision not in get_args(NoisePrecision):
        raise InvalidInput(f"noise_precision must be 'single' or 'double', got {noise_precision!r}.")
    observed = _observables(observables, problem)
    if isinstance(method, GradientFlow) and not FRAMED.isdisjoint(observed):  # its engine moves no frame
        raise InvalidInput(
            f"the observables {', '.join(sorted(FRAMED))} follow the steps of a descent or of the stochastic flow, not "
            "the adaptive ones of GradientFlow; use StochasticGradientFlow(label_noise=0.0, …) for its limit."
        )
    _check_depth(network, observed)
    wanted = _save_times(save_points)
    if isinstance(method, Flow):
        if steps is not None:
            raise InvalidInput("a flow has no steps; give its duration (and dt, the time step, if you must).")
        if dt is not None:
            dt = _checks.real_number(dt, "dt", above=0.0)
    elif dt is not None:
        raise InvalidInput(f"dt is for flows; the step of {type(method).__name__} is its step_size.")
    end = _end(method, duration, steps, wanted)
    framed = not FRAMED.isdisjoint(observed)
    ledgers = _ledgers(method, ledger, any(network.full_pairs), network, framed)
    return observed, wanted, end, dt, ledgers


def _rows(problem: Problem) -> int:
    return problem.n_inputs + problem.n_outputs


def _check_kinds(problem: Any, network: Any, method: Any) -> None:
    for value, kind, name in ((problem, Problem, "problem"), (network, LinearNetwork, "network")):
        if not isinstance(value, kind):
            raise InvalidInput(f"{name} must be a {kind.__name__}, got {type(value).__name__}.")
    if not isinstance(method, Method):
        hint = " (the class; make one, for example GradientFlow())" if isinstance(method, type) else ""
        raise InvalidInput(f"method must be one of rankfall's methods, got {method!r}{hint}.")
    if (network.n_inputs, network.n_outputs) != (problem.n_inputs, problem.n_outputs):
        raise InvalidInput(
            f"the network has {network.n_inputs} inputs and {network.n_outputs} outputs, the problem "
            f"{problem.n_inputs} and {problem.n_outputs}; make the network for the problem."
        )
    batch = getattr(method, "batch_size", None)
    if batch is not None and problem.n_samples is not None and batch > problem.n_samples:
        raise InvalidInput(
            f"batch_size must be at most the number of samples, got {batch} for {problem.n_samples} samples."
        )
    if isinstance(method, StochasticGradientDescent) and not problem.has_data:
        raise InvalidInput(
            "StochasticGradientDescent draws mini-batches and needs the data; make the problem with Problem.from_data, "
            "or use LabelNoiseDescent, which needs the statistics alone."
        )
    if problem.loss != "squared":
        _check_loss(problem, method)


def _check_loss(problem: Problem, method: Method) -> None:
    """What the losses that need the data do not allow."""
    if not problem.has_data:
        raise InvalidInput(f"loss={problem.loss!r} needs the data; make the problem with Problem.from_data.")
    if isinstance(method, StochasticGradientFlow):
        raise InvalidInput(
            "StochasticGradientFlow is the limit of additive label noise in the squared loss; with "
            f"loss={problem.loss!r} label noise means flipped labels. Use LabelNoiseDescent or "
            "StochasticGradientDescent."
        )
    probability = getattr(method, "label_noise", 0.0)
    if not probability < 1.0:
        raise InvalidInput(
            f"label_noise is the probability that a label is flipped where loss={problem.loss!r}, and must be below 1, "
            f"got {probability:g}."
        )


def _observables(names: Sequence[str], problem: Problem) -> tuple[str, ...]:
    if isinstance(names, str):
        raise InvalidInput(f"observables must be a list of names, got the text {names!r}; write [{names!r}].")
    try:
        chosen = tuple(dict.fromkeys(names))
    except TypeError:
        raise InvalidInput(f"observables must be a list of names, got {names!r}.") from None
    for name in chosen:
        if name not in OBSERVABLES:
            raise InvalidInput(f"observables must be among {', '.join(OBSERVABLES)}, got {name!r}.")
    if problem.loss != "squared":
        return tuple(dict.fromkeys([*chosen, "accuracy"]))
    if "accuracy" in chosen:
        raise InvalidInput("a squared loss has no accuracy; make the problem with loss='cross_entropy'.")
    return chosen


def _check_depth(network: LinearNetwork, observed: tuple[str, ...]) -> None:
    """What is not there for more than two layers."""
    wanted = [name for name in observed if name != "accuracy"]
    if network.depth > 2 and wanted:
        raise InvalidInput(
            f"observables are recorded for two layers, the network has {network.depth}; leave {', '.join(wanted)} out."
        )


def _save_times(save_points: int | Sequence[float]) -> int | np.ndarray:
    if isinstance(save_points, str) or save_points is None:
        raise InvalidInput(f"save_points must be a number of times or a list of times, got {save_points!r}.")
    if np.ndim(save_points) == 0:
        return _checks.whole_number(save_points, "save_points", at_least=2)
    times = _checks.finite_matrix(save_points, "save_points", columns_ok=True)[:, 0]
    if times[0] < 0 or (np.diff(times) <= 0).any():
        raise InvalidInput("save_points must be ascending times from 0 on, each larger than the one before.")
    return times


def _end(method: Method, duration: float | None, steps: int | None, wanted: int | np.ndarray) -> float:
    """The time at which the run ends."""
    if steps is not None:
        if duration is not None:
            raise InvalidInput("give duration or steps, not both.")
        end = _checks.whole_number(steps, "steps") * method.step_size  # type: ignore[union-attr]
    else:
        if duration is None:
            if isinstance(wanted, int):
                raise InvalidInput(
                    "give the duration (flow time)." if isinstance(method, Flow) else "give the steps or the duration."
                )
            duration = float(wanted[-1])
        end = _checks.real_number(duration, "duration", above=0.0)
    if not isinstance(wanted, int) and wanted[-1] > end * (1 + 1e-12):
        raise InvalidInput(f"the last of save_points is {wanted[-1]:g}, after the end of the run at {end:g}.")
    if not isinstance(method, Flow) and round(end / method.step_size) < 1:
        raise InvalidInput(f"duration {end:g} is shorter than one step of {method.step_size:g}.")
    return end


def _grid(wanted: int | np.ndarray, end: float) -> np.ndarray:
    return np.linspace(0.0, end, wanted) if isinstance(wanted, int) else wanted.copy()


def _spread(wanted: int | np.ndarray, count: int, h: float) -> np.ndarray:
    """Numbers of the steps to save, from 0 to count; fewer than wanted where there are fewer steps."""
    if count > 2**53:
        raise InvalidInput(f"{count:g} steps are more than can be counted; use a longer step or a shorter run.")
    exact = np.linspace(0, count, wanted) if isinstance(wanted, int) else wanted / h
    return np.unique(np.rint(exact).astype(np.int64))


def _flow_steps(
    problem: Problem, network: LinearNetwork, method: Method, end: float, dt: float | None, wanted: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    if dt is not None:
        count = max(1, math.ceil(end / dt * (1 - 1e-12)))
    else:
        assert isinstance(method, StochasticGradientFlow)
        count = max(1, math.ceil(end / _stability.default_time_step(problem, network, method.intensity)))
        if isinstance(wanted, int):  # an even grid: as many steps between any two save points
            count = -(-count // (wanted - 1)) * (wanted - 1)
    h = end / count
    steps = _spread(wanted, count, h)
    return steps * h, steps, h


def _warn_of_large_steps(problem: Problem, network: LinearNetwork, method: Method, h: float) -> None:
    if h == 0.0:
        return
    sharpness = _stability.sharpness(problem, *_stability.reference_starts(network))
    if h * sharpness > 2.0 and problem.loss != "squared":
        warnings.warn(
            f"step_size {h:.4g} is above 2/sharpness = {2 / sharpness:.4g}, with the largest sharpness {sharpness:.4g} "
            f"that loss={problem.loss!r} can have at such weights: the loss may rise and oscillate.",
            StepSizeWarning,
            stacklevel=_level_of_the_caller(),
        )
    elif h * sharpness > 2.0:
        name = "dt" if isinstance(method, Flow) else "step_size"
        warnings.warn(
            f"{name} {h:.4g} is above 2/sharpness = {2 / sharpness:.4g} at the start (sharpness {sharpness:.4g}): the "
            "run will probably diverge. Replicates that do are reported as such.",
            StepSizeWarning,
            stacklevel=_level_of_the_caller(),
        )


def _ledgers(
    method: Method, ledger: LedgerChoice, full_rank: bool, network: LinearNetwork, framed: bool
) -> tuple[bool, bool]:
    if ledger not in get_args(LedgerChoice):
        raise InvalidInput(f"ledger must be one of {', '.join(get_args(LedgerChoice))}, got {ledger!r}.")
    if isinstance(method, GradientFlow):
        if ledger in ("auto", "none"):
            return False, False
        raise InvalidInput("gradient flow conserves det M and Q: there is no ledger to keep. Use ledger='auto'.")
    geometric = isinstance(method, StochasticGradientFlow) and method.integrator == "geometric"
    determinant = ledger in ("determinant", "both") or (ledger == "auto" and full_rank)
    deep = network.depth > 2
    balance = ledger in ("balance", "both") or (ledger == "auto" and (deep or not full_rank))
    if geometric:
        if ledger == "determinant":
            raise InvalidInput(
                "the geometric integrator obeys the determinant law exactly: its ledger would be the law itself. "
                "Use ledger='auto' or 'balance'."
            )
        return False, balance
    if determinant and not full_rank and deep:
        raise InvalidInput(
            f"det M = 0 for every pair of layers here (widths {', '.join(map(str, network.widths))}, start "
            f"{network.start!r}; a pair needs l_i ≥ l_(i−1) + l_(i+1)): there is no determinant ledger. Use "
            "ledger='balance', which holds for every width."
        )
    if determinant and not full_rank and not framed:  # a frame has a determinant whatever Z has
        raise InvalidInput(
            f"det M = 0 here (width {network.width}, inputs + outputs {network.n_inputs + network.n_outputs}, start "
            f"{network.start!r}): there is no determinant ledger. Use ledger='balance', which holds for every width."
        )
    return determinant, balance


def _level_of_the_caller() -> int:
    """For warnings: how many frames up the line is that called rankfall."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "rankfall":
        level, frame = level + 1, frame.f_back
    return level
