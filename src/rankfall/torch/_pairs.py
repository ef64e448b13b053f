"""Find the pairs of matrices of a model that are joined by nothing but a product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from rankfall.errors import InvalidInput
from rankfall.torch._adapters import adapter_pairs
from rankfall.torch._attention import multihead_pairs, projected_pairs
from rankfall.torch._attention_apart import apart_pairs, projections_apart
from rankfall.torch._chains import chain_pairs, is_plain_sequential
from rankfall.torch._named import named_pair
from rankfall.torch._pair import LinearPair

__all__ = ["LinearPairs", "linear_pairs"]


class LinearPairs(tuple[LinearPair, ...]):
    """The pairs that were found, and what was left out and why.

    Attributes:
        notes: One sentence for each place that looked like a pair and could not be taken.
    """

    notes: tuple[str, ...]

    def __new__(cls, pairs: Iterable[LinearPair] = (), notes: Sequence[str] = ()) -> LinearPairs:
        made = super().__new__(cls, pairs)
        made.notes = tuple(notes)
        return made

    def __str__(self) -> str:
        lines = [
            f"{pair.name}  ({pair.kind}, W1 {pair.n_inputs} × {pair.width}, W2 {pair.width} × {pair.n_outputs})"
            for pair in self
        ]
        return "\n".join([*(lines or ["no pairs"]), *(f"note: {note}" for note in self.notes)])


def linear_pairs(
    model: torch.nn.Module,
    pairs: Sequence[tuple[str, ...] | LinearPair] | None = None,
    *,
    query_key: bool | None = None,
) -> LinearPairs:
    """Find the pairs (W1, W2) that the loss of a model sees through W1 W2 alone.

    These are value and output, query and key of attention heads (nn.MultiheadAttention; `q_proj`, `k_proj`, `v_proj`
    with `out_proj` or `o_proj`; fused `qkv` with `proj`), adapters (`lora_A`, `lora_B`), and neighbouring linear
    layers of nn.Sequential. What else lies between two layers is written in forward methods, which are not read. A
    layer that is also used outside the pair ends it: shared parameters are seen, a second call is not. `Ledger` checks
    every pair against the gradients.

    Args:
        model: Any module.
        pairs: Instead of searching, these: (first, second) by name, or a `LinearPair`. A name is that of a linear
            layer, with its bias, or of a parameter of shape (outputs, inputs). A third entry is the number of
            heads that the hidden features are split into; with "query-key" as a fourth, the outputs of both meet.
        query_key: Whether queries and keys meet as they are, without a rotary embedding or a normalisation. By default
            such pairs are only taken where that is known; True takes your word for the others, False leaves all out.

    Returns:
        The pairs in the order of the modules, with `notes` on what was left out.

    Raises:
        InvalidInput: A name is unknown, shapes do not fit, a layer is of no known kind, or a parameter is on the meta
            device.

    Example:
        >>> import torch
        >>> from rankfall.torch import linear_pairs
        >>> print(linear_pairs(torch.nn.MultiheadAttention(6, 2)))
        value-output[0]  (value-output, W1 7 × 3, W2 3 × 6)
        value-output[1]  (value-output, W1 7 × 3, W2 3 × 6)
        query-key[0]  (query-key, W1 7 × 3, W2 3 × 7)
        query-key[1]  (query-key, W1 7 × 3, W2 3 × 7)
    """
    if not isinstance(model, torch.nn.Module):
        raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if pairs is not None:
        if isinstance(pairs, str):
            raise InvalidInput(f"pairs must be a list of (first, second) names or LinearPair objects, got {pairs!r}.")
        given = [made for entry in pairs for made in named_pair(model, entry)]
        _check(given)
        return LinearPairs(given)
    found: list[LinearPair] = []
    notes: list[str] = []
    inside: set[torch.nn.Module] = set()
    for place, module in model.named_modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            found += multihead_pairs(place, module, notes, query_key)
        elif is_plain_sequential(module):
            assert isinstance(module, torch.nn.Sequential)
            if module not in inside:
                found += chain_pairs(place, module, notes)
            inside.update(child for child in module.modules() if child is not module)
        else:
            apart = projections_apart(module)
            if apart is not None:
                found += apart_pairs(place, module, notes, query_key)
                inside.add(module.get_submodule(apart))
            elif module not in inside:
                found += projected_pairs(place, module, notes, query_key)
            found += adapter_pairs(place, module, notes)
    kept = _without_shared(model, found, notes)
    _check(kept)
    return LinearPairs(kept, notes)


def _without_shared(model: torch.nn.Module, pairs: list[LinearPair], notes: list[str]) -> list[LinearPair]:
    """A parameter that enters the loss at a second place ends its pair; pairs that are shared as a whole may stay."""
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    paths = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    kept = []
    for pair in pairs:
        once = min(paths[id(piece.parameter)] for piece in pair.pieces)
        shared = [
            piece.name for piece in pair.pieces if owners[id(piece.parameter)] > 1 or paths[id(piece.parameter)] > once
        ]
        if shared:
            notes.append(f"{pair.name}: {', '.join(shared)} is used in another place as well")
        else:
            kept.append(pair)
    return kept


def _check(pairs: Sequence[LinearPair]) -> None:
    twice = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    if twice:
        raise InvalidInput(f"pairs must have different names, got {twice[0]!r} twice.")
    for pair in pairs:
        for piece in pair.pieces:
            parameter = piece.parameter
            if parameter.is_meta:
                raise InvalidInput(
                    f"parameter {piece.name!r} is on the meta device and has no values; create the model's weights "
                    "first (model.to_empty and initialisation, or load_state_dict with assign=True)."
                )
            if hasattr(parameter, "full_tensor"):
                raise InvalidInput(f"parameter {piece.name!r} is sharded (DTensor); ledgers need whole matrices.")
            if not parameter.is_floating_point():
                raise InvalidInput(f"parameter {piece.name!r} must be real floating point, got {parameter.dtype}.")
