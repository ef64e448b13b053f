"""Singular values and rank measures of a batch of matrices, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rankfall import ranks

__all__ = [
    "SVD_FREE",
    "Gram",
    "add_up",
    "gram_of",
    "measures_of_spectrum",
    "resolution",
    "singular_values",
    "singular_values_from_gram",
    "working_precision",
]

# Measures that Frobenius norms and a power iteration give.
SVD_FREE = frozenset({"stable_rank", "participation_ratio"})

# Columns of a long matrix that are converted at a time: an embedding never has a whole copy in float64.
_PIECE = 4096


@dataclass(frozen=True)
class Gram:
    """Products of matrices with their transposes, from the shorter side.

    Attributes:
        product: MMᵀ/scale², shape (batch, k, k).
        scale: Largest entry of each matrix, 1 for a zero matrix, shape (batch,); NaN where an entry is not finite.
        length: The longer side, over which the product sums.
    """

    product: Tensor
    scale: Tensor
    length: int

    @property
    def norm(self) -> Tensor:
        """Frobenius norm of the matrices, shape (batch,)."""
        return self.scale * self.product.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=0).sqrt()


def working_precision(device: torch.device, wanted: torch.dtype = torch.float64) -> torch.dtype:
    """Return `wanted`, or float32 on a device that has no float64."""
    return torch.float32 if device.type == "mps" else wanted


def gram_of(matrices: Sequence[Tensor], dtype: torch.dtype) -> Gram:
    """Return the Gram matrices of equally shaped matrices (m, n), computed in `dtype`.

    Scaling by the largest entry keeps squares from overflow and from vanishing (gradients of 1e-30 in float32).
    """
    batch = torch.stack(list(matrices))
    if batch.is_floating_point() and batch.element_size() < 4:
        batch = batch.float()
    if batch.shape[-2] > batch.shape[-1]:
        batch = batch.mT
    largest = batch.abs().amax(dim=(-2, -1)).to(dtype)
    largest = torch.where(torch.isfinite(largest), largest, torch.full_like(largest, float("nan")))
    scale = torch.where(largest == 0, torch.ones_like(largest), largest)
    # One matrix with NaN must not spoil LAPACK's work on the others: it is computed as zeros and set to NaN later.
    divisor = torch.where(scale.isnan(), torch.full_like(scale, float("inf")), scale)
    product = add_up(_scaled_pieces(batch, divisor, dtype))
    return Gram(product=product, scale=scale, length=batch.shape[-1])


def add_up(pieces: Iterable[Tensor]) -> Tensor:
    """Return Σ PPᵀ over pieces (batch, k, columns), in their precision even inside autocast."""
    total: Tensor | None = None
    for piece in pieces:
        with torch.autocast(piece.device.type, enabled=False):
            total = torch.bmm(piece, piece.mT) if total is None else torch.baddbmm(total, piece, piece.mT)
    if total is None:
        raise ValueError("no pieces")
    return total


def singular_values_from_gram(gram: Gram) -> Tensor:
    """Return the singular values in descending order, shape (batch, k), from the eigenvalues of the Gram matrix.

    Both rounding of the product and the eigenvalue solver move an eigenvalue by at most about
    (l + 10k)·u·‖M‖_F², k ≤ l being the sides and u the unit roundoff (N. Higham, "Accuracy and Stability of Numerical
    Algorithms", 2002, section 3.5, and Weyl's inequality; 10k stands for the solver's modest polynomial). So
    |σ̂² − σ²| is below that, and singular values below `resolution`·‖M‖_F cannot be told from zero: they are set to 0.
    """
    values, energy = torch.linalg.eigvalsh(gram.product), gram.product.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    smallest = resolution(gram.product.shape[-1], gram.length, gram.product.dtype) ** 2 * energy
    values = torch.where(values > smallest, values, torch.zeros_like(values))
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
    return float(((longer + 10 * shorter) * torch.finfo(dtype).eps / 2) ** 0.5)


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


def _scaled_pieces(batch: Tensor, scale: Tensor, dtype: torch.dtype) -> Iterable[Tensor]:
    for piece in batch.split(_PIECE, dim=-1):
        yield piece.to(dtype).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0) / scale[:, None, None]
