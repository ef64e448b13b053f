"""Runs a study into its store, or continues where an earlier run was stopped."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankfall import _checks
from rankfall.errors import InvalidInput, OutputError, SweepInterrupted
from rankfall.sweep._cell import Cell, CellResult
from rankfall.sweep._dask import check_scheduler, in_dask
from rankfall.sweep._interrupt import Interruptions
from rankfall.sweep._job import RUN_CELL, Job
from rankfall.sweep._local import in_process
from rankfall.sweep._progress import Meter, SweepCallback, make_callback
from rankfall.sweep._store import Store
from rankfall.sweep._summary import Summary
from rankfall.sweep._workers import in_workers

if TYPE_CHECKING:
    from rankfall.sweep._study import Study

__all__ = ["run"]


def run(
    study: Study,
    path: str | os.PathLike[str],
    *,
    workers: int | None = None,
    scheduler: Any = None,
    retry_failed: bool = False,
    extend: bool = False,
    wait: bool = False,
    threads: int | None = None,
    progress: bool | SweepCallback = False,
) -> Summary:
    """Compute the cells of a study that its store does not hold yet.

    The numbers do not depend on where or in which order cells are computed, nor on interruptions.

    Args:
        study: What to compute.
        path: The store: made, or continued if this study was begun there.
        workers: So many processes on this machine, each with one thread; without, one cell after the other is
            computed in this process, by all its processors.
        scheduler: A Dask cluster instead: an address like "tcp://host:8786", a scheduler file, a Dask cluster object
            or a `dask.distributed.Client`.
        retry_failed: Compute the cells again that failed in an earlier run.
        extend: The study may have more axis values than the store; what is there is taken over.
        wait: If another run writes to this store, wait for its end instead of refusing.
        threads: Of the kernels of one cell; by default all in this process, one in a worker.
        progress: True for a bar, or a function of one `SweepProgress`.

    Returns:
        How many cells are done, and which failed, why.

    Raises:
        InvalidInput: An argument is unusable, or the store holds another study; nothing was computed.
        OutputError: The store cannot be written, e.g. the disk is full; cells that were finished are kept.
        ExecutionError: Workers cannot be started, or a scheduler is lost; likewise.
        SweepInterrupted: Ctrl-C; the cells under way are lost, all others are kept. Carries the summary.
    """
    return execute(
        study,
        path,
        workers=workers,
        scheduler=scheduler,
        retry_failed=retry_failed,
        extend=extend,
        wait=wait,
        threads=threads,
        progress=progress,
    )


def execute(
    study: Study,
    path: str | os.PathLike[str],
    *,
    workers: int | None,
    scheduler: Any,
    retry_failed: bool,
    extend: bool,
    wait: bool,
    threads: int | None,
    progress: bool | SweepCallback,
    function: str = RUN_CELL,
) -> Summary:
    """`run`, with any function in the place of the one that computes a cell."""
    if isinstance(study, str | os.PathLike):
        raise InvalidInput(f"study must be a Study, got {os.fspath(study)!r}; read a file with Study.from_toml.")
    if workers is not None and scheduler is not None:
        raise InvalidInput("workers and scheduler are two ways to compute; give one of them.")
    if workers is not None:
        workers = _checks.whole_number(workers, "workers", at_most=1024)
    if threads is not None:
        threads = _checks.whole_number(threads, "threads", at_most=4096)
    if scheduler is not None:
        check_scheduler(scheduler)
    report, close = make_callback(progress)
    try:
        with Interruptions() as interruptions:
            sweep = _Sweep(study, Path(path), report, interruptions)
            sweep.run(workers, scheduler, threads, function, retry_failed=retry_failed, extend=extend, wait=wait)
    finally:
        close()
    return sweep.summary()


class _Sweep:
    """One run; keeps count, and lets nothing tear what is written."""

    def __init__(self, study: Study, path: Path, report: SweepCallback, interruptions: Interruptions) -> None:
        self._study, self._path, self._report, self._interruptions = study, path, report, interruptions
        self._meter = Meter(study.n_cells, 0, 0)
        self._reasons: dict[str, str] = {}

    def run(
        self,
        workers: int | None,
        scheduler: Any,
        threads: int | None,
        function: str,
        *,
        retry_failed: bool,
        extend: bool,
        wait: bool,
    ) -> None:
        store = Store.open(self._path, self._study, wait=wait, extend=extend, on_wait=self._tell)
        try:
            self._begin(store, retry_failed)

            def idle() -> None:
                # A full disk is said at the next commit; what cannot be folded now stays in the journal.
                with self._interruptions.held(), suppress(OutputError):
                    store.fold_if_due()

            if self._meter.left:
                job = Job(self._study.quantities(), threads, self._tell, idle, function)
                with closing(_batches(self._to_do(store), job, workers, scheduler)) as batches:
                    for results in batches:
                        with self._interruptions.held():
                            store.commit_many(results)
                            self._count(results)
                        self._report(self._meter.state())
        except BaseException as error:
            # What cannot be folded now stays in the journal, and the first error is the one to tell.
            with self._interruptions.held(), suppress(OutputError):
                store.close()
            if isinstance(error, KeyboardInterrupt):
                raise SweepInterrupted(f"stopped; {_kept(store)}", self.summary()) from None
            if isinstance(error, OutputError):
                raise _with_kept(error, store) from None
            raise
        try:
            with self._interruptions.held():
                store.close()
        except OutputError as error:
            raise _with_kept(error, store) from None

    def _begin(self, store: Store, retry_failed: bool) -> None:
        self._reasons = {} if retry_failed else dict(store.failed)
        self._meter = Meter(self._study.n_cells, len(store.finished), len(self._reasons))
        self._report(self._meter.state())

    def _to_do(self, store: Store) -> Iterator[Cell]:
        """The cells that are not there; as they stood when the run began, not as the results come in."""
        there = {*store.finished, *self._reasons}
        return (cell for cell in self._study.cells() if cell.key not in there)

    def _count(self, results: list[CellResult]) -> None:
        for result in results:
            failed = result.status == "failed"
            self._meter.count(failed)
            if failed:
                self._reasons[result.key] = result.reason

    def _tell(self, notice: str) -> None:
        self._report(self._meter.state(notice))

    def summary(self) -> Summary:
        """How far it came."""
        meter = self._meter
        return Summary(meter.total, meter.done, meter.failed, meter.reused, meter.seconds, dict(self._reasons))


def _with_kept(error: OutputError, store: Store) -> OutputError:
    return OutputError(error.errno, f"{error.strerror or error}; {_kept(store)}")


def _kept(store: Store) -> str:
    finished = len(store.finished) + len(store.failed)
    return f"{finished} of {store.layout.n_cells} cells are finished and kept; the same call continues"


def _batches(
    cells: Iterator[Cell], job: Job, workers: int | None, scheduler: Any
) -> Generator[list[CellResult], None, None]:
    if scheduler is not None:
        return in_dask(cells, job, scheduler)
    if workers is not None:
        return in_workers(cells, job, workers)
    return in_process(cells, job)
