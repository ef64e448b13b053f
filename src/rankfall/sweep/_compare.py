"""What sets two studies apart, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rankfall.sweep._resolve import with_defaults
from rankfall.sweep._settings import FIELDS, FILES

__all__ = ["added_values", "compare"]

_NOTHING = "not given"
_AXIS = "the axis "


def compare(study: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Sentences like "method.step_size is 0.02, and 0.01 there" for two tables of `Study.to_mapping`."""
    here, there = _flat(study), _flat(other)
    found = []
    for name in dict.fromkeys([*there, *here]):
        mine, theirs = here.get(name), there.get(name)
        if mine == theirs:
            continue
        if isinstance(mine, list) and isinstance(theirs, list):
            found.append(f"{name} {_changes(mine, theirs)}")
        else:
            found.append(f"{name} is {_shown(mine)} here, {_shown(theirs)} there")
    if not found and [name for name in here if _AXIS in name] != [name for name in there if _AXIS in name]:
        found.append("the axes come in another order")
    return found


def added_values(study: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the first has all values of the axes of the second and more of them, and differs in nothing else."""
    here, there = _flat(study), _flat(other)
    if [name for name in here if _AXIS in name] != [name for name in there if _AXIS in name] or set(here) != set(there):
        return False
    more = False
    for name, mine in here.items():
        theirs = there[name]
        if mine == theirs:
            continue
        if not name.startswith(_AXIS) or not _includes(mine, theirs):
            return False
        more = True
    return more


def _includes(mine: Any, theirs: Any) -> bool:
    return {json.dumps(value) for value in theirs} <= {json.dumps(value) for value in mine}


def _flat(study: Mapping[str, Any]) -> dict[str, Any]:
    """Name → value of all that decides numbers or their places; an axis is the list of its values, row by row."""
    files = study["files"]
    moving = {name for axis in (study["axes"], *study["zipped"]) for name in axis}
    sections = with_defaults({section: study[section] for section in FIELDS}, moving)

    def content(name: str, value: Any) -> Any:
        """What is in a file, for the name of a setting that is one."""
        if tuple(name.split(".")) not in FILES:
            return value
        return [content(name, each) for each in value] if isinstance(value, list) else files.get(value, value)

    found: dict[str, Any] = {"seed": study["seed"]}
    for section in FIELDS:
        found |= {f"{section}.{name}": content(f"{section}.{name}", value) for name, value in sections[section].items()}
    for name, axis in study["axes"].items():
        found[f"the axis {name}"] = content(name, axis["values"])
        found[f"the name of the axis {name}"] = axis["name"]
    for axis in study["zipped"]:
        settings = [name for name in axis if name not in ("name", "labels")]
        columns = [content(name, axis[name]["values"]) for name in settings]
        label = " with ".join(settings)
        found[f"the axis {label}"] = [list(row) for row in zip(*columns, *_labels(axis), strict=True)]
        found[f"the names of the axis {label}"] = [axis.get("name"), *(axis[name]["name"] for name in settings)]
    found |= {f"keep.{name}": value for name, value in study["keep"].items()}
    return found | {f"stop.{name}": value for name, value in study.get("stop", {}).items()}


def _labels(axis: Mapping[str, Any]) -> list[list[Any]]:
    return [axis["labels"]] if "labels" in axis else []


def _changes(mine: list[Any], theirs: list[Any]) -> str:
    added, gone = _without(mine, theirs), _without(theirs, mine)
    words = [f"has {_listed(added)} more here"] if added else []
    words += [f"lacks {_listed(gone)} here"] if gone else []
    return " and ".join(words) or "has its values in another order"


def _without(values: list[Any], others: list[Any]) -> list[Any]:
    """The values that are not among the others; axes may have a hundred thousand of them."""
    known = {json.dumps(value) for value in others}
    return [value for value in values if json.dumps(value) not in known]


def _listed(values: list[Any]) -> str:
    shown = ", ".join(_shown(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} others"


def _shown(value: Any) -> str:
    text = _NOTHING if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
