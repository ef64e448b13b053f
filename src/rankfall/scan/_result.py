"""What a scan returns: one report per matrix, and all of them as a sequence and as a dataset."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from rankfall.errors import InvalidInput
from rankfall.scan._measuring import Value, did_you_mean
from rankfall.scan._names import Kind

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LayerReport", "Scan", "sorting_key"]


@dataclass(frozen=True, eq=False)
class LayerReport:
    """One matrix of a checkpoint.

    Attributes:
        name: Of the tensor, with the part of it in brackets ("[key]", "[head 3]", "[expert 0]"); of a LoRA pair, of the
            layer that it adapts.
        kind: "attention", "head", "lora", "convolution", "embedding" or "dense".
        shape: As stored; of a LoRA pair that of the product.
        matrix_shape: Of the matrix that was measured: outputs × everything else.
        dtype: As stored.
        computed_dtype: Of the singular values, in which they were computed.
        spectral_norm: σ₁, the largest singular value; NaN where the matrix is not finite.
        frobenius_norm: ‖W‖_F.
        singular_values: Descending; NaN where the matrix is not finite, none in a scan without spectra. Read-only.
        error: Bound on the error of each of them, without spectra of σ₁, by the model of the method.
        values: Measure → value.
        share: Effective rank over the number of singular values, the share of the rank that is used. NaN without
            spectra.
        parameters: Numbers that are stored for it.
        factor_rank: Least rank that keeps the wanted energy, None where the matrix is not finite or without spectra.
        saved: Parameters that two factors of that rank would save; 0 where they would save nothing.
        note: What a reader must know, empty if nothing.
        problem: Why there are no numbers; empty if there are.
        step: Of training, in a scan of several checkpoints.
        part_of: Name of the report whose matrix contains this one, as a projection contains its heads; else empty.
        route: How the singular values were found: "svd", or "gram" from the eigenvalues of the smaller Gram matrix.
            Empty where they were not.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    matrix_shape: tuple[int, int]
    dtype: str
    computed_dtype: str
    spectral_norm: float
    frobenius_norm: float
    singular_values: np.ndarray
    error: float
    values: Mapping[str, Value]
    share: float
    parameters: int
    factor_rank: int | None
    saved: int
    note: str = ""
    problem: str = ""
    step: int | None = None
    part_of: str = ""
    route: str = ""

    def __getitem__(self, measure: str) -> Value:
        return self.values[measure]

    def to_dict(self, *, spectrum: bool = False) -> dict[str, Any]:
        """Return it ready for JSON; NaN becomes None."""
        found: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "part_of": self.part_of,
            "step": self.step,
            "shape": list(self.shape),
            "matrix_shape": list(self.matrix_shape),
            "dtype": self.dtype,
            "computed_dtype": self.computed_dtype,
            "measures": {name: _plain(value) for name, value in self.values.items()},
            "share": _plain(self.share),
            "parameters": self.parameters,
            "factor_rank": self.factor_rank,
            "saved": self.saved,
            "spectral_norm": _plain(self.spectral_norm),
            "frobenius_norm": _plain(self.frobenius_norm),
            "route": self.route,
            "error": _plain(self.error),
            "note": self.note,
            "problem": self.problem,
        }
        if spectrum:
            found["singular_values"] = [_plain(float(value)) for value in self.singular_values]
        return found


@dataclass(frozen=True, eq=False)
class Scan(Sequence[LayerReport]):
    """A scanned checkpoint, or several over time: a sequence of its reports.

    Attributes:
        path: What was scanned.
        layers: In the order of the file, of several checkpoints step by step.
        measures: Names, in the order asked for.
        energy: That a factorisation keeps.
        method: "auto", "svd" or "gram".
        spectra: Whether all singular values were computed.
        parameters: Entries of all tensors of the (last) checkpoint, tied ones once.
        skipped: Why → how many tensors of the (last) checkpoint were left out.
        tied: Name → name of the tensor that has the same memory, which was measured once.
        steps: Of the checkpoints, ascending; empty for a single one.
        complete: Whether all was done; False after an interruption.
    """

    path: str
    layers: tuple[LayerReport, ...]
    measures: tuple[str, ...]
    energy: float
    method: str
    parameters: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    complete: bool = True
    spectra: bool = True

    @overload
    def __getitem__(self, index: int) -> LayerReport: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerReport]: ...
    def __getitem__(self, index: int | slice) -> LayerReport | Sequence[LayerReport]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    @property
    def problems(self) -> tuple[LayerReport, ...]:
        """The matrices that have no numbers."""
        return tuple(layer for layer in self.layers if layer.problem)

    def sorted_by(self, key: str, *, reverse: bool = False) -> Scan:
        """Return the same scan in another order.

        Args:
            key: "file" (as it is), "name", "size" or "saved" (largest first), "share" or a measure (lowest first).
            reverse: The other way round. What has no numbers stays at the end.

        Raises:
            InvalidInput: No such key, or a measure that was not computed.
        """
        plain = sorting_key(key, self.measures, self.spectra)
        layers = list(self.layers)
        if plain == "file":
            return replace(self, layers=tuple(layers[::-1] if reverse else layers))
        if plain == "name":
            layers.sort(key=lambda layer: _natural(layer.name), reverse=reverse)
            return replace(self, layers=tuple(layers))
        numbers = {id(layer): _sorting_number(layer, plain) for layer in layers}
        sign = -1 if reverse else 1
        layers.sort(key=lambda layer: (math.isnan(numbers[id(layer)]), sign * numbers[id(layer)]))
        return replace(self, layers=tuple(layers))

    def of_step(self, step: int | None) -> tuple[LayerReport, ...]:
        """The reports of one checkpoint."""
        return tuple(layer for layer in self.layers if layer.step == step)

    def to_dataset(self) -> xr.Dataset:
        """Return the measures as variables over `layer` (and `step`), singular values over `mode`, padded with NaN."""
        from rankfall.scan._dataset import to_dataset

        return to_dataset(self)

    def to_dict(self, *, spectra: bool = False) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "path": self.path,
            "steps": list(self.steps),
            "measures": list(self.measures),
            "energy": self.energy,
            "method": self.method,
            "parameters": self.parameters,
            "skipped": dict(self.skipped),
            "tied": dict(self.tied),
            "complete": self.complete,
            "problems": len(self.problems),
            "layers": [layer.to_dict(spectrum=spectra) for layer in self.layers],
        }


def _plain(value: Value) -> Value | None:
    return value if isinstance(value, int) or math.isfinite(value) else None


def sorting_key(key: str, measures: Sequence[str], spectra: bool) -> str:
    """By what rows are sorted that a user calls `key`.

    Raises:
        InvalidInput: No such key, or a measure that is not computed.
    """
    keys = ("file", "name", "size", *(("saved", "share") if spectra else ()), *measures)
    plain = key.strip().lower().replace("-", "_").replace(" ", "_")
    plain = plain if plain in keys else f"{plain}_rank" if f"{plain}_rank" in keys else plain
    if plain not in keys:
        raise InvalidInput(f"cannot sort by {key!r}{did_you_mean(plain, keys)}. A measure has to be computed.")
    return plain


def _sorting_number(layer: LayerReport, key: str) -> float:
    if key == "size":
        return -float(layer.parameters)
    if key == "saved":
        return float("nan") if layer.problem else -float(layer.saved)
    return float(layer.share if key == "share" else layer.values[key])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Layer 10 comes after layer 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]
