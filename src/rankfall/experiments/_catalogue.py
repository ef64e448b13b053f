"""The targets of `rankfall reproduce`, by name; nothing of a target is imported before it is wanted."""

from __future__ import annotations

import importlib
from dataclasses import fields
from types import ModuleType
from typing import Any

from rankfall.errors import InvalidInput
from rankfall.experiments._target import Target

__all__ = ["TARGETS", "choose_target"]

# In the order in which `--all` runs and shows them.
TARGETS = {
    "dichotomy": "det M and the singular values of W1, with and without label noise",
    "repulsion": "the eigenvalues of M repel each other, and that is what lowers the rank",
    "lyapunov": "how fast each singular value dies, and which rank is left",
    "deep": "two to six layers, with and without label noise",
    "classification": "linear classifiers of digits: flipped labels lower the rank, descent does not",
    "beyond": "ReLU, tanh, GELU, deep networks: where label noise lowers the rank, and where it does not",
    "phase": "phase diagrams: which noise, teacher, width and step leave which rank",
}


def choose_target(name: str, *, quick: bool = False, **chosen: Any) -> Target:
    """The target of this name with these settings; one given as None counts as not given.

    Raises:
        InvalidInput: No such target, no such setting of this target, or a value out of range.
    """
    if name not in TARGETS:
        import difflib

        near = difflib.get_close_matches(name, TARGETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InvalidInput(f"there is no target {name!r}; the targets are {', '.join(TARGETS)}.{hint}")
    module: ModuleType = importlib.import_module(f"rankfall.experiments.{name}")
    given = {key: value for key, value in chosen.items() if value is not None}
    known = [field.name for field in fields(module.Settings)]
    foreign = [_option(key) for key in given if key not in known]
    if foreign:
        raise InvalidInput(
            f"{', '.join(foreign)} does not belong to the target {name}"
            # A command line passes all the options that it knows, so only those are worth naming.
            + f", which takes {', '.join(_option(key) for key in known if key in chosen or len(chosen) == len(given))}."
        )
    result: Target = module.target(module.Settings.choose(quick=quick, **given))
    return result


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
