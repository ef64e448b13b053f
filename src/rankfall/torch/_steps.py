"""Hooks on the optimizers: which steps are measured, and what happens before and after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from rankfall.torch._budget import Budget
from rankfall.torch._estimate import Rates, Slowdown
from rankfall.torch._forward import ForwardWatch
from rankfall.torch._guard import Guard
from rankfall.torch._measuring import METHODS, Settings
from rankfall.torch._moments import Moments, features
from rankfall.torch._problems import Problems
from rankfall.torch._results import Results
from rankfall.torch._session import Session, Warm
from rankfall.torch._watched import Watched
from rankfall.torch._widening import inner_width

__all__ = ["Steps"]


class Steps:
    """Measures some of the steps of a training.

    Args:
        watched: What is watched.
        optimizers: Steps of the first one are counted.
        watch: Things that are measured.
        settings: What is measured of each.
        results: Takes finished measurements.
        problems: Where failures are told.
        every: Steps from one measurement to the next, at least.
        window: Steps whose forward passes make up the activations.
        share: Largest share of the training time, or None.
    """

    def __init__(
        self,
        watched: Watched,
        optimizers: Sequence[Optimizer],
        watch: tuple[str, ...],
        settings: Settings,
        results: Results,
        problems: Problems,
        *,
        every: int,
        window: int,
        share: float | None,
    ) -> None:
        self._watched, self._optimizers, self._watch, self._settings = watched, optimizers, watch, settings
        self._results, self._problems = results, problems
        self._every, self._window = every, window
        self._step, self._due, self._target = 0, every, 0
        self._session: Session | None = None
        self._unfinished: set[int] = set()  # places of the optimizers whose part of the session is missing
        self._warm: Warm = {}
        self._handles: list[Any] = []
        self._accelerators = [device for device in watched.devices if device.type != "cpu"]
        self.budget = Budget(share, expected=0.0)
        self._guard = Guard(self.budget, problems)
        columns, precision = watched.columns, METHODS[settings.method]
        self._forward = ForwardWatch(
            watched.model,
            {columns[layer]: module for layer, module in watched.modules.items()},
            precision,
            lambda work, tensor: self._guard.run("activations", work, [] if tensor.is_cpu else [tensor.device]),
            steady=window == 1 and precision == torch.float64,
        )
        self._rates: Rates | None = None
        self._guess: float | None = None  # of the first cost, on a processor that nobody else uses
        self._slowdown = Slowdown()

    def install(self, rates: Rates | None) -> None:
        """Put the hooks on the optimizers.

        Args:
            rates: From which the first cost is estimated; None if there is no need to.
        """
        self._rates = rates
        for optimizer in self._optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before))
            self._handles.append(optimizer.register_step_post_hook(self._after))
        self.budget.start(self._guard.now())
        if self._rates is not None:  # the passes of the first step say how many samples there are
            self._forward.switch_on(counting=True)
        self._arm()

    def remove(self) -> None:
        """Take all hooks off the optimizers and the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forward.switch_off()
        self._session = None

    def state_dict(self) -> dict[str, Any]:
        """Return where the training is, as plain numbers and tensors."""
        return {
            "step": self._step,
            "due": self._due,
            "budget": self.budget.state_dict(),
            "warm": {thing: dict(starts) for thing, starts in self._warm.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""
        self._step, self._due = int(state["step"]), int(state["due"])
        self.budget.load_state_dict(state["budget"])
        self._warm = {thing: dict(starts) for thing, starts in state["warm"].items()}
        self._session, self._target = None, 0
        self._rates, self._guess = None, None
        self._forward.switch_off()
        if self._handles:
            self.budget.start(self._guard.now())
            self._arm()

    def attributes(self) -> dict[str, Any]:
        """Settings and account, for the history; an empty history is explained."""
        spending = self.budget.report()
        reason = self.budget.why_nothing() if self._due <= self._step and not self._target else None
        if reason is not None:
            self._problems.tell("nothing measured", reason)
        return {
            "every": self._every,
            "budget": "none" if self.budget.share is None else self.budget.share,
            "training_seconds": spending.training_seconds,
            "monitor_seconds": spending.monitor_seconds,
            "share": spending.share,
            "problems": "\n".join(self._problems.texts),
        }

    # The hooks --------------------------------------------------------------------------------------------------------

    def _before(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        if not torch.compiler.is_compiling():
            closure = (arguments[0] if arguments else None) or (named or {}).get("closure")
            self._guard.run("the step", lambda: self._begin(optimizer, closure is not None), self._measured_devices())

    def _after(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        if not torch.compiler.is_compiling():
            closure = (arguments[0] if arguments else None) or (named or {}).get("closure")
            self._guard.run("the step", lambda: self._end(optimizer, closure is not None), self._measured_devices())
            if optimizer is self._optimizers[0]:
                self._step += 1
                self.budget.step_ended(self._guard.now())
                self._guard.run("the step", self._arm)

    def _measured_devices(self) -> Sequence[torch.device]:
        return self._accelerators if self._session is not None or self._step + 1 == self._target else ()

    # Which steps are measured -----------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Decide whether a measurement comes next; its forward passes start now."""
        if self._forward.counting and self._step == 0:
            return
        if self._rates is not None:
            self._guess = self._estimate(self._rates, self._forward.switch_off())
            self._rates = None
        if self._guess is not None:
            self.budget.expect(self._guess if self._accelerators else self._guess * self._slowdown.factor())
            if self.budget.measurements:
                self._guess = None
        last = self._step + self._window
        if not self._target and last >= self._due and self.budget.allows():
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

    # A measured step --------------------------------------------------------------------------------------------------

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
            self._guard.charge()
            self._results.add(session.step, self.budget.training, self.budget.measured(), found, self.attributes)

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
            elif moment.blurred:
                self._forward.look_at_outputs(column)
                self._problems.tell(
                    "blurred",
                    f"The activations of {layer} (and perhaps others) are NaN at step {self._step + 1}: its inputs and "
                    "weights cancel so far that the inputs do not show the ranks of the outputs. From the next "
                    "measurement on they come from the outputs.",
                )
            elif moment.count < 5 * width:
                self._problems.tell(
                    "few samples",
                    f"The ranks of the activations of {layer} (and perhaps others) come from {moment.count} samples of "
                    f"{width} features; below 5 × {width} they are too low. Increase activation_steps or look at "
                    "activations_samples in the history.",
                )
