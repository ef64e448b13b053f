"""Linear layers that follow each other in nn.Sequential with nothing in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import torch

from rankfall.torch._pair import LinearPair
from rankfall.torch._projection import is_plain_linear, projection

__all__ = ["chain_pairs"]


def chain_pairs(place: str, module: torch.nn.Sequential, notes: list[str]) -> Iterator[LinearPair]:
    """Yield the pairs of neighbours; nested nn.Sequential are opened, nn.Identity is looked through."""
    layers = list(_opened(place, module))
    uses = Counter(layer for _, layer in layers)
    for (first_name, first), (second_name, second) in pairwise(layers):
        if not all(isinstance(layer, torch.nn.Linear) and is_plain_linear(layer) for layer in (first, second)):
            continue
        name = f"{first_name} → {second_name}"
        if uses[first] > 1 or uses[second] > 1:
            notes.append(f"{name}: a layer of the chain is used in another place as well")
            continue
        one, two = projection(first_name, first), projection(second_name, second)
        if one.features == two.n_inputs:
            yield LinearPair(name, "consecutive", one.outputs(), two.inputs())


def _opened(place: str, module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    # `named_children` would pass over a layer that comes a second time
    for name, child in module._modules.items():
        where = f"{place}.{name}" if place else name
        if child is None or type(child) is torch.nn.Identity:
            continue
        if is_plain_sequential(child):
            yield from _opened(where, child)
        else:
            yield where, child


def is_plain_sequential(module: torch.nn.Module) -> bool:
    """Whether a module applies its children one after the other and does nothing else."""
    return isinstance(module, torch.nn.Sequential) and type(module).forward is torch.nn.Sequential.forward
