"""`RankMonitor`: hooks on an optimizer and its model; the work is done in the files beside this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from rankfall._checks import real_number, whole_number
from rankfall.errors import InvalidInput
from rankfall.torch._alerts import Alert
from rankfall.torch._budget import Budget, Spending
from rankfall.torch._estimate import Rates, Slowdown, measured_rates
from rankfall.torch._forward import ForwardWatch
from rankfall.torch._loggers import Logger
from rankfall.torch._measuring import METHODS, Settings
from rankfall.torch._moments import Moments, features
from rankfall.torch._problems import Problems
from rankfall.torch._results import Results
from rankfall.torch._selection import LARGEST_MOMENTS, THINGS, chosen_names, known_measures
from rankfall.torch._session import Session, Warm, wait_for
from rankfall.torch._watched import find, optimizers_of
from rankfall.torch._widening import inner_width

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RankMonitor"]


class RankMonitor:
    """Follow the ranks of a model's weights, gradients, updates and activations while it trains.

    Nothing has to be called in the training loop: hooks on the optimizer measure before and after a step, every `every`
    steps, or less often where `budget` asks for it. The training is not changed: weights and random numbers are the
    same bit for bit, nothing is left on the modules, and an exception in the monitor is logged once, kept in
    `problems` and becomes NaN in the results.

    What is measured, at step t: `gradients` are those that the optimizer is given (accumulated, clipped;
    read after the step if it computes them itself with a closure), `weights` are
    those after the step, `updates` the difference that the step made, `activations` the outputs of Linear,
    convolution, Embedding and MultiheadAttention modules in training mode, as a samples × features matrix, not centred,
    over all forward passes since step t − `activation_steps` (of Linear layers with more outputs than inputs often
    computed from their inputs, `_widening`). `_matrices.matrix_sources` says what the matrix of a parameter is. In a process group only the process of rank 0 measures.

    Args:
        model: Module to watch; wrapped by DistributedDataParallel or torch.compile (then without activations) or not.
        optimizer: Its optimizer or a list of several; steps of the first one are counted.
        watch: Some of "weights", "activations", "gradients", "updates".
        measures: Names of measures in `rankfall.ranks`.
        select: What to watch: a regular expression that has to match the whole name of a layer or parameter, or a list
            of names; None for everything.
        every: Steps from one measurement to the next, at least.
        budget: Largest share of the training time that the monitor may take; it measures less often to keep it. None
            for no limit, so that the measured steps do not depend on the time.
        method: "gram" (singular values from Gram matrices in float64), "gram_float32" (faster on devices that are slow
            in float64; small singular values are lost) or "svd". Where `measures` are only stable_rank and
            participation_ratio, and no spectra are asked for, norms and a power iteration are used instead.
        spectra: Number of leading singular values to keep; True for all.
        path: NetCDF file, replaced as a whole after each measurement.
        overwrite: Whether `path` may exist already.
        loggers: Functions called with the step and a dictionary "thing/measure/layer" → number.
        activation_steps: Steps whose forward passes make up the activations.

    Raises:
        InvalidInput: A model without matrices or without values (meta device), an optimizer of another model, an
            unknown name, a bad number.
        OutputError: The folder of `path` cannot be written to.

    Example:
        >>> import torch
        >>> from rankfall.torch import RankMonitor
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> monitor = RankMonitor(model, optimizer, watch=("weights", "updates"), every=10, budget=None)
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(32, 8)).square().mean().backward()
        ...     _ = optimizer.step()
        >>> monitor.close()
        >>> history = monitor.history()
        >>> history.weights_stable_rank.sel(layer="0").step.values.tolist()
        [10, 20]
        >>> history.updates_numerical_rank.sel(step=20).values.tolist()
        [8.0, 4.0]
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        watch: Iterable[str] = THINGS,
        measures: Iterable[str] = ("stable_rank", "effective_rank", "numerical_rank"),
        select: str | Iterable[str] | None = None,
        every: int = 100,
        budget: float | None = 0.02,
        method: str = "gram",
        spectra: bool | int = False,
        path: Any = None,
        overwrite: bool = False,
        loggers: Iterable[Logger] = (),
        activation_steps: int = 1,
    ) -> None:
        self._watch = chosen_names(watch, THINGS, "watch")
        (way,) = chosen_names(method, tuple(METHODS), "method")
        chosen = chosen_names(measures, known_measures(), "measures")
        self._every = whole_number(every, "every")
        self._window = whole_number(activation_steps, "activation_steps", at_most=self._every)
        share = None if budget is None else real_number(budget, "budget", above=0.0)
        self._watched = find(model, select, with_activations="activations" in self._watch)
        self._optimizers = optimizers_of(optimizer, self._watched.model)
        modes = self._watched.modes
        wanted = modes if spectra is True else 0 if spectra is False else whole_number(spectra, "spectra", at_least=0)
        self._settings = Settings(measures=chosen, method=way, spectrum=min(wanted, modes))
        self._problems = Problems()
        if self._watched.too_wide:
            self._problems.tell(
                "too wide",
                f"Activations with more than {LARGEST_MOMENTS} features are not watched: "
                f"{', '.join(self._watched.too_wide)}.",
            )
        self._results = Results(
            self._watched, self._watch, self._settings, loggers, path, overwrite=overwrite, problems=self._problems
        )
        self._step, self._due, self._target = 0, self._every, 0
        self._session: Session | None = None
        self._unfinished: set[int] = set()  # places of the optimizers whose part of the session is missing
        self._warm: Warm = {}
        self._handles: list[Any] = []
        self._clock = 0.0
        self._accelerators = [device for device in self._watched.devices if device.type != "cpu"]
        columns = self._watched.columns
        self._forward = ForwardWatch(
            self._watched.model,
            {columns[layer]: module for layer, module in self._watched.modules.items()},
            METHODS[way],
            lambda work, tensor: self._run("activations", work, [] if tensor.is_cpu else [tensor.device]),
            steady=self._window == 1 and METHODS[way] == torch.float64,
        )
        self._budget = Budget(share, expected=0.0)
        self._rates: Rates | None = None
        self._guess: float | None = None  # of the first cost, on a processor that nobody else uses
        self._slowdown = Slowdown()
        if _is_main_process():
            if share is not None:
                self._rates = measured_rates(self._settings, self._watched.devices[0])
            self._install()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of what is watched."""
        return self._watched.layers

    @property
    def spending(self) -> Spending:
        """What the monitor has taken of the training time."""
        return self._budget.report()

    @property
    def problems(self) -> list[str]:
        """What went wrong or could not be watched, each thing once."""
        return list(self._problems.texts)

    @property
    def alerts(self) -> list[Alert]:
        """Alerts given so far; none without `on`."""
        return list(self._results.alerts)

    def history(self) -> xr.Dataset:
        """Return the measurements so far, with dimensions (step, layer) and, for spectra, mode.

        Variables are named thing_measure ("weights_stable_rank"), beside them thing_norm (Frobenius norm),
        thing_spectrum, `activations_samples`, `training_seconds` so far and `monitor_seconds` of each measurement. NaN
        where there is nothing: no gradient, no activations, a matrix with NaN, an exception.
        """
        return self._results.dataset(self._attributes())

    def on(
        self,
        alert: str,
        call: Callable[[Alert], Any] | None = None,
        *,
        watch: Iterable[str] | None = None,
        **settings: Any,
    ) -> None:
        """Be told when something happens to a layer.

        - "dead_layer": every entry is zero.
        - "rank_drop": a rank falls by more than a share `drop` (0.5) below its median over the last `window` (5)
          measurements; `measure` ("effective_rank").
        - "spike": the largest singular value carries more than `share` (0.9) of the squared Frobenius norm.

        Args:
            alert: Name of the alert.
            call: Called with each `Alert`; it is logged as a warning if None.
            watch: Things to look at, by default weights and activations ("dead_layer": everything, "spike": weights).
            settings: Of the alert.

        Raises:
            InvalidInput: Unknown alert or setting, or the measure it needs is not measured.
        """
        self._results.on(alert, call, watch, settings)

    def close(self) -> None:
        """Take all hooks off the optimizer and the model and write the history a last time. It stays readable."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forward.switch_off()
        self._session = None
        self._results.write(self._attributes())

    def __enter__(self) -> RankMonitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on: numbers, lists and tensors (`weights_only=True` reads them)."""
        return {
            "version": 1,
            "step": self._step,
            "due": self._due,
            "budget": self._budget.state_dict(),
            "warm": {thing: dict(starts) for thing, starts in self._warm.items()},
            "history": self._results.history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another monitor of the same model and settings was.

        Raises:
            InvalidInput: The state is of something else, or of a newer version.
        """
        if not isinstance(state, Mapping) or state.get("version") != 1:
            raise InvalidInput("The state is not one that RankMonitor.state_dict of this version of rankfall returned.")
        self._results.history.load_state_dict(state["history"])
        self._step, self._due = int(state["step"]), int(state["due"])
        self._budget.load_state_dict(state["budget"])
        self._warm = {thing: dict(starts) for thing, starts in state["warm"].items()}
        self._session, self._target = None, 0
        self._rates, self._guess = None, None
        self._forward.switch_off()
        if self._handles:
            self._budget.start(time.perf_counter())
            self._arm()

    def _install(self) -> None:
        for optimizer in self._optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before))
            self._handles.append(optimizer.register_step_post_hook(self._after))
        self._budget.start(time.perf_counter())
        if self._rates is not None:  # the passes of the first step say how many samples there are
            self._forward.switch_on(counting=True)
        self._arm()

    # A step of the optimizer ------------------------------------------------------------------------------------------

    def _before(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        if not torch.compiler.is_compiling():
            closure = (arguments[0] if arguments else None) or (named or {}).get("closure")
            self._run("the step", lambda: self._begin(optimizer, closure is not None), self._measured_devices())

    def _after(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        if not torch.compiler.is_compiling():
            closure = (arguments[0] if arguments else None) or (named or {}).get("closure")
            self._run("the step", lambda: self._end(optimizer, closure is not None), self._measured_devices())
            if optimizer is self._optimizers[0]:
                self._step += 1
                self._budget.step_ended(time.perf_counter())
                self._run("the step", self._arm)

    def _arm(self) -> None:
        """Decide whether a measurement comes next; its forward passes start now."""
        if self._forward.counting and self._step == 0:
            return
        if self._rates is not None:
            self._guess = self._estimate(self._rates, self._forward.switch_off())
            self._rates = None
        if self._guess is not None:
            self._budget.expect(self._guess if self._accelerators else self._guess * self._slowdown.factor())
            if self._budget.measurements:
                self._guess = None
        last = self._step + self._window
        if not self._target and last >= self._due and self._budget.allows():
            self._target = last
            if self._watched.modules:
                self._forward.switch_on()

    def _estimate(self, rates: Rates, counted: Mapping[int, Moments]) -> float:
        others = len([thing for thing in self._watch if thing != "activations"])
        total = others * rates.matrices(self._watched.shapes)
        for column, moment in counted.items():
            module, samples = self._watched.modules[self._watched.layers[column]], moment.count * self._window
            inner = inner_width(module) if self._forward.steady else None
            if inner is None or samples <= inner:
                total += rates.moments(features(module), samples)
            else:
                total += rates.widening(inner, features(module), samples)
        return total

    def _begin(self, optimizer: Optimizer, closure: bool) -> None:
        place = self._optimizers.index(optimizer)
        if place == 0:
            if self._session is not None:
                self._finish()  # some optimizer did not step since: what it moves stays NaN
            if self._step + 1 == self._target:
                self._open()
                if not closure:
                    self._activations()
        if self._session is not None and place in self._unfinished:
            self._session.begin(self._watched.moved_by(optimizer, self._optimizers), with_gradients=not closure)

    def _end(self, optimizer: Optimizer, closure: bool) -> None:
        place = self._optimizers.index(optimizer)
        if self._session is None or place not in self._unfinished:
            return
        sources = self._watched.moved_by(optimizer, self._optimizers)
        if closure:  # which has passed through the model during the step
            if place == 0:
                self._activations()
            self._session.gradients(sources)
        self._session.end(sources)
        self._unfinished.discard(place)
        if not self._unfinished:
            self._finish()

    def _open(self) -> None:
        self._target, self._due = 0, self._step + 1 + self._every
        self._unfinished = set(range(len(self._optimizers)))
        self._session = Session(
            self._step + 1, self._watch, self._settings, self._watched.columns, self._warm, self._problems.failed
        )

    def _activations(self) -> None:
        moments = self._forward.switch_off()
        if self._session is not None:
            self._session.activations(moments)
        self._check_samples(moments)

    def _finish(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            found = session.finish()
            self._charge()
            self._results.add(session.step, self._budget.training, self._budget.measured(), found, self._attributes)

    def _check_samples(self, moments: Mapping[int, Moments]) -> None:
        for column, moment in moments.items():
            layer = self._watched.layers[column]
            width = features(self._watched.modules[layer])
            if moment.count == 0:
                self._problems.tell(
                    "no samples",
                    f"No activations of {layer} (and perhaps others) at step {self._step + 1}: the layer was not used, "
                    "the model is in evaluation mode, or torch.compile has replaced its modules. They are NaN.",
                )
            elif moment.count < 5 * width:
                self._problems.tell(
                    "few samples",
                    f"The ranks of the activations of {layer} (and perhaps others) come from {moment.count} samples of "
                    f"{width} features; below 5 × {width} they are too low. Increase activation_steps or look at "
                    "activations_samples in the history.",
                )

    # Around everything ------------------------------------------------------------------------------------------------

    def _run(self, where: str, work: Callable[[], None], devices: Sequence[torch.device] = ()) -> None:
        """Keep the time and stop every exception here: nothing in the monitor may end the training."""
        try:
            wait_for(devices)
        except Exception as error:
            self._problems.failed(where, error)
        self._clock = time.perf_counter()
        try:
            work()
            wait_for(devices)
        except Exception as error:
            self._problems.failed(where, error)
        finally:
            self._charge()

    def _charge(self) -> None:
        now = time.perf_counter()
        self._budget.charge(now - self._clock)
        self._clock = now

    def _measured_devices(self) -> Sequence[torch.device]:
        return self._accelerators if self._session is not None or self._step + 1 == self._target else ()

    def _attributes(self) -> dict[str, Any]:
        spending = self._budget.report()
        return {
            "every": self._every,
            "budget": "none" if self._budget.share is None else self._budget.share,
            "training_seconds": spending.training_seconds,
            "monitor_seconds": spending.monitor_seconds,
            "share": spending.share,
            "problems": "\n".join(self._problems.texts),
        }


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)
