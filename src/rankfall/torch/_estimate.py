"""What the first measurement will cost, so that the budget holds from the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rankfall.torch._gram import add_up, working_precision
from rankfall.torch._measuring import METHODS, Settings
from rankfall.torch._session import wait_for

__all__ = ["Rates", "measured_rates"]

# Sizes of the two trial computations, and what handling an entry and a matrix costs besides them, in seconds.
_PRODUCT, _SPECTRUM = 256, 128
_ENTRY, _MATRIX = 2e-9, 1e-4
# Between 128 and 2048 rows an eigenvalue solver takes a time that grows with this power: large ones are more efficient.
_POWER = 2.5
# Estimates may be too low by this much without the budget being exceeded.
_CAUTION = 1.5


@dataclass(frozen=True)
class Rates:
    """How fast this device is.

    Attributes:
        product: Seconds for one multiplication and addition of a Gram matrix, all of which are counted.
        spectrum: Seconds for the spectrum of one matrix of 128 rows and columns.
        full: Whether that is a singular value decomposition of the matrix itself.
    """

    product: float
    spectrum: float
    full: bool

    def matrices(self, shapes: Sequence[tuple[int, int]]) -> float:
        """Return seconds for measuring one matrix of each shape, cautiously."""
        total = 0.0
        for shape in shapes:
            k, l = sorted(shape)
            work = self.spectrum * (k / _SPECTRUM) ** _POWER
            total += _MATRIX + _ENTRY * k * l + (work * l / k if self.full else work + self.product * k * k * l)
        return _CAUTION * total

    def moments(self, width: int, samples: int) -> float:
        """Return seconds for the activations of a layer, cautiously."""
        k, l = sorted((width, samples))
        work = self.spectrum * (k / _SPECTRUM) ** _POWER + self.product * k * k * l
        return _CAUTION * (_MATRIX + _ENTRY * width * (width + samples) + work)

    def widening(self, inner: int, width: int, samples: int) -> float:
        """Return seconds for the activations of a layer with more outputs than the `inner` inputs it has."""
        # Second moments of the inputs and of the weights, and three products and a decomposition of their size.
        work = self.spectrum * (inner / _SPECTRUM) ** _POWER + self.product * inner * inner * (
            samples + width + 3 * inner
        )
        return _CAUTION * (_MATRIX + _ENTRY * (inner * (samples + 3 * inner) + 4 * width * inner) + work)


def measured_rates(settings: Settings, device: torch.device) -> Rates:
    """Time a small product and a small spectrum: some milliseconds; draws no random numbers."""
    dtype = working_precision(device, METHODS[settings.method])
    square = torch.eye(_PRODUCT, dtype=dtype, device=device)
    band = torch.ones((_SPECTRUM, _SPECTRUM), dtype=dtype, device=device).triu(-1).tril(1)
    full = settings.method == "svd"
    decompose = torch.linalg.svdvals if full else torch.linalg.eigvalsh
    return Rates(
        product=_seconds(lambda: add_up([square[None]]), device) / _PRODUCT**3,
        spectrum=_seconds(lambda: decompose(band), device),
        full=full,
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(3):  # the first one also loads libraries
        wait_for([device])
        start = time.perf_counter()
        work()
        wait_for([device])
        times.append(time.perf_counter() - start)
    return min(times)
