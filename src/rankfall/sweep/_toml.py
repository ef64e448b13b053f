"""Reading a study's TOML file, which may come from anybody."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from rankfall.errors import InvalidInput

__all__ = ["parse_toml", "read_toml"]

# A study is a page of text; the lists of a long axis take some kilobytes.
_LARGEST = 1 << 20


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a TOML file of at most a megabyte.

    Raises:
        InvalidInput: There is no such file, it cannot be read, is too large, or is not TOML (with the line).
    """
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        raise InvalidInput(
            f"there is no file {name}. 'rankfall sweep --example' prints a study to begin with."
        ) from None
    except OSError as error:
        raise InvalidInput(f"cannot read {name}: {error.strerror or error}.") from None
    if len(content) > _LARGEST:
        raise InvalidInput(f"{name} is larger than {_LARGEST // 1024} KiB, which no study is.")
    return parse_toml(content, name)


def parse_toml(content: bytes, name: str) -> dict[str, Any]:
    """The content of a TOML text; `name` is for the messages."""
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not a text file (not UTF-8).") from None
    except RecursionError:
        raise InvalidInput(f"{name} is nested too deeply to be a study.") from None
    except ValueError as error:  # of which tomllib's own is one; numbers of thousands of digits raise another
        raise InvalidInput(f"{name} is not TOML: {error}.") from None
