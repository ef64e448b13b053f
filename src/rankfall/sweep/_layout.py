"""Which arrays a store has, and how their cells are cut into blocks; follows from the study alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rankfall.errors import InvalidInput
from rankfall.sweep._cell import Quantity

__all__ = ["CODECS", "DONE", "FAILED", "FORMAT", "LEFT", "ArraySpec", "Layout", "SweepLike", "layout_of"]

FORMAT = 1
LEFT, DONE, FAILED = 0, 1, 2
# A block is rewritten as a whole whenever cells of it are folded in, so neither may be large.
_BLOCK_CELLS = 1000
_BLOCK_BYTES = 1 << 22
# Far beyond what can be computed: a description that asks for more is damaged or hostile.
_MOST_CELLS = 10_000_000
_MOST_BYTES = 1 << 30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_RESERVED = ("status", "wall_time", "checksum", "zarr.json")
CODECS = ({"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"})
_TEXT_CODECS = ({"name": "vlen-utf8", "configuration": {}}, {"name": "crc32c"})
_FILL: dict[str, Any] = {"float64": math.nan, "int64": -1, "int8": LEFT, "uint64": 0}


class SweepLike(Protocol):
    """What the store asks of a study."""

    @property
    def dims(self) -> Mapping[str, int]:
        """Length of each dimension."""

    @property
    def coords(self) -> Mapping[str, tuple[str, Sequence[Any]]]:
        """Dimension and values of each coordinate."""

    def quantities(self) -> Sequence[Quantity]:
        """What is kept of every cell."""


@dataclass(frozen=True)
class ArraySpec:
    """One array over all cells.

    Attributes:
        name: Of the array, and of its folder.
        dtype: "float64", "int64", "int8" or "uint64", little-endian on disk.
        dims: Its dimensions after those of the study.
        shape: Sizes of these.
        attrs: Of the variable.
    """

    name: str
    dtype: str
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fill(self) -> Any:
        """What stands where nothing was computed."""
        return _FILL[self.dtype]

    @property
    def bytes_per_cell(self) -> int:
        """Of one cell in this array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layout:
    """The arrays of a store and the blocks of its cells. A block holds the same cells in every array.

    Attributes:
        dims: Length of each dimension of the study.
        coords: Dimension and values of each coordinate.
        quantities: Arrays of what is kept of the cells, in the order in which their bytes are checked.
    """

    dims: Mapping[str, int]
    coords: Mapping[str, tuple[str, tuple[Any, ...]]]
    quantities: tuple[ArraySpec, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the study's dimensions."""
        return tuple(self.dims.values())

    @cached_property
    def n_cells(self) -> int:
        """Of the whole grid."""
        return math.prod(self.shape)

    @cached_property
    def cell_bytes(self) -> int:
        """Bytes of all quantities of one cell."""
        return sum(spec.bytes_per_cell for spec in self.quantities)

    @cached_property
    def status(self) -> ArraySpec:
        """Whether a cell is left, done or failed."""
        attrs = {
            "long_name": "state of the cell",
            "flag_values": [LEFT, DONE, FAILED],
            "flag_meanings": "left done failed",
        }
        return ArraySpec("status", "int8", attrs=attrs)

    @cached_property
    def checksum(self) -> ArraySpec:
        """Of a cell's key, status, reason and quantities."""
        return ArraySpec("checksum", "uint64", attrs={"long_name": "checksum of the cell, 0 where it is left"})

    @cached_property
    def wall_time(self) -> ArraySpec:
        """How long a cell took."""
        return ArraySpec("wall_time", "float64", attrs={"long_name": "wall time of the cell", "units": "s"})

    @cached_property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """All arrays over cells. The status last: whoever reads while we write sees no cell done before its values."""
        return (*self.quantities, self.wall_time, self.checksum, self.status)

    @cached_property
    def block_shape(self) -> tuple[int, ...]:
        """Cells of a block along each dimension: whole trailing dimensions, as many cells as the limits allow."""
        largest = max((spec.bytes_per_cell for spec in self.arrays), default=8)
        room = max(1, min(_BLOCK_CELLS, _BLOCK_BYTES // largest))
        found = []
        for length in reversed(self.shape):
            pieces = math.ceil(length / min(length, room))
            found.append(math.ceil(length / pieces))  # of nearly equal size, so that little is padding
            room = max(1, room // found[-1]) if found[-1] == length else 1
        return tuple(reversed(found))

    @cached_property
    def blocks_shape(self) -> tuple[int, ...]:
        """Number of blocks along each dimension."""
        return tuple(math.ceil(n / c) for n, c in zip(self.shape, self.block_shape, strict=True))

    @cached_property
    def n_blocks(self) -> int:
        """Of the whole grid."""
        return math.prod(self.blocks_shape)

    @cached_property
    def block_cells(self) -> int:
        """Places in a block, those beyond the edge of the grid included."""
        return math.prod(self.block_shape)

    def place(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Block and row within the block of each cell (numbers in C order)."""
        if not self.shape:
            return np.zeros_like(cells), np.zeros_like(cells)
        index = np.unravel_index(cells, self.shape)
        steps = self.block_shape
        block = np.ravel_multi_index([i // c for i, c in zip(index, steps, strict=True)], self.blocks_shape)
        row = np.ravel_multi_index([i % c for i, c in zip(index, steps, strict=True)], steps)
        return np.asarray(block), np.asarray(row)

    def members(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The cells of a block and their rows in it."""
        if not self.shape:
            return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        rows = np.arange(self.block_cells)
        starts = [b * c for b, c in zip(np.unravel_index(block, self.blocks_shape), self.block_shape, strict=True)]
        index = [s + i for s, i in zip(starts, np.unravel_index(rows, self.block_shape), strict=True)]
        inside = np.logical_and.reduce([i < n for i, n in zip(index, self.shape, strict=True)])
        cells = np.ravel_multi_index([i[inside] for i in index], self.shape)
        return cells, rows[inside]

    def chunk_name(self, block: int, spec: ArraySpec) -> str:
        """File of a block within the folder of an array."""
        numbers = [*map(int, np.unravel_index(block, self.blocks_shape)), *(0 for _ in spec.shape)]
        return ".".join(["c", *map(str, numbers)])

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready; `from_mapping` is the inverse."""
        return {
            "dims": dict(self.dims),
            "coords": {name: [dim, list(values)] for name, (dim, values) in self.coords.items()},
            "quantities": [
                {"name": q.name, "dtype": q.dtype, "dims": list(q.dims), "shape": list(q.shape), "attrs": dict(q.attrs)}
                for q in self.quantities
            ],
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Layout:
        """Inverse of `to_mapping`.

        Raises:
            InvalidInput, KeyError, TypeError, ValueError: It is not what `to_mapping` gave.
        """
        quantities = [
            ArraySpec(
                str(q["name"]), str(q["dtype"]), tuple(q["dims"]), tuple(int(n) for n in q["shape"]), dict(q["attrs"])
            )
            for q in mapping["quantities"]
        ]
        coords = {str(name): (str(dim), tuple(values)) for name, (dim, values) in mapping["coords"].items()}
        layout = cls({str(k): int(n) for k, n in mapping["dims"].items()}, coords, tuple(quantities))
        layout._check()
        return layout

    def metadata(self, attributes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Content of every zarr.json by folder, "" for the group's own; `attributes` are the group's."""
        over_cells = " ".join(name for name in self.coords if name not in self.dims)
        arrays = {}
        for name, (dim, values) in self.coords.items():
            dtype = "string" if coordinate(values).dtype.kind == "U" else coordinate(values).dtype.name
            codecs = _TEXT_CODECS if dtype == "string" else CODECS
            fill = {"string": "", "bool": False, "int64": 0, "float64": "NaN"}[dtype]
            arrays[name] = _array(dtype, (len(values),), (len(values),), fill, codecs, {}, (dim,))
        for spec in self.arrays:
            attrs = dict(spec.attrs) | ({"coordinates": over_cells} if over_cells else {})
            fill = "NaN" if spec.dtype == "float64" else spec.fill
            arrays[spec.name] = _array(
                spec.dtype,
                (*self.shape, *spec.shape),
                (*self.block_shape, *spec.shape),
                fill,
                CODECS,
                attrs,
                (*self.dims, *spec.dims),
            )
        inline = {"kind": "inline", "must_understand": False, "metadata": arrays}
        root = {
            "attributes": dict(attributes),
            "zarr_format": 3,
            "node_type": "group",
            "consolidated_metadata": inline,
        }
        return {**arrays, "": root}

    def _check(self) -> None:
        """Raise InvalidInput for names or sizes that no folder or array can have."""
        names = [*self.coords, *(spec.name for spec in self.quantities)]
        extra = {dim: n for spec in self.quantities for dim, n in zip(spec.dims, spec.shape, strict=True)}
        sizes = {**extra, **self.dims}
        for name in [*names, *sizes]:
            if not _NAME.fullmatch(name) or name in _RESERVED:
                raise InvalidInput(f"{name!r} cannot name a variable or dimension of a store; choose another name.")
        twice = sorted({name for name in names if names.count(name) > 1})
        twice += sorted({spec.name for spec in self.quantities} & set(sizes))
        if twice:
            raise InvalidInput(f"two variables of a store have the name {', '.join(twice)}.")
        if any(n < 1 for n in sizes.values()):
            raise InvalidInput(f"every dimension of a store needs at least one entry, got {sizes}.")
        if self.n_cells > _MOST_CELLS or self.cell_bytes > _MOST_BYTES:
            raise InvalidInput(
                f"a store holds at most {_MOST_CELLS:,} cells of {_MOST_BYTES:,} bytes, got {self.n_cells:,} of "
                f"{self.cell_bytes:,}; split the study."
            )
        for spec in self.quantities:
            known = spec.dtype in ("float64", "int64") and len(spec.dims) == len(spec.shape)
            if (
                not known
                or set(spec.dims) & set(self.dims)
                or any(extra[d] != n for d, n in zip(spec.dims, spec.shape, strict=True))
            ):
                raise InvalidInput(f"the quantity {spec.name} does not fit into a store: {spec}.")
        for name, (dim, values) in self.coords.items():
            if dim not in sizes or sizes[dim] != len(values) or (name in sizes and name != dim):
                raise InvalidInput(f"the coordinate {name} does not fit its dimension {dim}.")
            coordinate(values)


def layout_of(study: SweepLike) -> Layout:
    """The layout of a study's store.

    Raises:
        InvalidInput: A name or size that a store cannot have.
    """
    quantities = [ArraySpec(q.name, q.dtype, tuple(q.dims), tuple(q.shape), dict(q.attrs)) for q in study.quantities()]
    coords = {name: (dim, tuple(_plain(v) for v in values)) for name, (dim, values) in study.coords.items()}
    # through JSON and back: equal to what is read from a store
    whole = Layout({name: int(n) for name, n in study.dims.items()}, coords, tuple(quantities)).to_mapping()
    return Layout.from_mapping(json.loads(json.dumps(whole)))


def coordinate(values: Sequence[Any]) -> np.ndarray:
    """Values of a coordinate as bool, int64, float64 or text, whichever holds all of them.

    Raises:
        InvalidInput: They are neither numbers nor texts.
    """
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.array(values, dtype=bool)
    if kinds == {int} and all(abs(value) < 2**63 for value in values):
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float}:
        return np.array(values, dtype=np.float64)
    if kinds <= {bool, int, float, str}:
        return np.array([value if isinstance(value, str) else json.dumps(value) for value in values], dtype=str)
    raise InvalidInput(f"the values of an axis must be numbers or texts, got {list(values)[:5]}.")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _array(
    dtype: str,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    fill: Any,
    codecs: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any],
    dims: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [dict(codec) for codec in codecs],
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
