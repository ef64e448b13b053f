"""The measures at 50 digits, as literal as their formulas, and spectra to compare on; no code of the library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mpmath
import numpy as np

GOLDEN = (3.0, 1.0, 0.1, 0.01)

# Those that do not count, and whose value does not change with scale.
SMOOTH = (
    "stable_rank",
    "participation_ratio",
    "energy_effective_rank",
    "nuclear_rank",
    "effective_rank",
    "rankme",
)

SPECTRA = {
    "golden": GOLDEN,
    "one": (0.3,),
    "equal": (0.7,) * 9,
    "with zeros": (2.0, 0.0, 1.0, 0.0),
    "unsorted": (0.01, 3.0, 0.1, 1.0),
    "steep": tuple(10.0**-k for k in range(0, 300, 7)),
    "nearly of rank one": (1.0, 1e-9, 1e-9, 3e-17),
    "huge": (3e200, 1e200, 1e199),
    "tiny": (3e-200, 1e-200, 1e-201),
    "smallest normal numbers": (4e-308, 3e-308),
    "random": tuple(np.random.default_rng(1).gamma(0.7, size=300).tolist()),
    "flat": tuple(np.random.default_rng(2).uniform(0.9, 1.1, size=200).tolist()),
}


def _shares(parts: Sequence[mpmath.mpf]) -> list[mpmath.mpf]:
    total = mpmath.fsum(parts)
    return [part / total for part in parts]


def _perplexity(shares: Sequence[mpmath.mpf]) -> mpmath.mpf:
    return mpmath.exp(-mpmath.fsum(share * mpmath.log(share) for share in shares if share))


def _squares(s: Sequence[mpmath.mpf]) -> list[mpmath.mpf]:
    return [value**2 for value in s]


def _least(parts: Sequence[mpmath.mpf], part: mpmath.mpf) -> int:
    parts = sorted(parts, reverse=True)
    total = mpmath.fsum(parts)
    return next(k for k in range(len(parts) + 1) if mpmath.fsum(parts[:k]) >= part * total)


ORACLE: dict[str, Callable[[Sequence[mpmath.mpf]], mpmath.mpf]] = {
    "stable_rank": lambda s: mpmath.fsum(_squares(s)) / max(s) ** 2,
    "participation_ratio": lambda s: mpmath.fsum(_squares(s)) ** 2 / mpmath.fsum(_squares(_squares(s))),
    "energy_effective_rank": lambda s: _perplexity(_shares(_squares(s))),
    "nuclear_rank": lambda s: mpmath.fsum(s) ** 2 / mpmath.fsum(_squares(s)),
    "effective_rank": lambda s: _perplexity(_shares(s)),
    "rankme": lambda s: _perplexity([share + mpmath.mpf(10) ** -7 for share in _shares(s)]),
    "log_determinant": lambda s: 2 * mpmath.fsum(mpmath.log(value) for value in s),
    "srank": lambda s: _least(s, mpmath.mpf("0.99")),
    "energy_rank": lambda s: _least(_squares(s), mpmath.mpf("0.99")),
}


def exact(measure: str, values: Sequence[float]) -> mpmath.mpf:
    """The measure of the numbers that the floats stand for."""
    with mpmath.workdps(50):
        return ORACLE[measure]([mpmath.mpf(float(value)) for value in values])


def exact_gradient(measure: str, values: Sequence[float]) -> list[float]:
    """Derivatives by every value: central differences whose step is 1e-20 of the value (of the largest, for a zero).

    Their error is about 1e-40 of the derivative; 200 digits leave that many for the difference of the measures.
    """
    gradient = []
    with mpmath.workdps(200):
        given = [mpmath.mpf(float(value)) for value in values]
        for place, value in enumerate(given):
            step = (value or max(given)) * mpmath.mpf(10) ** -20
            above, below = (
                ORACLE[measure]([*given[:place], value + sign * step, *given[place + 1 :]]) for sign in (1, -1)
            )
            gradient.append(float((above - below) / (2 * step)))
    return gradient


def tolerance(n: int, eps: float) -> float:
    """Bound on the relative error of the smooth measures.

    With u = eps/2: a sum of n terms is off by (n−1)u, a share of values or energies by (n+5)u (scaling, square, sum,
    quotient). An entropy H is off by u((2n+8)H + n+5), from the shares, their logarithms and the sum, and so is its
    exponential relative to itself, give or take u(1+H). The ratios of sums are off by (3n+15)u. H ≤ ln n.
    """
    return (2 * n + 10) * eps * (1.0 + math.log(n))
