"""IDX files, the format of MNIST and of the sets that took its place: plain or compressed, from anybody.

A file is two zero bytes, a code for the kind of number, the number of dimensions, their sizes (big-endian, 32 bits)
and the numbers. Nothing in it is trusted: sizes are checked before memory is asked for, and no more is read, or
decompressed, than they say.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from rankfall.errors import InvalidInput

__all__ = ["LARGEST", "read_idx"]

# In bytes; MNIST has 47 million of them.
LARGEST = 1 << 30
_UNSIGNED_BYTE = 0x08
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 24


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes; whether it is compressed, its first bytes say.

    Args:
        file: The file.
        dimensions: How many it must have: 3 for images, 1 for labels.

    Returns:
        Shape as the file says, read-only, dtype uint8.

    Raises:
        InvalidInput: There is no such file, it cannot be read or is no IDX file, it has other dimensions or another
            kind of number, it is empty, larger than `LARGEST`, cut short, or goes on after its end.

    Example:
        >>> import pathlib, tempfile
        >>> from rankfall.experiments._beyond._idx import read_idx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "labels"
        ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        ...     read_idx(file, 1)
        array([7, 2, 1], dtype=uint8)
    """
    try:
        if not file.is_file():  # a pipe would be waited for
            raise InvalidInput(f"{file} is not a file.")
        with file.open("rb") as stream:
            compressed = stream.read(2) == _GZIP
            stream.seek(0)
            if not compressed:
                return _read(stream, file, dimensions)
            with gzip.GzipFile(fileobj=stream) as unpacked:
                return _read(unpacked, file, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput(f"{file} is damaged or cut short: it does not decompress ({error}).") from None
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise InvalidInput(f"{file} does not fit in memory.") from None


def _read(stream: IO[bytes] | gzip.GzipFile, file: Path, dimensions: int) -> np.ndarray:
    start = _take(stream, 4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise InvalidInput(f"{file} is not an IDX file: it begins with {start.hex(' ') or 'nothing'}.")
    if start[2] != _UNSIGNED_BYTE:
        raise InvalidInput(f"{file} holds numbers of kind {start[2]:#04x}; images and labels are unsigned bytes, 0x08.")
    if start[3] != dimensions:
        wanted = {1: "labels have 1", 3: "grey images have 3"}.get(dimensions, f"{dimensions} are wanted")
        raise InvalidInput(f"{file} has {start[3]} dimensions; {wanted}.")
    sizes = _take(stream, 4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise InvalidInput(f"{file} is cut short: it ends within its header.")
    shape = struct.unpack(f">{dimensions}I", sizes)
    said = " × ".join(map(str, shape))
    size = math.prod(shape)
    if size == 0:
        raise InvalidInput(f"{file} is empty, of size {said}.")
    if size > LARGEST:
        raise InvalidInput(f"{file} says that it holds {said} bytes; at most {LARGEST} are read.")
    content = _take(stream, size)
    if len(content) < size:
        raise InvalidInput(f"{file} is cut short: it should hold {said} bytes and has {len(content)}.")
    if stream.read(1):
        raise InvalidInput(f"{file} goes on after the {said} bytes that it says it holds.")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _take(stream: IO[bytes] | gzip.GzipFile, count: int) -> bytes:
    """So many bytes, or all there are; memory grows with what is there, not with what a header says."""
    parts = []
    while count > 0:
        part = stream.read(min(count, _CHUNK))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
