"""Pairs by name, for what cannot be read off a model."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import torch

from rankfall.errors import InvalidInput
from rankfall.torch._pair import LinearPair, Piece
from rankfall.torch._projection import Projection, is_plain_linear, projection

__all__ = ["named_pair"]


def named_pair(model: torch.nn.Module, entry: Any) -> Iterator[LinearPair]:
    """Yield the pairs of one entry of `linear_pairs(pairs=…)`: one, or one per head."""
    if isinstance(entry, LinearPair):
        yield entry
        return
    if (
        not isinstance(entry, (tuple, list))
        or not 2 <= len(entry) <= 4
        or not all(isinstance(n, str) for n in entry[:2])
    ):
        raise InvalidInput(
            "a pair must be (first, second), (first, second, heads) or (first, second, heads, 'query-key') with names "
            f"of layers or parameters, or a LinearPair; got {entry!r}."
        )
    first_name, second_name = entry[:2]
    heads = entry[2] if len(entry) > 2 else 1
    kind = entry[3] if len(entry) > 3 else "consecutive"
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
        raise InvalidInput(f"the number of heads of pair {entry[:2]} must be a positive whole number, got {heads!r}.")
    if kind not in ("consecutive", "query-key"):
        raise InvalidInput(f"the fourth entry of a pair must be 'query-key' or left out, got {kind!r}.")
    first, second = _find(model, first_name), _find(model, second_name)
    hidden = second.features if kind == "query-key" else second.n_inputs
    if first.features != hidden:
        word = "outputs" if kind == "query-key" else "inputs"
        raise InvalidInput(
            f"pair ({first_name!r}, {second_name!r}) does not fit: the first has {first.features} outputs, the second "
            f"{hidden} {word}. Parameters are read as (outputs, inputs), like the weights of nn.Linear."
        )
    if hidden % heads:
        raise InvalidInput(
            f"pair ({first_name!r}, {second_name!r}): {hidden} hidden features cannot be split into {heads} heads."
        )
    width = hidden // heads
    for head in range(heads):
        start, stop = head * width, (head + 1) * width
        pieces: tuple[Piece, ...] = second.outputs(start, stop) if kind == "query-key" else second.inputs(start, stop)
        name = f"{first_name} → {second_name}" + (f"[{head}]" if heads > 1 else "")
        yield LinearPair(name, kind, first.outputs(start, stop), pieces)


def _find(model: torch.nn.Module, name: str) -> Projection:
    modules = dict(model.named_modules())
    if name in modules:
        module = modules[name]
        if not is_plain_linear(module):
            raise InvalidInput(
                f"{name!r} is {type(module).__name__}, whose weights cannot be read as one matrix; name an nn.Linear "
                "or a parameter of shape (outputs, inputs), or build a LinearPair from Pieces."
            )
        return projection(name, module)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if name in parameters:
        parameter = parameters[name]
        if parameter.ndim != 2:
            raise InvalidInput(f"parameter {name!r} must be a matrix, got shape {tuple(parameter.shape)}.")
        return Projection(parameter, name, parameter.shape[0])
    close = difflib.get_close_matches(name, [*modules, *parameters], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; see model.named_modules() and model.named_parameters()."
    raise InvalidInput(f"the model has no layer or parameter named {name!r}{hint}")
