"""Recognising checkpoints of one training run by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

__all__ = ["by_step", "step_of"]

_NUMBER = re.compile(r"\d+")
_NAMED_STEP = re.compile(
    r"(?:global[-_]?step|step|iter(?:ation)?|checkpoint|ckpt|epoch|tokens)s?[-_=.]?(\d+)", re.IGNORECASE
)
_SHARD = re.compile(r"\d+[-_]of[-_]\d+")


def step_of(name: str) -> int | None:
    """Return the training step that a file or folder name tells, or None.

    A number behind "step" goes before one behind "checkpoint", and that before the last number of all.

    Example:
        >>> step_of("checkpoint-500"), step_of("epoch=3-step=400.ckpt"), step_of("model_0012.pt"), step_of("final.pt")
        (500, 400, 12, None)
    """
    if _SHARD.search(name):
        return None
    named = list(_NAMED_STEP.finditer(name))
    for match in named:
        if "step" in match.group().lower():
            return int(match.group(1))
    if named:
        return int(named[0].group(1))
    numbers = _NUMBER.findall(re.sub(r"\.[A-Za-z]\w*$", "", name))
    return int(numbers[-1]) if numbers else None


def by_step(paths: Iterable[Path]) -> dict[int, Path]:
    """Return step → path for the largest group of names that differ in their numbers alone, in order of the steps.

    Empty where there are not two such names with different steps.
    """
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(paths):
        step = step_of(path.name)
        if step is not None:
            groups[_NUMBER.sub("#", path.name)].setdefault(step, path)
    largest = max(groups.values(), key=len, default={})
    return dict(sorted(largest.items())) if len(largest) > 1 else {}
