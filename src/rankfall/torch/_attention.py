"""Value–output and query–key pairs of attention heads.

A head computes A_h (x W_v + b_v) W_o,h with attention weights A_h that are a linear map between the two, and scores
(x W_q + b_q)(y W_k + b_k)ᵀ. Both products hold whatever the mask, the dropout on the attention weights and the scale;
a rotary embedding or a normalisation of queries and keys ends the second.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch

from rankfall.torch._pair import LinearPair
from rankfall.torch._projection import Projection, is_plain_linear, projection

__all__ = ["head_pairs", "multihead_pairs", "projected_pairs"]

_SEPARATE = (("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))
# BERT and its family, whose output layer is in another module
_APART = {"query", "key", "value"}
# outputs in the order [queries; keys; values], each with all its heads
_STACKED = ("qkv", "qkv_proj", "c_attn", "Wqkv")
# other orders, which the name does not settle
_INTERLEAVED = ("query_key_value",)
_OUTPUT = ("out_proj", "o_proj", "proj", "c_proj", "Wo", "o", "dense")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_HARMLESS = (torch.nn.Dropout, torch.nn.Identity, torch.nn.Softmax)
_POSITION_ARGUMENTS = ("rope", "rotary", "position_embeddings", "freqs", "cos", "sin")


def head_pairs(
    place: str,
    query: Projection | None,
    key: Projection | None,
    value: Projection,
    output: Projection,
    heads: int,
    groups: int,
    *,
    query_key: bool,
) -> Iterator[LinearPair]:
    """Yield the pairs of all heads; `groups` is the number of key and value heads, each shared by heads/groups."""
    share, prefix = heads // groups, f"{place}." if place else ""
    width = value.features // groups
    for group in range(groups):
        sharers = range(group * share, (group + 1) * share)
        first = value.outputs(group * width, (group + 1) * width)
        second = tuple(piece for h in sharers for piece in output.inputs(h * width, (h + 1) * width))
        yield LinearPair(f"{prefix}value-output[{group}]", "value-output", first, second)
    if query_key and query is not None and key is not None:
        width = key.features // groups
        for group in range(groups):
            sharers = range(group * share, (group + 1) * share)
            first = tuple(piece for h in sharers for piece in query.outputs(h * width, (h + 1) * width))
            second = key.outputs(group * width, (group + 1) * width)
            yield LinearPair(f"{prefix}query-key[{group}]", "query-key", first, second)


def multihead_pairs(
    place: str, module: torch.nn.MultiheadAttention, notes: list[str], query_key: bool | None
) -> Iterator[LinearPair]:
    """Yield the pairs of an nn.MultiheadAttention with packed or separate projections."""
    if type(module).forward is not torch.nn.MultiheadAttention.forward or not is_plain_linear(module.out_proj):
        notes.append(f"{place}: not plain nn.MultiheadAttention, so what its forward does is not known")
        return
    prefix, size = (f"{place}." if place else ""), module.embed_dim
    maps = []
    for index, letter in enumerate("qkv"):
        packed = module.in_proj_weight is not None
        name = "in_proj_weight" if packed else f"{letter}_proj_weight"
        weight = module._parameters.get(name)
        if weight is None:
            notes.append(f"{place}: {name} is not a parameter (a parametrisation?)")
            return
        added = getattr(module, f"bias_{letter}", None)
        maps.append(
            Projection(
                weight,
                f"{prefix}{name}",
                size,
                weight_start=index * size if packed else 0,
                bias=module.in_proj_bias,
                bias_name=f"{prefix}in_proj_bias",
                bias_start=index * size,
                vectors=() if added is None else ((f"{prefix}bias_{letter}", added),),
            )
        )
    query, key, value = maps
    output = projection(f"{prefix}out_proj", module.out_proj)
    heads = module.num_heads
    yield from head_pairs(place, query, key, value, output, heads, heads, query_key=query_key is not False)


def projected_pairs(
    place: str, module: torch.nn.Module, notes: list[str], query_key: bool | None
) -> Iterator[LinearPair]:
    """Yield the pairs of an attention in the style of timm and Hugging Face: named or fused projections.

    Nothing where the module has no such projections. What the forward method does between them cannot be read off the
    module: every other child or parameter that could stand in between ends the search with a note.
    """
    children = dict(module.named_children())
    if set(children) >= _APART and all(is_plain_linear(children[name]) for name in _APART):
        notes.append(
            f"{place}: which layer takes what query, key and value give is not known (BERT: output.dense); "
            f"name the pairs, for each layer: ('{place}.value', 'name of the output layer', number of heads)"
        )
        return
    separate = next((names for names in _SEPARATE if all(name in children for name in names)), None)
    fused = next((name for name in (*_STACKED, *_INTERLEAVED) if name in children), None)
    out = next((name for name in _OUTPUT if name in children), None)
    if (separate is None and fused is None) or out is None:
        return
    if separate is None and fused in _INTERLEAVED:
        notes.append(f"{place}: the order of queries, keys and values in {fused} is not known; give the pairs yourself")
        return
    used = (*(separate or (fused,)), out)
    for name in used:
        if not is_plain_linear(children[name or ""]):
            notes.append(f"{place}: {name} is {type(children[name or '']).__name__}, not a plain linear layer")
            return
    strange = [name for name, child in children.items() if name not in used and not _beside(name, child)]
    strange += [name for name, _ in module.named_parameters(recurse=False) if not _is_position(name)]
    if strange:
        notes.append(f"{place}: {', '.join(strange)} may stand between value and output; give the pairs yourself")
        return

    prefix = f"{place}." if place else ""
    output = projection(f"{prefix}{out}", children[out])
    heads = _count(module, _HEADS)
    if separate is not None:
        query, key, value = (projection(f"{prefix}{name}", children[name]) for name in separate)
        head_width = getattr(module, "head_dim", None) or (query.features // heads if heads else None)
    else:
        whole = projection(f"{prefix}{fused}", children[fused or ""])
        head_width = getattr(module, "head_dim", None) or (output.n_inputs // heads if heads else None)
        # queries have as many features as the output layer takes; keys and values share the rest
        rest = whole.features - output.n_inputs
        query = whole.part(0, output.n_inputs)
        key = whole.part(output.n_inputs, rest // 2)
        value = whole.part(output.n_inputs + rest // 2, rest // 2)
    if not isinstance(head_width, int) or head_width < 1:
        notes.append(f"{place}: the number of heads is not known (no {', '.join(_HEADS)} or head_dim)")
        return
    heads, groups = query.features // head_width, key.features // head_width
    fits = heads * head_width == query.features and groups * head_width == key.features
    if not (fits and groups and heads % groups == 0 and value.features % groups == 0):
        notes.append(f"{place}: {query.features} query and {key.features} key features are no whole number of heads")
        return
    if value.features // groups * heads != output.n_inputs:
        notes.append(f"{place}: {heads} heads of {value.features // groups} values do not fit {output.n_inputs} inputs")
        return
    if query_key is None:
        query_key = _no_rotation(module, children)
        if not query_key:
            notes.append(
                f"{place}: query–key pairs left out, because a rotary embedding or a normalisation of queries and keys "
                "cannot be ruled out; linear_pairs(model, query_key=True) takes your word for it"
            )
    elif query_key and _normalised(children):
        notes.append(f"{place}: query–key pairs left out, queries and keys are normalised or rotated")
        query_key = False
    yield from head_pairs(place, query, key, value, output, heads, groups, query_key=query_key)


def _count(module: torch.nn.Module, names: tuple[str, ...]) -> int | None:
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            if isinstance(number := getattr(holder, name, None), int):
                return number
    return None


def _is_norm(name: str) -> bool:
    return "norm" in name and name[0] in "qk"


def _is_position(name: str) -> bool:
    return any(part in name for part in ("rotary", "rope", "relative", "rel_pos"))


def _beside(name: str, child: torch.nn.Module) -> bool:
    """Whether a child cannot touch the way from the values to the output."""
    return isinstance(child, _HARMLESS) or _is_norm(name) or _is_position(name)


def _normalised(children: dict[str, torch.nn.Module]) -> bool:
    """Whether children rotate or normalise queries and keys."""
    touching = [child for name, child in children.items() if _is_norm(name) or "rotary" in name or "rope" in name]
    return any(not isinstance(child, torch.nn.Identity) for child in touching)


def _no_rotation(module: torch.nn.Module, children: dict[str, torch.nn.Module]) -> bool:
    """Whether it is known that queries and keys meet as they are: GPT-2 and timm's attention of plain transformers."""
    if _normalised(children):
        return False
    if type(module).__name__ == "GPT2Attention":
        return True
    arguments = inspect.signature(module.forward).parameters
    rotates = any(word in name for name in arguments for word in _POSITION_ARGUMENTS)
    timm = type(module).__module__.startswith("timm.") and {"q_norm", "k_norm"} <= set(children)
    return timm and not rotates
