"""Files that survive a power cut: written aside, flushed, renamed, the folder flushed too; links are refused."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from rankfall.errors import OutputError

__all__ = ["flush_folder", "make_folder", "open_plain", "read_plain", "reported", "write_aside", "write_durably"]


@contextlib.contextmanager
def reported(what: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses into an OutputError that says what was being done; its errno is kept."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(error.errno, f"cannot {what} {path}: {error.strerror or error}") from None


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a regular file; the caller closes it.

    Raises:
        OSError: ELOOP for a symbolic link, EINVAL for anything else that is no regular file; as `os.open`.
    """
    # Without O_NONBLOCK a named pipe in the file's place would hold us for ever.
    extra = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | extra, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_plain(path: Path, *, at_most: int) -> bytes | None:
    """What a regular file holds, None if there is none.

    Raises:
        OSError: A link, no regular file, more than `at_most` bytes (EFBIG), or unreadable.
    """
    try:
        descriptor = open_plain(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(at_most + 1)
    if len(content) > at_most:
        raise OSError(errno.EFBIG, "larger than anything that rankfall writes there", str(path))
    return content


def make_folder(folder: Path) -> None:
    """Make a folder, and its name durable; one that is there must be a folder and no link."""
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir():
            raise OSError(errno.ENOTDIR, "a link or a file is where a folder should be", str(folder)) from None
    else:
        flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Make durable which names a folder holds."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not flush folders
            raise
    finally:
        os.close(descriptor)


def write_aside(folder: Path, content: bytes) -> Path:
    """Write a new file with a name of its own to a folder, flushed to disk; nothing is left behind on failure."""
    path = folder / secrets.token_hex(8)
    try:
        descriptor = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            rest = memoryview(content)
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def write_durably(path: Path, content: bytes, *, aside: Path) -> None:
    """Replace a file: readers see the old one or the new one, and after this call a power cut leaves the new one.

    Args:
        path: The file.
        content: What it shall hold.
        aside: Folder on the same file system for the temporary file.
    """
    temporary = write_aside(aside, content)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)
