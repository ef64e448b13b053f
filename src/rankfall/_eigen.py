"""The forces on the eigenvalues of M = ZZᵀ, in batched NumPy: for the recorder, the law and the process alike.

Everything is in the eigenbasis of Σ = diag(d): Z = [UᵀW1; W2ᵀ] = Σ_i σ_i u_i v_iᵀ, u_i = [a_i; b_i], λ_i = σ_i². With
α_i = √d a_i the rates of the noise are

    n_ij  = σ² ‖α_i b_jᵀ + α_j b_iᵀ‖² = σ² (α_i·α_i b_j·b_j + α_j·α_j b_i·b_i + 2 α_i·α_j b_i·b_j) ,
    κ_i   = u_iᵀKu_i = σ² (k α_i·α_i + tr(Σ) b_i·b_i) = Σ_j n_ij   over a complete set of vectors,
    cov_ij = 16 σ² (α_i·α_j)(b_i·b_j)                              of the martingales 2 u_iᵀdN̂u_i of log λ_i .

Only products, quotients and matrix products, so that the bits of one replicate do not depend on those beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["ROUNDING_LEVEL", "Parts", "coth_of_ratio", "decompose", "modes", "noise_rates", "project_gradient"]

# A singular value below this share of the largest is rounding noise, and so is its vector.
ROUNDING_LEVEL = 1e-14


class Parts(NamedTuple):
    """What moves log λ_i; shapes (..., mode) and (..., mode, mode).

    Attributes:
        gradient: 2 u_iᵀĜu_i.
        noise: −κ_i.
        pairs: 2 n_ij coth((s_i − s_j)/2), the push of mode j on mode i; zero diagonal, antisymmetric.
        zero_modes: 2 Σ n_ij over the modes j with λ_j = 0 at all times (width below p + k), where the coth is 1.
        rates: n_ij.
        covariance: cov_ij.
    """

    gradient: np.ndarray
    noise: np.ndarray
    pairs: np.ndarray
    zero_modes: np.ndarray
    rates: np.ndarray
    covariance: np.ndarray


def modes(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """σ_i(Z), descending, and the left singular vectors as columns: the eigenvectors of M, which is never formed."""
    vectors, values, _ = np.linalg.svd(z, full_matrices=False)
    return values, vectors


def project_gradient(vectors: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """u_iᵀĜu_i = 2 a_iᵀ G b_i, shape (..., mode)."""
    p = gradient.shape[-2]
    products = vectors[..., :p, :] * (gradient @ vectors[..., p:, :])
    return 2.0 * _column_sums(products)


def noise_rates(
    vectors: np.ndarray, variances: np.ndarray, intensity: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n_ij, κ_i and cov_ij of eigenvectors (..., p + k, mode)."""
    p = len(variances)
    k = vectors.shape[-2] - p
    inputs = np.sqrt(variances)[:, None] * vectors[..., :p, :]
    outputs = vectors[..., p:, :]
    alike_inputs, alike_outputs = _turned(inputs) @ inputs, _turned(outputs) @ outputs
    here = np.diagonal(alike_inputs, axis1=-2, axis2=-1)
    there = np.diagonal(alike_outputs, axis1=-2, axis2=-1)
    crossed = here[..., :, None] * there[..., None, :]
    overlap = alike_inputs * alike_outputs
    rates = intensity * (crossed + _turned(crossed) + 2.0 * overlap)
    total = intensity * (k * here + float(np.sum(variances)) * there)
    return np.maximum(rates, 0.0), total, 16.0 * intensity * overlap


def coth_of_ratio(values: np.ndarray) -> np.ndarray:
    """coth((s_i − s_j)/2) = (λ_i + λ_j)/(λ_i − λ_j) with λ = values²; 0 where the two are equal to the last bit."""
    row, column = values[..., :, None], values[..., None, :]
    gap = (row - column) * (row + column)
    tied = gap == 0.0
    result: np.ndarray = np.where(tied, 0.0, (row * row + column * column) / np.where(tied, 1.0, gap))
    return result


def decompose(
    z: np.ndarray, variances: np.ndarray, cross: np.ndarray, intensity: float, *, complete: bool
) -> tuple[np.ndarray, Parts]:
    """σ_i(Z) and the parts of the drift of log λ_i for Z (..., p + k, r).

    Where σ_i has fallen below 1e-14 σ_1 the numbers of mode i itself are NaN; what it does to the others is kept, their
    sum being that of the space that such modes span together.

    Args:
        z: In the eigenbasis of Σ.
        variances: d.
        cross: UᵀC.
        intensity: σ².
        complete: Whether the columns of Z span all p + k directions, so that no mode is left out.
    """
    p = len(variances)
    values, vectors = modes(z)
    product = z[..., :p, :] @ _turned(z[..., p:, :])
    gradient = 2.0 * project_gradient(vectors, cross - variances[:, None] * product)
    rates, total, covariance = noise_rates(vectors, variances, intensity)
    pairs = 2.0 * rates * coth_of_ratio(values)
    zero_modes = np.zeros_like(total)
    if not complete:
        zero_modes = 2.0 * np.maximum(total - _column_sums(rates), 0.0)
    lost = ~(values > ROUNDING_LEVEL * values[..., :1])
    if lost.any():
        for part in (gradient, total, zero_modes):
            part[lost] = np.nan
        for part in (rates, pairs, covariance):
            part[lost] = np.nan  # the rows
        covariance[np.broadcast_to(lost[..., None, :], covariance.shape)] = np.nan
    return values, Parts(gradient, -total, pairs, zero_modes, rates, covariance)


def _column_sums(matrices: np.ndarray) -> np.ndarray:
    """Sums over the rows, by a matrix product."""
    ones = np.ones((1, matrices.shape[-2]))
    sums: np.ndarray = (ones @ matrices)[..., 0, :]
    return sums


def _turned(matrices: np.ndarray) -> np.ndarray:
    """Transpose of the last two axes."""
    return np.swapaxes(matrices, -1, -2)
