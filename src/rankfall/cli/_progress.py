"""Progress of a simulation: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rankfall import Progress

__all__ = ["ProgressDisplay"]

_SECONDS_BETWEEN_LINES = 5.0


class ProgressDisplay:
    """Call it with the name of a run and an `rf.Progress`; use it as a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._tasks: dict[tuple[str, bool], Any] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._last_line = ("", "", -_SECONDS_BETWEEN_LINES)
        self._chapter = ""
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

    def chapter(self, name: str, number: int, total: int) -> None:
        """Begin the part `name` of a longer job: its runs are shown under its name, those of the last one vanish."""
        self._chapter = f"[{number}/{total}] {name}: "
        if self._bar is not None:
            for task in self._tasks.values():
                self._bar.remove_task(task)
            self._tasks.clear()

    def __call__(self, name: str, state: Progress) -> None:
        """Show where the run `name` stands."""
        if self._quiet:
            return
        name = self._chapter + name
        rate = ""
        if state.stage == "running":
            since, start = self._begun.setdefault(name, (time.monotonic(), state.completed))
            elapsed = time.monotonic() - since
            if elapsed > 0 and state.completed > start:
                rate = f"{_short((state.completed - start) / elapsed)} {state.unit}/s"
        if self._bar is not None:
            self._update_bar(name, state, rate)
        else:
            self._print_line(name, state, rate)

    def _update_bar(self, name: str, state: Progress, rate: str) -> None:
        running = state.stage == "running"
        task = self._tasks.get((name, running))
        if task is None:
            for (other, was_running), old in list(self._tasks.items()):
                if other == name and not was_running:
                    self._bar.remove_task(old)
                    del self._tasks[other, was_running]
            task = self._bar.add_task(name, total=None, rate="")
            self._tasks[name, running] = task
        if running:
            self._bar.update(task, description=name, total=state.total, completed=state.completed, rate=rate)
        else:
            self._bar.update(task, description=f"{name}: {state.message or state.stage}")

    def _print_line(self, name: str, state: Progress, rate: str) -> None:
        now = time.monotonic()
        old_name, old_stage, printed = self._last_line
        done = state.stage == "running" and state.completed >= state.total
        if (old_name, old_stage) == (name, state.stage) and now - printed < _SECONDS_BETWEEN_LINES and not done:
            return
        self._last_line = (name, state.stage if not done else "done", now)
        if (old_name, old_stage) == (name, "done"):
            return
        if state.stage == "running":
            share = state.completed / state.total if state.total else 1.0
            text = f"{share:4.0%}" + (f", {rate}" if rate else "")
            since, start = self._begun[name]
            if rate and not done:
                left = (now - since) * (state.total - state.completed) / (state.completed - start)
                text += f", about {_duration(left)} left"
        else:
            text = state.message or state.stage
        print(f"{name}: {text}", file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")
