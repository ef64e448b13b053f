"""LAPACK and BLAS in the memory of a matrix itself, while other threads go on.

`numpy.linalg.svd` computes float32 in float64, in a copy; SciPy's holds Python's lock. Called here are SciPy's
routines, by the tables of addresses that it offers to compiled code (`scipy.linalg.cython_lapack`, `cython_blas`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
from scipy.linalg import cython_blas, cython_lapack, get_lapack_funcs

__all__ = [
    "add_gram",
    "overwriting_definite",
    "overwriting_eigenvalues",
    "overwriting_r_factor",
    "overwriting_singular_values",
    "symmetric_times",
    "triangular_factor",
]

_GESDD = {"float32": "sgesdd", "float64": "dgesdd"}
_ROWS_PER_COLUMN = 4
_PANEL = 32  # columns that sytrd and geqrf reduce before they update the rest; LAPACK's own choice


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
    _check_memory(matrix)
    columns, rows = matrix.shape
    values = np.empty(min(rows, columns), dtype=matrix.dtype)
    integers = np.empty(8 * len(values), dtype=np.intc)
    nothing = np.empty(1, dtype=matrix.dtype)  # where singular vectors would go
    m, n, one, info = ctypes.c_int(rows), ctypes.c_int(columns), ctypes.c_int(1), ctypes.c_int(0)
    routine = _routine(cython_lapack, _GESDD[matrix.dtype.name], 14)

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


def add_gram(block: np.ndarray, gram: np.ndarray, *, of_rows: bool = False) -> None:
    """Add blockᵀ·block, or with `of_rows` block·blockᵀ, to the upper triangle of `gram`; the lower is left as it is.

    Args:
        block: float64, C-ordered.
        gram: float64, C-ordered, square, as long as a row of the block (with `of_rows`, a column).
        of_rows: Whether inner products are those of rows.
    """
    side, length = block.shape if of_rows else block.shape[::-1]
    for array in (block, gram):
        if array.ndim != 2 or 0 in array.shape or array.dtype != np.float64 or max(array.shape) >= 2**31:
            raise ValueError(f"wanted a matrix of float64, got {array.dtype} of shape {array.shape}")
        _check_memory(array)
    if gram.shape != (side, side):
        raise ValueError(f"the Gram matrix must be {side} × {side}, got {gram.shape}")
    one, n, k = ctypes.c_double(1.0), ctypes.c_int(side), ctypes.c_int(length)
    row = ctypes.c_int(block.shape[1])
    # What is the upper triangle here is the lower one of a routine that counts columns first.
    _routine(cython_blas, "dsyrk", 10)(
        b"L", b"T" if of_rows else b"N", ctypes.byref(n), ctypes.byref(k), ctypes.byref(one), block.ctypes.data,
        ctypes.byref(row), ctypes.byref(one), gram.ctypes.data, ctypes.byref(n),
    )  # fmt: skip


def overwriting_eigenvalues(symmetric: np.ndarray) -> np.ndarray:
    """Return the eigenvalues, ascending, of the finite symmetric matrix whose upper triangle is given; it is destroyed.

    Householder's reduction to a tridiagonal matrix, then the root-free QL iteration (LAPACK's sytrd and sterf): what
    syevd does where no vectors are wanted, without its copies.

    Args:
        symmetric: float64, C-ordered, n×n.

    Raises:
        numpy.linalg.LinAlgError: The iteration did not converge.
    """
    side = _side(symmetric)
    diagonal, beside, reflectors = np.empty((3, side))
    work = np.empty(_PANEL * side)
    n, length, info = ctypes.c_int(side), ctypes.c_int(len(work)), ctypes.c_int(0)
    _routine(cython_lapack, "dsytrd", 10)(
        b"L", ctypes.byref(n), symmetric.ctypes.data, ctypes.byref(n), diagonal.ctypes.data, beside.ctypes.data,
        reflectors.ctypes.data, work.ctypes.data, ctypes.byref(length), ctypes.byref(info),
    )  # fmt: skip
    if not info.value:
        _routine(cython_lapack, "dsterf", 4)(
            ctypes.byref(n), diagonal.ctypes.data, beside.ctypes.data, ctypes.byref(info)
        )
    if info.value:
        raise np.linalg.LinAlgError(f"sytrd or sterf returned {info.value}")
    return diagonal.copy()


def overwriting_definite(symmetric: np.ndarray) -> bool:
    """Return whether Cholesky's factorisation of the symmetric matrix whose upper triangle is given succeeds.

    If it does, the matrix is positive definite but for rounding, which is that of a change by (n + 1)·2⁻⁵³·trace at
    most (N. Higham, Accuracy and Stability of Numerical Algorithms, theorem 10.3). The matrix is destroyed.

    Args:
        symmetric: float64, C-ordered, n×n.
    """
    n, info = ctypes.c_int(_side(symmetric)), ctypes.c_int(0)
    _routine(cython_lapack, "dpotrf", 5)(
        b"L", ctypes.byref(n), symmetric.ctypes.data, ctypes.byref(n), ctypes.byref(info)
    )
    return info.value == 0


def symmetric_times(symmetric: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return the symmetric matrix whose upper triangle is given, times a vector.

    Args:
        symmetric: float64, C-ordered, n×n.
        vector: float64, contiguous, n.
    """
    side = _side(symmetric)
    if vector.shape != (side,) or vector.dtype != np.float64:
        raise ValueError(f"wanted a vector of {side} numbers of float64, got {vector.dtype} of shape {vector.shape}")
    _check_memory(vector)
    found = np.zeros(side)
    n, one, step = ctypes.c_int(side), ctypes.c_double(1.0), ctypes.c_int(1)
    _routine(cython_blas, "dsymv", 10)(
        b"L", ctypes.byref(n), ctypes.byref(one), symmetric.ctypes.data, ctypes.byref(n), vector.ctypes.data,
        ctypes.byref(step), ctypes.byref(one), found.ctypes.data, ctypes.byref(step),
    )  # fmt: skip
    return found


def overwriting_r_factor(transposed: np.ndarray) -> np.ndarray:
    """Return R of A = QR, min(m, n) × n, from Aᵀ, n×m, which is destroyed.

    Args:
        transposed: float64, C-ordered: LAPACK, which counts columns first, sees A.

    Raises:
        numpy.linalg.LinAlgError: LAPACK refused.
    """
    if (
        transposed.ndim != 2
        or 0 in transposed.shape
        or transposed.dtype != np.float64
        or max(transposed.shape) >= 2**31
    ):
        raise ValueError(f"wanted a matrix of float64, got {transposed.dtype} of shape {transposed.shape}")
    _check_memory(transposed)
    columns, rows = transposed.shape
    reflectors, work = np.empty(min(rows, columns)), np.empty(_PANEL * columns)
    m, n, length, info = ctypes.c_int(rows), ctypes.c_int(columns), ctypes.c_int(len(work)), ctypes.c_int(0)
    _routine(cython_lapack, "dgeqrf", 8)(
        ctypes.byref(m), ctypes.byref(n), transposed.ctypes.data, ctypes.byref(m), reflectors.ctypes.data,
        work.ctypes.data, ctypes.byref(length), ctypes.byref(info),
    )  # fmt: skip
    if info.value:
        raise np.linalg.LinAlgError(f"geqrf returned {info.value}")
    # What is below the diagonal are the reflectors.
    return np.triu(transposed[:, :rows].T[:columns])


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


def _side(symmetric: np.ndarray) -> int:
    if (
        symmetric.ndim != 2
        or 0 in symmetric.shape
        or symmetric.shape[0] != symmetric.shape[1]
        or symmetric.dtype != np.float64
        or len(symmetric) >= 2**31
    ):
        raise ValueError(f"wanted a square matrix of float64, got {symmetric.dtype} of shape {symmetric.shape}")
    _check_memory(symmetric)
    return len(symmetric)


def _check_memory(array: np.ndarray) -> None:
    if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
        raise ValueError("the matrix must be C-ordered, aligned and writeable")


@cache
def _routine(table: ModuleType, name: str, arguments: int) -> Callable[..., None]:
    """A routine by its name; ctypes lets other threads go on while it runs. Letters go in as bytes."""
    capsule = table.__pyx_capi__[name]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = address_of(capsule, name_of(capsule))
    # Bytes are passed on by c_void_p as the address of their first letter.
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)
