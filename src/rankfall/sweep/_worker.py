"""One worker process at the other end of a pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from rankfall.sweep._cell import Cell, CellResult
from rankfall.sweep._job import Job, compute, limit_blas, read_cell, write_cell

__all__ = ["Worker"]

# One cell is under way and the next one waits in the pipe, so that no worker idles while a result is written down. A
# larger message could fill the pipe while the worker fills it from the other side.
_CELLS_IN_PIPE = 2
_LARGEST_IN_PIPE = 16_384


class Worker:
    """A process that computes the cells it is given, in their order.

    Pipes rather than a pool: a pool of processes cannot say which call a dead process was at, and hangs if one is
    killed while it sends a result. Here the end of a process is the end of its pipe.

    Attributes:
        connection: This end of the pipe.
        cells: Given to it and not answered; the first one is under way.
        ready: Whether it has started.
    """

    def __init__(self, job: Job) -> None:
        self.cells: deque[Cell] = deque()
        self.ready = False
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, tuple(job.quantities), job.threads or 1, job.function)
        self._process = context.Process(target=_serve, args=arguments, daemon=True, name="rankfall-worker")
        try:
            with _without_main(), _sigint_blocked():
                self._process.start()
        finally:
            theirs.close()

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def offer(self, cell: Cell) -> bool:
        """Give it a cell, unless it has enough to do."""
        if not self.ready or len(self.cells) >= _CELLS_IN_PIPE:
            return False
        message = write_cell(cell).encode()
        if self.cells and len(message) > _LARGEST_IN_PIPE:
            return False
        try:
            self.connection.send_bytes(message)
        except OSError:
            return False  # it has died, which `receive` will say
        self.cells.append(cell)
        return True

    def receive(self) -> CellResult | None:
        """The next result, None for the word that it has started; waits for it.

        Raises:
            EOFError: The process has died.
        """
        try:
            result: CellResult | None = self.connection.recv()
        except OSError:
            raise EOFError from None
        if result is None:
            self.ready = True
        else:
            self.cells.popleft()
        return result

    def end(self) -> str:
        """Kill it if it lives; says how it died."""
        self._process.join(1.0)
        self._process.kill()
        self._process.join()
        self.connection.close()
        code = self._process.exitcode
        if code is not None and code < 0:
            try:
                return signal.Signals(-code).name
            except ValueError:
                return f"signal {-code}"
        return f"exit code {code}"

    def kill(self) -> None:
        """End it at once, the cell under way is lost."""
        self._process.kill()


def _serve(connection: Connection, quantities: tuple[Any, ...], threads: int, function: str) -> None:
    """What a worker does, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_blas()
    try:
        connection.send(None)
        while True:
            cell = read_cell(connection.recv_bytes().decode())
            connection.send(compute(cell, quantities, threads, function))
    except (EOFError, OSError):
        return


def _end_with_parent() -> None:
    """A sweep that is killed takes its workers with it, also in the middle of a long cell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _without_main() -> Iterator[None]:
    """Spawned processes run the main script again, to find in it what they are sent; ours need nothing from there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; workers are born deaf to it, this process hears it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
