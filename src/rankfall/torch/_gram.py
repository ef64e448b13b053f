"""Gram matrices of a batch of matrices, with a bound on what rounding does to their eigenvalues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Gram", "add_up", "checked", "energy", "gram_of", "joined", "rounding", "symmetric", "working_precision"]

# Columns of a long matrix that are converted at a time: an embedding never has a whole copy in float64.
_PIECE = 4096
# Rows of a product that are computed at a time on a processor, each only up to the diagonal: half of the work is saved.
_ROWS = 96


@dataclass(frozen=True)
class Gram:
    """Products of matrices with their transposes.

    Attributes:
        product: MMᵀ/scale², shape (batch, k, k); only what is on and below the diagonal counts.
        scale: By what the entries of each matrix were divided, shape (batch,); NaN where an entry is not finite, and
            then the product is zero.
        error: By how much an eigenvalue computed from the product may differ from the true one, shape (batch,).
    """

    product: Tensor
    scale: Tensor
    error: Tensor

    @property
    def norm(self) -> Tensor:
        """Frobenius norm of the matrices, shape (batch,)."""
        return self.scale * energy(self.product).sqrt()


def working_precision(device: torch.device, wanted: torch.dtype = torch.float64) -> torch.dtype:
    """Return `wanted`, or float32 on a device that has no float64."""
    return torch.float32 if device.type == "mps" else wanted


def gram_of(matrices: Sequence[Tensor], dtype: torch.dtype) -> Gram:
    """Return the Gram matrices of equally shaped matrices (m, n) from their shorter side, computed in `dtype`.

    Entries are scaled by the largest one, which keeps squares from overflow and from vanishing (gradients of 1e-30 in
    float32), unless `dtype` is float64 and the entries are not, whose squares it holds anyway.
    """
    batch = torch.stack(list(matrices)) if len(matrices) > 1 else matrices[0][None]
    if batch.shape[-2] > batch.shape[-1]:
        batch = batch.mT
    scale = torch.ones(batch.shape[0], dtype=dtype, device=batch.device)
    if dtype != torch.float64 or batch.dtype == torch.float64:
        largest = batch.abs().amax(dim=(-2, -1)).to(dtype)
        scale = torch.where(torch.isfinite(largest) & (largest > 0), largest, scale)
        product = add_up(piece.to(dtype) / scale[:, None, None] for piece in batch.split(_PIECE, dim=-1))
    else:
        product = add_up(piece.to(dtype) for piece in batch.split(_PIECE, dim=-1))
    return checked(product, scale, rounding(batch.shape[-2], batch.shape[-1], dtype) * energy(product))


def joined(grams: Sequence[Gram]) -> Gram:
    """Return several as one batch."""
    if len(grams) == 1:
        return grams[0]
    return Gram(*(torch.cat([getattr(gram, name) for gram in grams]) for name in ("product", "scale", "error")))


def checked(product: Tensor, scale: Tensor, error: Tensor) -> Gram:
    """Return a Gram matrix; where an entry was NaN or infinite it is zero, so as not to spoil LAPACK's other work."""
    # An entry that is not finite makes the diagonal so, for squares of finite entries do not overflow.
    sound = torch.isfinite(product.diagonal(dim1=-2, dim2=-1).sum(-1))
    product = torch.where(sound[:, None, None], product, torch.zeros_like(product))
    return Gram(
        product=product,
        scale=torch.where(sound, scale, torch.full_like(scale, float("nan"))),
        error=torch.where(sound, error, torch.zeros_like(error)),
    )


def add_up(pieces: Iterable[Tensor]) -> Tensor:
    """Return Σ PPᵀ over pieces (batch, k, columns), on and below the diagonal, in their precision inside autocast."""
    total: Tensor | None = None
    for piece in pieces:
        if total is None:
            total = piece.new_zeros((*piece.shape[:-1], piece.shape[-2]))
        with torch.autocast(piece.device.type, enabled=False):
            if piece.device.type != "cpu" or piece.shape[-2] <= _ROWS:
                total.baddbmm_(piece, piece.mT)
            else:
                for one, rows in zip(total, piece, strict=True):
                    _add_below_diagonal(one, rows)
    if total is None:
        raise ValueError("no pieces")
    return total


def _add_below_diagonal(total: Tensor, rows: Tensor) -> None:
    for first in range(0, len(rows), _ROWS):
        last = first + _ROWS
        total[first:last, :last].addmm_(rows[first:last], rows[:last].mT)


def symmetric(product: Tensor) -> Tensor:
    """Return matrices (batch, k, k) with what is below the diagonal also above it."""
    return product.tril() + product.tril(-1).mT


def energy(product: Tensor) -> Tensor:
    """‖M‖_F²/scale², shape (batch,)."""
    return product.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=0)


def rounding(shorter: int, longer: int, dtype: torch.dtype) -> float:
    """Return (l + 10k)·u, the bound on the error of an eigenvalue in units of ‖M‖_F²."""
    return float((longer + 10 * shorter) * torch.finfo(dtype).eps / 2)
