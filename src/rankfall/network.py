"""Where the weights start: widths and a way to draw or give the layers W1 (p×l1), W2 (l1×l2), …, WL (l×k)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
    """A linear network x ↦ xᵀ W1 W2 … WL of two layers or more, and the law of its starting weights.

    Make one with `LinearNetwork.gaussian`, `LinearNetwork.balanced` or `LinearNetwork.from_weights`.

    Attributes:
        n_inputs: p.
        width: l, the number of hidden units; of more than two layers the largest number in a hidden layer.
        n_outputs: k.
        start: "gaussian", "balanced" or "given".
        scale: Standard deviation of the entries (see the constructors); None for given weights.
        W1: Given first layer, shape (p, l), or (replicates, p, l) with one start per replicate; else None.
        W2: Given second layer, shape (l, k), or (replicates, l, k); else None.
        hidden: Units of every hidden layer of a network of three layers or more; None for two layers.
        layers: All given layers of such a network (then W1 and W2 are None); else None.
    """

    n_inputs: int
    width: int
    n_outputs: int
    start: Literal["gaussian", "balanced", "given"]
    scale: float | None = None
    W1: np.ndarray | None = None
    W2: np.ndarray | None = None
    hidden: tuple[int, ...] | None = None
    layers: tuple[np.ndarray, ...] | None = None

    @classmethod
    def gaussian(cls, n_inputs: int, width: int | Sequence[int], n_outputs: int, scale: float = 1.0) -> LinearNetwork:
        """Start from independent N(0, scale²) weights; each replicate gets its own draw.

        Args:
            n_inputs: p.
            width: Hidden units, or those of every hidden layer in turn, [l1, …, l(L−1)], for a network of L layers.
            n_outputs: k.
            scale: Standard deviation of every weight.

        Raises:
            InvalidInput: A size is below 1 or the scale is not positive.

        Example:
            >>> import rankfall as rf
            >>> W1, W2 = rf.LinearNetwork.gaussian(n_inputs=5, width=10, n_outputs=2).draw(replicates=3, seed=0)
            >>> W1.shape, W2.shape
            ((3, 5, 10), (3, 10, 2))
            >>> rf.LinearNetwork.gaussian(n_inputs=5, width=[10, 8], n_outputs=2).widths
            (5, 10, 8, 2)
        """
        p, l, k, hidden = _sizes(n_inputs, width, n_outputs)
        return cls(p, l, k, "gaussian", _checks.real_number(scale, "scale", above=0.0), hidden=hidden)

    @classmethod
    def balanced(cls, n_inputs: int, width: int | Sequence[int], n_outputs: int, scale: float = 1.0) -> LinearNetwork:
        """Start with Q = W1ᵀW1 − W2W2ᵀ = 0: W1 = A √S Vᵀ, W2 = V √S Bᵀ with Haar-random orthonormal A, V, B.

        S holds the singular values of an n_inputs×n_outputs matrix with N(0, scale²) entries, cut to the width. The
        rank of Z is min(n_inputs, n_outputs, width), so det M = 0 for such a start. With L layers every two
        neighbours are balanced: W_i = V_{i−1} S^{1/L} V_iᵀ.

        Raises:
            InvalidInput: A size is below 1 or the scale is not positive.

        Example:
            >>> import numpy as np, rankfall as rf
            >>> W1, W2 = rf.LinearNetwork.balanced(n_inputs=4, width=6, n_outputs=2).draw(replicates=1, seed=0)
            >>> bool(np.allclose(W1[0].T @ W1[0], W2[0] @ W2[0].T))
            True
        """
        p, l, k, hidden = _sizes(n_inputs, width, n_outputs)
        return cls(p, l, k, "balanced", _checks.real_number(scale, "scale", above=0.0), hidden=hidden)

    @classmethod
    def from_weights(cls, W1: Any, W2: Any, *more: Any) -> LinearNetwork:
        """Start all replicates from the same given weights, or replicate i from W1[i], W2[i].

        Args:
            W1: Shape (n_inputs, width), or (replicates, n_inputs, width).
            W2: Shape (width, n_outputs), or (replicates, width, n_outputs).
            *more: W3, W4, … of a deeper network, whose last layer ends in n_outputs columns.

        Raises:
            InvalidInput: Not numeric or finite, or the shapes do not fit together.

        Example:
            >>> import numpy as np, rankfall as rf
            >>> rf.LinearNetwork.from_weights(np.ones((3, 4)), np.ones((4, 1))).width
            4
            >>> rf.LinearNetwork.from_weights(np.ones((3, 4)), np.ones((4, 6)), np.ones((6, 1))).widths
            (3, 4, 6, 1)
        """
        if more:
            return cls._from_layers([W1, W2, *more])
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

    @classmethod
    def _from_layers(cls, given: list[Any]) -> LinearNetwork:
        several = [np.ndim(layer) == 3 for layer in given]
        if any(several) and (not all(several) or len({len(layer) for layer in given}) > 1 or len(given[0]) == 0):
            raise InvalidInput(
                "one start per replicate needs every layer as (replicates, rows, columns) with the same number of "
                f"replicates, got shapes {', '.join(str(np.shape(layer)) for layer in given)}."
            )
        layers = []
        for number, layer in enumerate(given, start=1):
            flat = np.reshape(layer, (-1, np.shape(layer)[2])) if several[0] else layer
            checked = _checks.finite_matrix(flat, f"W{number}")
            layers.append(checked.reshape(np.shape(layer)))
        for number, (left, right) in enumerate(itertools.pairwise(layers), start=1):
            if left.shape[-1] != right.shape[-2]:
                raise InvalidInput(
                    f"W{number} must have as many columns as W{number + 1} has rows (the hidden units between them), "
                    f"got {left.shape} and {right.shape}."
                )
        hidden = tuple(layer.shape[-1] for layer in layers[:-1])
        p, k = layers[0].shape[-2], layers[-1].shape[-1]
        return cls(p, max(hidden), k, "given", None, hidden=hidden, layers=tuple(layers))

    @property
    def widths(self) -> tuple[int, ...]:
        """All widths from the inputs to the outputs, (p, l1, …, k)."""
        return (self.n_inputs, *(self.hidden or (self.width,)), self.n_outputs)

    @property
    def depth(self) -> int:
        """L, the number of layers."""
        return len(self.widths) - 1

    @property
    def pair_ranks(self) -> tuple[int | None, ...]:
        """Rank of Z_i = [W_i; W_{i+1}ᵀ] at the start for i = 1 … L−1, in the sense of `start_rank`."""
        if self.depth == 2:
            return (self.start_rank,)
        if self.layers is not None:
            return self._given_ranks
        if self.start == "balanced":
            return (min(self.widths),) * (self.depth - 1)
        w = self.widths
        return tuple(min(w[i - 1] + w[i + 1], w[i]) for i in range(1, self.depth))

    @cached_property
    def _given_ranks(self) -> tuple[int | None, ...]:
        assert self.layers is not None
        return tuple(_rank_of_pairs(left, right) for left, right in itertools.pairwise(self.layers))

    @property
    def full_pairs(self) -> tuple[bool, ...]:
        """Whether M_i = Z_i Z_iᵀ can have full rank, i = 1 … L−1: l_i ≥ l_{i−1} + l_{i+1}, and a start of that rank."""
        w = self.widths
        rows = [w[i - 1] + w[i + 1] for i in range(1, self.depth)]
        return tuple(
            w[i + 1] >= n and (rank is None or rank >= n)
            for i, (n, rank) in enumerate(zip(rows, self.pair_ranks, strict=True))
        )

    @property
    def start_rank(self) -> int | None:
        """Rank of Z = [W1; W2ᵀ] at the start; the largest of them where there are several; of two layers only.

        For random starts the one they have with probability one. For given weights the exact one, that of the matrix
        that the floats stand for; None where some of the given starts are rank-deficient and others are not, or where
        it is too large to tell, and for more than two layers (see `pair_ranks`).
        """
        if self.depth > 2:
            return None
        if self.W1 is not None and self.W2 is not None:
            return self._given_rank
        if self.start == "balanced":
            return min(self.n_inputs, self.n_outputs, self.width)
        return min(self.n_inputs + self.n_outputs, self.width)

    @cached_property
    def _given_rank(self) -> int | None:
        assert self.W1 is not None and self.W2 is not None
        return _rank_of_pairs(self.W1, self.W2)

    @property
    def is_wide(self) -> bool:
        """Whether width ≥ n_inputs + n_outputs, so that M = ZZᵀ can have full rank; if deep, for some pair."""
        w = self.widths
        return any(w[i] >= w[i - 1] + w[i + 1] for i in range(1, self.depth))

    @property
    def starts_given(self) -> int | None:
        """How many starts the given weights hold, one per replicate; None for random or single ones."""
        first = self.W1 if self.layers is None else self.layers[0]
        return len(first) if first is not None and first.ndim == 3 else None

    def check_replicates(self, replicates: int) -> None:
        """Raise `InvalidInput` if given starts are for another number of replicates."""
        if self.starts_given not in (None, replicates):
            raise InvalidInput(
                f"the network holds {self.starts_given} starts, but replicates={replicates} was asked for."
            )

    def draw(self, replicates: int, seed: int) -> tuple[np.ndarray, ...]:
        """Return starting weights, W1 of shape (replicates, p, l) and W2 (replicates, l, k), or all L layers so.

        Replicate i gets the same weights however many replicates are drawn.

        Raises:
            InvalidInput: Replicates below 1, a bad seed, or given weights for another number of replicates.
        """
        count = _checks.whole_number(replicates, "replicates")
        given = self.layers
        if self.W1 is not None and self.W2 is not None:
            given = (self.W1, self.W2)
        if given is not None:
            self.check_replicates(count)
            return tuple(np.broadcast_to(layer, (count, *layer.shape[-2:])).copy() for layer in given)
        assert self.scale is not None
        rng = np.random.default_rng([_checks.seed_number(seed), _NETWORK_STREAM])
        w = self.widths
        layers = tuple(np.empty((count, a, b)) for a, b in itertools.pairwise(w))
        sizes = [a * b for a, b in itertools.pairwise(w)]
        r = min(w)
        if self.start == "balanced":
            sizes = [w[0] * w[-1], *(width * r for width in w)]
        slab = max(1, _SLAB // sum(sizes))
        for begin in range(0, count, slab):
            rows = slice(begin, min(begin + slab, count))
            draws = rng.standard_normal((rows.stop - begin, sum(sizes)))
            parts = np.split(draws, np.cumsum(sizes)[:-1], axis=1)
            if self.start == "gaussian":
                for layer, part in zip(layers, parts, strict=True):
                    layer[rows] = self.scale * part.reshape(-1, *layer.shape[1:])
                continue
            spectra = np.linalg.svd(parts[0].reshape(-1, w[0], w[-1]), compute_uv=False)[:, None, :r]
            root = np.sqrt(self.scale * spectra) if self.depth == 2 else (self.scale * spectra) ** (1.0 / self.depth)
            frames = [_haar(part.reshape(len(draws), -1, r)) for part in parts[1:]]
            for layer, left, right in zip(layers, frames, frames[1:], strict=False):
                layer[rows] = (left * root) @ right.transpose(0, 2, 1)
        return layers

    def __repr__(self) -> str:
        scale = "" if self.scale is None else f", scale={self.scale:g}"
        width = self.width if self.hidden is None else list(self.hidden)
        return (
            f"LinearNetwork(n_inputs={self.n_inputs}, width={width}, n_outputs={self.n_outputs}, "
            f"start={self.start!r}{scale})"
        )


def _haar(normals: np.ndarray) -> np.ndarray:
    """Orthonormal columns, Haar distributed: QR of normals with the signs of R's diagonal moved into Q."""
    q, upper = np.linalg.qr(normals)
    return q * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[:, None, :]


def _rank_of_pairs(W1: np.ndarray, W2: np.ndarray) -> int | None:
    """The largest exact rank of [W1; W2ᵀ] over the starts given, None where that cannot be said of all of them."""
    (p, l), k = W1.shape[-2:], W2.shape[-1]
    stacked = np.concatenate([W1.reshape(-1, p, l), W2.reshape(-1, l, k).transpose(0, 2, 1)], axis=1, dtype=np.float64)
    full = min(p + k, l)
    clear = is_clearly_full(stacked)
    ranks = {exact_rank(z) for z in stacked[~clear]} | ({full} if clear.any() else set())
    if None in ranks or (full in ranks and len(ranks) > 1):
        return None
    return max(rank for rank in ranks if rank is not None)


def _sizes(n_inputs: int, width: int | Sequence[int], n_outputs: int) -> tuple[int, int, int, tuple[int, ...] | None]:
    """p, the (largest) width, k, and the hidden widths of more than two layers."""
    p, k = _checks.whole_number(n_inputs, "n_inputs"), _checks.whole_number(n_outputs, "n_outputs")
    if isinstance(width, str) or np.ndim(width) == 0:
        return p, _checks.whole_number(width, "width"), k, None
    hidden = tuple(_checks.whole_number(each, "width") for each in width)  # type: ignore[union-attr]
    if not hidden:
        raise InvalidInput("width must name the units of at least one hidden layer, got an empty list.")
    return p, max(hidden), k, (hidden if len(hidden) > 1 else None)
