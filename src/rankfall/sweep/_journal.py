"""What was committed and is not yet in the chunks: one file, only ever appended to, that a torn write cannot harm."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rankfall.sweep._durable import flush_folder, open_plain

__all__ = ["LONGEST_REASON", "Journal", "Record"]

_MAGIC = b"\x93RFJ"
_HEAD = struct.Struct("<4sI")  # magic, bytes of the body
_BODY = struct.Struct("<16sQBdI")  # key, number of the cell, status, wall time, bytes of the reason
_DIGEST = 16
LONGEST_REASON = 2000  # bytes of UTF-8


class Record(NamedTuple):
    """One committed cell.

    Attributes:
        key: The cell's, 16 bytes.
        cell: Its number in C order.
        status: DONE or FAILED.
        reason: Why it failed.
        wall_time: Seconds.
        values: Bytes of its quantities, in the order of the layout.
    """

    key: bytes
    cell: int
    status: int
    reason: str
    wall_time: float
    values: bytes


class Journal:
    """Records in the order of their commits.

    A record is good if its digest is. The digest is personal to the layout, so that no record of another study is ever
    taken. What follows a torn or damaged record is found again by the next record's first bytes.
    """

    def __init__(self, path: Path, layout_digest: bytes, cell_bytes: int, *, writable: bool = True) -> None:
        """Open the file; a missing one is made if it is to be written.

        Raises:
            OSError: It cannot be opened, or is a link or no regular file.
        """
        self._digest = layout_digest[: hashlib.blake2b.PERSON_SIZE]
        self._cell_bytes = cell_bytes
        new = writable and not os.path.lexists(path)
        self._file = open_plain(path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY)
        if new:
            flush_folder(path.parent)
        self.end = 0

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def append(self, records: list[Record], *, flush: bool = True) -> list[int]:
        """Write records and return where each begins: from here on no kill can lose them, and no power cut if flushed.

        Raises:
            OSError: They could not be written, e.g. because the disk is full; all earlier ones are untouched.
        """
        packed = [self._pack(record) for record in records]
        content = memoryview(b"".join(packed))
        written = 0
        try:
            while written < len(content):
                written += os.pwrite(self._file, content[written:], self.end + written)
            if flush:
                getattr(os, "fdatasync", os.fsync)(self._file)  # macOS has only the latter
        except BaseException:
            # the next record is written over the torn one in any case; this only gives the space back
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.end)
            raise
        starts = []
        for each in packed:
            starts.append(self.end)
            self.end += len(each)
        return starts

    def read(self, start: int) -> Record:
        """The record that begins there.

        Raises:
            OSError: It cannot be read, or somebody has changed the file.
        """
        record, _ = self._unpack(start)
        if record is None:
            raise OSError(errno.EIO, "the journal was changed or damaged while the sweep was running")
        return record

    def scan(self) -> Iterator[tuple[int, Record]]:
        """Where each good record begins, and the record; afterwards `end` lies behind the last of them."""
        size = os.fstat(self._file).st_size
        start = self.end = 0
        while start < size:
            record, length = self._unpack(start)
            if record is not None:
                yield start, record
                start += length
                self.end = start
            else:
                start = self._next_magic(start + 1, size)

    @property
    def empty(self) -> bool:
        """Whether the file has no bytes at all, torn ones included."""
        return os.fstat(self._file).st_size == 0

    def clear(self) -> None:
        """Forget everything: it has been folded in.

        Raises:
            OSError: The file cannot be cut.
        """
        os.ftruncate(self._file, 0)
        self.end = 0

    def _pack(self, record: Record) -> bytes:
        reason = record.reason.encode("utf-8")
        body = (
            _BODY.pack(record.key, record.cell, record.status, record.wall_time, len(reason)) + reason + record.values
        )
        return _HEAD.pack(_MAGIC, len(body)) + body + self._sum(body)

    def _unpack(self, start: int) -> tuple[Record | None, int]:
        head = os.pread(self._file, _HEAD.size, start)
        least = _BODY.size + self._cell_bytes
        if len(head) < _HEAD.size:
            return None, 0
        magic, length = _HEAD.unpack(head)
        if magic != _MAGIC or not least <= length <= least + LONGEST_REASON:
            return None, 0
        content = os.pread(self._file, length + _DIGEST, start + _HEAD.size)
        body = content[:length]
        if len(content) < length + _DIGEST or self._sum(body) != content[length:]:
            return None, 0
        key, cell, status, wall_time, reason_length = _BODY.unpack_from(body)
        values = _BODY.size + reason_length
        reason = body[_BODY.size : values].decode("utf-8", "replace")
        return Record(key, cell, status, reason, wall_time, body[values:]), _HEAD.size + length + _DIGEST

    def _next_magic(self, start: int, size: int) -> int:
        while start < size:
            piece = os.pread(self._file, 1 << 20, start)
            found = piece.find(_MAGIC)
            if found >= 0:
                return start + found
            if len(piece) <= len(_MAGIC):
                break
            start += len(piece) - len(_MAGIC) + 1
        return size

    def _sum(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=_DIGEST, person=self._digest).digest()
