"""Writing files so that a reader sees the old file or the whole new one, never a half."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from rankfall.errors import OutputError

__all__ = ["check_folder", "write_atomically"]


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
