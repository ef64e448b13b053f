"""Exact rank of a matrix of floats: a start that is rank-deficient is told from one that only looks so in float64."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["exact_rank", "is_clearly_full"]

# Above this condition number the singular values of float64 do not decide, and exact arithmetic does.
_CLEAR = 1e10
# Exact elimination costs about n³ products of numbers of n·100 digits.
_LARGEST = 64


def exact_rank(matrix: np.ndarray) -> int | None:
    """Rank of the matrix that the floats stand for, exactly; None where that would take too long.

    Singular values decide where the smallest is far above rounding. Else the entries, which are whole numbers times a
    power of two, are eliminated without fractions (E. Bareiss, Math. Comp. 22, 1968).

    Example:
        >>> import numpy as np
        >>> from rankfall._rank import exact_rank
        >>> thirds = np.array([[1.0, 3.0], [1 / 3, 1.0]])  # 1/3 is rounded, so these rows are not dependent
        >>> exact_rank(thirds), exact_rank(np.array([[0.1, 0.2], [0.2, 0.4]])), exact_rank(np.zeros((2, 3)))
        (2, 1, 0)
    """
    if is_clearly_full(matrix):
        return min(matrix.shape)
    if min(matrix.shape) > _LARGEST:
        return None
    return _eliminate(_integers(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T))


def is_clearly_full(matrices: np.ndarray) -> np.ndarray:
    """Whether the singular values of each matrix show, in spite of rounding, that none of them is zero."""
    values = np.linalg.svd(matrices, compute_uv=False)
    clear: np.ndarray = (values[..., -1] * _CLEAR > values[..., 0]) & (values[..., 0] > 0.0)
    return clear


def _integers(matrix: np.ndarray) -> list[list[int]]:
    """Rows in whole numbers, each row scaled by a power of two (which leaves the rank)."""
    rows = []
    for row in matrix.tolist():
        ratios = [value.as_integer_ratio() for value in row]
        common = max(denominator for _, denominator in ratios)
        whole = [numerator * (common // denominator) for numerator, denominator in ratios]
        divisor = math.gcd(*whole) or 1
        rows.append([value // divisor for value in whole])
    return rows


def _eliminate(rows: list[list[int]]) -> int:
    rank, previous = 0, 1
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        head = rows[rank]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column]
            rows[i] = [
                (head[column] * value - factor * above) // previous for value, above in zip(rows[i], head, strict=True)
            ]
        previous = head[column]
        rank += 1
        if rank == len(rows):
            break
    return rank
