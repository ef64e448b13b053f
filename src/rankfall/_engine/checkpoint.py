"""The file from which an interrupted simulation continues: arrays without pickle, written atomically."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rankfall._engine.rounds import Position
from rankfall._files import write_atomically
from rankfall.errors import InvalidInput

__all__ = ["Checkpoint", "digest"]

_FORMAT = 1
# Bytes that a header of the npy format may take besides the numbers.
_HEADER = 4096
_LARGEST_HEAD = 1 << 24
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
)


def digest(*arrays: np.ndarray | None) -> str:
    """A hash of what a run is made from and the settings do not say: data and starting weights."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(b"none" if array is None else repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class Checkpoint:
    """One file, of one run.

    The settings are kept as text beside the arrays; a file of other settings is refused with the differences named.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        """Take the path, and what the run is: JSON-ready, equal for equal runs."""
        self.path = Path(path)
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))

    def write(self, position: Position, arrays: dict[str, np.ndarray]) -> None:
        """Replace the file by the present state.

        Raises:
            OutputError: The file cannot be written; the old one is untouched.
        """
        head = {"format": _FORMAT, "tick": position.tick, "saved": position.saved, "settings": self._settings}
        stream = io.BytesIO()
        text = np.frombuffer(json.dumps(head).encode("utf-8"), dtype=np.uint8)
        np.savez(stream, head=text, **arrays)  # type: ignore[arg-type]
        write_atomically(self.path, stream.getvalue())

    def read_position(self) -> Position | None:
        """Where the file stands, or None if there is no file.

        Raises:
            InvalidInput: The file is damaged, no checkpoint, or one of other settings.
        """
        if not self.path.exists():
            return None
        try:
            if self._sizes()["head"] > _LARGEST_HEAD:
                raise ValueError
            with np.load(self.path, allow_pickle=False) as file:
                head = json.loads(file["head"].tobytes().decode("utf-8"))
            self._compare(head)
            return Position(int(head["tick"]), int(head["saved"]))
        except InvalidInput:
            raise
        except _UNREADABLE:
            raise self.damaged() from None

    def read_arrays(self, expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays of the file, which must have the shapes and types of the expected ones.

        Raises:
            InvalidInput: They have not, or the file is damaged.
        """
        try:
            sizes = self._sizes()
            arrays = {}
            with np.load(self.path, allow_pickle=False) as file:
                for name, like in expected.items():
                    # looked at before it is read: a hostile file could claim any size
                    if sizes[name] > like.nbytes + _HEADER:
                        raise ValueError
                    arrays[name] = file[name]
                    if arrays[name].shape != like.shape or arrays[name].dtype != like.dtype:
                        raise ValueError
            return arrays
        except _UNREADABLE:
            raise self.damaged() from None

    def _sizes(self) -> dict[str, int]:
        with zipfile.ZipFile(self.path) as archive:
            return {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}

    def damaged(self) -> InvalidInput:
        """What to raise for a file that cannot be used."""
        return InvalidInput(
            f"{self.path} is not a checkpoint of rankfall or is damaged; remove it to begin anew, or name another one."
        )

    def _compare(self, head: dict[str, Any]) -> None:
        if head["format"] != _FORMAT:
            raise InvalidInput(
                f"{self.path} was written by another version of rankfall (format {head['format']}, here {_FORMAT}); "
                "remove it to begin anew."
            )
        differences = _differences(head["settings"], self._settings)
        if differences:
            raise InvalidInput(
                f"{self.path} belongs to another run: {'; '.join(differences[:5])}. Repeat that call to continue it, "
                "or remove the file to begin anew."
            )


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for key in sorted(there.keys() | here.keys()):
            found += _differences(there.get(key), here.get(key), f"{name}.{key}" if name else str(key))
        return found
    if there == here:
        return []
    return [f"{name} is {_short(there)} there, {_short(here)} here"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"
