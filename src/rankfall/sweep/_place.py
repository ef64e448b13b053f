"""Where things lie in a store, and whether a folder is one."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankfall._version import __version__
from rankfall.errors import InvalidInput
from rankfall.sweep._durable import flush_folder, make_folder, read_plain, reported
from rankfall.sweep._layout import FORMAT, ArraySpec, Layout

__all__ = ["About", "Place", "claim", "dump", "is_store", "read_about"]

_HIDDEN = ".rankfall"
_ABOUT = "store.json"
# What a store may hold that a kill has left before its description was written.
_BEGINNING = {"lock", "aside", "reasons", "journal"}
_LARGEST_ABOUT = 1 << 26


@dataclass(frozen=True)
class Place:
    """The paths of a store; `root` is what Zarr opens, our own files lie in a hidden folder of it."""

    root: Path

    @property
    def hidden(self) -> Path:
        """Folder of everything that is not Zarr's."""
        return self.root / _HIDDEN

    @property
    def about(self) -> Path:
        """Description: format, study, layout."""
        return self.hidden / _ABOUT

    @property
    def lock(self) -> Path:
        """File that the writer locks."""
        return self.hidden / "lock"

    @property
    def journal(self) -> Path:
        """Committed cells that are not yet in the chunks."""
        return self.hidden / "journal"

    @property
    def aside(self) -> Path:
        """Folder of files that are not whole yet."""
        return self.hidden / "aside"

    @property
    def reasons(self) -> Path:
        """Folder with one JSON file for each block in which cells failed."""
        return self.hidden / "reasons"

    @property
    def next_about(self) -> Path:
        """Description of the larger study that the store is being extended to."""
        return self.hidden / "extension.json"

    @property
    def next_journal(self) -> Path:
        """The finished cells, for the larger study."""
        return self.hidden / "extension.journal"

    def chunk(self, layout: Layout, block: int, spec: ArraySpec) -> Path:
        """File of one block of one array."""
        return self.root / spec.name / layout.chunk_name(block, spec)

    def reason(self, block: int) -> Path:
        """File with the reasons of a block's failed cells."""
        return self.reasons / f"{block}.json"


@dataclass(frozen=True)
class About:
    """What a store says of itself.

    Attributes:
        study: The study's mapping.
        layout: Of its arrays.
        version: The rankfall that began it.
    """

    study: Mapping[str, Any]
    layout: Layout
    version: str = __version__

    def content(self) -> bytes:
        """Of the file store.json."""
        fields = {
            "format": FORMAT,
            "rankfall_version": self.version,
            "study": self.study,
            "layout": self.layout.to_mapping(),
        }
        return dump(fields)

    def attributes(self) -> dict[str, Any]:
        """Of the Zarr group; the study as text, so that the dataset can be written as NetCDF too."""
        text = json.dumps(self.study, ensure_ascii=False)
        return {"rankfall_sweep": FORMAT, "rankfall_version": self.version, "study": text}


def dump(value: Any) -> bytes:
    """JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def is_store(path: Path) -> bool:
    """Whether a folder looks like a store of a sweep, judged by the names in it alone."""
    return (path / _HIDDEN / _ABOUT).is_file()


def claim(root: Path) -> Place:
    """Make sure that a folder is a store, or empty, or not there yet; make it and its hidden folders.

    Raises:
        InvalidInput: It is something else; nothing was touched.
        OutputError: It cannot be made or read.
    """
    if root.is_symlink() and not root.exists():
        raise InvalidInput(f"{root} is a link that leads nowhere; remove it or choose another store.")
    if root.exists() and not root.is_dir():
        raise InvalidInput(f"{root} is a file, not a store of a sweep; choose another name.")
    place = Place(root)
    with reported("use the folder", root):
        if root.exists():
            names = {entry.name for entry in root.iterdir()}
            if place.hidden.is_symlink():
                raise InvalidInput(f"{place.hidden} is a link, which rankfall never makes; nothing is written there.")
            begun = names <= {_HIDDEN} and _holds_only_beginning(place.hidden)
            if not begun and not is_store(root):
                raise InvalidInput(
                    f"{root} is not empty and not a store of a rankfall sweep, so nothing is written there; choose a "
                    "new name."
                )
        root.mkdir(parents=True, exist_ok=True)
        flush_folder(root.parent)
        for folder in (place.hidden, place.aside, place.reasons):
            make_folder(folder)
    return place


def read_about(path: Path) -> About | None:
    """The description in a file, None if there is none.

    Raises:
        InvalidInput: It is damaged or written by a newer version.
    """
    try:
        content = read_plain(path, at_most=_LARGEST_ABOUT)
        if content is None:
            return None
        fields = json.loads(content)
        version = fields["format"]
        if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
            raise InvalidInput(
                f"{path.parent.parent} was written by a newer rankfall ({_printable(fields.get('rankfall_version'))}, "
                f"format {version}; this one knows up to {FORMAT}): upgrade rankfall or choose another store."
            )
        if version != FORMAT or not isinstance(fields["study"], dict):
            raise ValueError
        dump(fields)  # what has half characters in it could not be written again
        return About(fields["study"], Layout.from_mapping(fields["layout"]), str(fields["rankfall_version"]))
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.EISDIR):
            raise
    except InvalidInput as error:
        if "newer rankfall" in str(error):
            raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        pass
    raise InvalidInput(
        f"{path} is damaged, so that {path.parent.parent} cannot be continued; its finished cells can still be read "
        "with xarray.open_zarr. Choose another store."
    )


def _holds_only_beginning(hidden: Path) -> bool:
    if not hidden.exists():
        return True
    with contextlib.suppress(OSError):
        return {entry.name for entry in hidden.iterdir()} <= _BEGINNING
    return False


def _printable(value: Any) -> str:
    return "".join(letter for letter in str(value) if letter.isprintable())[:40]
