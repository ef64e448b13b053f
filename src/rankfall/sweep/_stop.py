"""The adaptive stop: how many replicates a cell gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankfall import _checks
from rankfall.errors import InvalidInput
from rankfall.sweep._quantities import MEASURES
from rankfall.sweep._settings import check_keys, hint, table

__all__ = ["Stop", "read_stop"]


@dataclass(frozen=True)
class Stop:
    """Double the replicates until a standard error is small enough, or there are so many.

    The first batch has the cell's number of replicates, every further one as many as there are already, with a seed of
    its own. What stops is a function of the numbers alone.

    Attributes:
        quantity: Whose standard error counts; of several modes or times the largest.
        standard_error: Bound.
        at_most: Replicates.
    """

    quantity: str
    standard_error: float
    at_most: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Stop | None:
        """The rule in a cell's settings, None where its replicates are fixed."""
        return cls(**settings["stop"]) if "stop" in settings else None

    def more(self, errors: Any, used: int) -> int:
        """How many replicates to add; 0 to stop. A cell that has no standard error at all gets none."""
        known = np.asarray(errors, dtype=float)
        known = known[np.isfinite(known)]
        if known.size == 0 and used > 1:
            return 0
        if known.size and float(known.max()) <= self.standard_error:
            return 0
        return min(used, max(0, self.at_most - used))


def read_stop(given: Any) -> dict[str, Any] | None:
    """The [stop] of a study, checked; None where there is none."""
    values = table(given, "[stop]")
    if not values:
        return None
    check_keys(values, ("quantity", "standard_error", "at_most"), "[stop]")
    missing = [name for name in ("quantity", "standard_error", "at_most") if name not in values]
    if missing:
        raise InvalidInput(
            f"[stop] needs {' and '.join(missing)}: stop when the standard error of a quantity is small."
        )
    name = values["quantity"]
    known = [each for each, measure in MEASURES.items() if measure.error]
    if name not in known:
        words = hint(str(name), known)
        raise InvalidInput(f"stop.quantity must have a standard error, got {name!r}.{words} Take {', '.join(known)}.")
    return {
        "quantity": name,
        "standard_error": _checks.real_number(values["standard_error"], "stop.standard_error", above=0.0),
        "at_most": _checks.whole_number(values["at_most"], "stop.at_most", at_least=2),
    }
