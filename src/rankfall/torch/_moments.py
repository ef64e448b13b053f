"""Second moments of activations, summed up batch by batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rankfall.torch._gram import Gram, add_up, checked, energy, gram_of, rounding, symmetric, working_precision
from rankfall.torch._matrices import CONVOLUTIONS
from rankfall.torch._widening import Pass, Widening

__all__ = ["ACTIVE", "Moments", "features", "rows"]

# Samples that are converted at a time.
_PIECE = 4096

# Modules whose output is watched.
ACTIVE = (nn.Linear, *CONVOLUTIONS, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)


def features(module: nn.Module) -> int:
    """Width of the output of a module in `ACTIVE`."""
    for name in ("out_features", "out_channels", "embedding_dim", "embed_dim"):
        if isinstance(getattr(module, name, None), int):
            return int(getattr(module, name))
    raise TypeError(f"{type(module).__name__} has no known width")


def rows(module: nn.Module, output: Tensor) -> Tensor:
    """Return the activations as samples × features: a sample is a token, a pixel or an example.

    Convolutions have their channels before the space axes; all others have the features last.
    """
    if isinstance(module, CONVOLUTIONS):
        space = len(module.kernel_size)
        output = output.movedim(output.ndim - space - 1, -1)
    return output.reshape(-1, output.shape[-1])


class Moments:
    """What the singular values of a samples × features matrix need, collected batch by batch; not centred.

    That is the samples themselves while there are no more of them than features, then Σ x xᵀ; of a linear layer with
    more outputs than inputs Σ x xᵀ of what goes in (`_widening`).

    Attributes:
        count: Number of samples.
        width: Number of features.
        entries: Type of the samples.
        total: Σ x xᵀ on and below the diagonal, shape (features, features); None as long as it is not needed.
        blurred: Whether `gram` found that inputs and weights cancel so far that the outputs cannot be told from them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.width = 0
        self.entries = torch.float32
        self.total: Tensor | None = None
        self.blurred = False
        self._kept: list[Tensor] = []
        self._widening: Widening | None = None
        self._folded: Tensor | None = None  # bound on the error of what came from a widening layer

    def add(self, samples: Tensor, dtype: torch.dtype, source: Pass | None = None) -> None:
        """Add samples × features; no samples change nothing.

        Args:
            samples: The outputs.
            dtype: Precision of the sums, or the widest that the device has.
            source: The product that they are, if they are one.
        """
        if samples.shape[0] == 0:
            return
        samples = samples.detach()
        if self.count == 0:
            self.width, self.entries = samples.shape[1], samples.dtype
        with torch.no_grad(), torch.autocast(samples.device.type, enabled=False):
            precise = working_precision(samples.device, dtype)
            if self.count == 0 and source is not None and precise == torch.float64:
                # Where there are fewer samples than inputs, the samples themselves are less.
                self._widening = Widening(source) if len(samples) > source.inner else None
            if self._widening is not None and source is not None and self._widening.continues(source):
                self._widening.add(source.inputs)
            else:
                self._add_outputs(samples, precise)
        self.count += samples.shape[0]

    def gram(self, dtype: torch.dtype) -> Gram | None:
        """Return a Gram matrix whose eigenvalues are the squared singular values, but for zeros; None without samples.

        One that is blurred counts as not finite.

        Args:
            dtype: As in `add`.
        """
        if self._widening is not None:
            return self._sharp(self._widening.gram())
        if self._kept:
            samples = torch.cat(self._kept)
            return gram_of([samples], working_precision(samples.device, dtype))
        if self.total is None:
            return None
        product = self.total[None]
        # The product sums over the samples: the bound on rounding takes their number for the longer side.
        error = rounding(self.width, max(self.count, self.width), product.dtype) * energy(product)
        if self._folded is None:
            return checked(product, torch.ones_like(error), error)
        return self._sharp(checked(product, torch.ones_like(error), error + self._folded))

    def _sharp(self, gram: Gram) -> Gram:
        """The same, unless its error hides what the numerical rank of float32 counts: values above max(n, d)·eps·σ₁.

        That is so where a bias takes away the mean of inputs that is a hundred times their spread, or weights undo the
        scales of the inputs: the bound is relative to ‖X‖‖B‖, and Y is so much less. σ₁² ≥ Σλ²/Σλ.
        """
        threshold = max(self.count, self.width) * torch.finfo(torch.float32).eps
        largest = symmetric(gram.product).square().sum(dim=(-2, -1)) / energy(gram.product)
        self.blurred = bool((gram.error > threshold**2 * largest).any())
        return replace(gram, scale=torch.full_like(gram.scale, torch.nan)) if self.blurred else gram

    def _add_outputs(self, samples: Tensor, precise: torch.dtype) -> None:
        if self._widening is not None:  # its weights have changed between two passes
            self.total, self._folded = self._widening.outputs(), self._widening.gram().error
            self._widening = None
        if self.total is None and self.count + samples.shape[0] <= self.width:
            self._kept.append(samples.clone())
            return
        pieces = [piece for kept in (*self._kept, samples) for piece in kept.split(_PIECE)]
        self._kept = []
        for piece in pieces:
            product = add_up([piece.to(precise).mT[None]])[0]
            self.total = product if self.total is None else self.total.add_(product)
