"""What a sweep leaves to tell."""

from __future__ import annotations

from dataclasses import dataclass, field

from rankfall.sweep._progress import duration

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """How far a sweep came.

    Attributes:
        total: Cells of the study.
        done: Cells with results, those of earlier runs included.
        failed: Cells without, likewise.
        reused: How many of both were there when this run began.
        seconds: What this run took.
        reasons: Why cells failed, by their key.
    """

    total: int
    done: int
    failed: int
    reused: int
    seconds: float
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Cells still to do."""
        return self.total - self.done - self.failed

    @property
    def complete(self) -> bool:
        """Whether no cell is left; failed ones do not count as left."""
        return self.left == 0

    def __str__(self) -> str:
        computed = self.done + self.failed - self.reused
        left = f", {self.left} left" if self.left else ""
        earlier = f", {self.reused} before" if self.reused else ""
        return (
            f"{self.done} of {self.total} cells done, {self.failed} failed{left} "
            f"({computed} in this run{earlier}; {duration(self.seconds)})"
        )
