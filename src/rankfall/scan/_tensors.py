"""What a checkpoint consists of before anything of it is read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Checkpoint", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """One named tensor of a file.

    Attributes:
        name: As in the file.
        shape: As in the file.
        dtype: As in the file, under PyTorch's name for it.
        read: Reads it: float32 or float64, in its shape, in memory of its own. None where it is left out.
        unread: Why it is, in words that fit behind a count.
        storage: What two names of the same memory share; None if every tensor of this file has its own.
        read_parts: Reads it a part at a time: so many numbers each, one-dimensional, as float32, in memory that the
            next part takes over. None where it cannot be, or is of float64.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] | None
    unread: str = ""
    storage: Hashable = None
    read_parts: Callable[[int], Iterator[np.ndarray]] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model at one time.

    Attributes:
        path: File or folder.
        tensors: In the order of the file.
        step: Of training, where the name tells.
        config: What stands in the config.json beside the weights; empty where there is none.
        tied: Name → name of the tensor that is stored for it, where the file says so.
    """

    path: Path
    tensors: tuple[Tensor, ...]
    step: int | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
