"""What a tensor is for, as far as its name tells."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["FUSED", "Factor", "Kind", "factor", "is_expert_stack", "kind_of", "leaf_of", "role_of"]

Kind = Literal["attention", "head", "lora", "convolution", "embedding", "dense"]
Role = Literal["query", "key", "value", "output"]

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|(^|\.)(wte|wpe|shared)(\.|$)", re.IGNORECASE)
# Leaf names that mean attention wherever they stand …
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("q_proj", "query", "query_proj", "to_q", "q_lin"), "query"),
    **dict.fromkeys(("k_proj", "key", "key_proj", "to_k", "k_lin"), "key"),
    **dict.fromkeys(("v_proj", "value", "value_proj", "to_v", "v_lin"), "value"),
    **dict.fromkeys(("o_proj", "out_lin"), "output"),
}
# … and those that do only below a module called attention.
_ROLES_BELOW: dict[str, Role] = {
    **dict.fromkeys(("q", "wq"), "query"),
    **dict.fromkeys(("k", "wk"), "key"),
    **dict.fromkeys(("v", "wv"), "value"),
    **dict.fromkeys(("o", "wo", "out_proj", "c_proj", "proj", "dense", "to_out"), "output"),
}
# Query, key and value in one matrix, one third of the outputs each.
FUSED = frozenset({"in_proj_weight", "in_proj", "qkv", "qkv_proj", "Wqkv", "c_attn"})

# The names of PEFT (also embeddings and named adapters), of kohya and of diffusers.
_FACTOR = re.compile(
    r"^(?P<stem>.+?)[._](?:lora_(?:embedding_)?(?P<peft>[AB])|lora[_.](?P<other>down|up))"
    r"(?:\.(?!(?:weight|bias)$)(?P<adapter>[^.]+))?(?:\.weight)?$"
)


class Factor(NamedTuple):
    """Which pair a LoRA factor belongs to, and which of B·A it is."""

    pair: str
    side: Literal["A", "B"]


def factor(name: str) -> Factor | None:
    """Read the name of a LoRA factor; None for other tensors.

    Example:
        >>> factor("layers.0.q_proj.lora_A.weight")
        Factor(pair='layers.0.q_proj', side='A')
        >>> factor("layers.0.q_proj.lora_B.second.weight")
        Factor(pair='layers.0.q_proj[second]', side='B')
    """
    match = _FACTOR.match(name)
    if match is None:
        return None
    adapter = match["adapter"]
    stem = match["stem"] if adapter in (None, "default") else f"{match['stem']}[{adapter}]"
    return Factor(stem, "A" if match["peft"] == "A" or match["other"] == "down" else "B")


def role_of(name: str) -> Role | None:
    """Which projection of an attention layer a tensor is, or None.

    Example:
        >>> role_of("layers.0.self_attn.q_proj.weight"), role_of("h.0.attn.c_proj.weight"), role_of("mlp.c_proj.weight")
        ('query', 'output', None)
    """
    above, leaf = _leaf(name)
    if leaf in _ROLES:
        return _ROLES[leaf]
    return _ROLES_BELOW.get(leaf) if _ATTENTION.search(above) else None


def kind_of(name: str, dimensions: int) -> Kind:
    """Which part of the table a tensor that is no LoRA factor belongs to."""
    _, leaf = _leaf(name)
    if role_of(name) is not None or leaf in FUSED:
        return "attention"
    if dimensions > 3 and not is_expert_stack(name):
        return "convolution"
    return "embedding" if _EMBEDDING.search(name) else "dense"


def is_expert_stack(name: str) -> bool:
    """Whether the first axis of a three-dimensional tensor counts the experts of a mixture."""
    return "expert" in name.lower()


def leaf_of(name: str) -> str:
    """The last part of a name that says something.

    Example:
        >>> leaf_of("encoder.layer.0.attention.self.query.weight"), leaf_of("self_attn.in_proj_weight")
        ('query', 'in_proj_weight')
    """
    return _leaf(name)[1]


def _leaf(name: str) -> tuple[str, str]:
    # diffusers keeps the output projection and a dropout in a list.
    above, _, leaf = name.removesuffix(".weight").replace(".to_out.0", ".to_out").rpartition(".")
    return above, leaf
