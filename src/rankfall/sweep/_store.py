"""The store of a sweep as its one writer sees it: every committed cell survives whatever happens next."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from rankfall._version import __version__
from rankfall.errors import InvalidInput
from rankfall.sweep._blocks import Blocks
from rankfall.sweep._cell import Cell, CellResult
from rankfall.sweep._creation import write_metadata
from rankfall.sweep._durable import Replacements, reported, write_durably
from rankfall.sweep._extension import finish_extension, holds, prepare_extension
from rankfall.sweep._journal import Journal, Record
from rankfall.sweep._layout import DONE, FAILED, LEFT, Layout, SweepLike, layout_of
from rankfall.sweep._lock import Lock
from rankfall.sweep._place import About, Place, claim, read_about
from rankfall.sweep._records import journal_digest, record_of

__all__ = ["Store", "StudyLike"]

_FOLD_EVERY = 2.0  # seconds
_FOLD_BYTES = 1 << 26
# Where flushing to disk takes d seconds, it is put off until this many times d have been spent on computing. Ten
# thousand cells of a millisecond then do not wait for the disk each, and a power cut costs that much work at most.
_FLUSH_SHARE = 10.0
_LONGEST_FLUSH = 0.1
# Folding waits for this many times the duration of the last one, so that it never takes more than a tenth of the time.
_FOLD_SHARE = 10.0


class StudyLike(SweepLike, Protocol):
    """What a store asks of a study in all."""

    def cells(self) -> Iterable[Cell]:
        """All cells in C order."""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready."""

    def differences(self, other: Any) -> list[str]:
        """In plain words."""

    def extends(self, other: Any) -> bool:
        """Whether this is the other one with axis values added."""


class Store:
    """A store that is open for writing, by this process alone. Make it with `Store.open`.

    A commit appends the cell to a journal on disk. Every few seconds the journal is folded into the Zarr
    chunks, which are replaced as a whole; only then is it emptied. Opening repeats what a crash has left in the
    journal, and compares every cell with its checksum.
    """

    def __init__(self, place: Place, lock: Lock, layout: Layout, cells: Sequence[str]) -> None:
        """Used by `open`."""
        self._place = place
        self._lock = lock
        self._layout = layout
        self._keys = cells
        self._number = {key: i for i, key in enumerate(cells)}
        self._blocks = Blocks(place, layout, [bytes.fromhex(key) for key in cells])
        self._status = np.zeros(layout.n_cells, dtype=np.int8)
        self._reasons: dict[int, str] = {}
        self._finished: set[str] = set()
        self._failed: dict[str, str] = {}
        self._pending: dict[int, int] = {}  # cell -> where its record begins in the journal
        self._damaged: set[int] = set()  # blocks to be written anew
        self._folded = self._flushed = time.monotonic()
        self._pause = _FOLD_EVERY
        self._unflushed = 0.0  # seconds of computing that a power cut would cost
        self._may_cost = 0.0
        with reported("open", place.journal):
            self._journal = Journal(place.journal, journal_digest(layout), layout.cell_bytes)
        self._open = True

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        study: StudyLike,
        *,
        wait: bool = False,
        extend: bool = False,
        on_wait: Callable[[str], None] | None = None,
    ) -> Store:
        """Make the store of a study, or continue one.

        Args:
            path: Folder of the store.
            study: What is in it.
            wait: If another process is writing to it, wait instead of refusing.
            extend: If the store belongs to the same study with fewer axis values, take its cells over.
            on_wait: Told once, in a sentence, who is being waited for.

        Raises:
            StoreBusy: Another process is writing to it.
            InvalidInput: It belongs to another study (the differences are named), to a newer version, or is no store.
            OutputError: It cannot be written; nothing that was committed is lost.
        """
        layout = layout_of(study)
        about = About(json.loads(json.dumps(study.to_mapping())), layout)
        place = claim(Path(path))
        with reported("lock", place.lock):
            lock = Lock(place.lock, wait=wait, on_wait=on_wait)
        try:
            lock.note(0)
            with reported("open", place.root):
                _clear_aside(place)
                finish_extension(place)
                found = read_about(place.about)
                if found is None:
                    write_durably(place.about, about.content(), aside=place.aside)
                else:
                    about, study = _continue(place, lock, found, about, study, extend)
                layout = about.layout  # where only the order of the axes is another one, the store's own
                write_metadata(place, about)
                store = cls(place, lock, layout, _keys_of(study.cells(), layout))
                try:
                    store._load()
                    lock.note(len(store._finished) + len(store._failed))
                except BaseException:
                    store._journal.close()
                    raise
        except BaseException:
            lock.release()
            raise
        return store

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; what went wrong before is not hidden by a disk that is full."""
        if error is None:
            self.close()
            return
        with contextlib.suppress(OSError):
            self.close()

    @property
    def layout(self) -> Layout:
        """The arrays of the store."""
        return self._layout

    @property
    def finished(self) -> AbstractSet[str]:
        """Keys of the cells that are done; follows the commits, not to be changed."""
        return self._finished

    @property
    def failed(self) -> Mapping[str, str]:
        """Reason by key of the cells that failed; follows the commits, not to be changed."""
        return self._failed

    def commit(self, result: CellResult) -> None:
        """Keep a cell: after this call kill -9 cannot lose it. A cell that is done already stays as it is.

        Nor can a power cut, unless all cells since the last flush to disk took less than ten times as long as that.

        Raises:
            InvalidInput: The study has no such cell, or its values do not fit the quantities.
            OutputError: It could not be written, e.g. because the disk is full; all earlier commits are kept.
        """
        self.commit_many([result])

    def commit_many(self, results: Iterable[CellResult]) -> None:
        """Keep several cells with one write and at most one flush to disk; if it fails, none of them counts.

        Raises:
            InvalidInput: As `commit`.
            OutputError: As `commit`.
        """
        records = []
        for result in results:
            if result.key not in self._finished:
                cell = self._number.get(result.key)
                if cell is None:
                    raise InvalidInput(f"the study of {self._place.root} has no cell with the key {result.key!r}.")
                records.append(record_of(result, cell, self._layout))
        if not records:
            return
        with reported("write to the store", self._place.root):
            starts = self._append(records)
            for start, record in zip(starts, records, strict=True):
                self._remember(start, record)
            self.fold_if_due()

    def fold_if_due(self) -> None:
        """Fold the journal in if it was last done a while ago; for callers that wait long between commits.

        Raises:
            OutputError: As `fold`.
        """
        if self._pending and (time.monotonic() - self._folded >= self._pause or self._journal.end >= _FOLD_BYTES):
            self.fold()

    def fold(self) -> None:
        """Bring all commits into the Zarr arrays, where `open_results` sees them.

        Raises:
            OutputError: It could not be written, e.g. because the disk is full; the commits stay safe in the journal.
        """
        begun = time.monotonic()
        with reported("write to the store", self._place.root):
            cells = np.array(sorted(self._pending), dtype=np.int64)
            blocks = self._layout.place(cells)[0] if len(cells) else cells
            touched: dict[int, list[int]] = {block: [] for block in self._damaged}
            for cell, block in zip(cells.tolist(), blocks.tolist(), strict=True):
                touched.setdefault(block, []).append(cell)
            with Replacements(self._place.aside) as files:
                for block in sorted(touched):
                    records = [self._journal.read(self._pending[cell]) for cell in touched[block]]
                    self._blocks.write(block, records, self._reasons, lambda cell: self._status[cell] == LEFT, files)
                    if files.size >= _FOLD_BYTES:
                        files.finish()
                files.finish()
            self._journal.clear()
        self._pending.clear()
        self._damaged.clear()
        self._folded = time.monotonic()
        self._pause = max(_FOLD_EVERY, _FOLD_SHARE * (self._folded - begun))

    def close(self) -> None:
        """Fold, and let others write.

        Raises:
            OutputError: As `fold`; the store is closed all the same.
        """
        if not self._open:
            return
        self._open = False
        try:
            if self._pending or self._damaged or self._journal.end:
                self.fold()
        finally:
            self._journal.close()
            self._lock.release()

    def _load(self) -> None:
        """Read what is there: the blocks, checked cell by cell, and the journal over them."""
        for block in range(self._layout.n_blocks):
            if not self._blocks.exists(block):
                continue
            state = self._blocks.check(block)
            self._status[state.cells] = state.statuses
            self._reasons |= state.reasons
            if state.damaged:
                self._damaged.add(block)
        for cell in np.flatnonzero(self._status == DONE).tolist():
            self._finished.add(self._keys[cell])
        for cell in np.flatnonzero(self._status == FAILED).tolist():
            self._failed[self._keys[cell]] = self._reasons.get(cell, "")
        for start, record in self._journal.scan():
            if self._number.get(record.key.hex()) == record.cell and record.status in (DONE, FAILED):
                self._remember(start, record)
        if self._pending or self._damaged or not self._journal.empty:
            self.fold()

    def _remember(self, start: int, record: Record) -> None:
        key = self._keys[record.cell]
        self._pending[record.cell] = start
        self._status[record.cell] = record.status
        if record.status == DONE:
            self._finished.add(key)
            self._failed.pop(key, None)
            self._reasons.pop(record.cell, None)
        else:
            self._failed[key] = self._reasons[record.cell] = record.reason

    def _append(self, records: list[Record]) -> list[int]:
        begun = time.monotonic()
        self._unflushed += sum(abs(record.wall_time) for record in records)
        due = not max(self._unflushed, begun - self._flushed) < self._may_cost  # also if a wall time is NaN
        starts = self._journal.append(records, flush=due)
        if due:
            self._flushed = time.monotonic()
            self._may_cost = _FLUSH_SHARE * min(self._flushed - begun, _LONGEST_FLUSH)
            self._unflushed = 0.0
        return starts


def _keys_of(cells: Iterable[Cell], layout: Layout) -> list[str]:
    keys = [cell.key for cell in itertools.islice(cells, layout.n_cells + 1)]
    if len(keys) != layout.n_cells or len(set(keys)) != len(keys):
        raise InvalidInput(
            f"a store needs {layout.n_cells} cells with different settings, the study has {len(set(keys))} different "
            f"ones of {len(keys)}."
        )
    return keys


def _same(found: About, wanted: About) -> bool:
    texts = [json.dumps([about.study, about.layout.to_mapping()], sort_keys=True) for about in (found, wanted)]
    return texts[0] == texts[1] and list(found.layout.dims) == list(wanted.layout.dims)


def _continue(
    place: Place, lock: Lock, found: About, wanted: About, study: StudyLike, extend: bool
) -> tuple[About, StudyLike]:
    """What the store is to be from now on, and the study whose cells are numbered as in it.

    Raises:
        InvalidInput: It holds another study, or one that this one extends and `extend` is False.
    """
    if _same(found, wanted):
        _warn_of_version(place, found)
        return found, study
    try:
        other: StudyLike = type(study).from_mapping(found.study)  # type: ignore[attr-defined]
        differences = study.differences(other)
    except (InvalidInput, TypeError, KeyError, ValueError, AttributeError):
        raise InvalidInput(
            f"{place.root} belongs to a study that this version of rankfall cannot read; choose another store."
        ) from None
    if differences and not study.extends(other):
        raise InvalidInput(
            f"{place.root} holds the results of another study, and different studies are not mixed:\n  "
            + "\n  ".join(differences)
            + "\nChoose another store, or restore the study file."
        )
    same = journal_digest(found.layout) == journal_digest(wanted.layout)
    if not (same or (differences and holds(wanted.layout, found.layout))):
        raise InvalidInput(
            f"{place.root} was made by rankfall {found.version}, which kept other quantities of a cell than this one "
            f"({__version__}); choose another store, or continue with that version."
        )
    if differences and not extend:
        raise InvalidInput(
            f"{place.root} holds the results of this study with fewer cells:\n  "
            + "\n  ".join(differences)
            + "\nTake its finished cells over with --extend, or choose another store."
        )
    _warn_of_version(place, found)
    if not differences:  # another name, or the axes in another order: the keys are the same
        return found, other
    about = About(wanted.study, wanted.layout, found.version)
    old = Store(place, lock, found.layout, _keys_of(other.cells(), found.layout))
    try:
        old._load()
        numbers = {bytes.fromhex(key): i for i, key in enumerate(_keys_of(study.cells(), wanted.layout))}
        prepare_extension(place, about, old._blocks, found.layout, numbers, journal_digest(wanted.layout))
    finally:
        old._journal.close()
    finish_extension(place)
    return about, study


def _warn_of_version(place: Place, found: About) -> None:
    if found.version != __version__:
        warnings.warn(
            f"{place.root} was begun by rankfall {found.version}, this is {__version__}: cells that are computed now "
            "may differ from those that are there in the last bits.",
            UserWarning,
            stacklevel=4,
        )


def _clear_aside(place: Place) -> None:
    """Remove the temporary files that a kill has left."""
    for entry in os.scandir(place.aside):
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)  # noqa: PTH108 - an entry of scandir has a plain path
