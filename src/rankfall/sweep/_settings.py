"""The settings that a study may name: sections, fields, what kind of value each takes, and words that were misspelt."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rankfall.errors import InvalidInput

__all__ = ["FIELDS", "FILES", "canonical", "check_keys", "full_name", "hint", "section_values", "table"]

Kind = Literal["whole", "real", "text", "path", "widths", "times", "matrix"]

# Everything that decides a cell's numbers, by section. Any of these but matrices can be an axis.
FIELDS: dict[str, dict[str, Kind]] = {
    "problem": {
        "kind": "text",
        "n_samples": "whole",
        "n_inputs": "whole",
        "n_outputs": "whole",
        "teacher_rank": "whole",
        "teacher_noise": "real",
        "teacher_scale": "real",
        "temperature": "real",
        "seed": "whole",
        "data": "text",
        "constant": "text",
        "loss": "text",
        "inputs": "path",
        "labels": "path",
        "covariance": "matrix",
        "cross_covariance": "matrix",
        "label_second_moment": "real",
    },
    "network": {
        "width": "widths",
        "excess": "whole",
        "start": "text",
        "scale": "real",
        "W1": "path",
        "W2": "path",
    },
    "method": {
        "name": "text",
        "label_noise": "real",
        "step_size": "real",
        "batch_size": "whole",
        "weight_decay": "real",
        "integrator": "text",
        "tolerance": "real",
    },
    "run": {
        "duration": "real",
        "noise_time": "real",
        "steps": "whole",
        "dt": "real",
        "replicates": "whole",
        "save_points": "times",
        "start": "text",
        "noise_precision": "text",
    },
}

# Fields that name a file; what the file holds decides the numbers, by its digest (see `_resolve`).
FILES = tuple((section, name) for section, fields in FIELDS.items() for name, kind in fields.items() if kind == "path")


def canonical(value: Any, name: str) -> Any:
    """The value of the field with this full name, JSON-ready and in one form: 5.0 units are 5, a noise of 1 is 1.0.

    Raises:
        InvalidInput: Not a value of this field's kind; what lies out of range is for the problem, network or method.
    """
    section, field = name.split(".")
    return _CANONICAL[FIELDS[section][field]](_plain(value), name)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _whole(value: Any, name: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise InvalidInput(f"{name} must be a whole number, got {value!r}.") from None
    if abs(number) >= 2**64:
        raise InvalidInput(f"{name} must be a whole number below 2^64, got one of {len(str(abs(number)))} digits.")
    return number


def _real(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{name} must be a number, got {value!r}.")
    try:
        number = float(value)
    except OverflowError:
        raise InvalidInput(f"{name} must be a number that float64 holds, got a larger one.") from None
    if not math.isfinite(number):
        raise InvalidInput(f"{name} must be finite, got {number}.")
    return number + 0.0  # −0.0 is 0.0


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name} must be a text in quotes, got {value!r}.")
    return value


def _path(value: Any, name: str) -> str:
    return _text(str(value) if isinstance(value, Path) else value, name)


def _widths(value: Any, name: str) -> int | list[int]:
    if not isinstance(value, list | tuple):
        return _whole(value, name)
    if not value:
        raise InvalidInput(f"{name} must name the units of at least one hidden layer, got an empty list.")
    units = [_whole(each, name) for each in value]
    return units[0] if len(units) == 1 else units


def _times(value: Any, name: str) -> int | list[float]:
    if not isinstance(value, list | tuple):
        return _whole(value, name)
    return [_real(each, name) for each in value]


def _matrix(value: Any, name: str) -> list[list[float]]:
    rows = value if isinstance(value, list | tuple) else None
    if not rows or not all(isinstance(row, list | tuple) for row in rows):
        raise InvalidInput(f"{name} must be a list of rows, each a list of numbers.")
    return [[_real(each, name) for each in row] for row in rows]


_CANONICAL = {
    "whole": _whole,
    "real": _real,
    "text": _text,
    "path": _path,
    "widths": _widths,
    "times": _times,
    "matrix": _matrix,
}


def table(value: Any, name: str) -> dict[str, Any]:
    """The value as a table with text keys, or say that it is none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(f"{name} must be a table of names and values, got {_shortened(value)}.")
    return dict(value)


def section_values(given: Any, section: str) -> dict[str, Any]:
    """The fields of a section in their canonical form; None counts as not given."""
    values = table(given, section)
    check_keys(values, FIELDS[section], f"[{section}]")
    return {field: canonical(value, f"{section}.{field}") for field, value in values.items() if value is not None}


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `InvalidInput` for the first key that is not known, with the nearest one that is."""
    known = list(known)
    for key in given:
        if key not in known:
            raise InvalidInput(f"{where} has no setting {key!r}.{hint(key, known)} It takes {', '.join(known)}.")


def full_name(name: str) -> str:
    """The section and field that an axis names: "width" is "network.width".

    Raises:
        InvalidInput: No such setting, one that cannot vary, or a short name that two sections have.

    Example:
        >>> from rankfall.sweep._settings import full_name
        >>> full_name("width"), full_name("method.label_noise")
        ('network.width', 'method.label_noise')
    """
    everything = [f"{section}.{field}" for section, fields in FIELDS.items() for field in fields]
    if "." in name:
        matches = [name] if name in everything else []
    else:
        matches = [each for each in everything if each.split(".")[1] == name]
    if len(matches) > 1:
        raise InvalidInput(f"the axis {name!r} may mean {' or '.join(matches)}; write one of these.")
    if not matches:
        near = everything if "." in name else [each.split(".")[1] for each in everything]
        raise InvalidInput(f"there is no setting {name!r} to make an axis of.{hint(name, near)}")
    section, field = matches[0].split(".")
    if FIELDS[section][field] == "matrix":
        raise InvalidInput(f"{matches[0]} cannot be an axis; put the data into files and make an axis of their names.")
    return matches[0]


def hint(word: str, known: Iterable[str]) -> str:
    """A question that names the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
