"""Singular values and rank measures of a batch of matrices, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankfall import ranks
from rankfall.torch._gram import Gram, gram_of, rounding

__all__ = ["SVD_FREE", "gram_of", "measures_of_spectrum", "resolution", "singular_values", "singular_values_from_gram"]

# Measures that Frobenius norms and a power iteration give.
SVD_FREE = frozenset({"stable_rank", "participation_ratio"})


def singular_values_from_gram(gram: Gram) -> Tensor:
    """Return the singular values in descending order, shape (batch, k), from the eigenvalues of the Gram matrix.

    Both rounding of the product and the eigenvalue solver move an eigenvalue by at most about
    (l + 10k)·u·‖M‖_F², k ≤ l being the sides and u the unit roundoff (N. Higham, "Accuracy and Stability of Numerical
    Algorithms", 2002, section 3.5, and Weyl's inequality; 10k stands for the solver's modest polynomial). So
    |σ̂² − σ²| is below that, and singular values below `resolution`·‖M‖_F cannot be told from zero: they are set to 0.
    The product may have a bound of its own (`_widening`).
    """
    values = torch.linalg.eigvalsh(gram.product)
    values = torch.where(values > gram.error[:, None], values, torch.zeros_like(values))
    return values.sqrt().flip(-1) * gram.scale[:, None]


def singular_values(matrices: Sequence[Tensor]) -> Tensor:
    """Return the singular values in descending order from a full decomposition, shape (batch, k)."""
    return ranks.singular_values(torch.stack(list(matrices)))


def resolution(shorter: int, longer: int, dtype: torch.dtype) -> float:
    """Return √((l + 10k)·u): singular values below this times ‖M‖_F are lost in a Gram matrix of this precision.

    In float64 this is never above the default threshold max(m, n)·eps of `numerical_rank` for float32 entries:
    (l + 10k)·u₆₄·‖M‖_F² ≤ 11·l·u₆₄·k·σ₁² < (l·eps₃₂·σ₁)², since 11·u₆₄ = 1.2e-15 and eps₃₂² = 1.4e-14. The numerical
    rank of a float32 matrix is therefore the same as from its singular value decomposition, up to the rounding there.

    Example:
        >>> from rankfall.torch._spectra import resolution
        >>> f"{resolution(768, 3072, torch.float64):.1e}"
        '1.1e-06'
    """
    return float(rounding(shorter, longer, dtype) ** 0.5)


def measures_of_spectrum(values: Tensor, measures: Sequence[str], tolerance: float | Tensor) -> dict[str, Tensor]:
    """Return each measure of singular values (batch, k), by name.

    Args:
        values: Singular values; those that are lost in rounding are zeros.
        measures: Names in `rankfall.ranks.MEASURES`.
        tolerance: Of the numerical rank, relative to the largest singular value: max(m, n)·eps of the entries. A number
            or shape (batch, 1).
    """
    result = {}
    for name in measures:
        if name == "numerical_rank":
            top = values.amax(-1, keepdim=True)
            counted = torch.where(values > tolerance * top, values, torch.zeros_like(values))
            result[name] = ranks.numerical_rank(torch.where(top.isnan(), top, counted), rtol=0.0)
        else:
            result[name] = ranks.MEASURES[name](values)
    return result
