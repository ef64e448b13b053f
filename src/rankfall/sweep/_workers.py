"""Several worker processes on this machine; one that dies is replaced and its cell tried again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator
from multiprocessing.connection import wait
from typing import Any

from rankfall.errors import ExecutionError
from rankfall.sweep._cell import Cell, CellResult
from rankfall.sweep._job import Job, failure
from rankfall.sweep._worker import Worker

__all__ = ["RETRIES", "in_workers"]

# As often as Dask does by default.
RETRIES = 3
_STARTS = 3
_SECONDS_BETWEEN_LOOKS = 1.0


def in_workers(cells: Iterator[Cell], job: Job, count: int) -> Generator[list[CellResult], None, None]:
    """Compute the cells in `count` processes; the results come as they are finished, several at a time if they do so.

    Raises:
        ExecutionError: Worker processes die before they have started.
    """
    crew = _Crew(job, count)
    try:
        yield from crew.work(cells)
    finally:
        crew.dismiss()


class _Crew:
    """The workers, by this end of their pipes."""

    def __init__(self, job: Job, count: int) -> None:
        self._job, self._count = job, count
        self._workers: dict[Any, Worker] = {}
        self._again: deque[Cell] = deque()
        self._deaths: Counter[str] = Counter()
        self._starts = 0

    def work(self, cells: Iterator[Cell]) -> Generator[list[CellResult], None, None]:
        """Give out the cells and take in the results."""
        following = next(cells, None)
        for _ in range(self._count):
            self._hire()
        while True:
            for _ in range(2):  # a first cell to everyone before a second to anyone
                for worker in sorted(self._workers.values(), key=lambda each: len(each.cells)):
                    cell = self._again[0] if self._again else following
                    if cell is not None and worker.offer(cell):
                        if self._again:
                            self._again.popleft()
                        else:
                            following = next(cells, None)
            if following is None and not self._again and not any(each.cells for each in self._workers.values()):
                return
            results = [self._hear(self._workers[each]) for each in wait(list(self._workers), _SECONDS_BETWEEN_LOOKS)]
            found = [result for result in results if result is not None]
            if found:
                yield found
            else:
                self._job.idle()

    def dismiss(self) -> None:
        """End all workers; cells under way are lost."""
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    def _hear(self, worker: Worker) -> CellResult | None:
        try:
            result = worker.receive()
        except EOFError:
            return self._bury(worker)
        self._starts = 0
        return result

    def _hire(self) -> None:
        worker = Worker(self._job)
        self._workers[worker.connection] = worker

    def _bury(self, worker: Worker) -> CellResult | None:
        """Put another one in the place of a dead worker; a result if its cell has now failed for good."""
        del self._workers[worker.connection]
        how = worker.end()
        if not worker.ready:
            self._starts += 1
            if self._starts >= _STARTS:
                raise ExecutionError(
                    f"worker processes end before they have started ({how}); try it without workers, and look at the "
                    "lines above. All finished cells are kept, the same command continues."
                )
        self._hire()
        if not worker.cells:
            self._job.tell(f"worker {worker.pid} died ({how}), another one takes its place")
            return None
        cell = worker.cells.popleft()
        self._again.extend(worker.cells)
        self._deaths[cell.key] += 1
        deaths = self._deaths[cell.key]
        if deaths > RETRIES:
            return failure(cell, f"the worker died {deaths} times at this cell (last by {how}); short of memory?")
        self._again.appendleft(cell)
        self._job.tell(f"worker {worker.pid} died ({how}), its cell is tried again")
        return None
