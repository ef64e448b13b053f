"""What one monitor watches: matrices, modules, optimizers and the columns of its results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rankfall.errors import InvalidInput
from rankfall.torch._matrices import Source, clean_name, matrix_sources, unwrap
from rankfall.torch._moments import ACTIVE, features
from rankfall.torch._selection import active_modules, select_sources, selector

__all__ = ["Watched", "find", "optimizers_of"]


@dataclass(frozen=True)
class Watched:
    """What was found in a model.

    Attributes:
        model: The user's module without wrappers.
        sources: Chosen matrices.
        modules: Layer → module whose output is watched.
        layers: Names of the columns: matrices first, then modules without a matrix of their own (tied weights).
        sides: Layer → (rows, columns) of its matrix, or (0, width of the output).
        too_wide: Modules whose outputs are too wide to be watched.
    """

    model: nn.Module
    sources: tuple[Source, ...]
    modules: dict[str, nn.Module]
    layers: tuple[str, ...]
    sides: dict[str, tuple[int, int]]
    too_wide: tuple[str, ...]

    @property
    def columns(self) -> dict[str, int]:
        """Layer → column."""
        return {layer: column for column, layer in enumerate(self.layers)}

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of the matrices."""
        return [(view.rows, view.columns) for source in self.sources for view in source.views]

    @property
    def modes(self) -> int:
        """Largest number of singular values of a matrix or an output."""
        return max(min(shape) for shape in [*self.shapes, *((features(one),) for one in self.modules.values())])

    @property
    def devices(self) -> list[torch.device]:
        """Devices of the matrices, the first of which has the first matrix."""
        found = [parameter.device for source in self.sources for parameter in source.trained]
        return list(dict.fromkeys(found)) or [torch.device("cpu")]

    def moved_by(self, optimizer: Optimizer, others: Sequence[Optimizer]) -> list[Source]:
        """Return the matrices of an optimizer; the first optimizer also has those that none of them trains."""
        own = _identities([optimizer])
        rest = _identities(others)
        first = others[0] is optimizer
        chosen = []
        for source in self.sources:
            parts = {id(parameter) for parameter in source.trained}
            if parts & own or (first and not parts & rest):
                chosen.append(source)
        return chosen


def optimizers_of(optimizer: Any, model: nn.Module) -> tuple[Optimizer, ...]:
    """Return the optimizers in one or a list of them, without the wrappers of other libraries.

    Raises:
        InvalidInput: None, something else, or optimizers of another model.
    """
    given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    found = []
    for item in given:
        while isinstance(getattr(item, "optimizer", None), Optimizer):
            item = item.optimizer
        if not isinstance(item, Optimizer):
            raise InvalidInput(
                f"optimizer must be a torch.optim.Optimizer or a list of them, got {type(item).__name__}."
            )
        found.append(item)
    if not found:
        raise InvalidInput("optimizer must not be an empty list. Give the optimizers that train the model.")
    if not _identities(found) & {id(parameter) for parameter in model.parameters()}:
        raise InvalidInput(
            "No optimizer trains a parameter of the model. Give the optimizer that was made from this very model's "
            "parameters (not from a copy)."
        )
    return tuple(found)


def find(model: Any, select: Any, *, with_activations: bool) -> Watched:
    """Return what the user's words choose in a model.

    Raises:
        InvalidInput: No module, no matrices, parameters without values, or a selection that matches nothing.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    inner = unwrap(model)
    sources = matrix_sources(inner)
    if not sources:
        raise InvalidInput(
            f"The model ({type(inner).__name__}) has no parameter with at least two rows and two columns, so there is "
            "no rank to watch."
        )
    names = {name for source in sources for name in (*source.names, *(view.layer for view in source.views))}
    if with_activations:
        names |= {clean_name(path) for path, module in inner.named_modules() if isinstance(module, ACTIVE)}
    chosen = selector(select, names)
    kept = select_sources(sources, chosen)
    modules, too_wide = active_modules(inner, chosen) if with_activations else ({}, [])
    sides = {view.layer: (view.rows, view.columns) for source in kept for view in source.views}
    for layer, module in modules.items():
        sides.setdefault(layer, (0, features(module)))
    return Watched(inner, tuple(kept), modules, tuple(sides), sides, tuple(too_wide))


def _identities(optimizers: Iterable[Optimizer]) -> set[int]:
    return {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}
