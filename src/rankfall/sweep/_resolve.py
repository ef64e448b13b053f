"""From what a study says to the settings of one cell: every default filled in, every derived number written out.

Two ways of saying the same thing give the same settings, hence the same key and seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from rankfall.errors import InvalidInput
from rankfall.sweep import _build
from rankfall.sweep._build import METHODS
from rankfall.sweep._settings import FILES, hint

__all__ = ["PROBLEMS", "RUN", "problem_kind", "resolve", "with_defaults"]

_NEEDED = object()

# What each kind of problem takes, with its defaults; None is "not given". A missing seed is that of the study.
PROBLEMS: dict[str, dict[str, Any]] = {
    "gaussian": {
        "n_samples": 1000, "n_inputs": 5, "n_outputs": 2, "teacher_rank": None, "teacher_noise": 0.0, "seed": None,
    },
    "classification": {
        "n_samples": 1000, "n_inputs": 5, "n_outputs": 2, "teacher_rank": None, "temperature": 0.0, "seed": None,
    },
    "whitened": {"n_inputs": 5, "n_outputs": 2, "teacher_rank": None, "teacher_scale": 1.0},
    "data": {"data": _NEEDED, "constant": "keep", "loss": "squared"},
    "files": {"inputs": _NEEDED, "labels": _NEEDED, "loss": "squared"},
    "statistics": {
        "covariance": _NEEDED, "cross_covariance": _NEEDED, "n_samples": None, "label_second_moment": None,
    },
}  # fmt: skip
# Hidden units beyond inputs + outputs where a study says nothing.
_EXCESS = 3
_DRAWN = ("gaussian", "classification")

_CLASS_NAMES = {kind.__name__: name for name, kind in METHODS.items()}

RUN: dict[str, Any] = {
    "duration": None, "noise_time": None, "steps": None, "dt": None, "replicates": 16, "save_points": 51,
    "start": "independent", "noise_precision": "single",
}  # fmt: skip


def resolve(
    sections: Mapping[str, Mapping[str, Any]], seed: int, digests: Mapping[str, str], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """All settings of a cell, JSON-ready; raises `InvalidInput` where they do not make one.

    Args:
        sections: "problem", "network", "method", "run", each with canonical values.
        seed: Of the study; that of a drawn problem which names none.
        digests: Of the files named, by path.
        extra: Further parts that decide the numbers: how they are summarised, the adaptive stop.
    """
    problem = _problem(sections["problem"], seed, digests)
    p, k = _build.sizes(problem)
    method = _method(sections["method"])
    return {
        "problem": problem,
        "network": _network(sections["network"], p + k, digests),
        "method": method,
        "run": _run(sections["run"], method),
        **extra,
    }


def with_defaults(sections: Mapping[str, Mapping[str, Any]], moving: Collection[str]) -> dict[str, dict[str, Any]]:
    """The sections with the defaults that they leave unsaid, but for the settings that are axes.

    Two studies whose base settings mean the same have equal ones.
    """
    problem, network, method = sections["problem"], dict(sections["network"]), sections["method"]
    defaults: dict[str, dict[str, Any]] = {"problem": {}, "network": {}, "method": {}, "run": RUN}
    if not {"problem.kind", "problem.data", "problem.inputs"} & set(moving):
        kind = problem_kind(problem)
        defaults["problem"] = {"kind": kind, **PROBLEMS[kind]}
    if not {"network.start", "network.W1", "network.W2"} & set(moving):
        given = "W1" in network or "W2" in network
        defaults["network"] = {"start": "given"} if given else {"start": "gaussian", "scale": 1.0}
        sized = not {"network.width", "network.excess"} & set(moving) and not {"width", "excess"} & set(network)
        if sized and not given:
            defaults["network"]["excess"] = _EXCESS
    name = method.get("name")
    if name is not None and "method.name" not in moving:
        name = _method_name(name)
        defaults["method"] = {field.name: field.default for field in dataclasses.fields(METHODS[name])}
        method = {**method, "name": name}
    given_now = {"problem": problem, "network": network, "method": method, "run": sections["run"]}
    return {
        section: {
            field: value
            for field, value in {**defaults[section], **given_now[section]}.items()
            if value is not None and not _is_missing(value) and f"{section}.{field}" not in moving
        }
        for section in given_now
    }


def _is_missing(value: Any) -> bool:
    return value is _NEEDED or value is dataclasses.MISSING


def problem_kind(given: Mapping[str, Any]) -> str:
    """The kind that is named, or follows from what is given."""
    kind = given.get("kind")
    if kind is None:
        for field, implied in (
            ("data", "data"),
            ("inputs", "files"),
            ("labels", "files"),
            ("covariance", "statistics"),
        ):
            if field in given:
                return implied
        return "gaussian"
    if kind not in PROBLEMS:
        raise InvalidInput(f"problem.kind must be one of {', '.join(PROBLEMS)}, got {kind!r}.{hint(kind, PROBLEMS)}")
    return str(kind)


def _problem(given: Mapping[str, Any], seed: int, digests: Mapping[str, str]) -> dict[str, Any]:
    kind = problem_kind(given)
    found = {"kind": kind, **_filled(given, PROBLEMS[kind], f"a problem of kind {kind!r}", "problem", ("kind",))}
    if kind in _DRAWN:
        found.setdefault("seed", seed)
    if "loss" in found:
        found["loss"] = found["loss"].replace("-", "_")
    return found | _file_digests("problem", found, digests)


def _network(given: Mapping[str, Any], rows: int, digests: Mapping[str, str]) -> dict[str, Any]:
    start = given.get("start", "given" if "W1" in given or "W2" in given else "gaussian")
    if start == "given":
        found = _filled(given, {"W1": _NEEDED, "W2": _NEEDED}, "a network with start = 'given'", "network", ("start",))
        return {"start": start, **found, **_file_digests("network", found, digests)}
    if start not in ("gaussian", "balanced"):
        raise InvalidInput(f"network.start must be 'gaussian', 'balanced' or 'given', got {start!r}.")
    found = _filled(given, {"width": None, "excess": None, "scale": 1.0}, f"a {start} start", "network", ("start",))
    excess = found.pop("excess", None)
    if excess is not None and "width" in found:
        raise InvalidInput("give network.width, or network.excess = width − (inputs + outputs), not both.")
    if excess is not None and rows + excess < 1:
        raise InvalidInput(f"network.excess = {excess} leaves no hidden unit: inputs + outputs are {rows}.")
    return {"start": start, "width": rows + (_EXCESS if excess is None else excess), **found}


def _method(given: Mapping[str, Any]) -> dict[str, Any]:
    name = given.get("name")
    if name is None:
        raise InvalidInput(f"[method] needs a name: one of {', '.join(METHODS)}.")
    name = _method_name(name)
    defaults = {
        field.name: _NEEDED if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(METHODS[name])
    }
    return {"name": name, **_filled(given, defaults, f"the method {name}", "method", ("name",))}


def _method_name(given: str) -> str:
    """As the command line writes it; the class's name is one too."""
    name = _CLASS_NAMES.get(given, given).replace("_", "-")
    if name not in METHODS:
        raise InvalidInput(f"method.name must be one of {', '.join(METHODS)}, got {given!r}.{hint(name, METHODS)}")
    return name


def _run(given: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    found = _filled(given, RUN, "a run", "run", ())
    times = found.pop("noise_time", None)
    if times is None:
        return found
    if "duration" in found or "steps" in found:
        raise InvalidInput("give one of run.duration, run.noise_time and run.steps.")
    if not times > 0.0:
        raise InvalidInput(f"run.noise_time must be greater than 0, got {times:g}.")
    intensity = method.get("step_size", 0.0) * method.get("label_noise", 0.0) / method.get("batch_size", 1)
    if not intensity > 0.0:
        raise InvalidInput(
            "run.noise_time is the duration in units of 1/σ², σ² = step_size · label_noise / batch_size, which is 0 "
            "here; give run.duration."
        )
    return {**found, "duration": times / intensity}


def _filled(
    given: Mapping[str, Any], defaults: Mapping[str, Any], what: str, section: str, apart: tuple[str, ...]
) -> dict[str, Any]:
    """The defaults with what is given, without what is None; refuses what does not belong here or is missing."""
    foreign = [field for field in given if field not in defaults and field not in apart]
    if foreign:
        raise InvalidInput(
            f"{section}.{foreign[0]} does not belong to {what}, which takes {', '.join(defaults)}."
            f"{hint(foreign[0], defaults)}"
        )
    found = {field: given.get(field, default) for field, default in defaults.items()}
    for field, value in found.items():
        if value is _NEEDED:
            raise InvalidInput(f"{what} needs {section}.{field}.")
    return {field: value for field, value in found.items() if value is not None}


def _file_digests(section: str, found: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    return {f"{field}_digest": digests[found[field]] for part, field in FILES if part == section and field in found}
