"""Where the weights start: widths and a way to draw or give W1 (p×l) and W2 (l×k)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rankfall import _checks
from rankfall._rank import exact_rank, is_clearly_full
from rankfall.errors import InvalidInput

__all__ = ["LinearNetwork"]

_NETWORK_STREAM = 0x6E657477
# Replicates are drawn in slabs of this many numbers, so that a hundred thousand starts never need a second copy.
_SLAB = 1 << 20


@dataclass(frozen=True, eq=False)
class LinearNetwork:
    """A two-layer linear network x ↦ xᵀ W1 W2 and the law of its starting weights.

    Make one with `LinearNetwork.gaussian`, `LinearNetwork.balanced` or `LinearNetwork.from_weights`.

    Attributes:
        n_inputs: p.
        width: l, the number of hidden units.
        n_outputs: k.
        start: "gaussian", "balanced" or "given".
        scale: Standard deviation of the entries (see the constructors); None for given weights.
        W1: Given first layer, shape (p, l), or (replicates, p, l) with one start per replicate; else None.
        W2: Given second layer, shape (l, k), or (replicates, l, k); else None.
    """

    n_inputs: int
    width: int
    n_outputs: int
    start: Literal["gaussian", "balanced", "given"]
    scale: float | None = None
    W1: np.ndarray | None = None
    W2: np.ndarray | None = None

    @classmethod
    def gaussian(cls, n_inputs: int, width: int, n_outputs: int, scale: float = 1.0) -> LinearNetwork:
        """Start from independent N(0, scale²) weights; each replicate gets its own draw.

        Raises:
            InvalidInput: A size is below 1 or the scale is not positive.

        Example:
            >>> import rankfall as rf
            >>> W1, W2 = rf.LinearNetwork.gaussian(n_inputs=5, width=10, n_outputs=2).draw(replicates=3, seed=0)
            >>> W1.shape, W2.shape
            ((3, 5, 10), (3, 10, 2))
        """
        return cls(*_sizes(n_inputs, width, n_outputs), "gaussian", _checks.real_number(scale, "scale", above=0.0))

    @classmethod
    def balanced(cls, n_inputs: int, width: int, n_outputs: int, scale: float = 1.0) -> LinearNetwork:
        """Start with Q = W1ᵀW1 − W2W2ᵀ = 0: W1 = A √S Vᵀ, W2 = V √S Bᵀ with Haar-random orthonormal A, V, B.

        S holds the singular values of an n_inputs×n_outputs matrix with N(0, scale²) entries, cut to the width. The
        rank of Z is min(n_inputs, n_outputs, width), so det M = 0 for such a start.

        Raises:
            InvalidInput: A size is below 1 or the scale is not positive.

        Example:
            >>> import numpy as np, rankfall as rf
            >>> W1, W2 = rf.LinearNetwork.balanced(n_inputs=4, width=6, n_outputs=2).draw(replicates=1, seed=0)
            >>> bool(np.allclose(W1[0].T @ W1[0], W2[0] @ W2[0].T))
            True
        """
        return cls(*_sizes(n_inputs, width, n_outputs), "balanced", _checks.real_number(scale, "scale", above=0.0))

    @classmethod
    def from_weights(cls, W1: Any, W2: Any) -> LinearNetwork:
        """Start all replicates from the same given weights, or replicate i from W1[i], W2[i].

        Args:
            W1: Shape (n_inputs, width), or (replicates, n_inputs, width).
            W2: Shape (width, n_outputs), or (replicates, width, n_outputs).

        Raises:
            InvalidInput: Not numeric or finite, or the shapes do not fit together.

        Example:
            >>> import numpy as np, rankfall as rf
            >>> rf.LinearNetwork.from_weights(np.ones((3, 4)), np.ones((4, 1))).width
            4
        """
        if np.ndim(W1) == 3 or np.ndim(W2) == 3:
            if np.ndim(W1) != 3 or np.ndim(W2) != 3 or len(W1) != len(W2) or len(W1) == 0:
                raise InvalidInput(
                    "one start per replicate needs W1 (replicates, n_inputs, width) and W2 (replicates, width, "
                    f"n_outputs) with the same number of replicates, got {np.shape(W1)} and {np.shape(W2)}."
                )
            stacked = np.shape(W1), np.shape(W2)
            first = _checks.finite_matrix(np.reshape(W1, (-1, stacked[0][2])), "W1").reshape(stacked[0])
            second = _checks.finite_matrix(np.reshape(W2, (-1, stacked[1][2])), "W2").reshape(stacked[1])
        else:
            first, second = _checks.finite_matrix(W1, "W1"), _checks.finite_matrix(W2, "W2")
        p, l = first.shape[-2:]
        if second.shape[-2] != l:
            raise InvalidInput(
                f"W1 must have as many columns as W2 has rows (the hidden units), got {first.shape} and {second.shape}."
            )
        return cls(p, l, second.shape[-1], "given", None, first, second)

    @property
    def start_rank(self) -> int | None:
        """Rank of Z = [W1; W2ᵀ] at the start; the largest of them where there are several.

        For random starts the one they have with probability one. For given weights the exact one, that of the matrix
        that the floats stand for; None where some of the given starts are rank-deficient and others are not, or where
        it is too large to tell.
        """
        if self.W1 is not None and self.W2 is not None:
            return self._given_rank
        if self.start == "balanced":
            return min(self.n_inputs, self.n_outputs, self.width)
        return min(self.n_inputs + self.n_outputs, self.width)

    @cached_property
    def _given_rank(self) -> int | None:
        assert self.W1 is not None and self.W2 is not None
        p, l, k = self.n_inputs, self.width, self.n_outputs
        stacked = np.concatenate(
            [self.W1.reshape(-1, p, l), self.W2.reshape(-1, l, k).transpose(0, 2, 1)], axis=1, dtype=np.float64
        )
        full = min(p + k, l)
        clear = is_clearly_full(stacked)
        ranks = {exact_rank(z) for z in stacked[~clear]} | ({full} if clear.any() else set())
        if None in ranks or (full in ranks and len(ranks) > 1):
            return None
        return max(rank for rank in ranks if rank is not None)

    @property
    def is_wide(self) -> bool:
        """Whether width ≥ n_inputs + n_outputs, so that M = ZZᵀ can have full rank."""
        return self.width >= self.n_inputs + self.n_outputs

    def check_replicates(self, replicates: int) -> None:
        """Raise `InvalidInput` if given starts are for another number of replicates."""
        if self.W1 is not None and self.W1.ndim == 3 and len(self.W1) != replicates:
            raise InvalidInput(f"the network holds {len(self.W1)} starts, but replicates={replicates} was asked for.")

    def draw(self, replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return starting weights, shapes (replicates, p, l) and (replicates, l, k).

        Replicate i gets the same weights however many replicates are drawn.

        Raises:
            InvalidInput: Replicates below 1, a bad seed, or given weights for another number of replicates.
        """
        count = _checks.whole_number(replicates, "replicates")
        p, l, k = self.n_inputs, self.width, self.n_outputs
        if self.W1 is not None and self.W2 is not None:
            self.check_replicates(count)
            return (
                np.broadcast_to(self.W1, (count, p, l)).copy(),
                np.broadcast_to(self.W2, (count, l, k)).copy(),
            )
        assert self.scale is not None
        rng = np.random.default_rng([_checks.seed_number(seed), _NETWORK_STREAM])
        first, second = np.empty((count, p, l)), np.empty((count, l, k))
        r = min(p, k, l)
        numbers = p * l + l * k if self.start == "gaussian" else p * k + (p + k + l) * r
        slab = max(1, _SLAB // numbers)
        for begin in range(0, count, slab):
            rows = slice(begin, min(begin + slab, count))
            draws = rng.standard_normal((rows.stop - begin, numbers))
            if self.start == "gaussian":
                first[rows] = self.scale * draws[:, : p * l].reshape(-1, p, l)
                second[rows] = self.scale * draws[:, p * l :].reshape(-1, l, k)
                continue
            spectrum, a, v, b = np.split(draws, np.cumsum([p * k, p * r, l * r]), axis=1)
            root = np.sqrt(self.scale * np.linalg.svd(spectrum.reshape(-1, p, k), compute_uv=False)[:, None, :r])
            a, v, b = (_haar(part.reshape(len(draws), -1, r)) for part in (a, v, b))
            first[rows] = (a * root) @ v.transpose(0, 2, 1)
            second[rows] = (v * root) @ b.transpose(0, 2, 1)
        return first, second

    def __repr__(self) -> str:
        scale = "" if self.scale is None else f", scale={self.scale:g}"
        return (
            f"LinearNetwork(n_inputs={self.n_inputs}, width={self.width}, n_outputs={self.n_outputs}, "
            f"start={self.start!r}{scale})"
        )


def _haar(normals: np.ndarray) -> np.ndarray:
    """Orthonormal columns, Haar distributed: QR of normals with the signs of R's diagonal moved into Q."""
    q, upper = np.linalg.qr(normals)
    return q * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[:, None, :]


def _sizes(n_inputs: int, width: int, n_outputs: int) -> tuple[int, int, int]:
    return (
        _checks.whole_number(n_inputs, "n_inputs"),
        _checks.whole_number(width, "width"),
        _checks.whole_number(n_outputs, "n_outputs"),
    )
