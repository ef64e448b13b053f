"""What the driver of the rounds asks of an ensemble that is under way."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

__all__ = ["Engine", "Lanes", "Moving", "Unit", "split_blocks"]


class Lanes(Protocol):
    """What the layouts of ensembles of any depth have in common."""

    @property
    def lanes(self) -> int:
        """Trajectories per vector."""

    @property
    def replicates(self) -> int:
        """Trajectories in the ensemble."""


@dataclass(eq=False)
class Unit:
    """A range of blocks that one thread advances.

    Attributes:
        first: First block.
        last: One past the last block.
        lock: Held while the unit moves.
        memory: Working memory that its engine keeps with it.
        rounds: Rounds it has finished. A round that is asked for twice, as can happen when Ctrl-C falls between the
            request and its bookkeeping, is done once.
    """

    first: int
    last: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    memory: tuple[Any, ...] | None = None
    rounds: int = 0

    def replicates(self, layout: Lanes) -> slice:
        """The replicates in its blocks, without the padding of the last one."""
        return slice(self.first * layout.lanes, min(self.last * layout.lanes, layout.replicates))


def split_blocks(blocks: int, parts: int) -> list[Unit]:
    """Contiguous ranges of nearly equal length, none of them empty."""
    parts = min(parts, blocks)
    edges = [blocks * i // parts for i in range(parts + 1)]
    return [Unit(first, last) for first, last in itertools.pairwise(edges)]


class Moving(Protocol):
    """What is driven in rounds. Time is counted in ticks: steps, or save intervals where the steps are adaptive."""

    grain: int
    """A run may be cut into pieces at multiples of so many ticks without changing a bit of it."""

    def advance(self, unit: Unit, begin: int, end: int) -> None:
        """Move the blocks of a unit from tick `begin` to tick `end`."""

    def record(self, unit: Unit, index: int) -> None:
        """Write what save point `index` keeps, for the blocks of a unit that stand there."""


class Engine(Moving, Protocol):
    """An ensemble of networks under way."""

    def compile(self) -> None:
        """Compile the kernels, or load them from the cache."""

    @property
    def is_compiled(self) -> bool:
        """Whether this process has them already."""

    def export(self) -> dict[str, np.ndarray]:
        """All that moves, replicate by replicate: the same on every machine."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `export` gave."""

    def diverged(self) -> np.ndarray:
        """Time at which each replicate diverged, NaN for the others."""

    def per_replicate(self) -> dict[str, np.ndarray]:
        """What the dataset says of each replicate besides its outcome, by name."""
