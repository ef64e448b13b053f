"""Heads of attention whose output layer is in another module, as in BERT and its family.

There `attention.self` has the layers query, key and value and gives the heads' sums; `attention.output.dense` takes
them, with nothing in between.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rankfall.torch._attention import head_pairs
from rankfall.torch._pair import LinearPair
from rankfall.torch._projection import is_plain_linear, projection

__all__ = ["apart_pairs", "projections_apart"]

_PROJECTIONS = ("query", "key", "value")
_HARMLESS = (torch.nn.Dropout, torch.nn.Identity, torch.nn.Softmax)
# Their queries meet their keys as they are; others of this shape rotate them or add positions to the scores.
_PLAIN = {
    f"{family}{kind}Attention"
    for family in ("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "Data2VecText", "ViT")
    for kind in ("Self", "Cross")
}


def projections_apart(module: torch.nn.Module) -> str | None:
    """Name of the child with query, key and value where another child, `output`, has the layer `dense`; else None."""
    children = dict(module.named_children())
    output = children.get("output")
    if output is None or not is_plain_linear(dict(output.named_children()).get("dense")):
        return None
    for name, child in children.items():
        inner = dict(child.named_children())
        if all(is_plain_linear(inner[each]) if each in inner else False for each in _PROJECTIONS):
            return name
    return None


def apart_pairs(place: str, module: torch.nn.Module, notes: list[str], query_key: bool | None) -> Iterator[LinearPair]:
    """Yield the pairs of all heads of a module with such children."""
    name = projections_apart(module)
    assert name is not None
    attention = module.get_submodule(name)
    prefix = f"{place}." if place else ""
    inner = dict(attention.named_children())
    strange = [each for each, child in inner.items() if each not in _PROJECTIONS and not isinstance(child, _HARMLESS)]
    strange += [each for each, _ in attention.named_parameters(recurse=False)]
    heads = getattr(attention, "num_attention_heads", None)
    if strange or not isinstance(heads, int) or heads < 1:
        why = f"{', '.join(strange)} may stand in between" if strange else "the number of heads is not known"
        notes.append(
            f"{prefix}{name}: {why}; name the pairs: ('{prefix}{name}.value', '{prefix}output.dense', number of heads)"
        )
        return
    query, key, value = (projection(f"{prefix}{name}.{each}", inner[each]) for each in _PROJECTIONS)
    output = projection(f"{prefix}output.dense", module.get_submodule("output.dense"))
    features = (query.features, key.features, value.features)
    if query.features != key.features or any(count % heads for count in features) or value.features != output.n_inputs:
        notes.append(f"{prefix}{name}: {features} features and {output.n_inputs} inputs do not fit {heads} heads")
        return
    if query_key is None and type(attention).__name__ not in _PLAIN:
        query_key = False
        notes.append(
            f"{prefix}{name}: query–key pairs left out, because a rotary embedding or positions in the scores cannot "
            "be ruled out; linear_pairs(model, query_key=True) takes your word for it"
        )
    yield from head_pairs(
        place, query, key, value, output, heads, heads, query_key=query_key is None or bool(query_key)
    )
