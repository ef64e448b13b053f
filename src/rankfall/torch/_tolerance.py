r"""How far rounding alone drives a pair from its ledgers: the tolerances of `Ledger.verdicts`.

The model is that of `rankfall.laws._rounding`, with the unit roundoff u of the parameters (2⁻²⁴ in float32). The books
are kept in float64, so what is rounded are the weights and the gradients:

- *Weights.* w ← w − η(g + λw) rounds an entry twice at the scale of w (the sum, and the result; the products are
  smaller by ηλ and by η|g|/|w|). The step's error E has E‖E‖² ≤ (2/3)u²‖Z‖_F², errors uniform and independent.
- *Gradients.* g1 and g2 are computed apart, each rounded, so that W1ᵀg1 = g2W2ᵀ holds up to rounding only. An entry of
  g sums N terms, one for each sample (and token) of a batch. Terms of random sign and size s make |g| ≈ s√N; the j-th
  partial sum, of size s√j, is rounded by us√j/√3, together us N/√6, so that the relative error is u√(N/6). (A batch
  whose terms cancel is measured against the largest gradient of the run, not against its own.) The terms themselves
  are inner products of p, l or k entries through the pair's two products, u√((p+l+k)/3) relative, and average the same
  way. Together γu with γ² = N/6 + (p+l+k)/3, times η‖g‖.

Both change Q by EᵀJZ + ZᵀJE, at most 2σ₁‖E‖_F, and log det(ZZᵀ) by 2tr(Z⁺E), at most 2‖Z⁺‖_F times the largest standard
deviation of an entry. They add up as √steps; six deviations are allowed:

    balance      12 u σ₁ (√(2/3) ‖Z‖_F + γ η‖g‖) √(steps + 8)
    log det      12 u ‖Z⁺‖_F (√(2/3) σ₁ + γ η‖g‖ (1 + 2ησ₁(G))) √(steps + 8)

with running maxima of all factors; the last factor is the rounding of G in the ledger. In addition: what repeats (η and
λ in the parameters' precision: 4u(Σηλ·σ₁‖Z‖_F + Ση²‖g‖²)); entries whose update ηg differs from that of the step before
by less than 4u|w|, as in descents on a fixed batch with a small rate, which may be rounded alike (worst case, 2uσ₁
times their share of ‖Z‖_F in each such step); and the books' own rounding with the unit of float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rankfall.torch._pair import LinearPair

__all__ = ["balance_tolerance", "log_det_tolerance"]

_UNIT = 2.0**-53
_WEIGHTS = np.sqrt(2.0 / 3.0)


def balance_tolerance(record: Mapping[str, np.ndarray], pair: LinearPair, unit: float, terms: int) -> np.ndarray:
    """Largest ‖Q − ledger‖_F that rounding explains at each record, shape (step,)."""
    sigma, size = _running(record["spectral_bound"]), _running(record["frobenius"])
    scale, root = sigma * size, np.sqrt(record["steps"] + 8.0)
    random = 12.0 * unit * sigma * (_WEIGHTS * size + _gamma(pair, terms) * record["pull"]) * root
    repeated = unit * (4.0 * record["decay"] * scale + 4.0 * record["path"] + 2.0 * record["still"] * scale)
    books = _UNIT * scale * (24.0 * root + pair.n_inputs + pair.n_outputs)
    return random + repeated + books


def log_det_tolerance(record: Mapping[str, np.ndarray], pair: LinearPair, unit: float, terms: int) -> np.ndarray:
    """Largest |log det − ledger| that rounding explains at each record, shape (step,)."""
    rows = pair.n_inputs + pair.n_outputs
    sigma, size = _running(record["spectral_bound"]), _running(record["frobenius"])
    inverse, root = _running(record["inverse"]), np.sqrt(record["steps"] + 8.0)
    gradients = _gamma(pair, terms) * record["pull"] * (1.0 + 2.0 * record["curve"])
    change = np.abs(record["ledger_log_det"] - record["ledger_log_det"][0])
    random = 12.0 * unit * inverse * (_WEIGHTS * sigma + gradients) * root
    repeated = unit * (4.0 * rows * record["decay"] + 4.0 * change + 2.0 * record["still"] * inverse * size)
    books = _UNIT * (24.0 * inverse * sigma * np.sqrt(record["steps"] + 8.0 * rows) + 2.0 * rows * record["steps"])
    return random + repeated + books + _UNIT * (rows + 8.0) * (np.abs(record["log_det"]) + change)


def _gamma(pair: LinearPair, terms: int) -> float:
    return float(np.sqrt(terms / 6.0 + (pair.n_inputs + pair.width + pair.n_outputs) / 3.0))


def _running(values: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(values)
