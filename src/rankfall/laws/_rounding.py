r"""How far rounding alone can drive a run from a law: the tolerances of all verdicts.

Model. A step of any of the methods is Z ← A Z with A near the identity. In floating point it returns A Z + E, where
each entry of E is the sum of about m = p + k + 2 rounding errors (the products of a row of A with Z, accumulated one
after the other, and up to two scalings), each at most u·σ₁ with u = 2⁻⁵³: no entry of Z exceeds its largest singular
value σ₁. Errors in the gradient itself do not count: the laws hold for whatever gradient the step used. Rounding
errors behave as independent draws, uniform in [−uσ₁, uσ₁], so that an entry of E has variance m u² σ₁²/3.

Determinant. To first order E changes log det(ZZᵀ) by 2 tr(Z⁺E), of standard deviation

    2 u √(m/3) κ,    κ = σ₁ ‖Z⁺‖_F = σ₁ √(Σ_i σ_i⁻²),

and the change stays for good, since every later step multiplies det M by a factor that does not depend on it. After N
steps the deviations have added up to 2 u √(m/3) κ √N. The tolerance is six of these, with the running maximum of κ
over the save points. The two spectra that are compared (start and save point) cost about 4(p + k) reflections and
rotations each, every one of which rounds like a step: they enter as 8(p + k) more steps.

Balance. E changes Q = ZᵀJZ by EᵀJZ + ZᵀJE, of norm at most 2 σ₁ ‖E‖_F, standard deviation 2 u √(m/3) σ₁ ‖Z‖_F; it too
adds up as √N.

What repeats adds up as N, not as √N: a constant factor that is rounded once and applied at every step (e^{−Kh/2},
1 − ηλ), and a ledger whose factor 1 − η²σ² is rounded to the grid of 1. These terms are stated where they are used.

Without noise, rounding errors repeat as well: while the update changes by less than a unit in the last place they are
equal from step to step, and near a minimum the rounding of the gradient can drive the weights one way for ever. The
null space of a singular Σ never sees noise: a gradient of rounding size there moves small entries and is lost on large
ones, the same way at every step. Then only the worst case is safe, |tr(Z⁺E)| ≤ ‖Z⁺‖_F ‖E‖_F with one rounding per
entry, ‖E‖_F ≤ u‖Z‖_F ≤ u √(p+k) σ₁: N_m steps move log det M by at most 2 u √(p+k) κ N_m, and Q by at most
2 u σ₁ ‖Z‖_F N_m.
N_m counts the steps in which the weights still moved, those between save points of different spectra.

Six standard deviations, and bounds |Z_ij| ≤ σ₁ that are only attained by a dyad, make a false alarm by chance
impossible in practice; a wrong constant exceeds the tolerance all the same, because it grows with time.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "FLOAT_FLOOR",
    "UNIT",
    "balance_size",
    "balance_spread",
    "beyond_float",
    "condition",
    "determinant_spread",
    "log_det_resolution",
    "logarithm_floor",
    "repeated",
]

UNIT = 2.0**-53
# Below this fraction of σ₁ a computed singular value carries less than two digits.
FLOAT_FLOOR = 1e-14
_DEVIATIONS = 6.0


def condition(singular_values: np.ndarray) -> np.ndarray:
    """κ = σ₁ √(Σ σ_i⁻²) along the last axis; infinite where a singular value is zero."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = singular_values[..., :1] / singular_values
        return np.sqrt(np.sum(ratios * ratios, axis=-1))


def determinant_spread(singular_values: np.ndarray, steps: np.ndarray, moving: np.ndarray, rows: int) -> np.ndarray:
    """How far rounding may have driven log det M: six standard deviations, and the worst case of noiseless steps.

    Args:
        singular_values: Of Z, shape (replicate, time, mode), descending.
        steps: N, steps since the start, shape (replicate, time).
        moving: N_m, those of them that may have rounded alike (0 where noise reaches all weights), same shape.
        rows: p + k.

    Returns:
        Shape (replicate, time).
    """
    kappa = _running_maximum(condition(singular_values))
    return 2 * UNIT * kappa * (_random(steps, rows) + np.sqrt(rows) * moving)


def balance_spread(singular_values: np.ndarray, steps: np.ndarray, moving: np.ndarray, rows: int) -> np.ndarray:
    """How far rounding may have driven Q, in Frobenius norm; arguments as above."""
    size = _running_maximum(balance_size(singular_values))
    return 2 * UNIT * size * (_random(steps, rows) + moving)


def _random(steps: np.ndarray, rows: int) -> np.ndarray:
    """Six standard deviations of independent rounding errors, in units of u and of the scale of a step."""
    return _DEVIATIONS * np.sqrt((rows + 2) / 3) * np.sqrt(steps + 8 * rows)


def balance_size(singular_values: np.ndarray) -> np.ndarray:
    """σ₁ ‖Z‖_F along the last axis, the scale of Q that rounding sees."""
    with np.errstate(over="ignore"):
        return singular_values[..., 0] * np.sqrt(np.sum(singular_values * singular_values, axis=-1))


def repeated(steps: np.ndarray, roundings: float) -> np.ndarray:
    """Bound on `roundings` rounding errors per step that may be the same at every step."""
    return 2 * UNIT * roundings * steps


def logarithm_floor(singular_values: np.ndarray, change: np.ndarray, rows: int) -> np.ndarray:
    """Rounding of log det M as a sum of logarithms (at the start and now), and of a predicted change.

    The change is a product or sum of numbers known to a few units each (tr Σ, t, k, σ²): 2(p + k) + 8 roundings.
    """
    with np.errstate(divide="ignore"):
        logarithms = 2.0 * np.abs(np.log(singular_values)).sum(axis=-1)
    return UNIT * (rows * (logarithms + logarithms[..., :1]) + (2 * rows + 8) * change)


def beyond_float(singular_values: np.ndarray) -> np.ndarray:
    """Where, from then on, the smallest singular value of Z is rounding noise against the largest."""
    lost = singular_values[..., -1] < FLOAT_FLOOR * singular_values[..., 0]
    return np.maximum.accumulate(lost, axis=-1)


def log_det_resolution(change: np.ndarray) -> np.ndarray:
    """Tolerance above which comparing log det M says nothing: 1 % of the predicted change, but at least 1e-4."""
    return np.maximum(1e-4, 1e-2 * change)


def _running_maximum(values: np.ndarray) -> np.ndarray:
    """Maximum up to each time along the last axis; NaN (after a divergence) stays NaN."""
    return np.maximum.accumulate(values, axis=-1)
