"""What a study keeps of its cells."""

from __future__ import annotations

from typing import Any

from rankfall import _checks
from rankfall._lyapunov import batch_ends
from rankfall.errors import InvalidInput
from rankfall.sweep._quantities import measures_of
from rankfall.sweep._settings import check_keys, table

__all__ = ["read_keep"]

_DEFAULTS: dict[str, Any] = {"quantities": None, "time_series": [], "alive": 1e-3, "burn_in": 0.2, "batches": 20}


def read_keep(given: Any) -> dict[str, Any]:
    """The [keep] of a study with its defaults, checked."""
    values = table(given, "[keep]")
    check_keys(values, _DEFAULTS, "[keep]")
    found = {**_DEFAULTS, **values}
    for name in ("quantities", "time_series"):
        listed = found[name]
        if listed is None and name == "quantities":
            continue
        if not isinstance(listed, list | tuple) or not all(isinstance(each, str) for each in listed):
            raise InvalidInput(f"keep.{name} must be a list of names, got {listed!r}.")
        found[name] = list(dict.fromkeys(listed))
    alive = _checks.real_number(found["alive"], "keep.alive", above=0.0)
    if not alive < 1.0:
        raise InvalidInput(f"keep.alive is the share of its start that a living mode keeps, below 1; got {alive:g}.")
    found["alive"] = alive
    batch_ends(1.0, found["burn_in"], found["batches"])
    found["burn_in"], found["batches"] = float(found["burn_in"]), int(found["batches"])
    measures_of(found)
    return found
