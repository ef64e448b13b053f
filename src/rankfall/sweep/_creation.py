"""The files of a store that say what its arrays are; written at the beginning, and mended if somebody damaged them."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import numpy as np

from rankfall.sweep._durable import make_folder, read_plain, write_durably
from rankfall.sweep._layout import coordinate
from rankfall.sweep._place import About, Place, dump

__all__ = ["write_metadata"]

_LARGEST = 1 << 28


def write_metadata(place: Place, about: About) -> None:
    """Make every zarr.json and every coordinate what it should be; the group's own file comes last.

    Raises:
        OSError: A file cannot be written, or a link is in the place of a folder.
    """
    metadata = about.layout.metadata(about.attributes())
    for name, content in metadata.items():
        if not name:
            continue
        folder = place.root / name
        make_folder(folder)
        _write(place, name, "zarr.json", dump(content))
        if name in about.layout.coords:
            _write(place, name, "c.0", _encode(coordinate(about.layout.coords[name][1])))
    _write(place, "", "zarr.json", dump(metadata[""]))


def _write(place: Place, name: str, file: str, content: bytes) -> None:
    path = place.root / name / file
    if _read(path) != content:
        write_durably(path, content, aside=place.aside)


def _read(path: Any) -> bytes | None:
    try:
        return read_plain(path, at_most=_LARGEST)
    except OSError:  # a link or a broken file: it is replaced
        return None


def _encode(values: np.ndarray) -> bytes:
    """Zarr's codecs vlen-utf8 or bytes, then crc32c."""
    if values.dtype.kind == "U":
        texts = [text.encode("utf-8") for text in values.tolist()]
        raw = struct.pack("<I", len(texts)) + b"".join(struct.pack("<I", len(text)) + text for text in texts)
    else:
        raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return raw + struct.pack("<I", google_crc32c.value(raw))
