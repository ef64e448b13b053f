"""LAPACK's singular values of a matrix in its own memory, while other threads go on.

`numpy.linalg.svd` computes float32 in float64, in a copy; SciPy's holds Python's lock. Called here is SciPy's routine,
by the table of addresses that it offers to compiled code (`scipy.linalg.cython_lapack`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.linalg import cython_lapack, get_lapack_funcs

__all__ = ["overwriting_singular_values", "triangular_factor"]

_GESDD = {"float32": "sgesdd", "float64": "dgesdd"}
_ROWS_PER_COLUMN = 4


def overwriting_singular_values(matrix: np.ndarray) -> np.ndarray:
    """Return the singular values, descending, of a finite matrix of float32 or float64, which is destroyed.

    Args:
        matrix: C-ordered and writeable; LAPACK, which counts columns first, sees its transpose.

    Raises:
        numpy.linalg.LinAlgError: The iteration did not converge.
    """
    # A wrong address would be a crash and no exception.
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.name not in _GESDD or max(matrix.shape) >= 2**31:
        raise ValueError(f"wanted a matrix of float32 or float64, got {matrix.dtype} of shape {matrix.shape}")
    if not (matrix.flags.c_contiguous and matrix.flags.writeable and matrix.flags.aligned):
        raise ValueError("the matrix must be C-ordered, aligned and writeable")
    columns, rows = matrix.shape
    values = np.empty(min(rows, columns), dtype=matrix.dtype)
    integers = np.empty(8 * len(values), dtype=np.intc)
    nothing = np.empty(1, dtype=matrix.dtype)  # where singular vectors would go
    m, n, one, info = ctypes.c_int(rows), ctypes.c_int(columns), ctypes.c_int(1), ctypes.c_int(0)
    routine = _routine(_GESDD[matrix.dtype.name])

    def call(work: np.ndarray, asking: bool) -> None:
        length = ctypes.c_int(-1 if asking else len(work))
        routine(
            b"N", ctypes.byref(m), ctypes.byref(n), matrix.ctypes.data, ctypes.byref(m), values.ctypes.data,
            nothing.ctypes.data, ctypes.byref(one), nothing.ctypes.data, ctypes.byref(one),
            work.ctypes.data, ctypes.byref(length), integers.ctypes.data, ctypes.byref(info),
        )  # fmt: skip

    wanted = np.empty(1, dtype=matrix.dtype)
    call(wanted, asking=True)
    # As a float32, the length may have been rounded down.
    work = np.empty(int(float(wanted[0]) * (1 + 2.0**-22)) + 1, dtype=matrix.dtype)
    call(work, asking=False)
    if info.value:
        raise np.linalg.LinAlgError(f"gesdd returned {info.value}")
    return values


def triangular_factor(tall: np.ndarray) -> np.ndarray:
    """Return Rᵀ of A = QR, n×n, for m×n with m ≥ n: it has the singular values of A, which is left as it is.

    A block of rows at a time, under the R of those above, so that no copy of A is needed.
    """
    m, n = tall.shape
    rows = min(m, (1 + _ROWS_PER_COLUMN) * n)
    block = np.empty((n, rows), dtype=tall.dtype)  # LAPACK sees rows × n
    factorise, ask = get_lapack_funcs(("geqrf", "geqrf_lwork"), (block,))
    length = int(float(ask(rows, n)[0]) * (1 + 2.0**-22)) + 1
    done = kept = 0
    while done < m:
        fresh = min(rows - kept, m - done)
        block[:, kept : kept + fresh] = tall[done : done + fresh].T
        block[:, kept + fresh :] = 0.0  # zero rows change no R
        found, _, _, info = factorise(block.T, lwork=length, overwrite_a=True)
        if info:
            raise np.linalg.LinAlgError(f"geqrf returned {info}")
        # What is below the diagonal are the reflectors.
        block[:, :n] = np.tril(found.T[:, :n])
        done, kept = done + fresh, n
    return np.ascontiguousarray(block[:, :n])


@cache
def _routine(name: str) -> Callable[..., None]:
    """A variant of gesdd; ctypes lets other threads go on while it runs."""
    capsule = cython_lapack.__pyx_capi__[name]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = address_of(capsule, name_of(capsule))
    return ctypes.CFUNCTYPE(None, ctypes.c_char_p, *[ctypes.c_void_p] * 13)(address)
