"""Low-rank adapters: ΔW = B A, hidden features are the adapter's rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rankfall.torch._pair import LinearPair, Piece
from rankfall.torch._projection import is_plain_linear, projection

__all__ = ["adapter_pairs"]

_RANKS = ("r", "rank", "lora_rank")


def adapter_pairs(place: str, module: torch.nn.Module, notes: list[str]) -> Iterator[LinearPair]:
    """Yield the pairs of a module with `lora_A` and `lora_B`.

    They are dictionaries of layers, one per adapter (PEFT), layers, or parameters. Biases of B come after the product
    and do not belong to the pair.
    """
    a, b = getattr(module, "lora_A", None), getattr(module, "lora_B", None)
    if a is None or b is None:
        return
    prefix = f"{place}." if place else ""
    if isinstance(a, torch.nn.ModuleDict) and isinstance(b, torch.nn.ModuleDict):
        for adapter in a:
            if adapter in b:
                name = f"{prefix}lora[{adapter}]"
                yield from _layers(
                    name, f"{prefix}lora_A.{adapter}", a[adapter], f"{prefix}lora_B.{adapter}", b[adapter], notes
                )
    elif isinstance(a, torch.nn.Parameter) and isinstance(b, torch.nn.Parameter):
        rank = next((n for word in _RANKS if isinstance(n := getattr(module, word, None), int)), None)
        yield from _parameters(f"{prefix}lora", f"{prefix}lora_A", a, f"{prefix}lora_B", b, rank, notes)
    elif isinstance(a, torch.nn.Module) and isinstance(b, torch.nn.Module):
        yield from _layers(f"{prefix}lora", f"{prefix}lora_A", a, f"{prefix}lora_B", b, notes)


def _layers(
    name: str, first_name: str, first: torch.nn.Module, second_name: str, second: torch.nn.Module, notes: list[str]
) -> Iterator[LinearPair]:
    if is_plain_linear(first) and is_plain_linear(second):
        pieces = projection(first_name, first).outputs(), projection(second_name, second).inputs()
    elif _is_pointwise(first, second):
        assert isinstance(first.weight, torch.nn.Parameter) and isinstance(second.weight, torch.nn.Parameter)
        bias = first.bias
        biases = (Piece(f"{first_name}.bias", bias, vector=True),) if isinstance(bias, torch.nn.Parameter) else ()
        pieces = (
            (Piece(f"{first_name}.weight", first.weight), *biases),
            (Piece(f"{second_name}.weight", second.weight, axis=1),),
        )
    else:
        notes.append(f"{name}: {type(first).__name__} and {type(second).__name__} are no plain linear layers")
        return
    yield LinearPair(name, "adapter", *pieces)


def _is_pointwise(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """A convolution whose channels a 1 × 1 convolution mixes, both without groups."""
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    if not (isinstance(first, convolutions) and isinstance(second, convolutions)):
        return False
    return (
        first.groups == second.groups == 1 and all(size == 1 for size in second.kernel_size) and not any(second.padding)
    )


def _parameters(
    name: str,
    first_name: str,
    first: torch.nn.Parameter,
    second_name: str,
    second: torch.nn.Parameter,
    rank: int | None,
    notes: list[str],
) -> Iterator[LinearPair]:
    """A is rank × inputs and B outputs × rank (as in nn.Linear), or both transposed.

    Where the shapes allow both, as with as many inputs as outputs, the rank is what the module says it is, or else the
    smaller of the two.
    """
    if first.ndim == second.ndim == 2:
        choices = [axis for axis in (0, 1) if first.shape[axis] == second.shape[1 - axis]]
        choices.sort(key=lambda axis: (first.shape[axis] != rank, first.shape[axis]))
        if len(choices) == 1 or (len(choices) == 2 and first.shape[0] != first.shape[1]):
            axis = choices[0]
            pieces = (Piece(first_name, first, axis),), (Piece(second_name, second, 1 - axis),)
            yield LinearPair(name, "adapter", *pieces)
            return
    notes.append(
        f"{name}: the shapes {tuple(first.shape)} and {tuple(second.shape)} do not say which axis is the rank; give "
        "the pair yourself"
    )
