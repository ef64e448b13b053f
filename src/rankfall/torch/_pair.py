"""Two matrices that meet with nothing but a product between them, as slices of a model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rankfall.errors import InvalidInput

__all__ = ["LinearPair", "Piece"]


@dataclass(frozen=True, eq=False)
class Piece:
    """Part of one parameter, seen as a matrix with one row per hidden feature.

    Attributes:
        name: Of the parameter in the model.
        parameter: The parameter itself.
        axis: Which of its axes counts the hidden features, 0 or 1; further axes (convolutions) are flattened.
        start: First hidden feature, as an index into that axis.
        stop: One past the last; None for the end of the axis.
        vector: A bias of any shape: one number per hidden feature. Taken to be so where the parameter has one axis.

    Example:
        >>> import torch
        >>> from rankfall.torch import Piece
        >>> weight = torch.nn.Parameter(torch.zeros(6, 4))
        >>> Piece("v_proj.weight", weight, axis=0, start=3, stop=6).of(weight).shape
        torch.Size([3, 4])
    """

    name: str
    parameter: torch.nn.Parameter
    axis: int = 0
    start: int = 0
    stop: int | None = None
    vector: bool = False

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the same part of a tensor that is shaped like the parameter, shape (width, m); a view."""
        if self.vector or tensor.ndim == 1:
            matrix = tensor.reshape(-1, 1)
        else:
            matrix = tensor if tensor.ndim == 2 else tensor.flatten(1)
        stop = matrix.shape[self.axis] if self.stop is None else self.stop
        part = matrix.narrow(self.axis, self.start, stop - self.start)
        return part if self.axis == 0 else part.T

    @property
    def value(self) -> torch.Tensor:
        """The part's weights, shape (width, m); a view without history."""
        return self.of(self.parameter.detach())

    @property
    def gradient(self) -> torch.Tensor | None:
        """The part's gradient, shape (width, m); None while the parameter has none."""
        gradient = self.parameter.grad
        if gradient is None:
            return None
        return self.of(gradient.to_dense() if gradient.is_sparse else gradient).detach()


@dataclass(frozen=True, eq=False)
class LinearPair:
    """A pair (W1, W2) that the loss sees through the product W1 W2 alone, x ↦ xᵀ W1 W2.

    Biases of the first layer are one more row of W1, whose input is 1. Of a query and a key both biases belong to the
    pair, the key's as one more column of W2. Where several query heads share a key head, their matrices are stacked.

    Attributes:
        name: Unique within a model.
        kind: "value-output", "query-key", "adapter" or "consecutive".
        first: The pieces of W1ᵀ, side by side.
        second: The pieces of W2, side by side.

    Raises:
        InvalidInput: A factor without pieces, or pieces of different width.

    Example:
        >>> import torch
        >>> from rankfall.torch import linear_pairs
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
        >>> pair, = linear_pairs(model)
        >>> pair.name, pair.W1.shape, pair.W2.shape          # three inputs and the bias
        ('0 → 1', torch.Size([4, 8]), torch.Size([8, 2]))
        >>> pair.wide                                         # a determinant ledger as well
        True
    """

    name: str
    kind: str
    first: tuple[Piece, ...]
    second: tuple[Piece, ...]

    def __post_init__(self) -> None:
        if not self.first or not self.second:
            raise InvalidInput(f"pair {self.name!r} needs at least one piece for each of its two matrices.")
        widths = {piece.name: piece.value.shape[0] for piece in self.pieces}
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise InvalidInput(
                f"the matrices of pair {self.name!r} do not fit: the number of hidden features differs ({listed}); "
                "the outputs of the first must be the inputs of the second."
            )

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, those of W1 first."""
        return self.first + self.second

    @property
    def width(self) -> int:
        """Hidden features, l."""
        return self.first[0].value.shape[0]

    @property
    def n_inputs(self) -> int:
        """Rows of W1, p, biases included."""
        return sum(piece.value.shape[1] for piece in self.first)

    @property
    def n_outputs(self) -> int:
        """Columns of W2, k."""
        return sum(piece.value.shape[1] for piece in self.second)

    @property
    def wide(self) -> bool:
        """Whether l ≥ p + k, without which det(ZZᵀ) = 0 and there is no determinant ledger."""
        return self.width >= self.n_inputs + self.n_outputs

    @property
    def W1(self) -> torch.Tensor:
        """Shape (p, l); a view of the parameter where it is one piece, a copy where it is several."""
        return _joined([piece.value for piece in self.first]).T

    @property
    def W2(self) -> torch.Tensor:
        """Shape (l, k); a view or a copy, as W1."""
        return _joined([piece.value for piece in self.second])

    @property
    def g1(self) -> torch.Tensor | None:
        """∂L/∂W1 = −G W2ᵀ, shape (p, l), zero where a piece has none; None while no piece has one."""
        gradient = _gradient(self.first)
        return None if gradient is None else gradient.T

    @property
    def g2(self) -> torch.Tensor | None:
        """∂L/∂W2 = −W1ᵀ G, shape (l, k); as g1."""
        return _gradient(self.second)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _gradient(pieces: Sequence[Piece]) -> torch.Tensor | None:
    gradients = [piece.gradient for piece in pieces]
    if all(gradient is None for gradient in gradients):
        return None
    parts = zip(pieces, gradients, strict=True)
    return _joined([torch.zeros_like(piece.value) if part is None else part for piece, part in parts])
