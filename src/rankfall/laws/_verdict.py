"""What a check of one law against one run found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Verdict"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """The outcome of one law on one run, for the replicate that comes closest to breaking it.

    Attributes:
        law: Short name of the law.
        statement: The law as a formula.
        predicted: What the law predicts for the worst replicate, at its worst save point.
        measured: What the run recorded there.
        error: Distance between the two.
        tolerance: Largest error that rounding explains there.
        passed: True, False, or None when float64 could not tell (nothing was left to check).
        replicate: Index of the worst replicate, the one with the largest error / tolerance; -1 if none was checked.
        n_checked: Number of replicates with at least one save point after the start that could be checked.
        note: What else a reader should know, "" if nothing.
        time: Save time of the worst save point, NaN if there is none.
        errors: Error of each replicate at its worst save point, NaN where nothing was checked.
        tolerances: The tolerance that belongs to each of `errors`.
        negative: The answer is a measured No, to a question that may be answered either way: no failure, `passed` is
            None.

    Example:
        >>> from rankfall.laws import Verdict
        >>> print(Verdict("determinant", "log det M constant", 2.0, 2.0, 1e-13, 4e-11, True, replicate=3, n_checked=64))
        PASS determinant: log det M constant | predicted 2, measured 2, error 1e-13 ≤ 4e-11 (replicate 3, worst of 64)
    """

    law: str
    statement: str
    predicted: float
    measured: float
    error: float
    tolerance: float
    passed: bool | None
    replicate: int = -1
    n_checked: int = 0
    note: str = ""
    time: float = math.nan
    errors: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    tolerances: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    negative: bool = False

    @property
    def status(self) -> str:
        """PASS, FAIL, NO (a claim that does not hold and need not) or UNDECIDED."""
        return {True: "PASS", False: "FAIL", None: "NO" if self.negative else "UNDECIDED"}[self.passed]

    def __str__(self) -> str:
        line = f"{self.status} {self.law}: {self.statement}"
        if self.n_checked:
            relation = "≤" if self.error <= self.tolerance else ">"
            moment = f" at t={self.time:g}" if math.isfinite(self.time) else ""
            worst = f"replicate {self.replicate}, worst of" if self.replicate >= 0 else "replicates:"
            line += (
                f" | predicted {self.predicted:.10g}, measured {self.measured:.10g}, "
                f"error {self.error:.2g} {relation} {self.tolerance:.2g}{moment} ({worst} {self.n_checked})"
            )
        return f"{line} | {self.note}" if self.note else line

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that JSON can hold; numbers that are not finite become None."""
        return {
            "law": self.law,
            "statement": self.statement,
            "status": self.status,
            "passed": self.passed,
            "predicted": _plain(self.predicted),
            "measured": _plain(self.measured),
            "error": _plain(self.error),
            "tolerance": _plain(self.tolerance),
            "replicate": self.replicate,
            "n_checked": self.n_checked,
            "note": self.note,
            "time": _plain(self.time),
            "errors": [_plain(value) for value in self.errors],
            "tolerances": [_plain(value) for value in self.tolerances],
        }


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
