"""What the first measurement will cost, so that the budget holds from the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from rankfall.torch._measuring import METHODS, Settings
from rankfall.torch._session import wait_for
from rankfall.torch._spectra import working_precision

__all__ = ["estimated_cost"]

# Sizes of the two trial computations, and what handling an entry and a matrix costs besides them, in seconds.
_PRODUCT, _SPECTRUM = 256, 128
_ENTRY, _MATRIX = 5e-9, 1e-4


def estimated_cost(shapes: Sequence[tuple[int, int]], settings: Settings, device: torch.device) -> float:
    """Return seconds for measuring matrices of these shapes, from a small product and a small spectrum timed now.

    A guess, rather too high: the trials are less efficient than large ones. Takes some milliseconds; draws no random
    numbers.
    """
    dtype = working_precision(device, METHODS[settings.method])
    square = torch.eye(_PRODUCT, dtype=dtype, device=device)
    band = torch.ones((_SPECTRUM, _SPECTRUM), dtype=dtype, device=device).triu(-1).tril(1)
    product = _seconds(lambda: square @ square, device) / _PRODUCT**3
    full = settings.method == "svd"
    decompose = torch.linalg.svdvals if full else torch.linalg.eigvalsh
    spectrum = _seconds(lambda: decompose(band), device) / _SPECTRUM**3
    total = 0.0
    for rows, columns in shapes:
        k, l = sorted((rows, columns))
        total += _MATRIX + _ENTRY * k * l + (spectrum * k * k * (l if full else k) + product * k * k * l)
    return total


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(3):  # the first one also loads libraries
        wait_for([device])
        start = time.perf_counter()
        work()
        wait_for([device])
        times.append(time.perf_counter() - start)
    return min(times)
