"""Growing a store to a study with more axis values: finished cells move through a journal, in steps safe to cut off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rankfall.sweep._blocks import Blocks
from rankfall.sweep._durable import flush_folder, write_durably
from rankfall.sweep._journal import Journal
from rankfall.sweep._layout import Layout
from rankfall.sweep._place import About, Place, read_about

__all__ = ["finish_extension", "holds", "prepare_extension"]


def prepare_extension(
    place: Place, about: About, blocks: Blocks, layout: Layout, numbers: Mapping[bytes, int], digest: bytes
) -> None:
    """Copy all finished cells to a journal of the larger study, then write its description: from there it is decided.

    Args:
        place: The store; its own journal is folded in.
        about: The larger study.
        blocks: The chunks as they are.
        layout: Of these.
        numbers: Number of each cell of the larger study by its key.
        digest: Of the larger study's journal.

    Raises:
        OSError: Something could not be written; the store is as before.
    """
    place.next_journal.unlink(missing_ok=True)
    journal = Journal(place.next_journal, digest, about.layout.cell_bytes)
    try:
        for block in range(layout.n_blocks):
            if blocks.exists(block):
                records = blocks.records(block, blocks.check(block))
                kept = [
                    r._replace(cell=numbers[r.key], values=_enlarged(r.values, layout, about.layout))
                    for r in records
                    if r.key in numbers
                ]
                if kept:
                    journal.append(kept)
    except BaseException:
        place.next_journal.unlink(missing_ok=True)
        raise
    finally:
        journal.close()
    write_durably(place.next_about, about.content(), aside=place.aside)


def finish_extension(place: Place) -> None:
    """Do what is left of an extension that was decided; every step may be repeated after a crash.

    Raises:
        OSError: A file cannot be renamed or removed; the next opening tries again.
    """
    about = read_about(place.next_about)
    if about is None:
        place.next_journal.unlink(missing_ok=True)  # prepared, but not decided
        return
    old = read_about(place.about)
    if old is not None:
        (place.root / "zarr.json").unlink(missing_ok=True)
        names = [*old.layout.coords, *(spec.name for spec in old.layout.arrays)]
        for name in names:
            _clear(place.root / name)
    for file in place.reasons.glob("*.json"):
        file.unlink(missing_ok=True)
    if place.next_journal.exists():
        place.next_journal.replace(place.journal)
        flush_folder(place.hidden)
    place.next_about.replace(place.about)
    flush_folder(place.hidden)


def holds(larger: Layout, smaller: Layout) -> bool:
    """Whether the same quantities are kept, of the same sizes or more: added cells may need more room."""
    return [(q.name, q.dtype, q.dims) for q in larger.quantities] == [
        (q.name, q.dtype, q.dims) for q in smaller.quantities
    ] and all(
        n >= m
        for new, old in zip(larger.quantities, smaller.quantities, strict=True)
        for n, m in zip(new.shape, old.shape, strict=True)
    )


def _enlarged(values: bytes, old: Layout, new: Layout) -> bytes:
    """A cell's values in the sizes of a larger layout."""
    pieces = []
    offset = 0
    for before, after in zip(old.quantities, new.quantities, strict=True):
        raw = values[offset : offset + before.bytes_per_cell]
        offset += before.bytes_per_cell
        dtype = np.dtype(before.dtype).newbyteorder("<")
        full = np.full(after.shape, after.fill, dtype=dtype)
        full[tuple(slice(n) for n in before.shape)] = np.frombuffer(raw, dtype=dtype).reshape(before.shape)
        pieces.append(full.tobytes())
    return b"".join(pieces)


def _clear(folder: Path) -> None:
    """Remove an array's own files, and its folder if nothing else is in it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in list(folder.iterdir()):
        if (entry.name == "zarr.json" or entry.name.split(".")[0] == "c") and not entry.is_dir():
            entry.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
