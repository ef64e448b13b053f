"""An existing Dask cluster computes the cells; Dask does the scheduling, and knows what to do when a worker is lost."""

from __future__ import annotations

import importlib
import json
import logging
import secrets
import time
import warnings
from asyncio import CancelledError
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from rankfall._version import __version__
from rankfall.errors import ExecutionError, InvalidInput
from rankfall.sweep._cell import Cell, CellResult
from rankfall.sweep._dask_task import common_text, portable, read_answer, task
from rankfall.sweep._job import Job, failure, write_cell

__all__ = ["check_scheduler", "in_dask"]

# Cells at the scheduler for every thread of a worker: enough that none waits for us, few enough that a scheduler of a
# thousand workers has no millions to look after.
_CELLS_PER_THREAD = 4
_FEWEST_CELLS = 200
_SECONDS_TO_CONNECT = 15.0
_SECONDS_BETWEEN_LOOKS = 10.0
_SECONDS_TO_CLOSE = 5.0
_KEPT = "All finished cells are kept, the same command continues."


def check_scheduler(scheduler: Any) -> None:
    """See, before any work, that this can be a scheduler.

    Raises:
        InvalidInput: It is neither an address, nor a scheduler file, nor a cluster, nor a client; or
            dask.distributed is not installed.
    """
    try:
        _distributed()
    except ImportError:
        raise InvalidInput(
            "a scheduler needs dask.distributed, which is not installed: pip install 'rankfall[dask]'."
        ) from None
    if isinstance(scheduler, str | Path):
        text = str(scheduler)
        if "://" not in text and not Path(text).is_file():
            raise InvalidInput(
                f"scheduler must be an address like tcp://host:8786 or a scheduler file that exists, got {text!r}."
            )
    elif not (hasattr(scheduler, "scheduler_address") or hasattr(scheduler, "submit")):
        raise InvalidInput(
            "scheduler must be an address, a scheduler file, a Dask cluster or a dask.distributed.Client, got "
            f"{scheduler!r}."
        )


def in_dask(cells: Iterator[Cell], job: Job, scheduler: Any) -> Generator[list[CellResult], None, None]:
    """Compute the cells on a cluster; the results come as they are finished, several at a time if they do so.

    Raises:
        ExecutionError: The scheduler cannot be reached or was lost, or a worker has no rankfall of this version.
    """
    with _quiet_logs(), _connected(scheduler) as client:
        job.tell(_greeting(client))
        yield from _Rounds(client, job).work(cells)


class _Rounds:
    """Hands cells to the scheduler as long as there are few there."""

    def __init__(self, client: Any, job: Job) -> None:
        self._client, self._job = client, job
        self._task = portable(task)
        self._common = common_text(job.quantities, job.threads or 1, job.function)
        # Names of our own: tasks of an earlier run that was killed may still be under way.
        self._run = secrets.token_hex(4)
        self._under_way: dict[str, Cell] = {}
        # Dask counts a death against every cell that waited at the worker. So a cell that it gives up is tried once
        # more, with no other beside it; the second time it is its own fault.
        self._suspects: deque[Cell] = deque()
        self._alone = ""
        self._finished = _distributed().as_completed(loop=client.loop)
        self._threads, self._looked = 0, -_SECONDS_BETWEEN_LOOKS
        self._unusable = ""

    def work(self, cells: Iterator[Cell]) -> Generator[list[CellResult], None, None]:
        """Give out the cells and take in the results."""
        try:
            while True:
                self._look()
                self._hand_out(cells)
                if not self._under_way:
                    if not self._suspects:
                        return
                    self._hand_out_alone()
                futures = self._finished.next_batch(block=False)
                if not futures:
                    self._check_connection()
                    self._job.idle()
                    time.sleep(0.01)
                    continue
                results = self._take_in(futures)
                if results:
                    yield results
                if self._unusable:
                    raise ExecutionError(f"worker {self._unusable}: install rankfall {__version__} there. {_KEPT}")
        except (OSError, CancelledError) as error:
            if isinstance(error, ExecutionError):
                raise
            raise self._lost(error) from None

    def _hand_out(self, cells: Iterator[Cell]) -> None:
        most = max(_FEWEST_CELLS, _CELLS_PER_THREAD * self._threads)
        if len(self._under_way) > most // 2:
            return
        batch = {f"rankfall-{self._run}-{cell.key}": cell for cell in islice(cells, most - len(self._under_way))}
        if not batch:
            return
        texts = [write_cell(cell) for cell in batch.values()]
        futures = self._client.map(self._task, texts, common=self._common, key=list(batch), pure=False)
        self._under_way |= batch
        self._finished.update(futures)

    def _hand_out_alone(self) -> None:
        cell = self._suspects.popleft()
        self._alone = f"rankfall-{self._run}-{cell.key}-alone"
        self._under_way[self._alone] = cell
        self._finished.add(
            self._client.submit(self._task, write_cell(cell), common=self._common, key=self._alone, pure=False)
        )

    def _take_in(self, futures: list[Any]) -> list[CellResult]:
        results = []
        finished = {}
        for future in futures:
            status = future.status
            if status == "cancelled":
                raise self._lost(None)
            if status == "error":
                cell, error = self._under_way.pop(future.key), future.exception()
                if type(error).__name__ == "KilledWorker" and future.key != self._alone:
                    self._suspects.append(cell)
                    self._job.tell("workers died with a cell; it is tried once more at the end, alone")
                else:
                    results.append(self._failed(cell, error))
            elif status == "finished":
                finished[future.key] = future
            else:  # its result was lost with a worker, and Dask computes it again
                self._finished.add(future)
        # None is there for results that are lost only now.
        for key, answer in self._client.gather(finished, errors="skip").items():
            if answer is None:
                self._finished.add(finished[key])
                continue
            if "unusable" in answer:
                self._unusable = answer["unusable"]
                continue
            del self._under_way[key]
            results.append(read_answer(answer))
        return results

    def _failed(self, cell: Cell, error: BaseException) -> CellResult:
        if type(error).__name__ == "KilledWorker":
            deaths = getattr(error, "allowed_failures", 0) + 1
            return failure(cell, f"the worker died {deaths} times at this cell alone (lost by Dask); short of memory?")
        return failure(cell, f"{type(error).__name__}: {error}".splitlines()[0])

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise self._lost(None)

    def _look(self) -> None:
        """How many workers are there; says so if there are none, or some again."""
        if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS or self._client.status != "running":
            return
        before, first = self._threads, self._looked < 0
        self._threads = sum(self._client.nthreads().values())
        self._looked = time.monotonic()
        if not self._threads and (before or first):
            self._job.tell("the Dask cluster has no worker; waiting for one")
        elif self._threads and not before and not first:
            self._job.tell(f"the Dask cluster has workers: {_threads(self._threads)}")

    def _lost(self, error: BaseException | None) -> ExecutionError:
        address = getattr(self._client.scheduler, "address", "of the cluster")
        if self._client.status == "running" and error is None:
            return ExecutionError(f"the scheduler {address} dropped our cells, perhaps it was restarted. {_KEPT}")
        return ExecutionError(f"the scheduler {address} is lost. {_KEPT}")


def _distributed() -> Any:
    """The package; untyped, and imported when it is needed."""
    return importlib.import_module("distributed")


@contextmanager
def _connected(scheduler: Any) -> Iterator[Any]:
    """A client of the scheduler; one that was given stays open."""
    make_client = _distributed().Client
    if isinstance(scheduler, make_client):
        yield scheduler
        return
    address = scheduler
    if isinstance(scheduler, str | Path) and "://" not in str(scheduler):
        address = _address_in(Path(scheduler))
    try:
        client = make_client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False, name="rankfall-sweep")
    except (OSError, ValueError, ImportError) as error:
        raise ExecutionError(
            f"no Dask scheduler answers at {address}: {str(error).splitlines()[0] if str(error) else error!r}. {_KEPT}"
        ) from None
    try:
        yield client
    finally:
        with suppress(OSError, CancelledError, TimeoutError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client.close(timeout=_SECONDS_TO_CLOSE)


def _address_in(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExecutionError(f"{file} is not a scheduler file of Dask ({type(error).__name__}).") from None


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """We say ourselves what a lost connection means; dask.distributed would add pages about it."""
    _distributed()  # sets its levels when it is imported
    loggers = [logging.getLogger(name) for name in ("distributed.client", "distributed.core", "distributed.comm")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _greeting(client: Any) -> str:
    threads = client.nthreads()
    workers = len(threads)
    text = f"Dask scheduler {client.scheduler.address}, {workers} worker{'s' if workers != 1 else ''}"
    text += f", {_threads(sum(threads.values()))}"
    with suppress(KeyError, ValueError, OSError):  # a scheduler can be started without
        text += f"; dashboard {client.dashboard_link}"
    return text


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"
