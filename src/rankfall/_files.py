"""Writing files so that a reader sees the old file or the whole new one, never a half."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rankfall.errors import OutputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["check_folder", "forget_encoding", "write_atomically", "write_netcdf"]


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write to a temporary name in the same folder, flush to disk, then rename.

    Raises:
        OutputError: The folder is missing or cannot be written, or the disk is full; the old file is untouched.
    """
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(error.errno, f"cannot write {target}: {error.strerror or error}") from None


def check_folder(folder: str | Path) -> None:
    """Make sure, before any work, that a file can be written to a folder.

    Raises:
        OutputError: It cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(error.errno, f"cannot write to {folder}: {error.strerror or error}") from None


def write_netcdf(path: str | Path, dataset: xr.Dataset) -> None:
    """Write a dataset as NetCDF, atomically.

    Raises:
        OutputError: As `write_atomically`.
    """
    # In memory first: the HDF5 library does not survive a disk that fills up under it.
    write_atomically(path, bytes(dataset.to_netcdf(engine="h5netcdf", format="NETCDF4")))


def forget_encoding(dataset: xr.Dataset) -> None:
    """Drop what a dataset remembers of the file that it was read from, so that it equals the one that was written."""
    dataset.encoding.clear()
    for variable in dataset.variables.values():
        variable.encoding.clear()
