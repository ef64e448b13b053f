"""From matrices to results that still lie on the device: equal shapes together, one failure spoils one group only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from rankfall import ranks
from rankfall.torch._gram import Gram, gram_of, joined, working_precision
from rankfall.torch._moments import Moments
from rankfall.torch._spectra import SVD_FREE, measures_of_spectrum, singular_values, singular_values_from_gram

__all__ = ["METHODS", "Pending", "Settings", "collect", "measure_matrices", "measure_moments"]

# How spectra are computed → precision of the Gram matrix.
METHODS = {"gram": torch.float64, "gram_float32": torch.float32, "svd": torch.float64}

# Entries of equally shaped matrices that are stacked at a time: on a processor what its cache holds, else 128 MiB.
_CHUNKS = {"cpu": 2**18}
_CHUNK = 2**24
# Products with the Gram matrix: from a random start, and from the vector of the last measurement.
_COLD, _WARM = 50, 10

Report = Callable[[Exception], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """What is measured of each matrix.

    Attributes:
        measures: Names in `rankfall.ranks.MEASURES`.
        method: One of `METHODS`.
        spectrum: Number of leading singular values to keep; 0 for none.
    """

    measures: tuple[str, ...]
    method: str
    spectrum: int

    @property
    def iterates(self) -> bool:
        """Whether norms and a power iteration are enough."""
        return self.spectrum == 0 and SVD_FREE.issuperset(self.measures)


@dataclass(frozen=True)
class Pending:
    """Values (batch,) or (batch, modes) of some layers, still on the device."""

    name: str
    columns: tuple[int, ...]
    values: Tensor


@torch.no_grad()
def measure_matrices(
    matrices: Mapping[int, Tensor], settings: Settings, starts: dict[int, Tensor], report: Report
) -> list[Pending]:
    """Measure matrices, by the column of their layer.

    Args:
        matrices: Column → matrix.
        settings: What is measured.
        starts: Column → start of the power iteration; replaced by the vectors that it ends with.
        report: Called with the exception of a group that failed; its results are missing.
    """
    wide = {column: matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for column, matrix in matrices.items()}
    results: list[Pending] = []
    for columns in _alike(wide, lambda matrix: (matrix.shape, matrix.device, matrix.dtype)):
        try:
            if settings.iterates:
                results += _iterated(columns, wide, settings, starts)
            else:
                results += _decomposed(columns, wide, settings)
        except Exception as error:
            report(error)
    return results


@torch.no_grad()
def measure_moments(moments: Mapping[int, Moments], settings: Settings, report: Report) -> list[Pending]:
    """Measure the activations behind second moments, by column; layers without samples are missing."""
    grams: dict[int, Gram] = {}
    for column, moment in moments.items():
        try:
            gram = moment.gram(METHODS[settings.method])
            if gram is not None:
                grams[column] = gram
        except Exception as error:
            report(error)
    results: list[Pending] = []
    for columns in _alike(grams, lambda gram: (gram.product.shape, gram.product.device)):
        try:
            results += _from_grams(columns, grams, moments, settings)
        except Exception as error:
            report(error)
    return results


def collect(pending: Sequence[Pending]) -> dict[str, dict[int, list[float]]]:
    """Copy everything to the host, once per device; name → column → values."""
    found: dict[str, dict[int, list[float]]] = defaultdict(dict)
    by_device: dict[torch.device, list[Pending]] = defaultdict(list)
    for item in pending:
        by_device[item.values.device].append(item)
    for device, items in by_device.items():
        flat = torch.cat([item.values.reshape(-1).to(working_precision(device)) for item in items]).cpu().tolist()
        position = 0
        for item in items:
            width = item.values.numel() // len(item.columns)
            for column in item.columns:
                found[item.name][column] = flat[position : position + width]
                position += width
    return dict(found)


def _alike(items: Mapping[int, Item], kind: Callable[[Item], object]) -> list[tuple[int, ...]]:
    """Columns of what is of one kind."""
    groups: dict[object, list[int]] = defaultdict(list)
    for column, item in items.items():
        groups[kind(item)].append(column)
    return [tuple(columns) for columns in groups.values()]


def _chunks(columns: tuple[int, ...], one: Tensor) -> Iterator[tuple[int, ...]]:
    """So many columns at a time that their tensors, of the size of this one, may be stacked."""
    size = max(1, _CHUNKS.get(one.device.type, _CHUNK) // one.numel())
    for first in range(0, len(columns), size):
        yield columns[first : first + size]


def _decomposed(columns: tuple[int, ...], matrices: Mapping[int, Tensor], settings: Settings) -> list[Pending]:
    first = matrices[columns[0]]
    dtype = working_precision(first.device, METHODS[settings.method])
    values, norms = [], []
    for chunk in _chunks(columns, first):
        group = [matrices[column] for column in chunk]
        if settings.method == "svd":
            values.append(singular_values(group))
            norms.append(torch.linalg.vector_norm(values[-1], dim=-1))
        else:
            gram = gram_of(group, dtype)
            values.append(singular_values_from_gram(gram))
            norms.append(gram.norm)
    return _all_results(
        columns, torch.cat(values), torch.cat(norms), settings, first.shape[1] * _precision(first.dtype)
    )


def _iterated(
    columns: tuple[int, ...], matrices: Mapping[int, Tensor], settings: Settings, starts: dict[int, Tensor]
) -> list[Pending]:
    results = []
    for chunk in _chunks(columns, matrices[columns[0]]):
        batch = torch.stack([matrices[column] for column in chunk])
        if batch.element_size() < 4:
            batch = batch.float()
        found = {"norm": torch.linalg.matrix_norm(batch)}
        if "participation_ratio" in settings.measures:
            found["participation_ratio"] = ranks.participation_ratio_from_matrix(batch)
        if "stable_rank" in settings.measures:
            warm = all(column in starts for column in chunk)
            fresh = ranks.random_start(batch, seed=0)
            vectors = torch.stack([starts[column].to(batch) if column in starts else fresh for column in chunk])
            estimate = ranks.stable_rank_from_matrix(batch, vectors, iterations=_WARM if warm else _COLD)
            found["stable_rank"], found["stable_rank_error"] = estimate.value, estimate.error
            # Where the matrix has become NaN, so has its vector: the next iteration starts afresh.
            sound = estimate.vector.isfinite().all(-1, keepdim=True)
            starts.update(zip(chunk, torch.where(sound, estimate.vector, fresh), strict=True))
        results += [Pending(name, chunk, values) for name, values in found.items()]
    return results


def _from_grams(
    columns: tuple[int, ...], grams: Mapping[int, Gram], moments: Mapping[int, Moments], settings: Settings
) -> list[Pending]:
    values, norms = [], []
    for chunk in _chunks(columns, grams[columns[0]].product):
        gram = joined([grams[column] for column in chunk])
        values.append(singular_values_from_gram(gram))
        norms.append(gram.norm)
    results = []
    # One precision and one number of singular values at a time; where there are more than of the Gram matrix, as of a
    # layer with more outputs than inputs, they are zero.
    found, norm = torch.cat(values), torch.cat(norms)
    places = {column: place for place, column in enumerate(columns)}
    kinds = {column: moments[column] for column in columns}
    for alike in _alike(kinds, lambda moment: (min(moment.count, moment.width), moment.entries)):
        chosen = [places[column] for column in alike]
        one = moments[alike[0]]
        some = torch.nn.functional.pad(found[chosen], (0, min(one.count, one.width) - found.shape[1]))
        longer = [[max(moments[column].count, moments[column].width)] for column in alike]
        tolerance = torch.tensor(longer, device=found.device) * _precision(one.entries)
        results += _all_results(alike, some, norm[chosen], settings, tolerance)
    return results


def _all_results(
    columns: tuple[int, ...], values: Tensor, norm: Tensor, settings: Settings, tolerance: float | Tensor
) -> list[Pending]:
    found = measures_of_spectrum(values, settings.measures, tolerance)
    results = [Pending("norm", columns, norm), *(Pending(name, columns, value) for name, value in found.items())]
    if settings.spectrum:
        results.append(Pending("spectrum", columns, values[:, : settings.spectrum]))
    return results


def _precision(dtype: torch.dtype) -> float:
    """Distance from 1 to the next number in the precision in which `rankfall.ranks` computes this type."""
    return float(torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)
