"""One writer at a time: a lock that the kernel itself releases when its holder dies, and a note saying who that is."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankfall.errors import InvalidInput
from rankfall.sweep._durable import open_plain

__all__ = ["Lock", "StoreBusy", "Writer", "writer_of"]

_LARGEST = 4096
# A reader of the status holds a shared lock for an instant; a writer therefore tries for this long before it gives up.
_PATIENCE = 0.5
_BETWEEN_TRIES = 0.1


class StoreBusy(InvalidInput):
    """Another process is writing to the store."""


@dataclass(frozen=True)
class Writer:
    """The process that writes to a store.

    Attributes:
        pid: Its number.
        host: Its machine.
        since: Seconds since 1970 when it opened the store.
        done_before: Cells that were done or failed by then.
    """

    pid: int
    host: str
    since: float
    done_before: int = 0

    def __str__(self) -> str:
        """Who, where, since when."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {when}"


class Lock:
    """An exclusive lock on a file, held until `release` or the end of the process, kill -9 included."""

    def __init__(self, path: Path, *, wait: bool = False, on_wait: Callable[[str], None] | None = None) -> None:
        """Take the lock.

        Args:
            path: File that is locked; made if missing.
            wait: Wait for another writer to end instead of refusing.
            on_wait: Told once who is being waited for.

        Raises:
            StoreBusy: Another process holds it and `wait` is False.
            OSError: The file cannot be opened, or the file system knows no locks (ENOLCK).
        """
        self._file = open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            self._take(path.parent.parent, wait, on_wait)
        except BaseException:
            os.close(self._file)
            raise

    def note(self, done_before: int) -> None:
        """Say in the file who holds the lock; a disk too full for that is no reason to stop."""
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "done_before": done_before}
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(note).encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        try:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        finally:
            os.close(self._file)

    def _take(self, store: Path, wait: bool, on_wait: Callable[[str], None] | None) -> None:
        begun = time.monotonic()
        told = False
        while not _try(self._file, exclusive=True):
            if wait or time.monotonic() - begun < _PATIENCE:
                if wait and on_wait is not None and not told and time.monotonic() - begun >= _PATIENCE:
                    told = True
                    on_wait(f"{store} is being written by {_describe(self._file)}; waiting for it to end.")
                time.sleep(_BETWEEN_TRIES)
                continue
            raise StoreBusy(
                f"{store} is being written by another rankfall ({_describe(self._file)}); wait for it to end, or "
                "choose another store."
            )


def writer_of(path: Path) -> Writer | None:
    """Who holds the lock, None if nobody does."""
    try:
        descriptor = open_plain(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        try:
            if _try(descriptor, exclusive=False):
                return None
        except OSError:
            return None
        return _read(descriptor) or Writer(0, "an unknown machine", time.time())
    finally:
        os.close(descriptor)


def _try(descriptor: int, *, exclusive: bool) -> bool:
    """Whether the lock was to be had."""
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError(errno.ENOLCK, "this system has no file locks") from None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            words = "its file system knows no locks, without which two sweeps could mix; put the store on another disk"
            raise OSError(error.errno, words) from None
        raise
    return True


def _read(descriptor: int) -> Writer | None:
    try:
        note: dict[str, Any] = json.loads(os.pread(descriptor, _LARGEST, 0))
        host = "".join(letter for letter in str(note["host"]) if letter.isprintable())[:100]
        return Writer(int(note["pid"]), host, float(note["since"]), int(note["done_before"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _describe(descriptor: int) -> str:
    return str(_read(descriptor) or "which has only just begun")
