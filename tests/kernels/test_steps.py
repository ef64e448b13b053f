"""The generated kernels against the plain NumPy step, and against themselves in other lanes, pieces and orders."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import expm

from kernels.ensembles import EPS, Ensemble, balance
from rankfall._kernels import reference, tiles
from rankfall._kernels.generator import UNROLLED_LIMIT, Variant
from rankfall._kernels.layout import FLUSH, NoiseGrouping
from rankfall._kernels.vector import import_line

# Steps 61 … 66 go over the end of a flush (64), of every group of normals, and start in the middle of one.
FIRST, STEPS = 61, 6


def variant(p, k, *, lanes=8, step="descent", noise="single", flags=""):
    return Variant(p, k, lanes, step, noise, "d" in flags, "b" in flags, "w" in flags)


# Every step, noise, ledger and decay; p > k, p < k, p = k = 1; Gram matrices of size 1, 2 and 3; unrolled and tiled;
# 1, 2 and 4 steps that share a group of normals in either precision.
UNROLLED = [
    variant(3, 2, flags="db"),
    variant(2, 3, noise="double", flags="dbw"),
    variant(1, 1, noise="double", flags="dbw"),
    variant(3, 3, flags="d"),
    variant(4, 1),
    variant(2, 2, noise="none", flags="d"),
    variant(3, 2, noise="batch", flags="dbw", lanes=4),
    variant(3, 2, step="geometric", noise="double", flags="b"),
    variant(2, 3, step="geometric"),
    variant(1, 1, step="geometric", noise="none", flags="b"),
    variant(3, 3, step="geometric", noise="none"),
]
TILED = [
    variant(6, 5, flags="db"),
    variant(5, 9, flags="db"),
    variant(11, 2, lanes=2),
    variant(5, 9, noise="batch", flags="dbw", lanes=4),
    variant(7, 4, step="geometric", flags="b"),
    variant(5, 9, step="geometric", flags="b"),
]


def widths(v):
    n = v.n_inputs + v.n_outputs
    return sorted({1, max(1, n - 2), n, n + 3})


CASES = [(v, width) for v in UNROLLED + TILED for width in widths(v)]
names = [f"{v.name}-{v.n_inputs}x{v.n_outputs}-width{width}" for v, width in CASES]


def ledger_of_one_step(ensemble, h, absolute, depth):
    """log |det(aI + Ĥ)| of the full matrix without the (p − k) factors a that the kernel leaves to its caller, and its
    bound: |δ log det A| ≤ √n ‖A⁻¹‖ ‖δA‖_F, δA from the roundings of H, of elimination (n) and of the square (a²)."""
    p, k = h.shape
    matrix = ensemble.a * np.eye(p + k) + reference.hat(h)
    logarithm = np.linalg.slogdet(matrix)[1] - abs(p - k) * np.log(ensemble.a)
    entries = np.linalg.norm(np.eye(p + k) + reference.hat(absolute))
    bound = np.sqrt(p + k) * np.linalg.norm(np.linalg.inv(matrix), 2) * (depth + 2 * (p + k)) * EPS * entries
    return logarithm, bound


@pytest.mark.parametrize(("v", "width"), CASES, ids=names)
def test_every_step_is_the_reference_step(v, width):
    ensemble = Ensemble(v, width)
    p, k = v.n_inputs, v.n_outputs
    log_det, log_det_bound, largest, size = np.zeros((4, ensemble.replicates))
    predicted = balance(ensemble.z, p)
    for step in range(FIRST, FIRST + STEPS):
        before = ensemble.z
        expected, bound = ensemble.reference_step(before, step)
        h, absolute, depth = ensemble.increments(before, step)
        ensemble.run(step, 1)
        assert (np.abs(ensemble.z - expected) <= bound).all()
        # the bound would see an error of 1e-9 in any constant, let alone one of 5 %
        assert (bound <= 1e-11 * np.abs(expected).max()).all()

        logs = [ledger_of_one_step(ensemble, *x, depth) for x in zip(h, absolute, strict=True)]
        log_det, log_det_bound = np.array([log_det, log_det_bound]) + np.transpose(logs)
        largest = np.maximum(largest, (h**2).sum((1, 2)))
        size = np.maximum(size, (before**2).sum((1, 2)) + (expected**2).sum((1, 2)))
        if v.step == "descent":  # theory.md, section 6, with decay
            from_z = before[:, :p].swapaxes(1, 2) @ h, before[:, p:].swapaxes(1, 2) @ h.swapaxes(1, 2)
            predicted = ensemble.a**2 * predicted
            predicted += from_z[1] @ from_z[1].swapaxes(1, 2) - from_z[0] @ from_z[0].swapaxes(1, 2)
        else:  # exp(Ĥ) keeps Q; the row scaling that follows does not
            exponential = expected / ensemble.factors[:, None]
            predicted += balance(expected, p) - balance(exponential, p)
    if v.determinant:
        assert (np.abs(ensemble.results()["log_ledger"] - log_det) <= log_det_bound).all()
        assert (np.abs(log_det) > 1e9 * log_det_bound).all()
    else:
        assert not ensemble.log_ledger.any()
    if v.balance:
        # Per step: entries of Q of size ‖Z‖² are sums of p + k products whose factors took `depth` + 2 roundings.
        tolerance = STEPS * (depth + 3 * (p + k) + 9) * EPS * size[:, None, None]
        assert (np.abs(ensemble.predicted_balance - predicted) <= tolerance).all()
        assert (np.abs(ensemble.predicted_balance - balance(ensemble.z, p)) <= tolerance).all()
        drift = np.abs(predicted - balance(ensemble.start, p)).max((1, 2))
        assert (drift > 1e7 * tolerance[:, 0, 0]).all()  # there is something to keep account of
    else:
        assert np.array_equal(ensemble.balance_ledger, Ensemble(v, width).balance_ledger)
    if v.step == "geometric":
        assert ensemble.extremes[:3] == pytest.approx(largest, rel=2 * (depth + p * k) * EPS)


def test_the_cases_cover_both_kinds_of_kernel_and_all_groups_of_normals():
    for kind in (UNROLLED, TILED):
        groups = {NoiseGrouping(v.n_inputs * v.n_outputs).steps for v in kind if v.noise == "single"}
        assert groups == {1, 2, 4}
    doubles = {NoiseGrouping(v.n_inputs * v.n_outputs, True).steps for v in UNROLLED if v.noise == "double"}
    assert doubles == {1, 2}
    assert all(v.n_inputs * v.n_outputs <= UNROLLED_LIMIT for v in UNROLLED)
    assert all(v.n_inputs * v.n_outputs > UNROLLED_LIMIT for v in TILED)


@pytest.mark.parametrize("v", UNROLLED[:2] + UNROLLED[6:9], ids=lambda v: v.name)
def test_only_as_many_columns_as_rows_of_z_matter(v):
    """Z₀ = R V with V of orthonormal rows: the step of Z is the step of R times V (the reduction of the columns)."""
    n = v.n_inputs + v.n_outputs
    v_rows = np.linalg.qr(np.random.default_rng(0).standard_normal((n + 4, n)))[0].T
    reduced = Ensemble(v, n)
    for step in (5, 6):
        before = reduced.z
        literal = Ensemble(v, n + 4, start=before @ v_rows).run(step, 1)
        expected, bound = reduced.reference_step(before, step)
        reduced.run(step, 1)
        # R V is rounded to n·eps |R||V|, which goes through P like a row of length n + 4
        wide = Ensemble(v, n + 4, start=np.abs(before) @ np.abs(v_rows))
        spread = wide.reference_step(wide.start, step)[1] + bound @ np.abs(v_rows)
        assert (np.abs(literal.z - expected @ v_rows) <= spread).all()


def same(a, b):
    return all(np.array_equal(x, b[name]) for name, x in a.items())


# A kernel compiles in a second or two: all widths for the two steps, two of them for the other noises.
IN_LANES = {
    "descent-single": ((2, 1), {"flags": "db"}, (1, 2, 4, 8)),
    "descent-double": ((2, 1), {"noise": "double", "flags": "dw"}, (1, 8)),
    "descent-none": ((2, 1), {"noise": "none", "flags": "db"}, (1, 8)),
    "descent-batch": ((3, 2), {"noise": "batch", "flags": "dbw"}, (1, 4)),
    "geometric-single": ((2, 1), {"step": "geometric", "flags": "b"}, (1, 2, 4, 8)),
}


@pytest.mark.parametrize("kind", IN_LANES)
def test_results_do_not_depend_on_the_lane_width(kind):
    """To the last bit: a machine with narrower vectors gives the same run."""
    size, what, lanes = IN_LANES[kind]
    results = [Ensemble(variant(*size, lanes=w, **what), 3, replicates=11).run(3, 70).results() for w in lanes]
    assert np.isfinite(results[0]["state"]).all()
    assert all(same(results[0], other) for other in results[1:])


def test_tiles_depend_neither_on_the_lane_width_nor_on_the_ledgers():
    wide, other = (Ensemble(v, 11, replicates=5).run(3, 70) for v in (TILED[0], variant(6, 5, lanes=2)))
    assert np.isfinite(wide.z).all()
    assert np.array_equal(wide.z, other.z)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_the_geometric_tiles_are_the_same_program_at_every_width(lanes):
    """This one takes 16 s to compile, so its text is compared: without normals (whose tiles at 2 and 4 lanes are run
    above), nothing but the constant W and the operations that are imported tells the widths apart."""
    eight, other = (tiles.source(variant(7, 4, lanes=w, step="geometric", noise="none", flags="b")) for w in (8, lanes))
    translated = eight.replace("_lanes8_", f"_lanes{lanes}_").replace("\nW = 8\n", f"\nW = {lanes}\n")
    assert translated.replace(import_line(8), import_line(lanes)) == other
    assert eight != other


def test_the_ledgers_leave_the_trajectory_alone():
    plain, kept, decay = (
        Ensemble(variant(2, 1, flags=flags), 3, replicates=11, keep=1.0).run(3, 70) for flags in ("", "db", "w")
    )
    assert np.array_equal(plain.z, kept.z)
    assert np.array_equal(plain.z, decay.z)  # with a = 1: no decay at all
    assert kept.log_ledger[:11].all() and not plain.log_ledger.any()
    geometric = [Ensemble(variant(2, 1, step="geometric", flags=f), 3, replicates=11).run(3, 70).z for f in ("", "b")]
    assert np.array_equal(*geometric)


PIECES = [
    variant(3, 2, flags="db"),
    variant(2, 3, noise="double", flags="dbw"),
    variant(3, 2, noise="batch", flags="dbw", lanes=4),
    variant(3, 2, step="geometric", noise="double", flags="b"),
    variant(6, 5, flags="db"),
    variant(7, 4, step="geometric", flags="b"),
]


@pytest.mark.parametrize("v", PIECES, ids=lambda v: v.name)
def test_a_run_may_be_cut_at_multiples_of_flush(v):
    whole = Ensemble(v, 5).run(0, 3 * FLUSH + 11).results()
    pieces = Ensemble(v, 5)
    for first, last in ((0, FLUSH), (FLUSH, 3 * FLUSH), (3 * FLUSH, 3 * FLUSH + 11)):
        pieces.run(first, last - first)
    assert same(whole, pieces.results())


@pytest.mark.parametrize("v", PIECES, ids=lambda v: v.name)
def test_a_run_may_be_cut_anywhere_but_for_the_rounding_of_one_logarithm(v):
    whole, pieces = Ensemble(v, 5).run(0, 2 * FLUSH), Ensemble(v, 5)
    cuts = [0, 1, 2, 5, 12, 63, 64, 66, 101, 2 * FLUSH]
    for first, last in pairwise(cuts):
        pieces.run(first, last - first)
    a, b = whole.results(), pieces.results()
    ledger, cut = a.pop("log_ledger"), b.pop("log_ledger")
    assert same(a, b)
    # one rounding per factor of the product (3 at most per step), the logarithms and their sum
    assert ledger == pytest.approx(cut, rel=0, abs=3 * 2 * FLUSH * EPS)


@pytest.mark.parametrize("v", PIECES, ids=lambda v: v.name)
def test_blocks_may_be_done_in_any_order(v):
    n = 2 * v.lanes + 1
    whole, apart = Ensemble(v, 5, replicates=n).run(0, 70), Ensemble(v, 5, replicates=n)
    for block in (2, 0, 1):
        apart.run(0, 70, (block, block + 1))
    assert same(whole.results(), apart.results())


@pytest.mark.parametrize("v", PIECES[:4], ids=lambda v: v.name)
def test_a_replicate_does_not_depend_on_the_others(v):
    every = Ensemble(v, 5, replicates=7).run(3, 70).results()
    for i in (0, 5):
        alone = Ensemble(v, 5, replicates=1, first_replicate=i).run(3, 70).results()
        assert all(np.array_equal(x[0], every[name][i]) for name, x in alone.items())


@pytest.mark.parametrize("v", [v for v in PIECES if v.noise == "single"], ids=lambda v: v.name)
def test_steps_beyond_two_to_the_32_have_normals_of_their_own(v):
    far = 2**35 + 7  # groups of two steps and more: the second counter word is not zero
    ensemble = Ensemble(v, 5)
    expected, bound = ensemble.reference_step(ensemble.z, far)
    wrong, _ = ensemble.reference_step(ensemble.z, 7)
    ensemble.run(far, 1)
    assert (np.abs(ensemble.z - expected) <= bound).all()
    assert np.abs(ensemble.z - wrong).max() > 1e-3


@pytest.mark.parametrize("v", PIECES, ids=lambda v: v.name)
def test_padding_stays_zero(v):
    ensemble = Ensemble(v, 5, replicates=v.lanes + 1).run(0, 70)
    lanes = ensemble.state.reshape(ensemble.layout.blocks, ensemble.columns, -1, v.lanes)
    assert not lanes[1, :, :, 1:].any()
    assert not lanes[:, 5:].any()  # the columns that fill a tile
    assert lanes[0].any() and lanes[1, :5, :, 0].all()
    assert (ensemble.diverged_at == -1).all()


@pytest.mark.parametrize("v", [*PIECES, variant(2, 2, noise="none", flags="d")], ids=lambda v: v.name)
def test_a_lane_that_blows_up_is_flagged_and_alone(v):
    calm = Ensemble(v, 5, replicates=9).run(0, 70).results()
    start = Ensemble(v, 5, replicates=9).start.copy()
    start[4] *= 1e3
    wild = Ensemble(v, 5, replicates=9, start=start)
    result = wild.run(0, 70).results()
    others = np.arange(9) != 4
    assert all(np.array_equal(x[others], result[name][others]) for name, x in calm.items())
    assert (result["diverged_at"][others] == -1).all()
    assert result["diverged_at"][4] == FLUSH
    wild.run(70, 2 * FLUSH)
    assert wild.diverged_at[4] == FLUSH  # the first time counts


@pytest.mark.parametrize("v", [*PIECES, variant(2, 2, noise="none", flags="d")], ids=lambda v: v.name)
def test_divergence_is_dated_within_the_run(v):
    """Also where the run ends in the middle of a batch of steps (as many as FLUSH where there are no normals)."""
    wild = Ensemble(v, 5, replicates=1)
    wild = Ensemble(v, 5, replicates=1, start=1e3 * wild.start).run(0, 20)
    assert wild.diverged_at[0] == 20
    assert not np.abs(wild.z[0, : v.n_inputs] @ wild.z[0, v.n_inputs :].T).sum() < 1e100


def test_a_large_but_finite_product_is_no_divergence():
    """The limit is 1e100 in Σ|P|: a run that leaves it and one that stays just below differ in nothing else."""
    v = variant(1, 1, flags="dbw")
    ensemble = Ensemble(v, 1, replicates=2, start=np.array([[[1e60], [0.9e40]], [[1e60], [1.2e40]]]), step=0.0)
    ensemble.amplitude[:] = 0.0
    ensemble.run(0, 1)  # a² = 0.96: 0.86e100 and 1.15e100
    assert ensemble.diverged_at[:2].tolist() == [-1, 1]


# --- the reference itself ---


@pytest.mark.parametrize(("p", "k"), [(3, 2), (2, 3), (4, 4), (1, 1), (6, 1)])
@pytest.mark.parametrize("norm", [1e-3, 0.3, 1.1])
def test_geometric_reference_step_is_the_matrix_exponential(p, k, norm):
    rng = np.random.default_rng([p, k])
    h, z, factors = rng.standard_normal((p, k)), rng.standard_normal((p + k, 4)), rng.uniform(0.9, 1.0, p + k)
    h *= norm / np.linalg.norm(h, 2)
    expected = factors[:, None] * (expm(reference.hat(h)) @ z)
    # scipy's scaling and squaring is backward stable: a few (p + k)·eps of ‖exp Ĥ‖ ≤ e^‖H‖, as is the series; its
    # truncation is ‖H‖¹⁸/19! < 5e-17
    tolerance = 4 * (p + k) * EPS * np.exp(norm) * np.linalg.norm(z)
    assert np.linalg.norm(reference.geometric_step(z, h, factors) - expected) <= tolerance


def test_geometric_reference_step_carries_half_a_scaling():
    """The Strang step is e^{−Kh/4} exp(Ĥ) e^{−Kh/4} on Z; the kernels hold e^{−Kh/4} Z in front of every step."""
    rng = np.random.default_rng(1)
    h, z, k = 0.2 * rng.standard_normal((3, 2)), rng.standard_normal((5, 4)), rng.uniform(0.1, 0.3, 5)
    quarter = np.exp(-k / 4)[:, None]
    strang = quarter * (expm(reference.hat(h)) @ (quarter * z))
    held = reference.geometric_step(quarter * z, h, np.exp(-k / 2))
    # as above: 4 (p + k)·eps of e^‖H‖‖Z‖, with ‖H‖ < 1
    assert held == pytest.approx(quarter * strang, rel=0, abs=4 * 5 * EPS * np.e * np.linalg.norm(z))


@pytest.mark.parametrize(("p", "k"), [(3, 2), (2, 4), (1, 1)])
def test_descent_reference_step_is_gradient_descent_on_both_layers(p, k):
    """In the original basis, from the data: W1 += η G W2ᵀ, W2 += η W1ᵀ G with G = Xᵀ(Y + √δ ξ − X W1 W2)/n."""
    rng = np.random.default_rng([p, k])
    n, width, eta, decay = 30, 6, 0.07, 0.2
    x, y = rng.standard_normal((n, p)), rng.standard_normal((n, k))
    w1, w2 = rng.standard_normal((p, width)), rng.standard_normal((width, k))
    sigma, cross = x.T @ x / n, x.T @ y / n
    d, u = np.linalg.eigh(sigma)
    noise = rng.standard_normal((p, k))
    amplitude = 0.3
    # noise of G with covariance amplitude² Σ ⊗ I: U diag(√d) N
    g = cross - sigma @ w1 @ w2 + amplitude * u @ (np.sqrt(d)[:, None] * noise)
    new1, new2 = w1 + eta * (g @ w2.T - decay * w1), w2 + eta * (w1.T @ g - decay * w2)

    z = np.vstack([u.T @ w1, w2.T])
    h = reference.increment(z, eta * u.T @ cross, eta * d, eta * amplitude * np.sqrt(d), noise)
    z = reference.descent_step(z, h, 1 - eta * decay)
    # a handful of products of length ≤ n with entries of order ‖X‖²‖W‖³/n
    tolerance = 4 * n * EPS * (1 + np.linalg.norm(z)) ** 3
    assert np.abs(u @ z[:p] - new1).max() <= tolerance
    assert np.abs(z[p:].T - new2).max() <= tolerance
