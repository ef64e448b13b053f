"""From what came out of a cell to the record of it that is kept."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from rankfall.errors import InvalidInput
from rankfall.sweep._cell import CellResult
from rankfall.sweep._journal import LONGEST_REASON, Record
from rankfall.sweep._layout import DONE, FAILED, ArraySpec, Layout

__all__ = ["journal_digest", "record_of"]


def journal_digest(layout: Layout) -> bytes:
    """What tells the records of one layout from those of another: how the bytes of a cell are to be read."""
    meaning = [[spec.name, spec.dtype, list(spec.shape)] for spec in layout.quantities]
    return hashlib.blake2b(json.dumps(meaning).encode(), digest_size=hashlib.blake2b.PERSON_SIZE).digest()


def record_of(result: CellResult, cell: int, layout: Layout) -> Record:
    """The record of a cell.

    Args:
        result: What came out.
        cell: Its number.
        layout: Of the store.

    Raises:
        InvalidInput: Its status or its values are not what the layout keeps.
    """
    if result.status not in ("done", "failed"):
        raise InvalidInput(f"a cell is either done or failed, got {result.status!r}.")
    unknown = set(result.values) - {spec.name for spec in layout.quantities}
    if unknown:
        raise InvalidInput(f"the study keeps no {', '.join(sorted(unknown))}.")
    values = b"".join(_cell_bytes(spec, result.values.get(spec.name)) for spec in layout.quantities)
    done = result.status == "done"
    reason = "" if done else _one_line(result.reason) or "no reason was given"
    return Record(bytes.fromhex(result.key), cell, DONE if done else FAILED, reason, float(result.wall_time), values)


def _cell_bytes(spec: ArraySpec, value: Any) -> bytes:
    """One quantity of one cell; a shorter value is filled up."""
    full = np.full(spec.shape, spec.fill, dtype=np.dtype(spec.dtype).newbyteorder("<"))
    if value is not None:
        given = np.asarray(value)
        kinds = "fiub" if spec.dtype == "float64" else "iub"
        fits = given.ndim == full.ndim and all(n <= m for n, m in zip(given.shape, full.shape, strict=True))
        if given.dtype.kind not in kinds or not fits:
            raise InvalidInput(
                f"{spec.name} must be {spec.dtype} of shape {spec.shape} or less, got {given.dtype} of {given.shape}."
            )
        full[tuple(slice(n) for n in given.shape)] = given
        if spec.dtype == "float64":
            full[np.isnan(full)] = math.nan  # one NaN for all: which one a processor makes is no result
    return full.tobytes()


def _one_line(reason: str) -> str:
    """A reason without line breaks and control characters, of bounded length."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
    return words.encode("utf-8", "replace")[:LONGEST_REASON].decode("utf-8", "ignore")
