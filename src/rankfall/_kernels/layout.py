"""How the numbers of an ensemble lie in memory, and how its random numbers are grouped."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from rankfall._kernels.vector import aligned_zeros

# The ledger's logarithm is taken, and divergence looked for, every FLUSH steps (counted from step 0 of the run, so that
# it does not matter where a run is cut into pieces). All groups of steps below divide it.
FLUSH = 64


@dataclass(frozen=True)
class NoiseGrouping:
    """Steps share the words of a Philox call so that none is wasted.

    Attributes:
        size: Normals per step (n_inputs · n_outputs).
        double: Whether the normals have double precision.
    """

    size: int
    double: bool = False

    @property
    def per_call(self) -> int:
        """Normals that one Philox call yields."""
        return 2 if self.double else 4

    @property
    def steps(self) -> int:
        """Steps in a group."""
        return self.per_call // gcd(self.size, self.per_call)

    @property
    def calls(self) -> int:
        """Philox calls in a group."""
        return self.size * self.steps // self.per_call


@dataclass(frozen=True)
class Layout:
    """State of an ensemble: (block, hidden column, row of Z, lane), one trajectory per lane.

    Attributes:
        n_inputs: p, rows 0 … p−1 of Z (those of W1, in the eigenbasis of Σ).
        n_outputs: k, rows p … p+k−1 of Z (those of W2ᵀ).
        columns: r = min(width, p+k), the hidden columns that are left after the exact reduction of the columns.
        lanes: Trajectories per vector.
        replicates: Trajectories in the ensemble; the last block is padded with zeros, a fixed point of every step.
    """

    n_inputs: int
    n_outputs: int
    columns: int
    lanes: int
    replicates: int

    @property
    def rows(self) -> int:
        """Rows of Z."""
        return self.n_inputs + self.n_outputs

    @property
    def blocks(self) -> int:
        """Vectors of trajectories, the last one padded."""
        return -(-self.replicates // self.lanes)

    def pack(self, values: np.ndarray) -> np.ndarray:
        """(replicates, rows, columns) -> flat aligned state."""
        return pack_lanes(values, self.lanes)

    def unpack(self, state: np.ndarray) -> np.ndarray:
        """Flat state -> (replicates, rows, columns)."""
        return unpack_lanes(state, self.replicates, self.rows, self.columns, self.lanes)


def pack_lanes(values: np.ndarray, lanes: int) -> np.ndarray:
    """(replicates, a, b) -> flat (block, b, a, lane), 64-byte aligned, padded with zeros."""
    count, a, b = values.shape
    blocks = -(-count // lanes)
    flat = aligned_zeros(blocks * a * b * lanes)
    view = flat.reshape(blocks, b, a, lanes)
    full = count // lanes
    view[:full] = values[: full * lanes].reshape(full, lanes, a, b).transpose(0, 3, 2, 1)
    if full < blocks:
        rest = values[full * lanes :]
        view[full, :, :, : len(rest)] = rest.transpose(2, 1, 0)
    return flat


def unpack_lanes(flat: np.ndarray, count: int, a: int, b: int, lanes: int) -> np.ndarray:
    """Flat (block, b, a, lane) -> (count, a, b)."""
    blocks = -(-count // lanes)
    return flat.reshape(blocks, b, a, lanes).transpose(0, 3, 2, 1).reshape(-1, a, b)[:count]
