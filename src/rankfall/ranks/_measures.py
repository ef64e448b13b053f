"""All measures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rankfall.ranks._arrays import Array
from rankfall.ranks._effective_rank import effective_rank
from rankfall.ranks._energy_effective_rank import energy_effective_rank
from rankfall.ranks._energy_rank import energy_rank
from rankfall.ranks._log_determinant import log_determinant
from rankfall.ranks._nuclear_rank import nuclear_rank
from rankfall.ranks._numerical_rank import numerical_rank
from rankfall.ranks._participation_ratio import participation_ratio
from rankfall.ranks._rankme import rankme
from rankfall.ranks._srank import srank
from rankfall.ranks._stable_rank import stable_rank

__all__ = ["COUNTS", "MEASURES"]

# Name → function of singular values, in the order of the chain stable ≤ … ≤ effective, then the rest.
MEASURES: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        measure.__name__: measure
        for measure in (
            numerical_rank,
            stable_rank,
            participation_ratio,
            energy_effective_rank,
            nuclear_rank,
            effective_rank,
            rankme,
            srank,
            energy_rank,
            log_determinant,
        )
    }
)

# Those whose values are whole numbers and which have no gradient.
COUNTS = frozenset({"numerical_rank", "srank", "energy_rank"})
