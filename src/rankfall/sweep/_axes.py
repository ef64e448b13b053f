"""The axes of a study: lists, ranges and log ranges of settings, crossed or moving together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankfall.errors import InvalidInput
from rankfall.sweep._settings import FIELDS, canonical, check_keys, full_name, table

__all__ = ["MOST_CELLS", "Axis", "read_axes"]

# More cells than this are a mistake; a store of so many is gigabytes, and the list of cells alone takes minutes.
MOST_CELLS = 1_000_000
# Digits to which the points of a range are rounded, so that 0.1 + 0.2 is 0.3 and a refined log range meets the old one.
_DIGITS = 12
_SPECIFICATION = ("name", "values", "from", "to", "step", "count", "log", "linear")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


@dataclass(frozen=True)
class Axis:
    """One dimension of the grid, and the settings that move along it.

    Attributes:
        name: Of the dimension.
        settings: Full names, one for a crossed axis.
        names: Of their coordinates.
        rows: At each place the value of every setting.
        labels: What the dimension's own coordinate says, for settings that move together; else None.
        together: Whether it was written as settings that move together.
    """

    name: str
    settings: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    labels: tuple[Any, ...] | None = None
    together: bool = False

    def coordinates(self) -> dict[str, list[Any]]:
        """Coordinate name → one number or text per place."""
        found = {name: _shown(row[i] for row in self.rows) for i, name in enumerate(self.names)}
        return found if self.labels is None else {**found, self.name: _shown(self.labels)}

    def to_mapping(self) -> dict[str, Any]:
        """What `read_axes` makes this axis of again."""
        if not self.together:
            return {"name": self.name, "values": [row[0] for row in self.rows]}
        columns = zip(self.settings, self.names, range(len(self.settings)), strict=True)
        found: dict[str, Any] = {
            setting: {"name": name, "values": [row[i] for row in self.rows]} for setting, name, i in columns
        }
        if self.name not in self.names:
            found["name"] = self.name
        return found if self.labels is None else {**found, "labels": list(self.labels)}

    def describe(self, place: int) -> str:
        """The settings at a place, in words."""
        return ", ".join(f"{name} = {value}" for name, value in zip(self.settings, self.rows[place], strict=True))


def _shown(values: Iterable[Any]) -> list[Any]:
    """Numbers as they are; all as text as soon as one is text or a list."""
    listed = list(values)
    if all(isinstance(value, int | float) for value in listed):
        return listed
    return [",".join(map(str, value)) if isinstance(value, list) else str(value) for value in listed]


def read_axes(crossed: Any, zipped: Any, reserved: Iterable[str]) -> tuple[Axis, ...]:
    """The dimensions in the order in which they are written; nothing long is built before the cells are counted.

    Args:
        crossed: Setting → list, or a table with `values`, `from`, `to` and `step` or `count`, `log` or `linear` and
            `count`; and the `name` of the dimension, if not that of the setting.
        zipped: Tables of settings that move together, each with a `name` and `labels` if wanted.
        reserved: Names that a dimension cannot have.

    Raises:
        InvalidInput: A setting that is unknown or named twice, an empty axis, a value twice or of the wrong kind,
            lists of different lengths that should move together, or more than a million cells.
    """
    groups: list[tuple[list[tuple[str, Any]], dict[str, Any] | None]] = [
        ([entry], None) for entry in _settings_of(table(crossed, "[axes]"), "[axes]")
    ]
    if isinstance(zipped, Mapping) or not isinstance(zipped, Sequence | None) or isinstance(zipped, str):
        raise InvalidInput("zipped must be a list of tables, [[zipped]] in TOML, each of settings that move together.")
    for number, given in enumerate(zipped or (), start=1):
        where = f"[[zipped]] number {number}"
        rest = table(given, where)
        own: dict[str, Any] = {key: rest.pop(key) for key in ("name", "labels") if key in rest}
        entries = list(_settings_of(rest, where))
        if not entries:
            raise InvalidInput(f"{where} names no setting.")
        groups.append((entries, own))
    _check_once([name for entries, _ in groups for name, _ in entries])
    counts = [[_count(specification, name) for name, specification in entries] for entries, _ in groups]
    cells = math.prod(each[0] for each in counts)
    if cells > MOST_CELLS:
        sizes = " × ".join(f"{each[0]:,}" for each in counts)
        raise InvalidInput(
            f"the study has {sizes} = {cells:,} cells; at most {MOST_CELLS:,} are run. Thin the axes out."
        )
    for (entries, _), each in zip(groups, counts, strict=True):
        if len(set(each)) > 1:
            lengths = ", ".join(f"{name} has {count}" for (name, _), count in zip(entries, each, strict=True))
            raise InvalidInput(f"settings that move together need equally many values: {lengths}.")
    taken: set[str] = set(reserved)
    short = [name.split(".")[1] for entries, _ in groups for name, _ in entries]
    return tuple(_axis(entries, own, taken, short) for entries, own in groups)


def _settings_of(given: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Full name and specification of every setting; `problem.n_inputs = …` without quotes is a table in TOML."""
    for key, value in given.items():
        if key in FIELDS:
            for field, specification in table(value, f"{where} {key}").items():
                yield full_name(f"{key}.{field}"), specification
        else:
            yield full_name(key), value


def _check_once(names: Sequence[str]) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InvalidInput(f"{twice[0]} is an axis twice; a setting can move along one axis only.")


def _count(specification: Any, name: str) -> int:
    """How many values an axis has at most, before any is made."""
    if isinstance(specification, np.ndarray):
        specification = specification.tolist()
    if isinstance(specification, list | tuple | range):
        count = len(specification)
    else:
        given = table(specification, f"the axis {name}")
        check_keys(given, _SPECIFICATION, f"the axis {name}")
        ways = [way for way in ("values", "from", "log", "linear") if way in given]
        if len(ways) != 1:
            raise InvalidInput(
                f"the axis {name} needs a list of values, or one of values = […], from = … with to = … and step = … or "
                "count = …, log = [from, to] with count = …, linear = [from, to] with count = …."
            )
        allowed = {
            "values": {"values"}, "from": {"from", "to", "step", "count"}, "log": {"log", "count"},
            "linear": {"linear", "count"},
        }[ways[0]]  # fmt: skip
        check_keys([key for key in given if key != "name"], sorted(allowed), f"the axis {name} with {ways[0]!r}")
        count = _length(given["values"], name) if ways[0] == "values" else _range_count(given, ways[0], name)
    if count == 0:
        raise InvalidInput(f"the axis {name} is empty; give it at least one value, or leave it out.")
    return count


def _length(values: Any, name: str) -> int:
    return len(values) if isinstance(values, range) else len(_listed(values, name))  # a range may be too long to list


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple | range):
        raise InvalidInput(f"the values of the axis {name} must be a list, got {values!r}.")
    return list(values)


def _range_count(given: Mapping[str, Any], way: str, name: str) -> int:
    first, last = _ends(given, way, name)
    if "step" in given:
        if "count" in given:
            raise InvalidInput(f"the axis {name} takes step or count, not both.")
        step = _number(given["step"], f"step of the axis {name}")
        if step == 0.0 or (last - first) / step < 0.0:
            raise InvalidInput(f"the axis {name} never gets from {first:g} to {last:g} in steps of {step:g}.")
        steps = (last - first) / step
        return math.floor(min(steps, 1e18) * (1 + 1e-12) + 1e-9) + 1  # a tiny step makes infinitely many
    if "count" not in given:
        raise InvalidInput(f"the axis {name} needs {'step or ' if way == 'from' else ''}count beside {way!r}.")
    count = given["count"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InvalidInput(f"count of the axis {name} must be a whole number, got {count!r}.")
    if count == 1 and first != last:
        raise InvalidInput(f"the axis {name} has two ends, {first:g} and {last:g}: count must be at least 2.")
    return count


def _ends(given: Mapping[str, Any], way: str, name: str) -> tuple[float, float]:
    if way == "from":
        if "to" not in given:
            raise InvalidInput(f"the axis {name} has 'from' but no 'to'.")
        ends = [given["from"], given["to"]]
    else:
        ends = _listed(given[way], name)
        if len(ends) != 2:
            raise InvalidInput(f"{way} of the axis {name} must be [from, to], got {len(ends)} values.")
    first, last = (_number(end, f"end of the axis {name}") for end in ends)
    if way == "log" and not (first > 0.0 and last > 0.0):
        raise InvalidInput(f"a log range has ends above 0; the axis {name} goes from {first:g} to {last:g}.")
    return first, last


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise InvalidInput(f"the {name} must be a finite number, got {value!r}.")
    return float(value)


def _axis(
    entries: Sequence[tuple[str, Any]], own: Mapping[str, Any] | None, taken: set[str], short: Sequence[str]
) -> Axis:
    names, columns = [], []
    for setting, specification in entries:
        chosen = specification.get("name") if isinstance(specification, Mapping) else None
        names.append(_name(chosen, setting, taken, short))
        columns.append(_values(specification, setting))
    rows = tuple(zip(*columns, strict=True)) if len({len(column) for column in columns}) == 1 else ()
    what = " with ".join(setting for setting, _ in entries)
    if not rows:
        raise InvalidInput(f"{what}: values that round to the same whole number cannot move together; list them.")
    seen: set[str] = set()
    for row in rows:
        if repr(row) in seen:
            raise InvalidInput(f"the axis {what} has the value {', '.join(map(str, row))} twice.")
        seen.add(repr(row))
    settings = tuple(setting for setting, _ in entries)
    if own is None:
        return Axis(names[0], settings, tuple(names), rows)
    labels = own.get("labels")
    if labels is not None:
        labels = tuple(_listed(labels, what))
        if len(labels) != len(rows) or not all(_is_label(label) for label in labels):
            raise InvalidInput(f"labels of {what} must be {len(rows)} numbers or texts, one for each place.")
    given = own.get("name")
    if given is None and len(names) == 1 and labels is None:
        return Axis(names[0], settings, tuple(names), rows, None, True)
    name = _name("_".join(names) if given is None else given, what, taken, short)
    return Axis(name, settings, tuple(names), rows, labels, True)


def _is_label(label: Any) -> bool:
    if isinstance(label, float):
        return math.isfinite(label)
    return isinstance(label, int | str) and not isinstance(label, bool)


def _name(chosen: Any, setting: str, taken: set[str], short: Sequence[str]) -> str:
    """The name of a dimension or coordinate: as chosen, else the field's, with its section where that is taken."""
    if chosen is None:
        section, field = setting.split(".")
        chosen = field if field not in taken and short.count(field) == 1 else f"{section}_{field}"
    if not isinstance(chosen, str) or not _NAME.match(chosen):
        raise InvalidInput(f"the name of the axis {setting} must be letters, digits and underscores, got {chosen!r}.")
    if chosen in taken:
        raise InvalidInput(f"the axis {setting} cannot be called {chosen!r}, which is the name of something else.")
    taken.add(chosen)
    return chosen


def _values(specification: Any, name: str) -> list[Any]:
    if isinstance(specification, Mapping) and "values" not in specification:
        return _range(specification, name)
    listed = _listed(specification["values"] if isinstance(specification, Mapping) else specification, name)
    return [canonical(value, name) for value in listed]


def _range(given: Mapping[str, Any], name: str) -> list[Any]:
    way = next(way for way in ("from", "log", "linear") if way in given)
    first, last = _ends(given, way, name)
    count = _range_count(given, way, name)
    if "step" in given:
        points = [first + i * float(given["step"]) for i in range(count)]
    elif way == "log":
        points = np.geomspace(first, last, count).tolist()
    else:
        points = np.linspace(first, last, count).tolist()
    points = [float(f"{point:.{_DIGITS}g}") for point in points]
    section, field = name.split(".")
    if FIELDS[section][field] in ("whole", "widths", "times") and "step" not in given:
        points = list(dict.fromkeys(float(round(point)) for point in points))
    return [canonical(point, name) for point in points]
