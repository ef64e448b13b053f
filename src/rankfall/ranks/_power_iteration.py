"""The stable rank without an SVD: Frobenius norm and power iteration, with what the iteration certifies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from rankfall._checks import real_number, seed_number, whole_number
from rankfall.errors import InvalidInput
from rankfall.ranks._arrays import Array, on_host, plain_matmul, real_array
from rankfall.ranks._gram import Scaled, read_scaled
from rankfall.ranks.spectrum import read_matrix

__all__ = ["StableRankEstimate", "random_start", "stable_rank_from_matrix"]


@dataclass(frozen=True)
class StableRankEstimate:
    """The stable rank lies between `lower` and `value` (to rounding).

    Attributes:
        value: ‖M‖_F²/‖Gx‖ with a unit vector x; never below the stable rank, since ‖Gx‖ ≤ λ₁. Shape (...).
        lower: Never above the stable rank; see `stable_rank_from_matrix`. Shape (...).
        vector: Unit vector, the start of the next call on the same or a slightly changed matrix. Shape (..., k).
    """

    value: Array
    lower: Array
    vector: Array

    @property
    def error(self) -> Array:
        """Bound on the error of `value`."""
        return self.value - self.lower


def stable_rank_from_matrix(
    matrix: Any, start: Array, *, iterations: int = 50, failure: float | None = None
) -> StableRankEstimate:
    """Estimate ‖M‖_F²/λ₁ by `iterations` products with G, the smaller of MᵀM and MMᵀ, which is never formed.

    Nothing is drawn and nothing is stopped early, so the same arguments give the same result and no accelerator is
    waited for. Two upper bounds of λ₁ make `lower`, with F = ‖M‖_F², unit vector x, ρ = xᵀGx and residual
    r = ‖Gx − ρx‖:

    - always λ₁ ≤ F/2 + √((ρ − F/2)² + r²), because the rest of G has trace F − ρ. As soon as x carries more than half
      of the energy (stable rank below 2) it is sharp, r²/(2ρ − F) above ρ or less; far from there it is of little use;
    - with `failure` given, λ₁ ≤ ‖G^q x₀‖^{1/q} (2k/(π failure²))^{1/2q} after q products, except with that probability
      over a start x₀ drawn by `random_start` (J. Dixon, SIAM J. Numer. Anal. 20, 1983), whatever the gap. The bound on
      ln λ₁ is ln(2k/(π failure²))/2q wide or less. A warm start is not random: do not give `failure` with one.

    Cost: 4·m·n operations per iteration.

    Args:
        matrix: Shape (..., m, n), at least 1 by 1.
        start: Not zero, shape (k,) or (..., k) with k = min(m, n): `random_start(matrix, seed)`, or the `vector` of an
            earlier estimate. It must not be orthogonal to the leading singular vector; `value` is too large then.
        iterations: Number of products with G.
        failure: Probability, at most, of a `lower` that is too large; None for certainty.

    Returns:
        Zeros for a zero matrix, NaN where an entry of matrix or start is NaN or infinite.

    Raises:
        InvalidInput: Bad matrix; start of another length or library, or zero; iterations below 1; failure not strictly
            between 0 and 1.

    Example:
        >>> import numpy as np
        >>> from rankfall import ranks
        >>> matrix = np.diag([3.0, 1.0, 0.1, 0.01])
        >>> first = ranks.stable_rank_from_matrix(matrix, ranks.random_start(matrix, seed=0), iterations=10)
        >>> round(float(first.value), 4), bool(first.error < 1e-9)
        (1.1122, True)
        >>> changed = ranks.stable_rank_from_matrix(matrix + 0.001, first.vector, iterations=1)
        >>> bool(changed.error < 1e-5)
        True
    """
    repetitions = whole_number(iterations, "iterations")
    if failure is not None and not 0.0 < real_number(failure, "failure") < 1.0:
        raise InvalidInput(f"failure must lie strictly between 0 and 1, got {failure:g}.")
    scaled = read_scaled(matrix)
    following = _read_start(scaled, start)
    xp, turned = scaled.xp, scaled.xp.matrix_transpose(scaled.matrix)
    smallest = float(xp.finfo(scaled.matrix.dtype).smallest_normal)
    growth = xp.zeros_like(scaled.energy)
    for _ in range(repetitions):
        vector = following
        image = plain_matmul(xp, turned, vector)
        product = plain_matmul(xp, scaled.matrix, image)
        length = _norm(xp, product)
        nowhere = length == 0  # a zero matrix, or a start in its kernel
        growth = growth + xp.log(xp.where(nowhere, xp.full_like(length, smallest), length))
        following = xp.where(nowhere, vector, product / xp.where(nowhere, xp.ones_like(length), length))
    energy, side = scaled.energy, scaled.matrix.shape[-2]
    rayleigh = xp.sum(image**2, axis=-2, keepdims=True)
    residual = _norm(xp, product - rayleigh * vector)
    # λ₁ is at least the mean of the eigenvalues and at most their sum.
    largest = xp.maximum(length, energy / side)
    bound = energy / 2 + xp.sqrt((rayleigh - energy / 2) ** 2 + residual**2)
    if failure is not None:
        excess = math.log(2.0 * side / (math.pi * failure**2)) / 2.0
        bound = xp.minimum(bound, xp.exp((growth + excess) / repetitions))
    # Rounding must not put the bounds in the wrong order.
    bound = xp.maximum(bound, largest)
    return StableRankEstimate(
        value=scaled.finish(energy / largest), lower=scaled.finish(energy / bound), vector=following[..., 0]
    )


def random_start(matrix: Any, seed: int) -> Array:
    """Draw a direction, uniform on the unit sphere, to start the power iteration of a matrix with.

    Drawn on the host from the seed alone, so that NumPy and every device get the same numbers; all matrices of a batch
    share it.

    Args:
        matrix: Shape (..., m, n), at least 1 by 1.
        seed: Whole number from 0 to 2⁶⁴ − 1.

    Returns:
        Shape (min(m, n),), in the library, precision and place of the matrix.

    Raises:
        InvalidInput: Bad matrix or seed.

    Example:
        >>> import numpy as np
        >>> from rankfall import ranks
        >>> start = ranks.random_start(np.ones((2, 5)), seed=1)
        >>> start.shape, round(float(start @ start), 12)
        ((2,), 1.0)
    """
    number = seed_number(seed)
    xp, array = read_matrix(matrix)
    normals = np.random.Generator(np.random.Philox(number)).standard_normal(min(array.shape[-2:]))
    return xp.asarray(normals / np.linalg.norm(normals), dtype=array.dtype, device=device(array))


def _norm(xp: Any, columns: Array) -> Array:
    return xp.sqrt(xp.sum(columns**2, axis=-2, keepdims=True))


def _read_start(scaled: Scaled, start: Any) -> Array:
    """Return the start as unit columns, shape (..., k, 1) like the matrix."""
    xp, vector = real_array(start, "start")
    if xp is not scaled.xp:
        raise InvalidInput(
            f"start must be of the same library as matrix, got {array_namespace(vector).__name__.split('.')[-1]} and "
            f"{scaled.xp.__name__.split('.')[-1]}. Draw it with random_start(matrix, seed)."
        )
    batch, side = tuple(scaled.matrix.shape[:-2]), scaled.matrix.shape[-2]
    if tuple(vector.shape) not in ((side,), (*batch, side)):
        raise InvalidInput(
            f"start must have shape ({side},) or {(*batch, side)}, {side} being the shorter side of matrix, got "
            f"{tuple(vector.shape)}."
        )
    largest = xp.max(xp.abs(vector), axis=-1, keepdims=True)
    if on_host(vector) and bool(xp.any(largest == 0)):
        raise InvalidInput("start must not be zero. Draw it with random_start(matrix, seed).")
    columns = xp.astype(vector / largest, scaled.matrix.dtype)[..., None]
    columns = xp.broadcast_to(columns, (*batch, side, 1))
    return columns / _norm(xp, columns)
