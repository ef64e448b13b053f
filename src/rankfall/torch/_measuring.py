"""From matrices to results that still lie on the device: equal shapes together, one failure spoils one group only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rankfall import ranks
from rankfall.torch._moments import Moments
from rankfall.torch._spectra import (
    SVD_FREE,
    Gram,
    gram_of,
    measures_of_spectrum,
    singular_values,
    singular_values_from_gram,
    working_precision,
)

__all__ = ["METHODS", "Pending", "Settings", "collect", "measure_matrices", "measure_moments"]

# How spectra are computed → precision of the Gram matrix.
METHODS = {"gram": torch.float64, "gram_float32": torch.float32, "svd": torch.float64}

# Entries of equally shaped matrices that are stacked at a time (in float64: 128 MiB).
_CHUNK = 2**24
# Products with the Gram matrix: from a random start, and from the vector of the last measurement.
_COLD, _WARM = 50, 10

Report = Callable[[Exception], None]


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
    results: list[Pending] = []
    for columns, group in _chunks(matrices):
        try:
            if settings.iterates:
                results += _iterated(columns, group, settings, starts)
            else:
                results += _decomposed(columns, group, settings)
        except Exception as error:
            report(error)
    return results


@torch.no_grad()
def measure_moments(moments: Mapping[int, Moments], settings: Settings, report: Report) -> list[Pending]:
    """Measure the activations behind second moments, by column; layers without samples are missing."""
    groups: dict[object, list[int]] = defaultdict(list)
    for column, moment in moments.items():
        if moment.total is not None:
            groups[moment.total.shape, moment.total.device, moment.entries].append(column)
    results: list[Pending] = []
    for columns in groups.values():
        try:
            results += _from_moments(tuple(columns), [moments[column] for column in columns], settings)
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


def _chunks(matrices: Mapping[int, Tensor]) -> Iterator[tuple[tuple[int, ...], list[Tensor]]]:
    groups: dict[object, list[int]] = defaultdict(list)
    wide = {column: matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for column, matrix in matrices.items()}
    for column, matrix in wide.items():
        groups[matrix.shape, matrix.device, matrix.dtype].append(column)
    for columns in groups.values():
        size = max(1, _CHUNK // wide[columns[0]].numel())
        for first in range(0, len(columns), size):
            chosen = tuple(columns[first : first + size])
            yield chosen, [wide[column] for column in chosen]


def _decomposed(columns: tuple[int, ...], group: list[Tensor], settings: Settings) -> list[Pending]:
    longer = group[0].shape[1]
    if settings.method == "svd":
        values = singular_values(group)
        norm = torch.linalg.vector_norm(values, dim=-1)
    else:
        gram = gram_of(group, working_precision(group[0].device, METHODS[settings.method]))
        values, norm = singular_values_from_gram(gram), gram.norm
    return _all_results(columns, values, norm, settings, longer * _precision(group[0].dtype))


def _iterated(
    columns: tuple[int, ...], group: list[Tensor], settings: Settings, starts: dict[int, Tensor]
) -> list[Pending]:
    batch = torch.stack(group)
    if batch.element_size() < 4:
        batch = batch.float()
    found = {"norm": torch.linalg.matrix_norm(batch)}
    if "participation_ratio" in settings.measures:
        found["participation_ratio"] = ranks.participation_ratio_from_matrix(batch)
    if "stable_rank" in settings.measures:
        warm = all(column in starts for column in columns)
        fresh = ranks.random_start(batch, seed=0)
        vectors = torch.stack([starts[column].to(batch) if column in starts else fresh for column in columns])
        estimate = ranks.stable_rank_from_matrix(batch, vectors, iterations=_WARM if warm else _COLD)
        found["stable_rank"], found["stable_rank_error"] = estimate.value, estimate.error
        # Where the matrix has become NaN, so has its vector: the next iteration starts afresh.
        sound = estimate.vector.isfinite().all(-1, keepdim=True)
        starts.update(zip(columns, torch.where(sound, estimate.vector, fresh), strict=True))
    return [Pending(name, columns, values) for name, values in found.items()]


def _from_moments(columns: tuple[int, ...], moments: list[Moments], settings: Settings) -> list[Pending]:
    product = torch.stack([moment.total for moment in moments if moment.total is not None])
    counts = torch.tensor([[moment.count] for moment in moments], device=product.device)
    size = product.diagonal(dim1=-2, dim2=-1).mean(-1)
    sound = torch.isfinite(product).all(-1).all(-1)
    scale = torch.where(sound & (size > 0), size, torch.ones_like(size))
    product = torch.where(sound[:, None, None], product / scale[:, None, None], torch.zeros_like(product))
    scale = torch.where(sound, scale.sqrt(), torch.full_like(scale, float("nan")))
    # The product sums over the samples: the bound on rounding takes their number for the longer side. Where there are
    # fewer samples than features, eigenvalues that are nothing but rounding lie below that bound and become zeros.
    gram = Gram(product=product, scale=scale, length=max(max(moment.count for moment in moments), product.shape[-1]))
    values = singular_values_from_gram(gram)
    tolerance = counts.clamp(min=product.shape[-1]) * _precision(moments[0].entries)
    return _all_results(columns, values, gram.norm, settings, tolerance)


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
