"""What a sweep is made of: one cell of the grid, what is kept of it, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Cell", "CellResult", "Quantity"]


@dataclass(frozen=True)
class Cell:
    """One ensemble of a study.

    Attributes:
        index: Its place along the study's dimensions.
        key: 32 hexadecimal digits, a hash of `settings` and the study's seed: equal settings have equal keys, in any
            study with that seed.
        settings: Everything else that decides its numbers, JSON-ready.
        seed: Of its problem, starts and noise; follows from the key.
    """

    index: tuple[int, ...]
    key: str
    settings: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Quantity:
    """One thing that is kept of every cell.

    Attributes:
        name: Of the variable in the store.
        dims: Dimensions after those of the study, e.g. ("time",).
        shape: Sizes of these, the same for all cells; shorter results are padded with NaN.
        dtype: "float64" or "int64" (-1 where there is none).
        attrs: long_name, units, formula.
    """

    name: str
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: Literal["float64", "int64"] = "float64"
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CellResult:
    """What came out of one cell.

    Attributes:
        key: The cell's.
        status: "done", or "failed" with a reason (divergence, an exception, a worker that died).
        reason: One sentence for a failed cell, else empty.
        values: One array per quantity, of its shape; empty where nothing was computed.
        wall_time: Seconds. The only thing here that may differ from run to run.
    """

    key: str
    status: Literal["done", "failed"]
    reason: str
    values: Mapping[str, np.ndarray]
    wall_time: float
