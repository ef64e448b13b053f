"""Linear layers that follow each other in nn.Sequential with nothing in between."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rankfall.torch._pair import LinearPair
from rankfall.torch._projection import is_plain_linear, projection

__all__ = ["chain_pairs"]


def chain_pairs(place: str, module: torch.nn.Sequential) -> Iterator[LinearPair]:
    """Yield the pairs of neighbours; nested nn.Sequential are opened, nn.Identity is looked through."""
    before: tuple[str, torch.nn.Module] | None = None
    for name, layer in _opened(place, module):
        linear = isinstance(layer, torch.nn.Linear) and is_plain_linear(layer)
        if linear and before is not None:
            first, second = projection(*before).outputs(), projection(name, layer).inputs()
            if first[0].value.shape[0] == second[0].value.shape[0]:
                yield LinearPair(f"{before[0]} → {name}", "consecutive", first, second)
        before = (name, layer) if linear else None


def _opened(place: str, module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    for name, child in module.named_children():
        where = f"{place}.{name}" if place else name
        if is_plain_sequential(child):
            yield from _opened(where, child)
        elif type(child) is not torch.nn.Identity:
            yield where, child


def is_plain_sequential(module: torch.nn.Module) -> bool:
    """Whether a module applies its children one after the other and does nothing else."""
    return isinstance(module, torch.nn.Sequential) and type(module).forward is torch.nn.Sequential.forward
