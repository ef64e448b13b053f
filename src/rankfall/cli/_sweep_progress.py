"""Progress of a sweep: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rankfall.sweep._progress import SweepProgress

__all__ = ["SweepDisplay"]

_SECONDS_BETWEEN_LINES = 5.0


class SweepDisplay:
    """Call it with a `SweepProgress`; use it as a context manager."""

    def __init__(self, name: str, quiet: bool = False) -> None:
        self._name, self._quiet = name, quiet
        self._bar: Any = None
        self._task: Any = None
        self._printed, self._last = -_SECONDS_BETWEEN_LINES, ""
        if not quiet and sys.stderr.isatty():
            self._bar = _rich_bar()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, state: SweepProgress) -> None:
        """Show where the sweep stands; a notice gets a line of its own."""
        if self._quiet:
            return
        if self._bar is None:
            self._print(state)
            return
        if state.notice:
            self._bar.console.print(f"{self._name}: {state.notice}", markup=False, highlight=False)
        finished = state.done + state.failed
        if self._task is None:
            self._task = self._bar.add_task(self._name, total=state.total, text="")
        self._bar.update(self._task, completed=finished, total=state.total, text=_short(state))

    def _print(self, state: SweepProgress) -> None:
        if state.notice:
            print(f"{self._name}: {state.notice}", file=sys.stderr, flush=True)
            return
        now, text = time.monotonic(), str(state)
        if (now - self._printed < _SECONDS_BETWEEN_LINES and state.left) or text == self._last:
            return
        self._printed, self._last = now, text
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
    )


def _short(state: SweepProgress) -> str:
    """So that it fits beside a bar."""
    from rankfall.sweep._progress import duration

    text = f"{state.done} done, {state.failed} failed, {state.left} left"
    if state.rate is not None:
        text += f", {state.rate:.3g}/s"
    return text if not state.left or state.seconds_left is None else f"{text}, {duration(state.seconds_left)}"
