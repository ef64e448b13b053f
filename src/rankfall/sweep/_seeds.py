"""What identifies a cell, and where its randomness comes from: hashes of its settings, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rankfall.errors import InvalidInput
from rankfall.sweep._settings import FILES

__all__ = ["batch_seed", "digest_of", "key_of", "seed_of"]


def key_of(settings: Mapping[str, Any], seed: int) -> str:
    """32 hexadecimal digits that stand for a cell's settings and the study's seed, wherever its files lie."""
    content = {section: dict(part) for section, part in settings.items()}
    for section, field in FILES:
        content[section].pop(field, None)
    text = json.dumps([1, seed, content], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"rankfall cell").hexdigest()


def seed_of(key: str) -> int:
    """The seed of a cell's starts and noise: 64 bits of a hash of its key."""
    return _hashed(key)


def batch_seed(seed: int, batch: int) -> int:
    """The seed of a further batch of a cell's replicates; the first one has the cell's own."""
    return seed if batch == 0 else _hashed(f"{seed}/{batch}")


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"rankfall seed").digest(), "big")


def digest_of(path: str) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits.

    Raises:
        InvalidInput: It cannot be read.
    """
    try:
        status = Path(path).stat()
        return _digest(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}.") from None


@lru_cache(maxsize=256)
def _digest(path: str, modified: int, size: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
