"""From tensors to the matrices that are measured: what is reshaped, split, paired or left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankfall._checks import whole_number
from rankfall.errors import InvalidInput
from rankfall.scan._names import FUSED, Kind, factor, is_expert_stack, kind_of, leaf_of, role_of
from rankfall.scan._tensors import Checkpoint, Tensor

__all__ = ["HeadsOption", "Job", "Part", "Plan", "make_plan"]

HeadsOption = int | Literal["config"] | None


@dataclass(frozen=True)
class Part:
    """One row of the table.

    Attributes:
        name: Of the tensor, with what part of it in brackets.
        kind: Section of the table.
        matrix_shape: Of the matrix whose spectrum is measured.
        take: From the tensor's matrix to this part of it; a view. Not used for LoRA pairs.
        note: What a reader must know.
        part_of: Name of the row whose matrix contains this one, as a projection contains its heads.
    """

    name: str
    kind: Kind
    matrix_shape: tuple[int, int]
    take: Callable[[np.ndarray], np.ndarray]
    note: str = ""
    part_of: str = ""


@dataclass(frozen=True)
class Job:
    """What is read at once, and the matrices in it.

    Attributes:
        tensors: One, or the two factors (A, B) of a LoRA pair.
        parts: At least one.
        matrix_shape: To which the one tensor is reshaped before parts are taken.
    """

    tensors: tuple[Tensor, ...]
    parts: tuple[Part, ...]
    matrix_shape: tuple[int, int]

    @property
    def is_pair(self) -> bool:
        """Whether the spectrum is that of a product B·A."""
        return len(self.tensors) == 2

    @property
    def entries(self) -> int:
        """Numbers that are in memory while it runs."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def operations(self) -> int:
        """Of the order of the work."""
        if self.is_pair:
            a, b = (math.prod(tensor.shape) for tensor in self.tensors)
            return (a + b) * self.tensors[0].shape[0]
        return sum(math.prod(part.matrix_shape) * min(part.matrix_shape) for part in self.parts)


@dataclass(frozen=True)
class Plan:
    """What a scan of one checkpoint will do.

    Attributes:
        checkpoint: Whose tensors these are.
        jobs: In the order of the file.
        skipped: What is left out → how many tensors.
        tied: Name → name of the tensor with the same memory, which is measured once.
        parameters: Entries of all tensors, without the tied ones.
    """

    checkpoint: Checkpoint
    jobs: tuple[Job, ...]
    skipped: dict[str, int]
    tied: dict[str, str]
    parameters: int


def make_plan(checkpoint: Checkpoint, wanted: Callable[[str], bool], heads: HeadsOption) -> Plan:
    """Decide what is measured.

    Args:
        checkpoint: With its tensors.
        wanted: Whether a row of that name is.
        heads: Into how many heads attention projections are split, "config" for what config.json says, None for none.

    Raises:
        InvalidInput: `heads` cannot be used.
    """
    splitter = _Heads.choose(checkpoint, heads)
    skipped: Counter[str] = Counter()
    tied = dict(checkpoint.tied)
    first: dict[object, str] = {}
    kept: list[Tensor] = []
    for tensor in checkpoint.tensors:
        if tensor.storage is not None and tensor.storage in first:
            tied[tensor.name] = first[tensor.storage]
            continue
        if tensor.storage is not None:
            first[tensor.storage] = tensor.name
        if tensor.read is None:
            skipped[tensor.unread] += 1
        elif min(_matrix_shape(tensor)) <= 1 and factor(tensor.name) is None:
            skipped["with one dimension, or one row or column"] += 1
        else:
            kept.append(tensor)
    jobs = []
    every = list(_jobs(kept, splitter))
    if heads is not None and heads != "config" and not any(part.kind == "head" for job in every for part in job.parts):
        raise InvalidInput(
            f"heads={heads} splits nothing in {checkpoint.path}: no projection of an attention that its name tells has "
            f"a side of that many heads. Give the number of heads of the model, or leave it out."
        )
    for job in every:
        parts = tuple(part for part in job.parts if wanted(part.name))
        if parts:
            jobs.append(Job(job.tensors, parts, job.matrix_shape))
    parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors if tensor.name not in tied)
    return Plan(checkpoint, tuple(jobs), dict(skipped), tied, parameters)


def _jobs(tensors: list[Tensor], splitter: _Heads) -> Iterator[Job]:
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        found = factor(tensor.name)
        if found is not None:
            pairs.setdefault(found.pair, {})[found.side] = tensor
    for tensor in tensors:
        found = factor(tensor.name)
        if found is None:
            yield _job(tensor, splitter)
        elif found.side == min(pairs[found.pair]):  # once, where its first factor stands in the file
            yield from _pair_jobs(found.pair, pairs[found.pair])


def _pair_jobs(name: str, pair: dict[str, Tensor]) -> Iterator[Job]:
    if len(pair) == 2:
        down, up = _matrix_shape(pair["A"]), _matrix_shape(pair["B"])
        if up[1] == down[0]:
            part = Part(name, "lora", (up[0], down[1]), _whole, f"B·A of rank {down[0]} at most")
            yield Job((pair["A"], pair["B"]), (part,), part.matrix_shape)
            return
        why = f"its factors do not fit: B is {up[0]} × {up[1]}, A is {down[0]} × {down[1]}"
    else:
        why = "the other factor is missing"
    for tensor in pair.values():
        shape = _matrix_shape(tensor)
        yield Job((tensor,), (Part(tensor.name, "lora", shape, _whole, why),), shape)


def _job(tensor: Tensor, splitter: _Heads) -> Job:
    name, kind = tensor.name, kind_of(tensor.name, len(tensor.shape))
    if len(tensor.shape) == 3 and tensor.shape[0] > 1 and is_expert_stack(name):
        count, rows, columns = tensor.shape
        parts = [
            Part(f"{name}[expert {i}]", kind, (rows, columns), _rows(i * rows, (i + 1) * rows)) for i in range(count)
        ]
        return Job((tensor,), tuple(parts), (count * rows, columns))
    shape = _matrix_shape(tensor)
    parts = list(_projections(name, kind, shape))
    if splitter.wanted:
        parts = [each for part in parts for each in (part, *splitter.split(part))]
    return Job((tensor,), tuple(parts), shape)


def _projections(name: str, kind: Kind, shape: tuple[int, int]) -> Iterator[Part]:
    """The matrix, or query, key and value where they lie in one."""
    rows, columns = shape
    across = leaf_of(name) == "c_attn" and columns == 3 * rows  # GPT-2 keeps its matrices transposed
    if leaf_of(name) in FUSED and (across or rows == 3 * columns):
        side = min(shape)
        for i, role in enumerate(("query", "key", "value")):
            take = (_columns if across else _rows)(i * side, (i + 1) * side)
            yield Part(f"{name}[{role}]", kind, (side, side), take)
        return
    yield Part(name, kind, shape, _whole)


def _matrix_shape(tensor: Tensor) -> tuple[int, int]:
    """Outputs × everything else; leading axes of length one in front of a matrix are dropped."""
    shape = tensor.shape
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


@dataclass(frozen=True)
class _Heads:
    """How projections are split into heads: so many for queries, or so many rows each."""

    wanted: bool = False
    count: int = 0
    dimension: int | None = None

    @classmethod
    def choose(cls, checkpoint: Checkpoint, heads: HeadsOption) -> _Heads:
        if heads is None:
            return cls()
        if heads != "config":
            count = whole_number(heads, "heads")
            return cls(True, count, _width_of_queries(checkpoint, count))
        nested = checkpoint.config.get("text_config")
        config = nested if isinstance(nested, dict) else checkpoint.config
        found = config.get("num_attention_heads", config.get("n_head"))
        if type(found) is not int or found < 1:
            raise InvalidInput(
                f"heads='config' needs a config.json with num_attention_heads beside {checkpoint.path}. Give the "
                "number of heads instead."
            )
        dimension = config.get("head_dim")
        return cls(True, found, dimension if type(dimension) is int else _width_of_queries(checkpoint, found))

    def split(self, part: Part) -> Iterator[Part]:
        """The heads of one projection: blocks of rows, of the output projection blocks of columns."""
        role = role_of(part.name.partition("[")[0]) or _bracketed(part.name)
        if part.kind != "attention" or role is None:
            return
        # GPT-2's matrices are transposed: outputs are columns.
        transposed = leaf_of(part.name.partition("[")[0]) in ("c_attn", "c_proj")
        by_rows = (role != "output") != transposed
        side = part.matrix_shape[0 if by_rows else 1]
        width = self.dimension or (side // self.count if side % self.count == 0 else 0)
        if width < 1 or side % width or side == width:
            return
        shape = (width, part.matrix_shape[1]) if by_rows else (part.matrix_shape[0], width)
        for i in range(side // width):
            cut = (_rows if by_rows else _columns)(i * width, (i + 1) * width)
            yield Part(f"{part.name}[head {i}]", "head", shape, _after(part.take, cut), part_of=part.name)


def _width_of_queries(checkpoint: Checkpoint, count: int) -> int | None:
    """Rows per head of the query projections, which are those of grouped keys and values too."""
    widths = {
        tensor.shape[0] // count
        for tensor in checkpoint.tensors
        if len(tensor.shape) == 2 and role_of(tensor.name) == "query" and tensor.shape[0] % count == 0
    }
    return widths.pop() if len(widths) == 1 else None


def _bracketed(name: str) -> str | None:
    return next((role for role in ("query", "key", "value") if name.endswith(f"[{role}]")), None)


def _whole(matrix: np.ndarray) -> np.ndarray:
    return matrix


def _rows(begin: int, end: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda matrix: matrix[begin:end]


def _columns(begin: int, end: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda matrix: matrix[:, begin:end]


def _after(
    first: Callable[[np.ndarray], np.ndarray], second: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    return lambda matrix: second(first(matrix))
