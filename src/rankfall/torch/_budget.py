"""How much of the training time the monitor may take, and when it may measure again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

__all__ = ["Budget", "Spending"]

# The next measurement is expected to cost as much as the dearest of this many, and as much more as these differ.
_REMEMBERED = 3
# A gap between two steps that is longer than so many average ones is a pause (validation, a notebook left alone).
_PAUSE = 20.0


@dataclass(frozen=True)
class Spending:
    """What the monitor has taken.

    Attributes:
        training_seconds: Time of the training without the monitor and without pauses.
        monitor_seconds: Time inside the monitor: measuring, writing, loggers, alerts.
        share: monitor_seconds / training_seconds; NaN before the first step has ended.
        measurements: How many were made.
        interval: Steps from one measurement to the next, on average; NaN before the first.
    """

    training_seconds: float
    monitor_seconds: float
    share: float
    measurements: int
    interval: float


class Budget:
    """Keeps the account; knows neither torch nor a clock.

    A measurement is allowed when what was spent and what it is expected to cost stay within `share` of the training
    time so far. Pauses count as one average step, so that they save up nothing.

    Example:
        >>> from rankfall.torch._budget import Budget
        >>> budget = Budget(share=0.1, expected=2.0)
        >>> budget.step_ended(now=0.0); budget.step_ended(now=10.0)
        >>> budget.allows()
        False
        >>> budget.step_ended(now=20.0)
        >>> budget.allows()
        True
    """

    def __init__(self, share: float | None, expected: float) -> None:
        self.share = share
        self.training = 0.0
        self.spent = 0.0
        self.steps = 0
        self.measurements = 0
        self._estimate = expected
        self._costs: deque[float] = deque(maxlen=_REMEMBERED)
        self._last: float | None = None
        self._since = 0.0  # spent since the last step ended
        self._current = 0.0  # spent on the measurement under way

    def expect(self, seconds: float) -> None:
        """Take an estimate for the cost of a measurement; it counts until enough of them are known."""
        self._estimate = seconds

    def start(self, now: float) -> None:
        """The training starts, or goes on, now."""
        self._last, self._since = now, 0.0

    def charge(self, seconds: float) -> None:
        """Book time that the monitor took."""
        self.spent += seconds
        self._since += seconds
        self._current += seconds

    def step_ended(self, now: float) -> None:
        """Book the time since the last step as training, less what the monitor took of it."""
        if self._last is not None:
            gap = max(0.0, now - self._last - self._since)
            average = self.training / self.steps if self.steps else gap
            self.training += average if gap > _PAUSE * average else gap
            self.steps += 1
        self._last, self._since = now, 0.0

    def measured(self) -> float:
        """A measurement is complete; returns what it cost."""
        cost, self._current = self._current, 0.0
        self._costs.append(cost)
        self.measurements += 1
        return cost

    @property
    def expected(self) -> float:
        """Seconds that the next measurement may cost."""
        known = list(self._costs)
        if len(known) == _REMEMBERED:
            return 2 * max(known) - min(known)
        return max([self._estimate, *known])

    def allows(self) -> bool:
        """Whether the next measurement fits."""
        return self.share is None or self.spent + self.expected <= self.share * self.training

    def why_nothing(self) -> str | None:
        """Say why nothing has been measured so far, if it was the budget that did not allow it."""
        if self.measurements or self.allows():
            return None
        assert self.share is not None
        return (
            f"Nothing is measured yet: what was spent and a measurement may be {self.spent + self.expected:.2g} s, "
            f"and a share of {self.share:g} of the training so far is {self.share * self.training:.2g} s. Train "
            "longer, watch less, or give a larger budget; budget=None measures whatever it takes."
        )

    def report(self) -> Spending:
        """Return the account so far."""
        return Spending(
            training_seconds=self.training,
            monitor_seconds=self.spent,
            share=self.spent / self.training if self.training > 0 else float("nan"),
            measurements=self.measurements,
            interval=self.steps / self.measurements if self.measurements else float("nan"),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the account as plain numbers."""
        return {
            "training": self.training,
            "spent": self.spent,
            "steps": self.steps,
            "measurements": self.measurements,
            "estimate": self._estimate,
            "costs": list(self._costs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue an account."""
        self.training, self.spent = float(state["training"]), float(state["spent"])
        self.steps, self.measurements = int(state["steps"]), int(state["measurements"])
        self._estimate = float(state.get("estimate", 0.0))
        self._costs = deque(state["costs"], maxlen=_REMEMBERED)
