"""The frame in the kernels: against a plain loop with QR at every step, and itself in other lanes and pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from kernels.ensembles import Ensemble, guarded
from rankfall._engine.frame import first_frame
from rankfall._kernels import graded, reference
from rankfall._kernels.frame import INTERVAL, work_size
from rankfall._kernels.generator import Variant
from rankfall._kernels.layout import FLUSH, pack_lanes, unpack_lanes
from rankfall._kernels.loader import kernel
from rankfall._kernels.tiles import COLUMN_TILE


def variant(p, k, *, lanes=8, step="descent", noise="single", flags="", frame=True):
    return Variant(p, k, lanes, step, noise, "d" in flags, "b" in flags, "w" in flags, frame)


VARIANTS = [
    variant(3, 2, step="geometric", flags="b"),
    variant(2, 3, noise="double", flags="dbw"),
    variant(3, 2, noise="batch", flags="dbw", lanes=4),
    variant(6, 5, flags="db"),
]
GEOMETRIC_TILES = variant(7, 4, step="geometric", flags="b")


class Framed(Ensemble):
    """An ensemble with a frame from the QR of its start."""

    def __post_init__(self):
        super().__post_init__()
        v, (_, n, r) = self.variant, self.start.shape
        self.stored = n if v.unrolled else -(-n // COLUMN_TILE) * COLUMN_TILE
        self.first, level, triangle = first_frame(self.start, None)
        columns = pack_lanes(np.pad(self.first, ((0, 0), (0, 0), (0, self.stored - n))), v.lanes)
        growth = np.zeros(self.layout.blocks * n * v.lanes)
        work, self.behind = guarded(work_size(n, v.lanes))
        self.extra = (
            (
                columns,
                growth,
                pack_lanes(level[:, None], v.lanes),
                pack_lanes(triangle.swapaxes(1, 2), v.lanes),
                work,
                r,
            ),
        )

    def results(self):
        (columns, growth, start, triangle, _, r), lanes = self.extra[0], self.variant.lanes
        assert (self.behind == 7.0).all()
        n = self.layout.rows

        def unpack(flat, a, b):
            return unpack_lanes(flat, self.replicates, a, b, lanes)

        return super().results() | {
            "frame": unpack(columns, n, self.stored)[:, :, :n],
            "growth": unpack(growth, 1, n)[:, 0],
            "start_levels": unpack(start, 1, r)[:, 0],
            "triangle": unpack(triangle, r, r).swapaxes(1, 2),
        }


def same(a, b):
    return all(np.array_equal(x, b[name]) for name, x in a.items())


def plain_growth(ensemble, steps):
    """Σ log R_ii of every replicate and the last Z, by the plain steps and numpy.linalg.qr after every step."""
    z, frames, total = ensemble.start, ensemble.first.copy(), 0.0
    for step in range(steps):
        h, _, _ = ensemble.increments(z, step)
        if ensemble.variant.step == "descent":
            move = [lambda x, hi=hi: reference.descent_step(x, hi, ensemble.a) for hi in h]
        else:
            move = [lambda x, hi=hi: reference.geometric_step(x, hi, ensemble.factors) for hi in h]
        z = np.array([m(x) for m, x in zip(move, z, strict=True)])
        frames, upper = np.linalg.qr(np.array([m(x) for m, x in zip(move, frames, strict=True)]))
        total = total + np.log(np.abs(np.diagonal(upper, axis1=1, axis2=2)))
    return total, z


def decoded(result):
    """Σ log R_ii with the last decomposition, and Z from the graded form."""
    q, upper = np.linalg.qr(result["frame"])
    sign = np.sign(np.diagonal(upper, axis1=1, axis2=2))
    q, upper = q * sign[:, None], upper * sign[:, :, None]
    growth = result["growth"] + np.log(np.diagonal(upper, axis1=1, axis2=2))
    r = result["triangle"].shape[1]
    levels = result["growth"][:, :r] + result["start_levels"]
    triangle = np.exp(levels)[:, :, None] * result["triangle"]
    return growth, q[:, :, :r] @ (upper[:, :r, :r] @ triangle)


@pytest.mark.parametrize("v", [*VARIANTS, GEOMETRIC_TILES], ids=lambda v: v.name)
@pytest.mark.parametrize("width", [3, 14])
def test_the_frame_grows_as_in_a_loop_with_qr_at_every_step(v, width):
    """90 steps: five decompositions in the kernel and ten steps more.

    Rounding: every entry of either program sees at most 90 · (n + 20) roundings of u = 1.1e-16 of the size of its
    column, and what is divided by is at least e^-3 of that: below 1e-11.
    """
    n = v.n_inputs + v.n_outputs
    ensemble = Framed(v, min(width, n))
    expected, z = plain_growth(ensemble, 90)
    growth, graded_z = decoded(ensemble.run(0, 90).results())
    assert np.abs(growth - expected).max() < 1e-11
    assert np.abs(expected).max() > 0.1  # a share of 5 % would be seen, and so would one of 1e-9
    # Z in the graded form is Z up to the permutation of the columns, which its Gram matrix does not see
    gram = z @ z.swapaxes(1, 2)
    assert np.abs(graded_z @ graded_z.swapaxes(1, 2) - gram).max() < 1e-11 * np.abs(gram).max()
    assert np.abs(ensemble.z - z).max() < 1e-11 * np.abs(z).max()


@pytest.mark.parametrize("v", VARIANTS, ids=lambda v: v.name)
def test_a_frame_leaves_the_bits_of_everything_else(v):
    plain = Ensemble(variant(**bare(v)), 5).run(3, 150).results()
    framed = Framed(v, 5).run(3, 150).results()
    assert same(plain, framed)
    assert plain["state"].any()


def bare(v):
    flags = "d" * v.determinant + "b" * v.balance + "w" * v.decay
    return {
        "p": v.n_inputs,
        "k": v.n_outputs,
        "lanes": v.lanes,
        "step": v.step,
        "noise": v.noise,
        "flags": flags,
        "frame": False,
    }


@pytest.mark.parametrize("v", VARIANTS, ids=lambda v: v.name)
def test_frames_do_not_depend_on_pieces_and_order(v):
    whole, pieces = Framed(v, 5, replicates=2 * v.lanes + 1), Framed(v, 5, replicates=2 * v.lanes + 1)
    expected = whole.run(0, 2 * FLUSH).results()
    for block in (2, 0, 1):
        for first, last in pairwise([0, 1, INTERVAL - 1, INTERVAL, 40, FLUSH, 2 * FLUSH - 1, 2 * FLUSH]):
            pieces.run(first, last - first, (block, block + 1))
    found = pieces.results()
    for name in ("state", "frame", "growth", "triangle"):
        assert np.array_equal(found[name], expected[name]), name
    assert np.isfinite(expected["growth"]).all()


@pytest.mark.parametrize("v", VARIANTS[:1], ids=lambda v: v.name)
def test_frames_do_not_depend_on_the_lane_width(v):
    expected = Framed(v, 5, replicates=3).run(0, 70).results()
    narrow = Framed(variant(**bare(v) | {"lanes": 1, "frame": True}), 5, replicates=3).run(0, 70).results()
    assert same(expected, narrow)


def test_a_variant_with_a_frame_is_another_kernel():
    v = VARIANTS[0]
    assert v.name == variant(**bare(v)).name + "f"
    assert kernel(v) is not kernel(variant(**bare(v)))


def test_a_graded_start_is_taken_apart_row_by_row():
    rng = np.random.default_rng(0)
    scales = 10.0 ** np.array([-90.0, 0.0, -200.0, -5.0])
    z = rng.standard_normal((3, 6, 4)) * scales
    frames, levels, triangles = first_frame(z, None)
    assert np.abs(frames.swapaxes(1, 2) @ frames - np.eye(6)).max() < 1e-14
    assert (np.diff(levels, axis=1) < 0).all()
    found = frames[:, :, :4] @ (np.exp(levels)[:, :, None] * triangles)
    order = np.argsort(-scales)
    # Columns to their own scale: Householder is stable column by column; e^ℓ of ℓ near 460 loses 460 u = 5e-14.
    assert (np.abs(found - z[:, :, order]) < 2e-13 * scales[order]).all()


def test_a_start_of_lower_rank_has_no_levels_beyond():
    z = np.ones((1, 5, 2)) @ np.ones((2, 4))
    _, levels, triangles = first_frame(z, 1)
    assert np.isfinite(levels[0]).tolist() == [True, False, False, False]
    assert np.array_equal(triangles[0, 1:], np.eye(4)[1:])
    _, levels, _ = first_frame(np.zeros((1, 5, 4)), None)
    assert np.isneginf(levels).all()


@pytest.mark.parametrize("entries", [2, 5, 9])
def test_graded_rows_have_the_singular_values_of_the_matrix(entries):
    """Where float64 can tell: rows of a well-scaled matrix; LAPACK is right to a few u of the largest."""
    rng = np.random.default_rng(entries)
    matrix = np.exp(rng.uniform(-3, 3, (entries, 1))) * rng.standard_normal((entries, entries + 1))
    expected = np.linalg.svd(matrix, compute_uv=False)
    rows, level = matrix.copy(), np.zeros(entries)
    for i in range(entries):
        graded._normalise(rows, level, i)
    graded.orthogonalise(rows, level, np.empty((0, entries)))
    assert np.abs(np.exp(np.sort(level)[::-1]) - expected).max() < 1e-13 * expected[0]
    tall, level = matrix.T.copy(), np.zeros(entries + 1)
    for i in range(entries + 1):
        graded._normalise(tall, level, i)
    graded.eliminate(tall, level)
    assert np.isneginf(level[entries:]).all()
    top = tall[:entries], level[:entries]
    graded.orthogonalise(*top, np.empty((0, entries)))
    assert np.abs(np.exp(np.sort(top[1])[::-1]) - expected).max() < 1e-13 * expected[0]
