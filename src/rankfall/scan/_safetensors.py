"""Reading safetensors files: eight bytes with the length of the header, the header as JSON, the numbers.

The header is checked in full before anything is read, so that a damaged or hostile file is an error and nothing else:
https://huggingface.co/docs/safetensors (format). Read with NumPy alone, one tensor at a time, because bfloat16 and
float8 need their raw bytes.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rankfall.errors import InvalidInput
from rankfall.scan._dtypes import BITS, DECODERS, NAMES
from rankfall.scan._tensors import Tensor

__all__ = ["LONGEST_HEADER", "read_header", "tensors_of"]

LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
_METADATA = "__metadata__"


def tensors_of(path: Path) -> tuple[tuple[Tensor, ...], dict[str, str]]:
    """Return the tensors of a file, in the order of the file, and its metadata.

    Raises:
        InvalidInput: Not a safetensors file, truncated, or with a header that contradicts itself or the file.
    """
    entries, metadata, start = read_header(path)
    tensors = []
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        unread = _why_unread(dtype, shape)
        read = None if unread else _Reader(path, dtype, shape, start + begin, end - begin)
        parts = read.parts if read is not None and dtype != "F64" else None
        tensors.append(Tensor(name, shape, NAMES.get(dtype, dtype), read, unread, read_parts=parts))
    return tuple(tensors), metadata


def read_header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], dict[str, str], int]:
    """Return name → (type, shape, begin, end), the metadata, and where in the file the numbers begin.

    Raises:
        InvalidInput: As above.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8:
            raise _damaged(path, f"it has {size} bytes, and the length of the header alone takes 8")
        if length > LONGEST_HEADER:
            raise _damaged(path, f"its header claims {length:,} bytes, more than the {LONGEST_HEADER:,} allowed")
        if length > size - 8:
            raise _damaged(path, f"its header claims {length:,} bytes, but only {size - 8:,} follow")
        text = stream.read(length)
    header = _parse(path, text)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, f"{_METADATA} is not a mapping of strings to strings")
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    _check_layout(path, entries, size - 8 - length)
    return entries, metadata, 8 + length


class _Reader:
    """Reads the numbers of one tensor, and nothing else of the file."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...], offset: int, size: int) -> None:
        self._path, self._dtype, self._shape, self._offset, self._size = path, dtype, shape, offset, size

    def __call__(self) -> np.ndarray:
        # Not a memory map: if the file were cut off meanwhile, the process would be killed by a bus error.
        raw = np.fromfile(self._path, dtype=np.uint8, count=self._size, offset=self._offset)
        if len(raw) != self._size:
            raise self._cut_off()
        return DECODERS[self._dtype](raw).reshape(self._shape)

    def parts(self, numbers: int) -> Iterator[np.ndarray]:
        """So many numbers at a time, one-dimensional, in memory that the next part takes over."""
        raw = np.empty(min(self._size, numbers * BITS[self._dtype] // 8), dtype=np.uint8)
        with self._path.open("rb", buffering=0) as stream:
            stream.seek(self._offset)
            for begin in range(0, self._size, len(raw)):
                part = raw[: self._size - begin]
                if _fill(stream, part) < len(part):
                    raise self._cut_off()
                yield DECODERS[self._dtype](part)

    def _cut_off(self) -> InvalidInput:
        return InvalidInput(f"{self._path} was cut off while it was read. Scan it again when nothing writes to it.")


def _fill(stream: io.FileIO, part: np.ndarray) -> int:
    """Read until the part is full, which one call need not do, or the file ends."""
    done, left = 0, part.data
    while done < len(part):
        read = stream.readinto(left[done:])
        if not read:
            break
        done += read
    return done


def _why_unread(dtype: str, shape: tuple[int, ...]) -> str:
    if 0 in shape:
        return "empty"
    if dtype in DECODERS:
        return ""
    if dtype == "BOOL" or dtype[0] in "UI":
        return "of whole numbers (indices, masks or quantised)"
    return f"of type {NAMES.get(dtype, dtype)}, which cannot be read"


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    # A number of thousands of digits is a ValueError, brackets nested without end are a RecursionError.
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({str(error)[:120]})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return header


def _entry(path: Path, name: str, value: Any) -> tuple[str, tuple[int, ...], int, int]:
    shown = f"tensor {name[:80]!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{shown} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not dtype:
        raise _damaged(path, f"{shown} has no type")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _damaged(path, f"{shown} has a shape or data_offsets that are not whole numbers from 0 on")
    begin, end = offsets
    if begin > end:
        raise _damaged(path, f"{shown} ends before it begins")
    if dtype in BITS and math.prod(shape) * BITS[dtype] != 8 * (end - begin):
        raise _damaged(
            path, f"{shown} of type {dtype} and shape {tuple(shape)} cannot have the {end - begin:,} bytes it claims"
        )
    return dtype, tuple(shape), begin, end


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _check_layout(path: Path, entries: dict[str, tuple[str, tuple[int, ...], int, int]], available: int) -> None:
    """The numbers of the tensors follow each other without gap or overlap and fill the file."""
    at = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at:
            what = "overlaps another one" if begin < at else "leaves a gap before it"
            raise _damaged(path, f"tensor {name[:80]!r} {what}")
        at = end
    if at > available:
        raise _damaged(
            path, f"its tensors take {at:,} bytes, but only {available:,} follow the header: it is truncated"
        )
    if at < available:
        raise _damaged(path, f"{available - at:,} bytes follow its last tensor")


def _damaged(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(f"{path} is no sound safetensors file: {reason}. Download or save it again.")
