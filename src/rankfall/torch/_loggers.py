"""Where measurements go besides the history. A logger is any function of a step and a dictionary of numbers."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rankfall._files import check_folder
from rankfall.errors import InvalidInput, OutputError

__all__ = ["CsvLogger", "Logger", "TensorBoardLogger"]

# Called with the step and the values, named "thing/measure/layer".
Logger = Callable[[int, Mapping[str, float]], Any]


class CsvLogger:
    """Append measurements to a CSV file with the columns step, thing, measure, layer, value.

    Each measurement is written at once and flushed to disk; a crash during that can cut the last lines short. (The
    `path` of the monitor, in contrast, is replaced as a whole.)

    Args:
        path: File; one that is there is continued if it has these columns.

    Raises:
        InvalidInput: A file with other columns.
        OutputError: The folder is missing or cannot be written.
    """

    _HEADER = ("step", "thing", "measure", "layer", "value")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        check_folder(self.path.parent)
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open(encoding="utf-8", newline="") as stream:
                if tuple(next(csv.reader(stream), ())) != self._HEADER:
                    raise InvalidInput(
                        f"{self.path} is not a file of CsvLogger: its first line is not {','.join(self._HEADER)}. "
                        "Choose another path."
                    )
        else:
            self._append([self._HEADER])

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Append one measurement."""
        self._append([(step, *name.split("/", 2), repr(value)) for name, value in values.items()])

    def _append(self, lines: list[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        try:
            with self.path.open("a", encoding="utf-8", newline="") as stream:
                stream.write(text.getvalue())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(error.errno, f"cannot write {self.path}: {error.strerror or error}") from None


class TensorBoardLogger:
    """Write measurements as scalars for TensorBoard, under "prefix/thing/measure/layer".

    Args:
        writer: A `torch.utils.tensorboard.SummaryWriter`, or the folder for a new one.
        prefix: First part of the names.

    Raises:
        ImportError: A folder is given and tensorboard is not installed.
    """

    def __init__(self, writer: Any, prefix: str = "rank") -> None:
        if isinstance(writer, str | os.PathLike):
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "TensorBoardLogger needs tensorboard. Install it with: pip install tensorboard"
                ) from error
            writer = SummaryWriter(os.fspath(writer))
        self.writer, self.prefix = writer, prefix

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Write one measurement."""
        for name, value in values.items():
            self.writer.add_scalar(f"{self.prefix}/{name}", value, step)
        self.writer.flush()
