"""The largest eigenvalue of a Gram matrix, and that it has full rank, without its other eigenvalues.

A Ritz value θ of Lanczos's method (G. Golub & C. Van Loan, Matrix Computations, chapter 10) is never above λ₁ but for
rounding. That it is not below either is not taken on trust: if Cholesky's factorisation of θ(1 + η)I − G succeeds, no
eigenvalue is above θ(1 + η). Another one, of G − sI, shows that all are above s (Sylvester). Both are a third of the
arithmetic of a reduction to tridiagonal form, and none of it waits for memory, so that large matrices gain most.
Where either fails, all eigenvalues have to be computed.
"""

from __future__ import annotations

import numpy as np

from rankfall.scan._lapack import overwriting_definite, symmetric_times

__all__ = ["ABOVE", "all_above", "largest_eigenvalue"]

ABOVE = 1e-9  # η
_CHUNK = 12  # steps between two looks at the Ritz values
_MOST = 15 * _CHUNK
_SMALL = 32  # below, all eigenvalues cost less


def largest_eigenvalue(gram: np.ndarray, work: np.ndarray) -> float | None:
    """Return θ with θ ≤ λ₁ ≤ θ(1 + ABOVE) but for rounding of 2·n²·2⁻⁵³·θ, or None where that was not shown.

    Args:
        gram: Upper triangle of a matrix with no negative eigenvalues, not zero; left as it is.
        work: Memory of the same size.
    """
    if len(gram) < _SMALL:
        return None
    found = _ritz(gram)
    np.negative(gram, out=work)
    work.reshape(-1)[:: len(work) + 1] += found * (1.0 + ABOVE)
    return found if found > 0.0 and overwriting_definite(work) else None


def all_above(gram: np.ndarray, shift: float, work: np.ndarray) -> bool:
    """Whether all eigenvalues were shown to be above `shift`, but for rounding of (n + 1)·2⁻⁵³·trace."""
    np.copyto(work, gram)
    work.reshape(-1)[:: len(work) + 1] -= shift
    return overwriting_definite(work)


def _ritz(gram: np.ndarray) -> float:
    """Largest Ritz value; the same for the same matrix, because the start is."""
    vector = np.random.default_rng(0).standard_normal(len(gram))
    vector /= np.linalg.norm(vector)
    before, beta, ritz = np.zeros_like(vector), 0.0, 0.0
    alphas: list[float] = []
    betas: list[float] = []
    for step in range(1, min(_MOST, len(gram)) + 1):
        image = symmetric_times(gram, vector)
        alpha = float(image @ vector)
        image -= alpha * vector
        image -= beta * before
        beta = float(np.sqrt(image @ image))
        alphas.append(alpha)
        exhausted = beta <= 1e-14 * max(alphas)
        if step % _CHUNK == 0 or step == min(_MOST, len(gram)) or exhausted:
            values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
            ritz = float(values[-1])
            # The error of a Ritz value is the square of its residual over the gap above which the others lie.
            gap = ritz - float(values[-2]) if step > 1 else ritz
            if exhausted or (beta * float(vectors[-1, -1])) ** 2 <= 0.1 * ABOVE * ritz * gap:
                break
        betas.append(beta)
        before, vector = vector, image / beta
    return ritz
