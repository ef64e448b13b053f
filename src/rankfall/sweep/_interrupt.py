"""Ctrl-C waits while a cell is written down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interruptions"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptions:
    """Postpones what SIGINT and SIGTERM raise until the end of a `held` block; a context manager.

    Handlers that are not Python functions (a signal that is ignored, or ends the process outright) stay as they are,
    and so does everything outside the main thread, where Python delivers no signals.

    Example:
        >>> with Interruptions() as interruptions:
        ...     try:
        ...         with interruptions.held():
        ...             signal.raise_signal(signal.SIGINT)
        ...             print("written to the end")
        ...     except KeyboardInterrupt:
        ...         print("then stopped")
        written to the end
        then stopped
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._depth = 0
        self._postponed: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that no signal interrupts; one that came meanwhile is heard at its end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0 and self._postponed is not None:
                (number, frame), self._postponed = self._postponed, None
                self._before[signal.Signals(number)](number, frame)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._postponed = number, frame
        else:
            self._before[signal.Signals(number)](number, frame)
