"""How far a sweep is, told from its store by anybody, while it runs or afterwards."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankfall.errors import InvalidInput, NotARun
from rankfall.sweep._blocks import Blocks
from rankfall.sweep._journal import Journal, Record
from rankfall.sweep._layout import DONE, FAILED, Layout
from rankfall.sweep._lock import Writer, writer_of
from rankfall.sweep._opening import check_store
from rankfall.sweep._place import Place, read_about
from rankfall.sweep._records import journal_digest

__all__ = ["FailedCell", "Status", "read_status"]


@dataclass(frozen=True)
class FailedCell:
    """One cell that failed.

    Attributes:
        index: Its place along the study's dimensions.
        coordinates: Its value of every coordinate of the study.
        reason: Why, in a sentence.
    """

    index: tuple[int, ...]
    coordinates: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes:
        done: Cells that are done.
        failed: Cells that failed.
        left: All others.
        total: Of the study.
        writer: The process that is writing, None if none is.
        started: Seconds since 1970 when the store was made.
        updated: Seconds since 1970 when something was last written.
        rate: Cells per second since the present writer began; None if none is writing or none is finished.
        failures: The failed cells, in C order.
        study: The study's mapping.
    """

    done: int
    failed: int
    left: int
    total: int
    writer: Writer | None
    started: float
    updated: float
    rate: float | None
    failures: tuple[FailedCell, ...]
    study: Mapping[str, Any]

    @property
    def running(self) -> bool:
        """Whether a process is writing to the store."""
        return self.writer is not None

    @property
    def seconds_left(self) -> float | None:
        """What is left over the rate; None if that is not known."""
        return self.left / self.rate if self.rate else None

    @property
    def reasons(self) -> dict[str, int]:
        """How many cells failed for each reason, the most frequent first."""
        return dict(Counter(cell.reason for cell in self.failures).most_common())


def read_status(path: str | os.PathLike[str]) -> Status:
    """Count the cells of a sweep's store, those that were committed a moment ago included. Nothing is written.

    Raises:
        NotARun: There is no store of a sweep, it is damaged, or written by a newer version.

    Example:
        >>> import rankfall as rf
        >>> rf.sweep.status("nowhere.zarr")
        Traceback (most recent call last):
            ...
        rankfall.errors.NotARun: there is no folder nowhere.zarr.
    """
    root = Path(path)
    place = Place(root)
    try:
        if not place.about.exists():
            check_store(root)
            raise NotARun(f"{root} lacks its hidden folder {place.hidden.name}, which says how far the sweep is.")
        about = read_about(place.about)
        if about is None:
            raise NotARun(f"{place.about} is not there any more.")
        layout = about.layout
        blocks = Blocks(place, layout, [])
        statuses = np.zeros(layout.n_cells, dtype=np.int8)
        reasons: dict[int, str] = {}
        updated = started = place.about.stat().st_mtime
        # The journal first: what is folded in while we look is then found in both and not overlooked.
        unfolded, written = _read_journal(place, layout)
        for block in range(layout.n_blocks):
            file = place.chunk(layout, block, layout.status)
            if file.exists():
                updated = max(updated, file.stat().st_mtime)
                cells, rows = layout.members(block)
                statuses[cells] = blocks.read(block, layout.status).values[rows, 0]
                reasons |= blocks.read_reasons(block)
        for record in unfolded:
            statuses[record.cell], reasons[record.cell] = record.status, record.reason
        updated = max(updated, written)
        writer = writer_of(place.lock)
    except NotARun:
        raise
    except (InvalidInput, OSError) as error:
        raise NotARun(f"{root} cannot be read: {error}") from None
    done, failed = int((statuses == DONE).sum()), int((statuses == FAILED).sum())
    return Status(
        done=done,
        failed=failed,
        left=layout.n_cells - done - failed,
        total=layout.n_cells,
        writer=writer,
        started=started,
        updated=updated,
        rate=_rate(writer, done + failed),
        failures=tuple(
            _failed_cell(layout, cell, reasons.get(cell, "")) for cell in np.flatnonzero(statuses == FAILED).tolist()
        ),
        study=about.study,
    )


def _read_journal(place: Place, layout: Layout) -> tuple[list[Record], float]:
    """What was committed and is not folded yet, and when that was."""
    try:
        journal = Journal(place.journal, journal_digest(layout), layout.cell_bytes, writable=False)
    except FileNotFoundError:
        return [], 0.0
    try:
        found = [
            record._replace(values=b"")
            for _, record in journal.scan()
            if record.cell < layout.n_cells and record.status in (DONE, FAILED)
        ]
        return found, place.journal.stat().st_mtime
    finally:
        journal.close()


def _rate(writer: Writer | None, settled: int) -> float | None:
    if writer is None or settled <= writer.done_before:
        return None
    return (settled - writer.done_before) / max(time.time() - writer.since, 1e-3)


def _failed_cell(layout: Layout, cell: int, reason: str) -> FailedCell:
    index = tuple(int(i) for i in np.unravel_index(cell, layout.shape)) if layout.shape else ()
    place = dict(zip(layout.dims, index, strict=True))
    coordinates = {name: values[place[dim]] for name, (dim, values) in layout.coords.items() if dim in place}
    return FailedCell(index, coordinates, reason)
