"""Which matrices a model has, and how each is read from its parameter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rankfall.errors import InvalidInput
from rankfall.torch._parametrized import effective_value

__all__ = ["CONVOLUTIONS", "MatrixView", "Source", "clean_name", "matrix_sources", "unwrap"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# Parameter of MultiheadAttention → what its parts are for, one after the other.
_ROLES = {
    "in_proj_weight": ("query", "key", "value"),
    "q_proj_weight": ("query",),
    "k_proj_weight": ("key",),
    "v_proj_weight": ("value",),
}


@dataclass(frozen=True)
class MatrixView:
    """One matrix inside a parameter.

    Attributes:
        layer: Name in the results.
        rows: Number of rows.
        columns: Number of columns.
        take: From a tensor of the parameter's shape (the parameter, its gradient, its update) to the matrix.
    """

    layer: str
    rows: int
    columns: int
    take: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """A tensor of the model with the matrices in it.

    Attributes:
        parameter: The parameter itself, or None for a weight that parametrizations compute.
        trained: The parameters behind it, which say what optimizer moves it.
        value: Returns the tensor as it is now.
        views: Its matrices.
        names: All names under which it can be selected: of the parameter, of its module, of tied copies.
    """

    parameter: nn.Parameter | None
    trained: tuple[nn.Parameter, ...]
    value: Callable[[], Tensor]
    views: tuple[MatrixView, ...]
    names: set[str] = field(default_factory=set)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(model._modules.get("_orig_mod"), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def clean_name(path: str) -> str:
    """Name of a module without what torch.compile puts into it; the model itself is called `model`."""
    return ".".join(part for part in path.split(".") if part != "_orig_mod") or "model"


def matrix_sources(model: nn.Module) -> list[Source]:
    """Return every matrix of an unwrapped model, tied parameters once, under their first name.

    - two axes (Linear, Embedding, any parameter): as they are, (outputs, inputs) or (entries, features);
    - convolutions: the first axis against all others, (outputs, inputs·height·width);
    - MultiheadAttention: a matrix per head, (head width, inputs) for query, key and value, (outputs, head width) for
      the output projection;
    - other parameters with more axes: the last two are the matrix, one for each index of the others;
    - weights under `parametrize`: the weight that the layer uses, and the original parameters by their own names.

    Matrices with a single row or column are vectors and left out.

    Raises:
        InvalidInput: A parameter has no values yet (meta device, lazy module).
    """
    found: dict[int, Source] = {}
    computed: dict[tuple[int, str], Source] = {}
    result: list[Source] = []
    for path, module in model.named_modules(remove_duplicate=False):
        name = clean_name(path)
        if parametrize.is_parametrized(module):
            for kind in module.parametrizations:
                if (id(module), kind) in computed:
                    computed[id(module), kind].names.update({name, f"{name}.{kind}"})
                    continue
                computed[id(module), kind] = source = _computed_source(name, module, str(kind))
                if source.views:
                    result.append(source)
        for kind, parameter, views in _parameters(name, module):
            _check_has_values(f"{name}.{kind}", parameter)
            names = {name, f"{name}.{kind}", *(view.layer for view in views)}
            if id(parameter) in found:
                found[id(parameter)].names.update(names)
            elif views:
                source = Source(parameter, (parameter,), parameter.detach, tuple(views), names)
                found[id(parameter)] = source
                result.append(source)
    return result


def _parameters(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Parameter, list[MatrixView]]]:
    attention = module if isinstance(module, nn.MultiheadAttention) else None
    if attention is not None:
        output = attention.out_proj._parameters.get("weight")
        if output is not None:
            yield "out_proj.weight", output, _head_views(name, attention, "out_proj.weight", output)
    for kind, parameter in module._parameters.items():
        if parameter is None:
            continue
        if isinstance(parameter, nn.UninitializedParameter):
            raise InvalidInput(
                f"The parameter {name}.{kind} has no shape yet. Run one batch through the model before you watch it."
            )
        views = _plain_views(name, module, kind, parameter.shape)
        if attention is not None and kind in _ROLES:
            views = _head_views(name, attention, kind, parameter)
        yield kind, parameter, views


def _head_views(name: str, module: nn.MultiheadAttention, kind: str, parameter: Tensor) -> list[MatrixView]:
    width, size = module.head_dim, module.embed_dim
    if kind == "out_proj.weight":
        return [
            MatrixView(f"{name}.output[{head}]", len(parameter), width, _columns(head * width, (head + 1) * width))
            for head in range(module.num_heads)
            if width > 1
        ]
    inputs = parameter.shape[-1]
    return [
        MatrixView(f"{name}.{role}[{head}]", width, inputs, _rows(first, first + width))
        for place, role in enumerate(_ROLES.get(kind, ()))
        for head in range(module.num_heads)
        for first in [place * size + head * width]
        if min(width, inputs) > 1
    ]


def _plain_views(name: str, module: nn.Module, kind: str, shape: torch.Size) -> list[MatrixView]:
    layer = name if kind == "weight" else f"{name}.{kind}"
    if len(shape) < 2:
        return []
    if isinstance(module, CONVOLUTIONS) and kind == "weight":
        rows, columns = shape[0], shape[1:].numel()
        return [MatrixView(layer, rows, columns, _flat)] if min(rows, columns) > 1 else []
    rows, columns = shape[-2:]
    if min(rows, columns) < 2:
        return []
    return [
        MatrixView(layer + (f"[{','.join(map(str, index))}]" if index else ""), rows, columns, _entry(index))
        for index in itertools.product(*map(range, shape[:-2]))
    ]


def _computed_source(name: str, module: nn.Module, kind: str) -> Source:
    def value() -> Tensor:
        return effective_value(module, kind)

    trained = tuple(module.parametrizations[kind].parameters())  # type: ignore[union-attr,index]
    for parameter in trained:
        _check_has_values(f"{name}.{kind}", parameter)
    views = tuple(_plain_views(name, module, kind, value().shape))
    return Source(None, trained, value, views, {name, f"{name}.{kind}"})


def _check_has_values(name: str, parameter: Tensor) -> None:
    if parameter.is_meta:
        raise InvalidInput(
            f"The parameter {name} is on the meta device and has no values. Materialise the model (for example with "
            "model.to_empty(device=...) and a checkpoint) before you watch it."
        )


def _rows(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[start:stop]


def _columns(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[:, start:stop]


def _entry(index: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[index]


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)
