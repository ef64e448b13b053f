"""Second moments of activations, summed up batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankfall.torch._matrices import CONVOLUTIONS
from rankfall.torch._spectra import working_precision

__all__ = ["ACTIVE", "Moments", "features", "rows"]

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
    """Σ x xᵀ over samples x, not centred, and their number.

    The singular values of the samples × features matrix of all samples so far are the roots of its eigenvalues.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None
        self.entries = torch.float32

    def add(self, samples: Tensor, dtype: torch.dtype) -> None:
        """Add samples × features, in `dtype` or the widest that the device has; no samples change nothing."""
        if samples.shape[0] == 0:
            return
        values = samples.detach().to(working_precision(samples.device, dtype))
        with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
            if self.total is None:
                self.total = values.mT @ values
                self.entries = samples.dtype
            else:
                self.total.addmm_(values.mT, values)
        self.count += samples.shape[0]
