"""`RankMonitor`: what a user sees of it; the work is done in the files beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from rankfall._checks import real_number, whole_number
from rankfall.errors import InvalidInput
from rankfall.torch._alerts import Alert
from rankfall.torch._budget import Spending
from rankfall.torch._estimate import measured_rates
from rankfall.torch._loggers import Logger
from rankfall.torch._measuring import METHODS, Settings
from rankfall.torch._problems import Problems
from rankfall.torch._results import Results
from rankfall.torch._selection import LARGEST_MOMENTS, THINGS, chosen_names, known_measures
from rankfall.torch._steps import Steps
from rankfall.torch._watched import find, optimizers_of

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
    computed from their inputs, `_widening`). `_matrices.matrix_sources` says what the matrix of a parameter is. In a
    process group only the process of rank 0 measures.

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
        things = chosen_names(watch, THINGS, "watch")
        (way,) = chosen_names(method, tuple(METHODS), "method")
        chosen = chosen_names(measures, known_measures(), "measures")
        steps = whole_number(every, "every")
        window = whole_number(activation_steps, "activation_steps", at_most=steps)
        share = None if budget is None else real_number(budget, "budget", above=0.0)
        self._watched = find(model, select, with_activations="activations" in things)
        optimizers = optimizers_of(optimizer, self._watched.model)
        modes = self._watched.modes
        wanted = modes if spectra is True else 0 if spectra is False else whole_number(spectra, "spectra", at_least=0)
        settings = Settings(measures=chosen, method=way, spectrum=min(wanted, modes))
        self._problems = Problems()
        if self._watched.too_wide:
            self._problems.tell(
                "too wide",
                f"Activations with more than {LARGEST_MOMENTS} features are not watched: "
                f"{', '.join(self._watched.too_wide)}.",
            )
        self._results = Results(
            self._watched, things, settings, loggers, path, overwrite=overwrite, problems=self._problems
        )
        self._steps = Steps(
            self._watched,
            optimizers,
            things,
            settings,
            self._results,
            self._problems,
            every=steps,
            window=window,
            share=share,
        )
        if _is_main_process():
            self._steps.install(None if share is None else measured_rates(settings, self._watched.devices[0]))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of what is watched."""
        return self._watched.layers

    @property
    def spending(self) -> Spending:
        """What the monitor has taken of the training time."""
        return self._steps.budget.report()

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
        return self._results.dataset(self._steps.attributes())

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
        self._steps.remove()
        self._results.write(self._steps.attributes())

    def __enter__(self) -> RankMonitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on: numbers, lists and tensors (`weights_only=True` reads them)."""
        return {"version": 1, **self._steps.state_dict(), "history": self._results.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another monitor of the same model and settings was.

        Raises:
            InvalidInput: The state is of something else, or of a newer version.
        """
        if not isinstance(state, Mapping) or state.get("version") != 1:
            raise InvalidInput("The state is not one that RankMonitor.state_dict of this version of rankfall returned.")
        self._results.history.load_state_dict(state["history"])
        self._steps.load_state_dict(state)


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)
