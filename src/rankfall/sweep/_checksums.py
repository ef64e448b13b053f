"""The bytes of a chunk with the checksum that Zarr's readers check, and one checksum per cell to find the culprit."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import google_crc32c
import numpy as np

from rankfall.sweep._layout import ArraySpec

__all__ = ["Chunk", "cell_checksum", "decode", "encode"]

_CRC = struct.Struct("<I")


class Chunk(NamedTuple):
    """What could be read of a chunk.

    Attributes:
        values: One row per place of the block, as many columns as the array has entries per cell.
        whole: Whether the chunk is what was written; False if it is shorter or its checksum is wrong.
    """

    values: np.ndarray
    whole: bool


def encode(values: np.ndarray, spec: ArraySpec) -> bytes:
    """Zarr's codecs `bytes` (little-endian) and `crc32c`, by hand: the same bytes whatever the version of Zarr."""
    raw = np.ascontiguousarray(values, dtype=np.dtype(spec.dtype).newbyteorder("<")).tobytes()
    return raw + _CRC.pack(google_crc32c.value(raw))


def decode(content: bytes | None, spec: ArraySpec, rows: int) -> Chunk:
    """Inverse of `encode`. Of a damaged chunk what is there is returned, filled up; its cells' checksums decide."""
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    columns = spec.bytes_per_cell // dtype.itemsize
    values = np.full(rows * columns, spec.fill, dtype=dtype)
    if content is None:
        return Chunk(values.reshape(rows, columns), True)
    raw = content[: values.nbytes]
    whole = len(content) == values.nbytes + _CRC.size and _CRC.pack(google_crc32c.value(raw)) == content[len(raw) :]
    there = np.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype=dtype)
    values[: len(there)] = there
    return Chunk(values.reshape(rows, columns), whole)


def cell_checksum(key: bytes, status: int, reason: str, values: bytes) -> int:
    """64 bits of BLAKE2b over everything of a cell that is not the wall time; never 0, which stands for no cell."""
    digest = hashlib.blake2b(key, digest_size=8)
    text = reason.encode("utf-8")
    digest.update(struct.pack("<BI", status, len(text)) + text)
    digest.update(values)
    return int.from_bytes(digest.digest(), "little") or 1
