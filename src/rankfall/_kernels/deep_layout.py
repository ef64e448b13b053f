"""How the layers of a deep ensemble lie in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankfall._kernels.vector import aligned_zeros

__all__ = ["DeepLayout"]


@dataclass(frozen=True)
class DeepLayout:
    """State of an ensemble: (block, layer, column, row, lane), one trajectory per lane, flat.

    Attributes:
        widths: (p, l1, …, k) of what moves, after the exact reduction of the hidden units.
        lanes: Trajectories per vector.
        replicates: Trajectories in the ensemble; the last block is padded with zeros, a fixed point of every step.
    """

    widths: tuple[int, ...]
    lanes: int
    replicates: int

    @property
    def blocks(self) -> int:
        """Vectors of trajectories, the last one padded."""
        return -(-self.replicates // self.lanes)

    @property
    def depth(self) -> int:
        """Layers."""
        return len(self.widths) - 1

    @property
    def turned(self) -> bool:
        """Whether it is stored from the outputs to the inputs, every layer transposed, so that it ends narrow."""
        return self.widths[0] < self.widths[-1]

    @property
    def stored(self) -> tuple[int, ...]:
        """The widths in the order of storage."""
        return self.widths[::-1] if self.turned else self.widths

    @property
    def weights(self) -> int:
        """Weights of one trajectory."""
        return sum(a * b for a, b in itertools.pairwise(self.widths))

    @property
    def squares(self) -> int:
        """Numbers that the balances Q_i of all pairs of one trajectory take."""
        return sum(width * width for width in self.widths[1:-1])

    def pack(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """Layers (replicates, rows, columns) from the inputs to the outputs -> flat aligned state."""
        return self._pack([layer.swapaxes(1, 2) for layer in layers] if not self.turned else list(layers)[::-1])

    def unpack(self, state: np.ndarray, blocks: slice = slice(None)) -> list[np.ndarray]:
        """Flat state -> layers (replicates, rows, columns) of some blocks, from the inputs to the outputs."""
        shapes = [(b, a) for a, b in itertools.pairwise(self.stored)]
        parts = self._unpack(state, shapes, self.weights, blocks)
        return parts[::-1] if self.turned else [part.swapaxes(1, 2) for part in parts]

    def pack_balances(self, balances: Sequence[np.ndarray]) -> np.ndarray:
        """Q_i (replicates, l_i, l_i) of all pairs -> flat; of a network that is turned round Q changes its sign."""
        return self._pack([-q for q in balances][::-1] if self.turned else balances)

    def unpack_balances(self, flat: np.ndarray, blocks: slice = slice(None)) -> list[np.ndarray]:
        """Flat -> Q_i of all pairs, of which the lower triangles count."""
        parts = self._unpack(flat, [(width, width) for width in self.stored[1:-1]], self.squares, blocks)
        return [-part for part in parts][::-1] if self.turned else parts

    def _pack(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        flat = aligned_zeros(self.blocks * rows.shape[1] * self.lanes)
        view = flat.reshape(self.blocks, rows.shape[1], self.lanes)
        full = self.replicates // self.lanes
        view[:full] = rows[: full * self.lanes].reshape(full, self.lanes, rows.shape[1]).swapaxes(1, 2)
        if full < self.blocks:
            rest = rows[full * self.lanes :]
            view[full, :, : len(rest)] = rest.T
        return flat

    def _unpack(self, flat: np.ndarray, shapes: list[tuple[int, int]], size: int, blocks: slice) -> list[np.ndarray]:
        first, last, _ = blocks.indices(self.blocks)
        count = min(last * self.lanes, self.replicates) - first * self.lanes
        rows = flat.reshape(self.blocks, size, self.lanes)[first:last].swapaxes(1, 2).reshape(-1, size)[:count]
        cuts = np.cumsum([a * b for a, b in shapes])[:-1]
        return [part.reshape(count, *shape) for part, shape in zip(np.split(rows, cuts, axis=1), shapes, strict=True)]
