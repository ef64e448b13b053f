"""The report folder: whose it is, how far it got, and that nothing of anybody else is ever touched."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rankfall._files import write_atomically
from rankfall.errors import InvalidInput, OutputError

__all__ = ["ReportFolder"]

Status = Literal["running", "partial", "complete"]
_FORMAT = 1
_RECORD = "settings.json"
# What a report folder may hold besides the files of its parts; only these are ever removed.
_OURS = (_RECORD, "verdicts.json", "index.html", "figure.svg", "figure.png", "figure.pdf")
# A part's files start with its name, which comes from settings.json: nothing that leads out of the folder.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class ReportFolder:
    """A folder that an experiment writes to, continues in, or finds complete.

    Attributes:
        path: The folder.
        record: What settings.json holds.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record

    @property
    def status(self) -> Status:
        """One of "running" (begun, or killed), "partial" (interrupted, with a report) and "complete"."""
        return self.record["status"]

    @classmethod
    @contextlib.contextmanager
    def prepare(
        cls,
        path: str | Path,
        experiment: str,
        settings: Mapping[str, Any],
        *,
        version: str,
        overwrite: bool,
        parts: Sequence[str] = (),
    ) -> Iterator[ReportFolder]:
        """Make or take over the folder, or say why not, before any work; keep other processes out meanwhile.

        Raises:
            InvalidInput: The folder holds something else, or a report with other settings and `overwrite` is False, or
                another process is writing to it.
            OutputError: It cannot be written.
        """
        folder = Path(path)
        wanted: dict[str, Any] = {
            "rankfall_report": _FORMAT,
            "experiment": experiment,
            "rankfall_version": version,
            "settings": json.loads(json.dumps(dict(settings))),
            "parts": list(parts),
        }
        found = _read_record(folder)
        differences = [] if found is None or overwrite else _differences(found, wanted)
        if differences:
            raise InvalidInput(
                f"{folder} holds a report made with other settings:\n  "
                + "\n  ".join(differences)
                + "\nChoose another folder with --out, or replace the report with --overwrite."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(error.errno, f"cannot make the folder {folder}: {error.strerror or error}") from None
        with _locked(folder):
            if found is not None and not overwrite:
                yield cls(folder, found)
                return
            report = cls(folder, wanted)
            report._clear([*parts, *(found or {}).get("parts", [])])
            report.update(status="running")
            yield report

    def update(self, **entries: Any) -> None:
        """Change entries of settings.json."""
        self.record = {**self.record, **entries}
        write_atomically(self.path / _RECORD, json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")

    def _clear(self, parts: Sequence[Any]) -> None:
        named = [name for name in parts if isinstance(name, str) and _PART.fullmatch(name)]
        for pattern in [*_OURS, *(f"{name}.{ending}" for name in named for ending in ("nc", "checkpoint*"))]:
            for file in self.path.glob(pattern):
                try:
                    if file.is_dir() and not file.is_symlink():  # a part that is a sweep keeps its store there
                        shutil.rmtree(file)
                    else:
                        file.unlink(missing_ok=True)
                except OSError as error:
                    raise OutputError(error.errno, f"cannot replace {file}: {error.strerror or error}") from None


def _read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a report folder, None for a folder that is empty or not there."""
    if not folder.exists() and not folder.is_symlink():
        return None
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is a file, not a folder; choose another --out.")
    try:
        if not any(folder.iterdir()):
            return None
        text = (folder / _RECORD).read_text("utf-8") if (folder / _RECORD).is_file() else ""
        record = json.loads(text) if text else None
    except OSError as error:
        raise OutputError(error.errno, f"cannot read the folder {folder}: {error.strerror or error}") from None
    except ValueError:
        record = None
    if not isinstance(record, dict) or "rankfall_report" not in record:
        raise InvalidInput(
            f"{folder} is not empty and not a report of rankfall, so nothing is written there; "
            "choose a new or an empty folder with --out."
        )
    if record["rankfall_report"] != _FORMAT:
        raise InvalidInput(f"{folder} was written by a newer rankfall; choose another folder with --out.")
    return record


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{name.replace('_', ' ')}: {found.get(name)} there, {wanted[name]} now"
        for name in ("experiment", "rankfall_version")
        if found.get(name) != wanted[name]
    ]
    old, new = found.get("settings", {}), wanted["settings"]
    lines += [
        f"{name.replace('_', ' ')}: {old.get(name)} there, {new.get(name)} asked for"
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    return lines


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows: there two processes at once are the user's own affair
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                f"another rankfall is writing to {folder}; wait for it, or choose another --out."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
