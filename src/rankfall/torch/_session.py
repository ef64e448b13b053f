"""One measurement under way: from the last forward passes before a step to the weights after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rankfall.torch._matrices import Source
from rankfall.torch._measuring import Pending, Settings, collect, measure_matrices, measure_moments
from rankfall.torch._moments import Moments

__all__ = ["Session", "Warm", "wait_for"]

# Thing → column of a layer → start of its power iteration.
Warm = dict[str, dict[int, Tensor]]


class Session:
    """Collects the results of one measured step.

    Args:
        step: Number of the step.
        watch: Which of weights, activations, gradients, updates.
        settings: What is measured of each.
        columns: Layer → column in the results.
        warm: Starts of the power iterations, which are renewed.
        report: Called with where and why something failed.
    """

    def __init__(
        self,
        step: int,
        watch: Sequence[str],
        settings: Settings,
        columns: Mapping[str, int],
        warm: Warm,
        report: Callable[[str, Exception], None],
    ) -> None:
        self.step = step
        self._watch, self._settings, self._columns, self._warm = watch, settings, columns, warm
        self._report = report
        self._results: dict[str, list[Pending]] = defaultdict(list)
        self._counts: dict[int, list[float]] = {}
        self._before: dict[int, Tensor] = {}

    @torch.no_grad()
    def begin(self, sources: Sequence[Source], *, with_gradients: bool) -> None:
        """Before an optimizer's step: measure its gradients, keep a copy of its weights."""
        if with_gradients:
            self.gradients(sources)
        if "updates" in self._watch:
            for source in sources:
                with self._careful("updates"):
                    self._before[id(source)] = _precise(source.value()).clone()

    @torch.no_grad()
    def gradients(self, sources: Sequence[Source]) -> None:
        """Measure the gradients as they are now; a parameter without one has none."""
        if "gradients" not in self._watch:
            return
        found: dict[int, Tensor] = {}
        for source in sources:
            gradient = None if source.parameter is None else source.parameter.grad
            if gradient is not None:
                found.update(self._matrices("gradients", source, gradient))
        self._measure("gradients", found)

    @torch.no_grad()
    def end(self, sources: Sequence[Source]) -> None:
        """After an optimizer's step: measure its weights and what the step changed in them."""
        weights: dict[int, Tensor] = {}
        updates: dict[int, Tensor] = {}
        for source in sources:
            before = self._before.pop(id(source), None)
            if before is None and "weights" not in self._watch:
                continue
            with self._careful("weights"):
                value = source.value()
                if "weights" in self._watch:
                    weights.update(self._matrices("weights", source, value))
                if before is not None:
                    updates.update(self._matrices("updates", source, _precise(value) - before))
        self._measure("weights", weights)
        self._measure("updates", updates)

    def activations(self, moments: Mapping[int, Moments]) -> None:
        """Measure the second moments that have come together."""
        self._counts = {column: [float(moment.count)] for column, moment in moments.items()}
        self._results["activations"] += measure_moments(moments, self._settings, self._reporter("activations"))

    def finish(self) -> dict[str, dict[int, list[float]]]:
        """Copy the results to the host, in one go per device; name of the variable → column → values."""
        pending = [
            Pending(f"{thing}_{item.name}", item.columns, item.values)
            for thing, items in self._results.items()
            for item in items
        ]
        found = collect(pending)
        if self._counts:
            found["activations_samples"] = self._counts
        return found

    def _matrices(self, thing: str, source: Source, tensor: Tensor) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        with self._careful(thing):
            dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
            for view in source.views:
                found[self._columns[view.layer]] = view.take(dense.detach())
        return found

    def _measure(self, thing: str, matrices: Mapping[int, Tensor]) -> None:
        starts = self._warm.setdefault(thing, {})
        self._results[thing] += measure_matrices(matrices, self._settings, starts, self._reporter(thing))

    def _reporter(self, thing: str) -> Callable[[Exception], None]:
        return lambda error: self._report(thing, error)

    @contextmanager
    def _careful(self, thing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._report(thing, error)


def wait_for(devices: Sequence[torch.device]) -> None:
    """Wait until accelerators have done what was asked of them, so that a clock on the host measures their work."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()


def _precise(tensor: Tensor) -> Tensor:
    """Half precision in float32, so that a difference of weights is not rounded."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
