"""Measures of the rank of a matrix: functions of singular values, for NumPy arrays and PyTorch tensors.

`report(matrix)` gives all of them; `singular_values(matrix)` is what the single measures take. They are batched over
the leading axes, stay on the device of their argument, and follow the same rules at the edges:

- every rank of a zero matrix is 0 (its log determinant is −inf);
- where a singular value is NaN or infinite, the result is NaN, so that a monitor can go on; `report` refuses;
- the order of the singular values does not matter; negative ones are refused (on an accelerator, which would have to be
  waited for: NaN), and so are an empty matrix and complex numbers;
- computed in the precision of the argument; half precision and bfloat16 in float32, whole numbers in float64.

`docs/ranks.md` says which measure answers which question.
"""

from rankfall.ranks._effective_rank import effective_rank
from rankfall.ranks._energy_effective_rank import energy_effective_rank
from rankfall.ranks._energy_rank import energy_rank
from rankfall.ranks._log_determinant import log_determinant
from rankfall.ranks._measures import COUNTS, MEASURES
from rankfall.ranks._nuclear_rank import nuclear_rank
from rankfall.ranks._numerical_rank import numerical_rank
from rankfall.ranks._participation_ratio import participation_ratio, participation_ratio_from_matrix
from rankfall.ranks._power_iteration import StableRankEstimate, random_start, stable_rank_from_matrix
from rankfall.ranks._rankme import rankme
from rankfall.ranks._report import Report, report
from rankfall.ranks._srank import srank
from rankfall.ranks._stable_rank import stable_rank
from rankfall.ranks.spectrum import singular_values

__all__ = [
    "COUNTS",
    "MEASURES",
    "Report",
    "StableRankEstimate",
    "effective_rank",
    "energy_effective_rank",
    "energy_rank",
    "log_determinant",
    "nuclear_rank",
    "numerical_rank",
    "participation_ratio",
    "participation_ratio_from_matrix",
    "random_start",
    "rankme",
    "report",
    "singular_values",
    "srank",
    "stable_rank",
    "stable_rank_from_matrix",
]
