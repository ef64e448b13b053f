"""What is kept at a save point, computed in the lanes: against NumPy, against `record_large`, against 50 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from kernels.ensembles import guarded
from rankfall import recording
from rankfall._kernels.layout import Layout, pack_lanes
from rankfall._kernels.recorder import recorder, work_size
from rankfall._kernels.vector import aligned_zeros

EPS = np.finfo(float).eps
REPLICATES = 11  # the last block of any width above one lane is padded
MINIMUM_LOSS = 0.25


def record(
    z, p, lanes=8, *, unscale=None, ledger=None, start_balance=None, full_rank=True, padding=0, diverged=(), times=1
):
    """Run the compiled recorder on z (replicate, row, column); `padding` more columns are stored but not looked at."""
    count, n, r = z.shape
    k, stored = n - p, r + padding
    layout = Layout(p, k, stored, lanes, count)
    unscale = np.ones(n) if unscale is None else unscale
    d, solution = numbers(p, k)

    def square(matrices):
        return pack_lanes(np.pad(matrices, ((0, 0), (0, padding), (0, padding))), lanes)

    start = np.zeros((count, r, r)) if start_balance is None else start_balance
    diverged_at = np.full(layout.blocks * lanes, -1)
    diverged_at[list(diverged)] = 3
    kept = recording.Recording.empty(count, times, p, r, k, weights=False)
    work, behind = guarded(work_size(p, k, r, lanes))
    recorder(lanes)(
        (0, layout.blocks),
        layout.pack(np.pad(z, ((0, 0), (0, 0), (0, padding)))),
        (unscale, d, solution, MINIMUM_LOSS, full_rank, stored, r),
        (square(start), np.zeros(1) if ledger is None else square(ledger), diverged_at),
        (kept.scalars, kept.W1, kept.W2, kept.Z),
        times - 1,
        work,
    )
    assert (behind == 7.0).all(), "the recorder wrote beyond its memory"
    return kept.scalars[-1], kept.W1[-1], kept.W2[-1], kept.Z[-1]


def numbers(p, k):
    rng = np.random.default_rng([p, k])
    return rng.uniform(0.5, 1.5, p), rng.standard_normal((p, k))


def draw(p, k, r, condition=1.0, seed=0):
    """Matrices Z with singular values spread geometrically from 1 to 1/condition; Gaussian ones for 1."""
    z = np.random.default_rng([p, k, r, seed]).standard_normal((REPLICATES, p + k, r))
    if condition == 1.0:
        return z
    u, s, v = np.linalg.svd(z, full_matrices=False)
    return (u * np.geomspace(1, 1 / condition, s.shape[1])) @ v


def backward(p, k, r):
    """Relative to σ₁: a column is rotated r − 1 times per sweep, by which 3 roundings come to it each time; 10 sweeps
    are more than quadratic convergence needs at this size. LAPACK on the other side promises a modest multiple of eps,
    for which p + k + r is taken. Both bounds add errors that are in fact random."""
    return (10 * 3 * (r - 1) + 2 * (p + k + r)) * EPS


def same(a, b):
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


# r = min(width, p + k): below, between and above p and k, W1 and W2 standing or lying, one row, one column.
SHAPES = [(3, 2, 1), (3, 2, 2), (3, 2, 3), (3, 2, 4), (3, 2, 5), (2, 3, 4), (5, 2, 7), (1, 1, 1), (1, 1, 2), (1, 6, 3)]


@pytest.mark.parametrize(("p", "k", "r"), [*SHAPES, (12, 8, 20)])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e9, 1e12])
def test_spectra_are_those_of_numpy(p, k, r, condition):
    z = draw(p, k, r, condition)
    scalars, *spectra = record(z, p, full_rank=r == p + k)
    for ours, part in zip(spectra, (z[:, :p], z[:, p:], z), strict=True):
        theirs = np.linalg.svd(part, compute_uv=False)
        assert ours.shape == theirs.shape
        assert (np.diff(ours) <= 0).all()
        assert (np.abs(ours - theirs) <= backward(p, k, r) * theirs[:, :1]).all()
    sigma = np.linalg.svd(z, compute_uv=False)
    if r < p + k:
        assert (scalars[1] == -np.inf).all()
    else:  # 2 Σ log σ_i, each with the relative error of its singular value
        tolerance = 2 * (backward(p, k, r) * sigma[:, :1] / sigma).sum(-1) + 2 * r * EPS * np.abs(np.log(sigma)).max(-1)
        assert (np.abs(scalars[1] - 2 * np.log(sigma).sum(-1)) <= 1.01 * tolerance).all()


def exact_singular_values(matrix):
    """To 50 digits, from the double-precision entries as they stand."""
    with mpmath.workdps(50):
        values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
        return np.array(sorted((float(x) for x in values), reverse=True))


@pytest.mark.parametrize("decades", [4, 12, 40])
@pytest.mark.parametrize("lying", [False, True], ids=["columns", "rows"])
def test_small_singular_values_have_all_their_digits_where_the_columns_are_graded(decades, lying):
    """Z = B D with D diagonal: one-sided Jacobi gives σ_i relative to itself, to a small multiple of eps κ(B) whatever
    D is (Demmel & Veselić 1992), where LAPACK's bidiagonal reduction gives it relative to σ₁. If Z lies (width below
    p + k), it is its columns that are orthogonalised too, W1 and W2 by rows where these are fewer."""
    p, k, r = (3, 2, 4) if lying else (3, 2, 5)
    z = draw(p, k, r)[:4] * np.logspace(-decades, 0, r)  # ascending, the order that LAPACK likes least
    _, _, _, ours = record(z, p, full_rank=not lying)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    condition = np.linalg.cond(unit)
    exact = np.array([exact_singular_values(x) for x in z])
    error = np.abs(ours / exact - 1)
    assert (error <= backward(p, k, r) * condition[:, None]).all()
    assert (exact[:, -1] < 1e-3 * exact[:, 0]).all()
    if decades > 4:  # what the test would say of the other method
        theirs = np.linalg.svd(z, compute_uv=False)
        assert (np.abs(theirs / exact - 1)[:, -1] > 10 * backward(p, k, r) * condition).all()


def test_a_layer_with_fewer_rows_than_columns_is_orthogonalised_by_rows():
    """W2 (k = 3 of 5 columns) with rows of sizes 1, 1e-10, 1e-20: all three singular values to full precision."""
    p, k, r = 2, 3, 5
    z = draw(p, k, r)[:4]
    z[:, p:] *= np.array([1.0, 1e-10, 1e-20])[:, None]
    _, _, ours, _ = record(z, p)
    exact = np.array([exact_singular_values(x[p:]) for x in z])
    unit = z[:, p:] / np.linalg.norm(z[:, p:], axis=2, keepdims=True)
    assert (np.abs(ours / exact - 1) <= backward(p, k, r) * np.linalg.cond(unit)[:, None]).all()
    assert (exact[:, 2] < 1e-15 * exact[:, 0]).all()


@pytest.mark.parametrize("power", [-200, 200])
def test_a_scale_of_two_changes_no_digit(power):
    """There is no absolute threshold: 2^±200 (1.6e±60) scales all spectra exactly."""
    z = draw(3, 2, 5, 1e6)
    _, *spectra = record(z, 3)
    _, *scaled = record(np.ldexp(z, power), 3)
    assert same(scaled, [np.ldexp(x, power) for x in spectra])


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_rank_deficient(rank):
    p, k, r = 3, 2, 5
    rng = np.random.default_rng(rank)
    z = rng.standard_normal((REPLICATES, p + k, rank)) @ rng.standard_normal((REPLICATES, rank, r))
    scalars, *spectra = record(z, p)
    largest = spectra[2][:, :1]
    # the product is rounded by rank·eps itself
    tolerance = (backward(p, k, r) + rank * r * EPS) * largest
    for sigma in spectra:
        assert (sigma[:, rank:] <= tolerance).all()
        assert (sigma[:, : min(rank, sigma.shape[1])] > 1e6 * tolerance).all()
    # log det of rounding noise: at most its tolerance allows, and never NaN
    assert (scalars[1] <= 2 * (np.log(tolerance[:, 0]) * (r - rank) + rank * np.log(largest[:, 0]))).all()


def test_exactly_dependent_columns():
    """Equal columns, a zero column, a zero row, a zero layer: exact zeros stay exact, nothing is NaN."""
    z = draw(3, 2, 5)
    z[0, :, 1] = z[0, :, 0]
    z[1, :, 2] = 0.0
    z[2, 4] = 0.0
    z[3, 3:] = 0.0
    z[4] = 0.0
    scalars, w1, w2, both = record(z, 3)
    for part in (w1, w2, both, scalars[[0, 2, 3, 4, 5]]):
        assert np.isfinite(part).all()
    assert both[0, 4] <= backward(3, 2, 5) * both[0, 0]
    assert both[1, 4] == 0.0 and both[1, 3] > 0.01
    assert w2[2, 1] == 0.0 and w2[2, 0] > 0.01
    assert (w2[3] == 0.0).all() and (both[3, 3:] <= backward(3, 2, 5) * both[3, 0]).all()
    assert (both[4] == 0.0).all() and (w1[4] == 0.0).all()
    assert scalars[1, 1] == -np.inf and scalars[1, 4] == -np.inf
    solution = numbers(3, 2)[1]
    assert scalars[0, 4] == pytest.approx(
        MINIMUM_LOSS + 0.5 * (numbers(3, 2)[0][:, None] * solution**2).sum(), rel=1e-14
    )
    untouched = draw(3, 2, 5)[5:]
    assert same([x[5:] for x in (w1, w2, both)], record(untouched, 3)[1:])


def situation(p, k, r, condition=1.0):
    """Everything that a stochastic flow hands to the recorder: a scaled state, a start, a ledger that is a bit off."""
    rng = np.random.default_rng([p, k, r])
    z, unscale = draw(p, k, r, condition), rng.uniform(1.0, 1.3, p + k)
    start = recording.balance(draw(p, k, r, seed=1), p)
    error = 0.01 * rng.standard_normal((REPLICATES, r, r))
    error = error + error.swapaxes(1, 2)
    return z, unscale, start, error


@pytest.mark.parametrize(("p", "k", "r"), SHAPES)
def test_scalars_and_spectra_are_those_of_record_large(p, k, r):
    z, unscale, start, error = situation(p, k, r)
    full_rank = r == p + k
    ledger = recording.balance(z, p) - error
    # the kernels keep the lower triangle; the other one must not be looked at
    triangle = np.where(np.tri(r, k=-1, dtype=bool), np.nan, ledger)  # seen from the columns, which come first there
    ours = record(z, p, unscale=unscale, ledger=triangle, start_balance=start, full_rank=full_rank)
    d, solution = numbers(p, k)
    true = unscale[:, None] * z
    scalars, spectra = recording.record_large(true, p, d, solution, MINIMUM_LOSS, start, error, full_rank)
    for x, y in zip(ours[1:], spectra, strict=True):
        assert (np.abs(x - y) <= backward(p, k, r) * y[:, :1]).all()
    if full_rank:
        tolerance = 2 * (backward(p, k, r) * spectra[2][:, :1] / spectra[2]).sum(-1)
        assert (np.abs(ours[0][1] - scalars[1]) <= 1.01 * tolerance).all()
    else:
        assert (ours[0][1] == scalars[1]).all()
    # Sums of products: roundings on the longest path, twice, times the sum of the absolute values.
    w1, w2 = np.abs(true[:, :p]), np.abs(true[:, p:])
    gap = w1 @ w2.swapaxes(1, 2) + np.abs(solution)
    loss = 0.5 * (d[:, None] * gap**2).sum((1, 2)) + MINIMUM_LOSS
    assert (np.abs(ours[0][0] - scalars[0]) <= (2 * r + p * k + 8) * EPS * loss).all()
    # ‖Q‖ and its kin: an entry of Q is a sum of p + k products, a norm adds the relative rounding of r² squares
    size = (true**2).sum((1, 2)) + np.abs(start).max((1, 2)) * r + np.abs(error).max((1, 2)) * r
    for which in (2, 3, 4, 5):
        assert (np.abs(ours[0][which] - scalars[which]) <= (p + k + r * r + 8) * EPS * size).all(), which
        assert (scalars[which] > 1e6 * (p + k + r * r + 8) * EPS * size).all()


def test_without_a_ledger_nothing_is_predicted():
    z, unscale, start, error = situation(3, 2, 5)
    scalars, *_ = record(z, 3, unscale=unscale, start_balance=start)
    assert not scalars[4:].any()
    kept, *_ = record(z, 3, unscale=unscale, start_balance=start, ledger=recording.balance(z, 3) - error)
    assert np.array_equal(scalars[:4], kept[:4]) and kept[4:].all()


@pytest.mark.parametrize(("p", "k", "r"), [(3, 2, 5), (5, 2, 3), (2, 3, 4)])
@pytest.mark.parametrize("condition", [1.0, 1e10])
def test_results_do_not_depend_on_the_lane_width(p, k, r, condition):
    z, unscale, start, error = situation(p, k, r, condition)
    ledger = recording.balance(z, p) - error
    results = [
        record(z, p, lanes, unscale=unscale, ledger=ledger, start_balance=start, full_rank=r == p + k)
        for lanes in (1, 2, 4, 8)
    ]
    assert np.isfinite(results[0][0][[0, 2, 3, 4, 5]]).all()
    assert all(same(results[0], other) for other in results[1:])


def test_columns_that_pad_a_tile_are_not_looked_at():
    z, unscale, start, error = situation(3, 2, 5)
    given = {"unscale": unscale, "start_balance": start, "ledger": recording.balance(z, 3) - error}
    assert same(record(z, 3, **given), record(z, 3, padding=3, **given))


def test_a_diverged_replicate_is_nan_and_the_others_do_not_see_it():
    z, unscale, start, error = situation(3, 2, 5)
    given = {"unscale": unscale, "start_balance": start, "ledger": recording.balance(z, 3) - error}
    healthy = record(z, 3, **given)
    z[4], z[6, 1, 2] = np.nan, np.inf
    given["ledger"][4] = np.nan
    ours = record(z, 3, diverged=(4, 6), **given)
    others = np.delete(np.arange(REPLICATES), [4, 6])
    assert np.isnan(ours[0][:, [4, 6]]).all() and all(np.isnan(x[[4, 6]]).all() for x in ours[1:])
    assert np.array_equal(ours[0][:, others], healthy[0][:, others])
    assert same([x[others] for x in ours[1:]], [x[others] for x in healthy[1:]])


def test_only_its_own_save_point_is_written():
    kept = recording.Recording.empty(2, 3, 1, 1, 1, weights=False)
    for values in kept.arrays().values():
        values[:] = np.nan
    z = draw(1, 1, 1)[:2]
    layout = Layout(1, 1, 1, 8, 2)
    nothing = np.zeros(8)
    recorder(8)(
        (0, 1),
        layout.pack(z),
        (np.ones(2), *numbers(1, 1), MINIMUM_LOSS, False, 1, 1),
        (nothing, np.zeros(1), np.full(8, -1)),
        (kept.scalars, kept.W1, kept.W2, kept.Z),
        1,
        aligned_zeros(work_size(1, 1, 1, 8)),
    )
    for values in (kept.scalars, kept.W1, kept.W2, kept.Z):
        assert np.isnan(values[[0, 2]]).all()
        assert not np.isnan(values[1]).any()
    assert kept.Z[1, :, 0] == pytest.approx(np.hypot(z[:, 0, 0], z[:, 1, 0]), rel=4 * EPS)
