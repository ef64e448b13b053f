"""Singular values of matrices, in a precision that has an SVD."""

from __future__ import annotations

from typing import Any

from rankfall.errors import InvalidInput
from rankfall.ranks._arrays import Array, Namespace, real_array

__all__ = ["singular_values"]


def singular_values(matrix: Any) -> Array:
    """Return the singular values of a matrix, or of each in a batch, in descending order.

    float16 and bfloat16, which have no SVD, are computed in float32, whole numbers in float64; the type of the result
    says which precision was used. Tensors stay on their device. Differentiable in torch, which then computes singular
    vectors as well; at repeated or zero singular values the gradient is finite, but one of several.

    Cost: of the order of m·n·min(m, n) operations.

    Args:
        matrix: Shape (..., m, n), at least 1 by 1. The leading axes are a batch: reshape the weights of a convolution,
            (out, in, height, width), to a matrix first, or each height × width kernel is taken for one.

    Returns:
        Shape (..., min(m, n)); NaN for a matrix with an entry that is NaN or infinite, the rest of the batch is not
        touched.

    Raises:
        InvalidInput: Not a real array, fewer than two dimensions, or no rows or columns.

    Example:
        >>> import numpy as np
        >>> from rankfall import ranks
        >>> values = ranks.singular_values(np.array([[3, 0], [4, 0]], dtype=np.float16))
        >>> values.tolist(), values.dtype.name
        ([5.0, 0.0], 'float32')
    """
    xp, array = read_matrix(matrix)
    # NumPy raises; torch, by version and routine, raises, gives NaN or gives plausible numbers (pytorch issue 187759).
    finite = xp.all(xp.isfinite(array), axis=(-2, -1), keepdims=True)
    values = xp.linalg.svdvals(xp.where(finite, array, xp.zeros_like(array)))
    return xp.where(finite[..., 0], values, xp.full_like(values, float("nan")))


def read_matrix(matrix: Any) -> tuple[Namespace, Array]:
    """Return the namespace and the matrix in the precision of the computation, checked for its shape."""
    xp, array = real_array(matrix, "matrix")
    if array.ndim < 2:
        raise InvalidInput(f"matrix must have at least two dimensions, got shape {tuple(array.shape)}.")
    if 0 in array.shape[-2:]:
        raise InvalidInput(f"matrix must have at least one row and one column, got shape {tuple(array.shape)}.")
    return xp, array
