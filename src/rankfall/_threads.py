"""How many threads to use when nobody says."""

from __future__ import annotations

import os

from rankfall import _checks

__all__ = ["default_threads", "thread_count"]


def default_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """The number asked for, checked; all that this process may use when None."""
    return default_threads() if threads is None else _checks.whole_number(threads, "threads", at_most=4096)
