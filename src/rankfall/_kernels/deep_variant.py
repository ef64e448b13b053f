"""What a kernel of deep networks is generated for, and the memory that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rankfall._kernels.layout import FLUSH, NoiseGrouping

__all__ = ["COLUMN_TILE", "DeepVariant", "scratch_size"]

COLUMN_TILE = 4


@dataclass(frozen=True)
class DeepVariant:
    """What a kernel is generated for; the widths are run-time values.

    Attributes:
        small: s = min(p, k).
        lanes: Trajectories per vector: 1, 2, 4 or 8.
        noise: "none", "single" or "double" precision normals, or "batch" for real mini-batches.
        decay: Weight decay, a ≠ 1.
    """

    small: int
    lanes: int = 8
    noise: Literal["none", "single", "double", "batch"] = "single"
    decay: bool = False

    @property
    def several(self) -> bool:
        """Whether s is more than one tile of columns, so that a layer cannot be updated in the pass that reads it."""
        return self.small > COLUMN_TILE

    @property
    def rest(self) -> int:
        """Columns of the last tile where there are several, 0 if it is a whole one."""
        return self.small % COLUMN_TILE if self.several else 0

    @property
    def name(self) -> str:
        """File name of the generated module: many s share one where there are several tiles."""
        columns = f"tiles{self.rest}" if self.several else f"columns{self.small}"
        return "_".join(["deep", self.noise, columns, f"lanes{self.lanes}", *(["decay"] if self.decay else [])])


def step_batch(v: DeepVariant, size: int) -> int:
    """Steps whose noise is made at once, for p·k = size."""
    if v.noise in ("none", "batch"):
        return FLUSH
    return NoiseGrouping(size, v.noise == "double").steps * (8 // v.lanes)


def scratch_size(v: DeepVariant, widths: Sequence[int], size: int) -> int:
    """Numbers of scratch memory that one thread needs, for p·k = size."""
    noise = size * step_batch(v, size) if v.noise in ("single", "double") else 0
    units, s = sum(widths[:-1]), v.small
    vectors = 2 * size + widths[0] + s + 2 * units * s + 3 * s * s + 2 * max(widths) * s + len(widths) + 2
    return v.lanes * (noise + vectors)
