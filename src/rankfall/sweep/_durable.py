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

__all__ = ["Replacements", "flush_folder", "make_folder", "open_plain", "read_plain", "reported", "write_durably"]


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
    extra = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
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


class Replacements:
    """Files that are replaced together: each is the old or the new one, and after `finish` a power cut leaves the new.

    All are written before the first is flushed: one flush then brings most of the others with it, which makes it many
    times faster than file by file. Used as a context manager, it leaves no temporary files behind.
    """

    def __init__(self, aside: Path) -> None:
        """Take the folder for temporary files, on the same file system."""
        self._aside = aside
        self._written: list[tuple[Path, Path]] = []
        self.size = 0

    def __enter__(self) -> Replacements:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was not finished."""
        for temporary, _target in self._written:
            temporary.unlink(missing_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """Write what shall replace a file; readers still see the old one.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        temporary = self._aside / secrets.token_hex(8)
        self._written.append((temporary, path))
        descriptor = open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            rest = memoryview(content)
            while rest:
                rest = rest[stream.write(rest) :]
        self.size += len(content)

    def finish(self) -> None:
        """Flush all, then rename them in the order in which they were written, then flush the folders.

        Raises:
            OSError: As `write`; some files may have been replaced.
        """
        for temporary, _ in self._written:
            descriptor = open_plain(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        folders = sorted({path.parent for _, path in self._written})
        while self._written:
            temporary, path = self._written[0]
            temporary.replace(path)
            self._written.pop(0)
        for folder in folders:
            flush_folder(folder)
        self.size = 0


def write_durably(path: Path, content: bytes, *, aside: Path) -> None:
    """Replace one file; see `Replacements`."""
    with Replacements(aside) as files:
        files.write(path, content)
        files.finish()
