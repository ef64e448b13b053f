"""Hooks that collect activations, installed on the user's modules for the passes before a measurement and no longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rankfall.torch._moments import Moments, features, rows
from rankfall.torch._selection import first_tensor
from rankfall.torch._widening import pass_of

__all__ = ["ForwardWatch"]


class ForwardWatch:
    """Second moments of the outputs of some modules, while it is switched on.

    Passes in evaluation mode, repeated passes of gradient checkpointing and passes that torch.compile traces do not
    count.

    Args:
        model: Its training mode decides whether a pass counts.
        modules: Column of the layer → module.
        dtype: Precision of the sums.
        steady: Whether layers with more outputs than inputs may be seen from their inputs: all passes of a measurement
            have the same weights, and sums are in float64.
        guard: Runs a function of no arguments, keeps the time and catches its exceptions.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[int, nn.Module],
        dtype: torch.dtype,
        guard: Callable[[Callable[[], None], Tensor], None],
        *,
        steady: bool,
    ) -> None:
        self._model, self._modules, self._dtype, self._guard = model, dict(modules), dtype, guard
        self.steady = steady
        self._handles: list[RemovableHandle] = []
        self._counting = False
        self._moments: dict[int, Moments] = {}
        self._from_outputs: set[int] = set()

    @property
    def counting(self) -> bool:
        """Whether samples are only counted."""
        return self._counting

    def look_at_outputs(self, column: int) -> None:
        """See a layer from its outputs from the next measurement on, although it has fewer inputs."""
        self._from_outputs.add(column)

    def switch_on(self, *, counting: bool = False) -> None:
        """Install the hooks and start from nothing.

        Args:
            counting: Only count the samples.
        """
        self.switch_off()
        self._counting = counting
        self._moments = {column: Moments() for column in self._modules}
        self._handles = [module.register_forward_hook(_Hook(self, column)) for column, module in self._modules.items()]

    def switch_off(self) -> dict[int, Moments]:
        """Remove the hooks; returns what they have collected."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._counting = [], False
        found, self._moments = self._moments, {}
        return found

    def take(self, column: int, module: nn.Module, arguments: Any, output: Any) -> None:
        """Add the output of a forward pass."""
        if not self._model.training or _in_backward():
            return
        tensor = first_tensor(output)
        moments = self._moments.get(column)
        if tensor is None or moments is None:
            return
        if self._counting:
            moments.count += tensor.numel() // features(module)
            return
        from_inputs = self.steady and column not in self._from_outputs
        self._guard(lambda: self._add(moments, module, arguments, tensor.detach(), from_inputs), tensor)

    @torch.no_grad()
    def _add(self, moments: Moments, module: nn.Module, arguments: Any, output: Tensor, from_inputs: bool) -> None:
        source = pass_of(module, arguments, output) if from_inputs else None
        moments.add(rows(module, output), self._dtype, source)


class _Hook:
    """A forward hook; a copy of the model, or the model in a file, gets one that does nothing."""

    def __init__(self, watch: ForwardWatch, column: int) -> None:
        self._watch, self._column = watch, column

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        # torch.compile sees a hook that does nothing, so that the compiled code is the same with it and without.
        if torch.compiler.is_compiling():
            return
        self._watch.take(self._column, module, arguments, output)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _inert, ()


def _inert() -> Callable[..., None]:
    return _nothing


def _nothing(*arguments: Any) -> None:
    """A hook that does nothing."""


def _in_backward() -> bool:
    """Whether autograd is running: a forward pass during a backward pass is one that gradient checkpointing repeats."""
    identity = getattr(torch._C, "_current_graph_task_id", None)
    return identity is not None and identity() != -1
