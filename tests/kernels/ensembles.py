"""Small ensembles driven straight through a compiled kernel, and the same steps in plain NumPy with error bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rankfall._kernels import reference, tiles
from rankfall._kernels.generator import SERIES_TERMS, Variant
from rankfall._kernels.layout import Layout, pack_lanes, unpack_lanes
from rankfall._kernels.loader import kernel
from rankfall._kernels.noise import batches, normals
from rankfall._kernels.vector import aligned_zeros

EPS = np.finfo(float).eps
# Above 2³², so that both words of the key count.
SEED = 7 + (5 << 32)
STEP = 0.05
BATCH_SIZE, SAMPLES, ROOT_NOISE = 5, 12, 0.7


def guarded(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory of exactly this size (kernels do not check bounds) and the numbers behind it, which must stay at 7."""
    whole = aligned_zeros(size + 256)
    whole[size:] = 7.0
    return whole[:size], whole[size:]


def balance(z: np.ndarray, p: int) -> np.ndarray:
    return z[..., :p, :].swapaxes(-1, -2) @ z[..., :p, :] - z[..., p:, :].swapaxes(-1, -2) @ z[..., p:, :]


@dataclass
class Ensemble:
    """State and ledgers of one ensemble; the numbers are functions of (variant's p and k, width, replicates) alone."""

    variant: Variant
    width: int
    replicates: int = 3
    start: np.ndarray | None = None
    keep: float | None = None
    first_replicate: int = 0
    step: float = STEP
    state: np.ndarray = field(init=False)
    extra: tuple = field(init=False, default=())  # further arguments of the kernel: the frame's

    def __post_init__(self) -> None:
        v = self.variant
        p, k = v.n_inputs, v.n_outputs
        rng = np.random.default_rng([p, k])
        self.curvature = self.step * rng.uniform(0.5, 1.5, p)
        self.gain = self.step * rng.standard_normal((p, k))
        self.amplitude = 0.1 * rng.uniform(0.5, 1.5, p) if v.noise in ("single", "double") else np.zeros(p)
        rows = np.exp(-0.02 * rng.uniform(0.5, 1.0, p + k))
        self.inputs, self.labels = rng.standard_normal((SAMPLES, p)), rng.standard_normal((SAMPLES, k))
        if self.start is None:
            self.start = np.random.default_rng([p, k, self.width]).standard_normal((99, p + k, self.width))
            self.start = 0.5 * self.start[self.first_replicate : self.first_replicate + self.replicates]
        self.columns = self.width if v.unrolled else -(-self.width // tiles.COLUMN_TILE) * tiles.COLUMN_TILE
        self.layout = Layout(p, k, self.columns, v.lanes, self.replicates)
        self.a = (0.98 if v.decay else 1.0) if self.keep is None else self.keep
        if v.step == "descent":
            self.factors, self.gram_weights = np.array([self.a]), np.concatenate([np.ones(p), -np.ones(k)])
        else:
            self.factors = rows
            self.gram_weights = np.concatenate([1 - rows[:p] ** -2, rows[p:] ** -2 - 1])
        padded = np.pad(self.start, ((0, 0), (0, 0), (0, self.columns - self.width)))
        self.state = self.layout.pack(padded)
        size = self.layout.blocks * v.lanes
        self.log_ledger, self.extremes = np.zeros(size), np.zeros(size)
        self.balance_ledger = pack_lanes(balance(padded, p), v.lanes)
        self.diverged_at = np.full(size, -1)

    def run(self, first_step: int, steps: int, blocks: tuple[int, int] | None = None) -> Ensemble:
        v, w = self.variant, self.variant.lanes
        first, last = (0, self.layout.blocks) if blocks is None else blocks
        scratch, behind = guarded(tiles.scratch_size(v.n_inputs, v.n_outputs, self.columns, w, v.step_batch))
        data: tuple = ()
        if v.noise == "batch":
            buffers = np.zeros(BATCH_SIZE * w, np.int64), aligned_zeros((BATCH_SIZE * v.n_outputs + 4) * w)
            data = (self.inputs, self.labels, *buffers, self.step / BATCH_SIZE, ROOT_NOISE, BATCH_SIZE, False)
        kernel(v)(
            self.state,
            self.gain,
            self.curvature,
            self.amplitude,
            self.factors,
            np.uint64(SEED),
            self.first_replicate,
            first_step,
            steps,
            first,
            last,
            self.columns,
            self.log_ledger,
            self.balance_ledger,
            self.gram_weights,
            self.extremes,
            self.diverged_at,
            scratch,
            data,
            *self.extra,
        )
        assert (behind == 7.0).all(), "the kernel wrote beyond its scratch memory"
        return self

    @property
    def z(self) -> np.ndarray:
        """(replicate, row, column), without the columns that pad a tile."""
        return self.layout.unpack(self.state)[:, :, : self.width].copy()

    @property
    def predicted_balance(self) -> np.ndarray:
        """The balance ledger (replicate, column, column) from the triangle that the kernel keeps."""
        r = self.columns
        upper = np.triu(unpack_lanes(self.balance_ledger, self.replicates, r, r, self.variant.lanes))
        full = upper + np.triu(upper, 1).swapaxes(1, 2)
        return full[:, : self.width, : self.width]

    def results(self) -> dict[str, np.ndarray]:
        """All that a run leaves, replicate by replicate: comparable between lane widths."""
        r = self.replicates
        return {
            "state": self.z,
            "log_ledger": self.log_ledger[:r],
            "balance": self.predicted_balance,
            "extremes": self.extremes[:r],
            "diverged_at": self.diverged_at[:r],
        }

    def increments(self, z: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        """H of every replicate from its state, the sum of the absolute values of its terms, and how many roundings
        the longest path from the inputs to an entry of H takes in either program."""
        v, r = self.variant, self.width
        p, k = v.n_inputs, v.n_outputs
        exact, absolute = [], []
        if v.noise == "batch":
            chosen, noise = (
                x[self.first_replicate :, 0]
                for x in batches(SEED, self.first_replicate + len(z), step, 1, SAMPLES, BATCH_SIZE, k)
            )
            for zi, rows, xi in zip(z, chosen, noise, strict=True):
                x, y, product = self.inputs[rows], self.labels[rows], zi[:p] @ zi[p:].T
                exact.append(self.step / BATCH_SIZE * x.T @ (y + ROOT_NOISE * xi - x @ product))
                scale = np.abs(y) + ROOT_NOISE * np.abs(xi) + np.abs(x) @ (np.abs(zi[:p]) @ np.abs(zi[p:].T))
                absolute.append(self.step / BATCH_SIZE * np.abs(x).T @ scale)
            return np.array(exact), np.array(absolute), r + p + BATCH_SIZE + 5
        count = normals(SEED, len(z), step, 1, p * k, v.noise == "double", self.first_replicate)
        for zi, n in zip(z, count.reshape(-1, p, k), strict=True):
            exact.append(reference.increment(zi, self.gain, self.curvature, self.amplitude, n))
            product = np.abs(zi[:p]) @ np.abs(zi[p:].T)
            noise = self.amplitude[:, None] * np.abs(n)
            absolute.append(np.abs(self.gain) + self.curvature[:, None] * product + noise)
        return np.array(exact), np.array(absolute), r + 3

    def reference_step(self, z: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The step of `reference.py`, and a componentwise bound of what rounding may make of the difference.

        All terms of the step with their absolute values, times u = eps/2 for every rounding on the longest path, twice
        because both programs round (N. Higham, Accuracy and Stability of Numerical Algorithms, ch. 3).
        """
        h, h_absolute, depth = self.increments(z, step)
        p, k = self.variant.n_inputs, self.variant.n_outputs
        small, large = min(p, k), max(p, k)
        new, bound = [], []
        for zi, hi, ai in zip(z, h, h_absolute, strict=True):
            if self.variant.step == "descent":
                new.append(reference.descent_step(zi, hi, self.a))
                bound.append((depth + large + 3) * EPS * reference.descent_step(np.abs(zi), ai, self.a))
            else:
                new.append(reference.geometric_step(zi, hi, self.factors))
                # H enters the series through the Gram matrix (`large` roundings); Horner takes small + 1 per term; the
                # closed form applies H twice and the small matrices once. ‖Ĥ‖ ≤ 1 keeps the sensitivity to H below 1.
                assert np.linalg.norm(hi, 2) < 1
                path = depth + large + SERIES_TERMS * (small + 1) + 2 * large + 2 * small + 4
                bound.append(path * EPS * reference.geometric_step(np.abs(zi), ai, self.factors))
        return np.array(new), np.array(bound)
