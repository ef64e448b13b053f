"""All measures of a matrix at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from array_api_compat import is_torch_array

from rankfall._checks import real_number
from rankfall.errors import InvalidInput
from rankfall.ranks._arrays import Array, Namespace, dtype_name
from rankfall.ranks._measures import COUNTS, MEASURES
from rankfall.ranks.spectrum import read_matrix, singular_values

__all__ = ["Report", "report"]


@dataclass(frozen=True)
class Report:
    """The measures of a matrix, or of a batch.

    Attributes:
        shape: Of the matrix or the batch.
        given_dtype: Data type of the matrix as it was given.
        dtype: Data type in which the singular values and the measures were computed.
        settings: rtol (None for the default max(m, n)·eps), atol, delta and q.
        singular_values: Descending, shape (..., min(m, n)), in the library of the matrix.
        values: Measure by name. Python numbers for one matrix, arrays of shape (...) for a batch; counts are integers.
    """

    shape: tuple[int, ...]
    given_dtype: str
    dtype: str
    settings: Mapping[str, float | None]
    singular_values: Array
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __str__(self) -> str:
        computed = "" if self.dtype == self.given_dtype else f", computed in {self.dtype}"
        lines = [f"{' × '.join(map(str, self.shape))} {self.given_dtype}{computed}"]
        lines += [f"  {name.replace('_', ' '):<22} {_written(value)}" for name, value in self.values.items()]
        return "\n".join(lines)


def report(
    matrix: Any, *, rtol: float | None = None, atol: float = 0.0, delta: float = 0.01, q: float = 0.99
) -> Report:
    """Compute all measures of a matrix from one SVD.

    Unlike the measures, which answer NaN with NaN so that a monitor can go on, a report refuses what it cannot answer.
    It looks at the values, so an accelerator is waited for, and it has no gradient.

    Args:
        matrix: Shape (..., m, n), at least 1 by 1; the leading axes are a batch.
        rtol: Of `numerical_rank`; by default max(m, n)·eps.
        atol: Of `numerical_rank`.
        delta: Of `srank`.
        q: Of `energy_rank`.

    Raises:
        InvalidInput: Not a real matrix, entries that are NaN or infinite, or an argument that its measure refuses.

    Example:
        >>> import numpy as np
        >>> from rankfall import ranks
        >>> print(ranks.report(np.diag([3.0, 1.0, 0.1, 0.01]).astype(np.float16)))
        4 × 4 float16, computed in float32
          numerical rank         4
          stable rank            1.1122
          participation ratio    1.2220
          energy effective rank  1.3948
          nuclear rank           1.6875
          effective rank         1.9714
          rankme                 1.9714
          srank                  3
          energy rank            2
          log determinant        -11.6183
    """
    xp, array = read_matrix(matrix)
    if is_torch_array(array):
        # Nobody differentiates a report: without a graph, torch computes no singular vectors and keeps nothing alive.
        array = array.detach()
    _refuse_nonfinite(xp, array)
    settings: dict[str, float | None] = {
        "rtol": None if rtol is None else real_number(rtol, "rtol"),
        "atol": real_number(atol, "atol"),
        "delta": real_number(delta, "delta"),
        "q": real_number(q, "q"),
    }
    spectrum = singular_values(array)
    arguments: dict[str, dict[str, Any]] = {
        "numerical_rank": {"rtol": rtol, "atol": atol, "shape": tuple(array.shape)},
        "srank": {"delta": delta},
        "energy_rank": {"q": q},
    }
    values = {}
    for name, measure in MEASURES.items():
        value = measure(spectrum, **arguments.get(name, {}))
        if name in COUNTS:
            value = xp.astype(value[...], xp.int64)  # the index makes an array of a NumPy scalar
        values[name] = value if array.ndim > 2 else value.item()
    return Report(
        shape=tuple(array.shape),
        given_dtype=dtype_name(matrix) if hasattr(matrix, "dtype") else dtype_name(array),
        dtype=dtype_name(array),
        settings=MappingProxyType(settings),
        singular_values=spectrum,
        values=MappingProxyType(values),
    )


def _refuse_nonfinite(xp: Namespace, array: Array) -> None:
    number = int(xp.sum(xp.astype(~xp.isfinite(array), xp.int64)))
    if number:
        entries = 1
        for side in array.shape:
            entries *= side
        raise InvalidInput(
            f"matrix must be finite, but {number} of {entries} entries are NaN or infinite. Remove or impute them; "
            "the measures themselves answer such matrices with NaN."
        )


def _written(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4f}"
    if 0 in value.shape:
        return "of no matrix"
    smallest, largest = _written(value.min().item()), _written(value.max().item())
    return f"{smallest} to {largest} in {tuple(value.shape)}"
