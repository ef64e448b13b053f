r"""The modes of gradient flow, and when each is learned.

Where the start shares its singular vectors with the problem, that is

    Σ u_α = d_α u_α ,   C = Σ_α d_α s*_α u_α v_αᵀ ,   W1 W2 = Σ_α s_α u_α v_αᵀ ,   Q_0 = 0 ,

the modes never mix: ds_α/dt = 2 d_α s_α (s*_α − s_α) each for itself, by A. Saxe, J. McClelland & S. Ganguli, "Exact
solutions to the nonlinear dynamics of learning in deep linear neural networks", ICLR 2014. Mode α then passes the share
φ of its target at

    t_α = log[ (s*_α/s_α(0) − 1) φ/(1 − φ) ] / (2 d_α s*_α) ,     0 < s_α(0) < φ s*_α , 0 < φ < 1 .

Any other balanced start mixes its modes on the way, and no such formula holds: then `crossing_times` reads the time off
the closed form of the whole network.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from rankfall import _checks
from rankfall.errors import InvalidInput, LawNotApplicable
from rankfall.laws._closed_forms import (
    balanced_factors,
    layers,
    mode_numbers,
    moments,
    require_balanced,
)
from rankfall.problem import Problem

__all__ = [
    "Modes",
    "check_share",
    "crossing_times",
    "decoupled_modes",
    "learning_times",
    "mode_strengths",
    "solution_modes",
]

# Relative departure from common singular vectors that is rounding, and share of the largest strength that is.
_NOISE = 1e-12
# Weights that make one matrix out of three with the same singular vectors: no rational relation between them.
_MIX = (1.0, 0.5**0.5, 3.0**0.5 / 4.0)


class Modes(NamedTuple):
    """Modes that learn each for itself; the largest target first.

    Attributes:
        target: s*_α, 0 where the inputs do not vary; shape (mode,) with min(n_inputs, n_outputs) modes.
        start: s_α(0) ≥ 0.
        variance: d_α of the inputs, ≥ 0.
        left: u_α as columns, shape (n_inputs, mode).
        right: v_α as columns, shape (n_outputs, mode).
    """

    target: np.ndarray
    start: np.ndarray
    variance: np.ndarray
    left: np.ndarray
    right: np.ndarray


def learning_times(target: Any, start: Any, share: float = 0.5, variance: Any = 1.0) -> np.ndarray:
    """Return when modes that learn each for itself have reached a share of their target.

    Source of the dynamics: Saxe, McClelland & Ganguli, ICLR 2014. Exact for balanced starts that share their singular
    vectors with the problem (`decoupled_modes` finds the numbers and says where that is so), and for nothing else.

    Args:
        target: s*, any sign; broadcast against `start` and `variance`.
        start: s_0 ≥ 0.
        share: φ with 0 < φ < 1.
        variance: d > 0 of the input.

    Returns:
        log[(s*/s_0 − 1) φ/(1 − φ)] / (2 d s*), in flow time, shape of the broadcast; 0 where s_0 ≥ φ s* already, inf
        where the mode is never learned: s_0 = 0 or s* ≤ 0.

    Raises:
        InvalidInput: The share is not between 0 and 1, a negative start, or a variance that is not positive.

    Example:
        >>> from rankfall.laws import gradient_flow
        >>> gradient_flow.learning_times(target=[3.0, 2.0, 0.0], start=1e-3).round(4)
        array([1.3343, 1.9001,    inf])
        >>> gradient_flow.logistic_mode(target=2.0, start=1e-3, times=[1.900100]).round(4)
        array([1.])
    """
    goal, begin, spread = mode_numbers(target, start, variance)
    part = check_share(share)
    learned = (goal > 0.0) & (begin > 0.0)
    early = learned & (begin >= part * goal)
    late = learned & ~early
    times = np.full(goal.shape, np.inf)
    times[early] = 0.0
    odds = np.log(goal[late] - begin[late]) - np.log(begin[late]) + np.log(part / (1.0 - part))
    times[late] = odds / (2.0 * spread[late] * goal[late])
    return times


def decoupled_modes(problem: Problem, W1: Any, W2: Any) -> Modes:
    """Return targets, starts and input variances of the modes of a start that shares its singular vectors.

    Equal targets, strengths or variances do no harm: the vectors are found from all three matrices at once and are
    verified against each of them. A strength below 1e-12 of the largest counts as 0:
    rounding of that size mixes it with the others.

    Args:
        problem: Any covariance.
        W1: Start, shape (n_inputs, width).
        W2: Start, shape (width, n_outputs).

    Raises:
        LawNotApplicable: The start is not balanced, or its modes mix: there are no singular vectors u_α, v_α of
            W1 W2 and of C at once with Σ u_α = d_α u_α.
        InvalidInput: The weights do not fit the problem.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import gradient_flow
        >>> problem = rf.Problem.from_statistics(np.diag([1.0, 2.0]), np.diag([1.0, 6.0]))
        >>> modes = gradient_flow.decoupled_modes(problem, 0.1 * np.eye(2), 0.1 * np.eye(2))
        >>> modes.target.round(12), modes.start.round(12), modes.variance.round(12)
        (array([3., 1.]), array([0.01, 0.01]), array([2., 1.]))
    """
    first, second = layers(problem, W1, W2)
    if problem.loss != "squared":
        raise LawNotApplicable(f"the modes are known for the squared loss only, the problem has loss={problem.loss!r}.")
    require_balanced(first, second)
    sigma, cross, product = problem.covariance, problem.cross_covariance, first @ second
    together = np.zeros_like(cross)
    for weight, matrix in zip(_MIX, (cross, product, sigma @ cross), strict=True):
        size = np.linalg.norm(matrix)
        together = together + (weight / size * matrix if size > 0.0 else 0.0)
    left, _, right = np.linalg.svd(together, full_matrices=False)
    right = right.T
    strengths = np.einsum("im,ij,jm->m", left, product, right)
    right = right * np.where(strengths < 0.0, -1.0, 1.0)
    strengths = np.where(np.abs(strengths) > _NOISE * np.linalg.norm(product), np.abs(strengths), 0.0)
    gains = np.einsum("im,ij,jm->m", left, cross, right)
    spread = np.einsum("im,ij,jm->m", left, sigma, left)
    used = (strengths > _NOISE * np.linalg.norm(product)) | (np.abs(gains) > _NOISE * np.linalg.norm(cross))
    for matrix, rebuilt, what in (
        (product, (left * strengths) @ right.T, "W1 W2 has other singular vectors than the problem"),
        (cross, (left * gains) @ right.T, "W1 W2 has other singular vectors than the cross covariance"),
        (sigma @ left[:, used], left[:, used] * spread[used], "the singular vectors are no eigenvectors of Σ"),
    ):
        if np.linalg.norm(matrix - rebuilt) > _NOISE * max(float(np.linalg.norm(matrix)), 1e-300):
            raise LawNotApplicable(
                f"the modes of this start mix: {what}. For whitened inputs balanced_flow holds, else use solve."
            )
    alive = spread > _NOISE * np.linalg.norm(sigma, 2)
    target = np.divide(gains, spread, out=np.zeros_like(gains), where=alive)
    order = np.argsort(-target, kind="stable")
    variance = np.where(alive, spread, 0.0)
    return Modes(target[order], strengths[order], variance[order], left[:, order], right[:, order])


def solution_modes(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular vectors u_α (columns), values s*_α and v_α (columns) of the solution Σ⁺C; rounding noise made zero.

    Raises:
        LawNotApplicable: The loss is not squared, and has no solution in closed form.
    """
    if problem.loss != "squared":
        raise LawNotApplicable(f"the modes are known for the squared loss only, the problem has loss={problem.loss!r}.")
    left, targets, right = np.linalg.svd(problem.solution, full_matrices=False)
    noise = targets[0] * max(problem.n_inputs, problem.n_outputs) * np.finfo(float).eps
    return left, np.where(targets > noise, targets, 0.0), right.T


def mode_strengths(problem: Problem, product: Any) -> np.ndarray:
    """Return u_αᵀ W1W2 v_α with the singular vectors of the solution Σ⁺C: how much of each mode has been learned.

    Args:
        problem: Gives the modes, min(n_inputs, n_outputs) of them, the largest target first.
        product: W1 W2, shape (..., n_inputs, n_outputs).

    Returns:
        Shape (..., mode); s*_α where all is learned. Modes of equal targets are told apart in an arbitrary way.

    Raises:
        InvalidInput: The product does not fit the problem.
        LawNotApplicable: The loss is not squared, and has no solution in closed form.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import gradient_flow
        >>> problem = rf.Problem.from_statistics(np.eye(2), np.diag([3.0, 1.0]))
        >>> gradient_flow.mode_strengths(problem, [[1.5, 7.0], [7.0, 0.25]])
        array([1.5 , 0.25])
    """
    matrices = np.asarray(product, dtype=np.float64)
    if matrices.shape[-2:] != (problem.n_inputs, problem.n_outputs):
        raise InvalidInput(
            f"product must have shape (..., {problem.n_inputs}, {problem.n_outputs}), got {matrices.shape}."
        )
    left, _, right = solution_modes(problem)
    return np.einsum("im,...ij,jm->...m", left, matrices, right)


def crossing_times(problem: Problem, W1: Any, W2: Any, times: Any, share: float = 0.5) -> np.ndarray:
    """Return when the modes of a balanced network on whitened inputs first pass a share of their target.

    What is exact: the strength u_αᵀ W1W2 v_α is that of the closed form (`balanced_product`), whether the modes mix or
    not, and the passage is solved for to rounding. What is not covered: a passage that is undone before the next
    of `times` is not seen.

    Args:
        problem: With Σ = s I.
        W1: Start, shape (n_inputs, width).
        W2: Start, shape (width, n_outputs), with W1ᵀW1 = W2W2ᵀ.
        times: Ascending, from which the passages are bracketed.
        share: φ with 0 < φ < 1.

    Returns:
        Shape (mode,), min(n_inputs, n_outputs) modes; times[0] where the mode is learned then, NaN where it is not by
        the last of `times`, inf where its target is 0.

    Raises:
        LawNotApplicable: The inputs are not whitened, or the start is not balanced.
        InvalidInput: The weights do not fit the problem, the times do not ascend, or the share is not in (0, 1).

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall.laws import gradient_flow
        >>> problem = rf.Problem.from_statistics(np.eye(2), np.diag([3.0, 2.0]))
        >>> start = 1e-3**0.5 * np.eye(2)
        >>> gradient_flow.crossing_times(problem, start, start, np.linspace(0, 5, 51)).round(4)
        array([1.3343, 1.9001])
    """
    first, second = layers(problem, W1, W2)
    part, when = check_share(share), moments(times)
    if len(when) == 0 or (np.diff(when) <= 0.0).any():
        raise InvalidInput("times must ascend, and there must be at least one.")
    targets = solution_modes(problem)[1]

    p = problem.n_inputs
    rows = balanced_factors(problem, first, second, when)

    def strengths(factors: np.ndarray) -> np.ndarray:
        return mode_strengths(problem, factors[:, :p] @ factors[:, p:].transpose(0, 2, 1))

    passed = strengths(rows) >= part * targets
    result = np.where(targets > 0.0, np.nan, np.inf)
    for mode in np.flatnonzero(passed.any(axis=0) & (targets > 0.0)):
        index = int(np.argmax(passed[:, mode]))
        if index == 0:
            result[mode] = when[0]
            continue
        before = rows[index - 1]

        def excess(later: float, before: np.ndarray = before, mode: int = int(mode)) -> float:
            factors = balanced_factors(problem, before[:p], before[p:].T, np.array([later]))
            return float(strengths(factors)[0, mode] - part * targets[mode])

        length = when[index] - when[index - 1]
        result[mode] = when[index - 1] + scipy.optimize.brentq(excess, 0.0, length, xtol=1e-14 * length, rtol=1e-14)
    return result


def check_share(share: float) -> float:
    """Return a share between 0 and 1; raises InvalidInput."""
    part = _checks.real_number(share, "share", above=0.0)
    if part >= 1.0:
        raise InvalidInput(f"share must lie between 0 and 1, got {part:g}: a target is approached, never reached.")
    return part
