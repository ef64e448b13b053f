"""Blocks of cells on disk: reading and checking them, and replacing them as a whole."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from rankfall.errors import InvalidInput
from rankfall.sweep._checksums import Chunk, cell_checksum, decode, encode
from rankfall.sweep._durable import Replacements, read_plain
from rankfall.sweep._journal import Record
from rankfall.sweep._layout import DONE, FAILED, LEFT, ArraySpec, Layout
from rankfall.sweep._place import Place, dump

__all__ = ["BlockState", "Blocks"]

_LARGEST_REASONS = 1 << 24


class BlockState:
    """A block as it was found on disk, after its checksums.

    Attributes:
        cells: The cells whose record is good.
        statuses: Of these, DONE or FAILED.
        reasons: Of the failed ones, by cell.
        damaged: Whether anything else than good or untouched cells was found.
    """

    def __init__(self, cells: np.ndarray, statuses: np.ndarray, reasons: dict[int, str], damaged: bool) -> None:
        self.cells = cells
        self.statuses = statuses
        self.reasons = reasons
        self.damaged = damaged


class Blocks:
    """The chunks of a store."""

    def __init__(self, place: Place, layout: Layout, keys: list[bytes]) -> None:
        """Take where they lie, what they are, and the key of every cell."""
        self._place = place
        self._layout = layout
        self._keys = keys
        fills = [self._raw(decode(None, spec, 1).values) for spec in layout.quantities]
        self._untouched = np.concatenate([*fills, np.zeros((1, 0), np.uint8)], axis=1)

    def check(self, block: int) -> BlockState:
        """Read a block and compare every cell with its checksum.

        Raises:
            InvalidInput: A file is a link or something else that rankfall never makes.
            OSError: A file cannot be read.
        """
        statuses, whole = self.read(block, self._layout.status)
        checksums, ok = self.read(block, self._layout.checksum)
        values, values_ok = self._values(block)
        _, times_ok = self.read(block, self._layout.wall_time)
        whole = whole and ok and values_ok and times_ok
        cells, rows = self._layout.members(block)
        reasons = self.read_reasons(block)
        good = []
        for cell, row in zip(cells.tolist(), rows.tolist(), strict=True):
            status = int(statuses[row, 0])
            if status in (DONE, FAILED):
                reason = reasons.get(cell, "") if status == FAILED else ""
                found = cell_checksum(self._keys[cell], status, reason, values[row].tobytes())
                good.append(found == int(checksums[row, 0]))
            else:
                good.append(False)
        keep = np.array(good, dtype=bool)
        untouched = (statuses[rows, 0] == LEFT) & (checksums[rows, 0] == 0) & (values[rows] == self._untouched).all(1)
        kept = cells[keep]
        return BlockState(
            kept,
            statuses[rows[keep], 0],
            {cell: reasons[cell] for cell in kept.tolist() if cell in reasons},
            damaged=not (whole and bool((keep | untouched).all())),
        )

    def records(self, block: int, state: BlockState) -> list[Record]:
        """The good cells of a block, as they were committed."""
        values, _ = self._values(block)
        times, _ = self.read(block, self._layout.wall_time)
        _, rows = self._layout.place(state.cells)
        return [
            Record(self._keys[cell], cell, status, state.reasons.get(cell, ""), time, values[row].tobytes())
            for cell, row, status, time in zip(
                state.cells.tolist(), rows.tolist(), state.statuses.tolist(), times[rows, 0].tolist(), strict=True
            )
        ]

    def write(
        self,
        block: int,
        records: Iterable[Record],
        reasons: Mapping[int, str],
        is_left: Callable[[int], bool],
        files: Replacements,
    ) -> None:
        """Write a block anew, with records put in and cells that are left blanked.

        Args:
            block: Its number.
            records: Cells of this block.
            reasons: Of all failed cells of the store, by cell.
            is_left: Whether a cell is neither done nor failed.
            files: Where the new chunks are put.

        Raises:
            OSError: The disk is full, or a file cannot be written.
        """
        layout = self._layout
        cells, rows = layout.members(block)
        blank = rows[[is_left(cell) for cell in cells.tolist()]]
        chosen = list(records)
        at = layout.place(np.array([record.cell for record in chosen], dtype=np.int64))[1]
        offset = 0
        for spec in layout.arrays:
            values = self.read(block, spec).values
            values[blank] = spec.fill
            if spec in layout.quantities:
                piece = slice(offset, offset + spec.bytes_per_cell)
                offset += spec.bytes_per_cell
                for row, record in zip(at, chosen, strict=True):
                    values[row] = np.frombuffer(record.values[piece], dtype=values.dtype)
            else:
                for row, record in zip(at, chosen, strict=True):
                    values[row] = self._own(spec, record)
            if spec is layout.status:  # the reasons before it, all else before both
                self._write_reasons(block, {c: reasons[c] for c in cells.tolist() if c in reasons}, files)
            files.write(self._place.chunk(layout, block, spec), encode(values, spec))

    def read(self, block: int, spec: ArraySpec) -> Chunk:
        """One chunk, as far as it is there."""
        expected = spec.bytes_per_cell * self._layout.block_cells + 4
        return decode(_content(self._place.chunk(self._layout, block, spec), expected), spec, self._layout.block_cells)

    def read_reasons(self, block: int) -> dict[int, str]:
        """Why cells of a block failed, by cell; what cannot be understood is left out."""
        try:
            found = json.loads(_content(self._place.reason(block), _LARGEST_REASONS) or b"{}")
            # JSON knows half characters, which no text can be made of: their cells are then computed anew.
            return {int(cell): str(reason).encode("utf-8", "replace").decode() for cell, reason in found.items()}
        except (ValueError, AttributeError, RecursionError):
            return {}

    def exists(self, block: int) -> bool:
        """Whether anything of a block was ever written."""
        return any(self._place.chunk(self._layout, block, spec).exists() for spec in self._layout.arrays)

    def _own(self, spec: ArraySpec, record: Record) -> float | int:
        if spec.name == "status":
            return record.status
        if spec.name == "wall_time":
            return record.wall_time
        return cell_checksum(record.key, record.status, record.reason, record.values)

    def _values(self, block: int) -> Chunk:
        pieces = [self.read(block, spec) for spec in self._layout.quantities]
        empty = np.zeros((self._layout.block_cells, 0), dtype=np.uint8)
        raw = np.concatenate([empty, *(self._raw(piece.values) for piece in pieces)], axis=1)
        return Chunk(raw, all(piece.whole for piece in pieces))

    @staticmethod
    def _raw(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)

    def _write_reasons(self, block: int, reasons: dict[int, str], files: Replacements) -> None:
        path = self._place.reason(block)
        if reasons:
            files.write(path, dump({str(cell): reason for cell, reason in sorted(reasons.items())}))
        else:
            path.unlink(missing_ok=True)


def _content(path: Path, at_most: int) -> bytes | None:
    """Content of a file, none of it if it is too long or the disk cannot read it: its cells are then computed anew."""
    try:
        return read_plain(path, at_most=at_most)
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EIO):
            return b""
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise InvalidInput(
                f"{path} is not a regular file, which rankfall never makes; remove it, or choose another store."
            ) from None
        raise
