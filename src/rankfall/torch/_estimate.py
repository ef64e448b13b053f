"""What the first measurement will cost, so that the budget holds from the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rankfall.torch._gram import add_up, working_precision
from rankfall.torch._measuring import METHODS, Settings, collect, measure_matrices
from rankfall.torch._session import wait_for

__all__ = ["Rates", "Slowdown", "measured_rates"]

# Sizes of the two trial computations, and what handling an entry and a matrix costs besides them, in seconds.
_PRODUCT, _SPECTRUM = 256, 128
_ENTRY, _MATRIX = 2e-9, 1e-4
# Between 128 and 2048 rows an eigenvalue solver takes a time that grows with this power: large ones are more efficient.
_POWER = 2.5
# Estimates may be too low by this much without the budget being exceeded.
_CAUTION = 1.5
# Waiting for data looks like waiting for a processor that others use: no more than this is believed.
_SLOWEST = 4.0


@dataclass(frozen=True)
class Rates:
    """How fast this device is.

    Attributes:
        product: Seconds for one multiplication and addition of a Gram matrix, all of which are counted.
        spectrum: Seconds for the spectrum of one matrix of 128 rows and columns.
        full: Whether that is a singular value decomposition of the matrix itself.
        group: Seconds that a group of equally shaped matrices takes however small they are.
    """

    product: float
    spectrum: float
    full: bool
    group: float = 0.0

    def matrices(self, shapes: Sequence[tuple[int, int]]) -> float:
        """Return seconds for measuring one matrix of each shape, cautiously."""
        sides = [sorted(shape) for shape in shapes]
        total = self.group * len({(k, l) for k, l in sides})
        for k, l in sides:
            work = self.spectrum * (k / _SPECTRUM) ** _POWER
            total += _MATRIX + _ENTRY * k * l + (work * l / k if self.full else work + self.product * k * k * l)
        return _CAUTION * total

    def moments(self, width: int, samples: int) -> float:
        """Return seconds for the activations of a layer, cautiously."""
        k, l = sorted((width, samples))
        work = self.spectrum * (k / _SPECTRUM) ** _POWER + self.product * k * k * l
        return _CAUTION * (self.group + _MATRIX + _ENTRY * width * (width + samples) + work)

    def widening(self, inner: int, width: int, samples: int) -> float:
        """Return seconds for the activations of a layer with more outputs than the `inner` inputs it has."""
        # Second moments of the inputs and of the weights, and three products and a decomposition of their size.
        work = self.spectrum * (inner / _SPECTRUM) ** _POWER + self.product * inner * inner * (
            samples + width + 3 * inner
        )
        entries = inner * (samples + 3 * inner) + 4 * width * inner
        return _CAUTION * (self.group + _MATRIX + _ENTRY * entries + work)


class Slowdown:
    """How much longer this process takes than the processor works for it, because others want that too."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def factor(self) -> float:
        """Wall time over processor time since the beginning, 1 where threads or accelerators make it less."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return min(max(1.0, wall / cpu), _SLOWEST) if cpu > 0 else 1.0


def measured_rates(settings: Settings, device: torch.device) -> Rates:
    """Time a small product, a small spectrum and all measures of a tiny matrix: some milliseconds.

    Draws no random numbers.
    """
    dtype = working_precision(device, METHODS[settings.method])
    square = torch.eye(_PRODUCT, dtype=dtype, device=device)
    band = torch.ones((_SPECTRUM, _SPECTRUM), dtype=dtype, device=device).triu(-1).tril(1)
    full = settings.method == "svd"
    decompose = torch.linalg.svdvals if full else torch.linalg.eigvalsh
    return Rates(
        product=_seconds(lambda: add_up([square[None]]), device) / _PRODUCT**3,
        spectrum=_seconds(lambda: decompose(band), device),
        full=full,
        group=_seconds(lambda: _measure_one(square[:2, :2], settings), device),
    )


def _measure_one(matrix: torch.Tensor, settings: Settings) -> None:
    def fail(error: Exception) -> None:
        raise error

    collect(measure_matrices({0: matrix}, settings, {}, fail))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(3):  # the first one also loads libraries
        wait_for([device])
        start = time.perf_counter()
        work()
        wait_for([device])
        times.append(time.perf_counter() - start)
    return min(times)
