"""Around everything that the monitor does inside a training: the clock runs, and no exception comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from rankfall.torch._budget import Budget
from rankfall.torch._problems import Problems
from rankfall.torch._session import wait_for

__all__ = ["Guard"]


class Guard:
    """Books time on a budget and tells problems."""

    def __init__(self, budget: Budget, problems: Problems) -> None:
        self._budget, self._problems = budget, problems
        self._clock = 0.0

    def now(self) -> float:
        """Seconds of the clock by which everything is timed."""
        return time.perf_counter()

    def run(self, where: str, work: Callable[[], None], devices: Sequence[torch.device] = ()) -> None:
        """Keep the time and stop every exception here: nothing in the monitor may end the training.

        Args:
            where: What a problem is said to have happened at.
            work: What to do.
            devices: Accelerators to wait for before and after, so that the time is that of the work.
        """
        try:
            wait_for(devices)
        except Exception as error:
            self._problems.failed(where, error)
        self._clock = self.now()
        try:
            work()
            wait_for(devices)
        except Exception as error:
            self._problems.failed(where, error)
        finally:
            self.charge()

    def charge(self) -> None:
        """Book what has passed of the work under way."""
        now = self.now()
        self._budget.charge(now - self._clock)
        self._clock = now
