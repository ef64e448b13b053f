"""Where a sweep stands, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rankfall import _progress
from rankfall.errors import InvalidInput

__all__ = ["Meter", "SweepCallback", "SweepProgress", "duration", "make_callback"]

# The rate is that of so many cells: cells of a study may differ in size, the last ones resemble the next ones most.
_CELLS_OF_A_RATE = 200
# The first cell brings the imports and the compilation with it; alone it says little about the rest.
_SECONDS_OF_A_RATE = 10.0


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands.

    Attributes:
        done: Cells with results, those of earlier runs included.
        failed: Cells without, likewise.
        reused: How many of these were there when this run began.
        total: Cells of the study.
        rate: Cells per second lately; None at the beginning.
        seconds: Since this run began.
        notice: What is new besides, e.g. that a worker died; mostly empty.
    """

    done: int
    failed: int
    reused: int
    total: int
    rate: float | None = None
    seconds: float = 0.0
    notice: str = ""

    @property
    def left(self) -> int:
        """Cells still to do."""
        return self.total - self.done - self.failed

    @property
    def seconds_left(self) -> float | None:
        """What they will take at this rate."""
        return None if self.rate is None else self.left / self.rate

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.total} cells done", f"{self.failed} failed", f"{self.left} left"]
        if self.rate is not None:
            parts.append(f"{self.rate:.3g} cells/s")
        if self.left and self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(parts)


SweepCallback = Callable[[SweepProgress], None]


class Meter:
    """Counts the cells of one run."""

    def __init__(self, total: int, done: int, failed: int) -> None:
        self.done, self.failed, self.total = done, failed, total
        self.reused = done + failed
        self._begun = time.monotonic()
        self._times = deque([self._begun], maxlen=_CELLS_OF_A_RATE + 1)

    def count(self, failed: bool) -> None:
        """One more cell."""
        self.failed += failed
        self.done += not failed
        self._times.append(time.monotonic())

    @property
    def left(self) -> int:
        """Cells still to do."""
        return self.total - self.done - self.failed

    @property
    def seconds(self) -> float:
        """Since the beginning of this run."""
        return time.monotonic() - self._begun

    def state(self, notice: str = "") -> SweepProgress:
        """Where it stands."""
        cells, span = len(self._times) - 1, time.monotonic() - self._times[0]
        known = span > 0 and (cells > 1 or (cells == 1 and span > _SECONDS_OF_A_RATE))
        rate = cells / span if known else None
        return SweepProgress(self.done, self.failed, self.reused, self.total, rate, self.seconds, notice)


def make_callback(progress: bool | SweepCallback) -> tuple[SweepCallback, Callable[[], None]]:
    """The function to report to, and one to call at the end."""
    if progress is False:
        return (lambda state: None), (lambda: None)
    if progress is not True:
        if not callable(progress):
            raise InvalidInput(f"progress must be True, False or a function of one SweepProgress, got {progress!r}.")
        return progress, (lambda: None)
    show, close = _progress.make_callback(True)

    def tell(state: SweepProgress) -> None:
        finished = state.done + state.failed
        show(_progress.Progress("running", finished, state.total, str(state), "cells"))

    return tell, close


def duration(seconds: float) -> str:
    """In words: 2 h 5 min, 3 min 10 s, 4 s.

    >>> duration(190), duration(7500.0), duration(0.2)
    ('3 min 10 s', '2 h 5 min', '0 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
