"""From the user's words to matrices and modules: what is watched, checked before any work."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from rankfall import ranks
from rankfall.errors import InvalidInput
from rankfall.torch._matrices import Source, clean_name
from rankfall.torch._moments import ACTIVE, features

__all__ = [
    "LARGEST_MOMENTS",
    "THINGS",
    "active_modules",
    "chosen_names",
    "first_tensor",
    "known_measures",
    "select_sources",
    "selector",
]

THINGS = ("weights", "activations", "gradients", "updates")

# Outputs wider than this have second moments that are too large to keep (float64: 128 MiB each), such as logits.
LARGEST_MOMENTS = 4096

Selector = Callable[[Iterable[str]], bool]


def chosen_names(given: Any, known: Sequence[str], argument: str) -> tuple[str, ...]:
    """Return names out of a known list, in its order.

    Raises:
        InvalidInput: None, or one that is unknown, with the nearest known one.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidInput(f"{argument} has no {name!r}.{hint} Known are: {', '.join(known)}.")
    if not names:
        raise InvalidInput(f"{argument} must not be empty. Known are: {', '.join(known)}.")
    return tuple(name for name in known if name in names)


def selector(select: Any, names: Iterable[str]) -> Selector:
    """Return a test for the names of a matrix or module.

    Args:
        select: None for all, a regular expression that has to match a whole name, or a list of names.
        names: All that exist.

    Raises:
        InvalidInput: Not a regular expression, a name that does not exist, or nothing matches.
    """
    known = sorted(set(names))
    if select is None:
        return lambda _: True
    if isinstance(select, str):
        try:
            pattern = re.compile(select)
        except re.error as error:
            raise InvalidInput(f"select is not a regular expression: {select!r} ({error}).") from None
        if not any(pattern.fullmatch(name) for name in known):
            near = difflib.get_close_matches(select, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidInput(
                f"select={select!r} matches no name; it has to match a whole one.{hint} "
                f"There are: {', '.join(known[:8])}{', …' if len(known) > 8 else ''}."
            )
        return lambda candidates: any(pattern.fullmatch(name) for name in candidates)
    wanted = set(chosen_names(list(select), known, "The model"))
    return lambda candidates: not wanted.isdisjoint(candidates)


def select_sources(sources: Sequence[Source], chosen: Selector) -> list[Source]:
    """Return the sources with those of their matrices that were chosen, by a name of their own or of the source."""
    kept = []
    for source in sources:
        heads = {view.layer for view in source.views}
        common = source.names - heads
        views = tuple(view for view in source.views if chosen({view.layer, *common}))
        if views:
            kept.append(dataclasses.replace(source, views=views))
    return kept


def active_modules(model: nn.Module, chosen: Selector) -> tuple[dict[str, nn.Module], list[str]]:
    """Return the modules whose outputs are watched, by layer, and the names of those that are too wide."""
    inside = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    found: dict[str, nn.Module] = {}
    wide = []
    for path, module in model.named_modules():
        name = clean_name(path)
        if not isinstance(module, ACTIVE) or id(module) in inside or not chosen({name, f"{name}.weight"}):
            continue
        if features(module) > LARGEST_MOMENTS:
            wide.append(name)
        elif features(module) > 1:
            found[name] = module
    return found, wide


def known_measures() -> tuple[str, ...]:
    """Names of the measures in `rankfall.ranks`."""
    return tuple(ranks.MEASURES)


def first_tensor(output: Any) -> Tensor | None:
    """Return the activations in what a module returned: itself, or the first of several."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None
