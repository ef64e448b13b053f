"""What a ledger asks an optimizer: which pairs it moves, and what plain SGD would do with them at its settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rankfall.errors import InvalidInput
from rankfall.torch._account import Setting
from rankfall.torch._pair import LinearPair, Piece
from rankfall.torch._pairs import LinearPairs, linear_pairs

__all__ = ["setting_of", "settings_of", "skipped", "trained_pairs"]


def trained_pairs(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: str | Sequence[tuple[str, ...] | LinearPair],
    query_key: bool | None,
) -> LinearPairs:
    """The pairs all of whose parameters the optimizer moves."""
    for group in optimizer.param_groups:
        if "lr" not in group:
            raise InvalidInput(f"the parameter groups of {type(optimizer).__name__} have no learning rate 'lr'.")
    moved = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    automatic = isinstance(pairs, str) and pairs == "auto"
    found = linear_pairs(model, None if automatic else pairs, query_key=query_key)  # type: ignore[arg-type]
    kept, notes = [], list(found.notes)
    for pair in found:
        frozen = [piece.name for piece in pair.pieces if id(piece.parameter) not in moved]
        if not frozen:
            kept.append(pair)
            continue
        problem = (
            f"{pair.name}: {', '.join(frozen)} is frozen or not in the optimizer, and the ledgers need both matrices"
        )
        if not automatic:
            raise InvalidInput(f"{problem}.")
        notes.append(problem)
    if not kept:
        because = (
            "".join(f"\n- {note}" for note in notes) or " There is no attention, adapter or chain of linear layers."
        )
        raise InvalidInput(
            "no pairs of matrices were found that are joined by a product and trained by this optimizer; name them, "
            f"pairs=[('first', 'second'), …].{because}"
        )
    return LinearPairs(kept, notes)


def settings_of(optimizer: torch.optim.Optimizer) -> dict[int, Setting]:
    """What plain SGD would do with each parameter, at the settings of this step."""
    scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer divides by it within the step
    settings = {}
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        kept = 1.0 - rate * float(group.get("weight_decay") or 0.0)
        sign = -1.0 if group.get("maximize") else 1.0
        setting = Setting(rate, kept, sign if scale is None else sign / float(scale))
        settings.update({id(parameter): setting for parameter in group["params"]})
    return settings


def setting_of(piece: Piece, settings: dict[int, Setting]) -> Setting:
    if id(piece.parameter) not in settings:
        raise InvalidInput(f"parameter {piece.name!r} is no longer one of the optimizer's")
    return settings[id(piece.parameter)]


def skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer will skip the step, for the scaled gradients overflowed."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and float(found) > 0.0
