"""The Lie-group integrator of gradient flow: its order, its accuracy, and what it keeps whatever the step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from rankfall._kernels import gradient_flow, reference
from rankfall._kernels.gradient_flow import advance_flow

EPS = np.finfo(float).eps


def setting(p, k, r, scale=1.0, replicates=2):
    """Eigenvalues of Σ from 0.5 to 2, a Gaussian teacher, Gaussian weights of the given scale."""
    rng = np.random.default_rng([p, k, r])
    d = np.linspace(0.5, 2.0, p)
    return d, d[:, None] * rng.standard_normal((p, k)), scale * rng.standard_normal((replicates, p + k, r))


def advance(start, cross, d, times, *, tolerance=1e-12, step=0.0, first=0, last=None):
    """From times[0] over all the others; returns the end, the accepted steps and the times of failure."""
    n = len(start)
    z, proposed, taken, failed = start.copy(), np.full(n, 1e-4), np.zeros(n, dtype=np.int64), np.full(n, -1.0)
    last = n if last is None else last
    for begin, end in pairwise(times):
        advance_flow(z, first, last, float(begin), float(end), cross, d, tolerance, step, proposed, taken, failed)
    return z, taken, failed


def solve(start, cross, d, end):
    """DOP853 at the smallest tolerance that scipy allows beside a margin: errors of a few 1e-13 to 1e-12."""
    p = len(d)

    def slope(_, flat):
        z = flat.reshape(start.shape[1:])
        g = cross - d[:, None] * (z[:p] @ z[p:].T)
        return np.concatenate([g @ z[p:], g.T @ z[:p]]).ravel()

    ends = [solve_ivp(slope, (0, end), z.ravel(), method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1] for z in start]
    return np.array(ends).reshape(start.shape)


def relative(a, b):
    return np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(b, axis=(1, 2))


def balance(z, p):
    return z[:, :p].swapaxes(1, 2) @ z[:, :p] - z[:, p:].swapaxes(1, 2) @ z[:, p:]


@pytest.mark.parametrize(("p", "k", "r"), [(3, 2, 5), (2, 4, 3)])
def test_order_four(p, k, r):
    """Slope of log error against log step. The error is a h⁴(1 + b h + …), so the slope between h and h/2 is
    4 + c h: below 0.1 away at the finest pair, half as far as at the pair before, and extrapolated to h = 0 it is 4
    to second order, c² h² < 0.02. The errors (1e-10 and more) are 100 times those of the reference."""
    d, cross, start = setting(p, k, r, 0.4, replicates=4)
    exact = solve(start, cross, d, 1.0)
    steps = np.array([1 / 20, 1 / 40, 1 / 80, 1 / 160])
    errors = np.array([relative(advance(start, cross, d, [0, 1], step=h)[0], exact).mean() for h in steps])
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert errors[-1] > 1e-10
    assert abs(slopes[-1] - gradient_flow.ORDER) < 0.1
    assert abs(2 * slopes[-1] - slopes[-2] - gradient_flow.ORDER) < 0.02
    # an equation that is 5 % off does not converge to the reference
    wrong = [relative(advance(start, 1.05 * cross, d, [0, 1], step=h)[0], exact).mean() for h in steps[-2:]]
    assert wrong[1] > 0.9 * wrong[0] > 1e-3


@pytest.mark.parametrize(
    ("p", "k", "r", "scale", "end"),
    [
        (5, 2, 7, 1.0, 5.0),
        (5, 2, 7, 1.0, 100.0),
        (5, 2, 7, 1e-3, 10.0),
        (2, 5, 7, 0.1, 10.0),
        (5, 2, 3, 1.0, 5.0),
        (1, 1, 1, 1.0, 5.0),
        (3, 3, 3, 1e-6, 15.0),
        (4, 3, 7, 10.0, 2.0),
        (12, 6, 18, 0.5, 3.0),
    ],
)
def test_adaptive_steps_keep_the_promise_of_1e_8(p, k, r, scale, end):
    """Ten save points, as in a run. The default tolerance 1e-12 per step promises 1e-8; started at a saddle (scale
    1e-6) the flow itself magnifies early errors by ‖Z_end‖/‖Z_0‖, but relative to ‖Z‖ so does it the start."""
    d, cross, start = setting(p, k, r, scale)
    z, taken, failed = advance(start, cross, d, np.linspace(0, end, 11))
    assert (failed == -1).all() and (taken > 0).all()
    exact = solve(start, cross, d, end)
    assert (relative(z, exact) < 1e-8).all()
    assert (relative(start, exact) > 1e-2).all()  # it went somewhere


def test_a_smaller_tolerance_is_a_smaller_error():
    """Local error h⁵ = tolerance: for a hundredth of it 100^{1/5} = 2.5 times the steps and 100^{4/5} = 40 times
    less error in all; a fifth, and a factor 2, for what the series in h leaves out and for the first and last steps."""
    d, cross, start = setting(5, 2, 7)
    exact = solve(start, cross, d, 3.0)
    runs = [advance(start, cross, d, [0, 3], tolerance=tolerance) for tolerance in (1e-8, 1e-10, 1e-12)]
    errors = np.array([relative(z, exact).max() for z, _, _ in runs])
    steps = np.array([taken.mean() for _, taken, _ in runs])
    assert (np.abs(np.log(errors[:-1] / errors[1:] / 100**0.8)) < np.log(2)).all()
    assert (np.abs(np.log(steps[1:] / steps[:-1] / 100**0.2)) < np.log(1.2)).all()


@pytest.mark.parametrize(("p", "k", "r"), [(3, 2, 5), (2, 4, 6), (3, 3, 6), (1, 1, 2), (3, 2, 3), (6, 4, 10)])
@pytest.mark.parametrize("length", [0.5, 0.1], ids=["coarse", "fine"])
def test_the_determinant_and_the_balance_are_kept_at_any_step(p, k, r, length):
    """Every factor is the exponential of a symmetric matrix that anticommutes with J: det 1 and Q kept, exactly.

    Rounding: an exponential applied to Z leaves an error γ‖E‖‖Z‖, γ = depth·eps/2, two of them per step (the other
    stages only decide which exponential). log det then moves by at most 2√n γ κ(E) κ(Z) and Q by 2 γ ‖E‖ ‖Z‖²; with
    trace of HᵀH at most 1, ‖E‖ ≤ e and κ(E) ≤ e². Depth: Gram matrix, ten terms of its series, four products.
    """
    d, cross, start = setting(p, k, r, 0.6, replicates=5)
    count = 40
    step = length / np.linalg.norm(cross - d[:, None] * (start[:, :p] @ start[:, p:].swapaxes(1, 2)), axis=(1, 2)).max()
    small, large, n = min(p, k), max(p, k), p + k
    z, moved_log_det, moved_q, turned = start, 0.0, 0.0, 0.0
    gamma = (large + 10 * (small + 1) + 2 * large + 3 * small + 4) * EPS / 2
    for _ in range(count):
        new, _, failed = advance(z, cross, d, [0, step], step=step)
        assert (failed == -1).all()
        moved_q = moved_q + 2 * 2 * gamma * np.e * (new**2 + z**2).sum((1, 2))
        if r == n:
            moved_log_det = moved_log_det + 2 * 2 * np.sqrt(n) * gamma * np.e**2 * np.linalg.cond(z)
        turned += relative(new, z)
        z = new
    assert np.array_equal(z, advance(start, cross, d, [0, count * step], step=step)[0])
    assert (np.abs(balance(z, p) - balance(start, p)).max((1, 2)) <= moved_q).all()
    if r == n:
        change = 2 * (np.linalg.slogdet(z)[1] - np.linalg.slogdet(start)[1])
        assert (np.abs(change) <= moved_log_det).all()
        assert (moved_log_det < 1e-6).all()
    assert (moved_q < 1e-9).all()
    assert (turned > 0.01).all()
    if length == 0.5 and p > 1:  # the trajectory itself is visibly wrong
        assert relative(z, advance(start, cross, d, [0, count * step])[0]).max() > 1e-6


def test_adaptive_steps_keep_them_too():
    d, cross, start = setting(3, 2, 5, 0.6, replicates=5)
    z, taken, _ = advance(start, cross, d, [0, 2], tolerance=1e-4)
    assert (taken < 200).all()
    # as above, with steps of unknown size: 2 factors × at most 200 steps × γ ‖E‖(‖Z_0‖² + ‖Z_t‖²), ‖Z‖² < 3 ‖Z‖²_max
    largest = 3 * np.maximum((start**2).sum((1, 2)), (z**2).sum((1, 2)))
    assert (np.abs(balance(z, 3) - balance(start, 3)).max((1, 2)) <= 2 * 200 * 50 * EPS * np.e * largest).all()
    change = np.linalg.slogdet(z)[1] - np.linalg.slogdet(start)[1]
    worst = np.maximum(np.linalg.cond(z), np.linalg.cond(start))
    assert (np.abs(change) <= 2 * 200 * 50 * EPS * np.e**2 * worst * np.sqrt(5)).all()
    assert relative(z, solve(start, cross, d, 2.0)).max() > 1e-8  # not because the solution is right


@pytest.mark.parametrize(("p", "k"), [(3, 2), (2, 4), (3, 3), (1, 1)])
@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-2, 0.3, 0.99])
def test_the_exponential_of_a_stage(p, k, size):
    """Against scipy, up to ‖H‖_F = 1: the number of terms is chosen by size. 4 (p + k)·eps as for the reference."""
    rng = np.random.default_rng([p, k])
    h, z = rng.standard_normal((p, k)), rng.standard_normal((p + k, 4))
    h *= size / np.linalg.norm(h)
    small = min(p, k)
    out, work = np.empty_like(z), np.empty((5, small, small))
    t, u = np.empty((small, 4)), np.empty((small, 4))
    assert gradient_flow._apply_exponential(h, z, out, work[0], work[1], work[2], work[3:5], t, u)
    error = np.linalg.norm(out - expm(reference.hat(h)) @ z)
    assert error <= 4 * (p + k) * EPS * np.exp(size) * np.linalg.norm(z)
    too_large = h * 1.01 / max(size, 1e-300) if size else np.full((p, k), np.nan)
    assert not gradient_flow._apply_exponential(too_large, z, out, work[0], work[1], work[2], work[3:5], t, u)


def test_cutting_a_run_of_fixed_steps_changes_no_bit():
    d, cross, start = setting(3, 2, 5)
    whole = advance(start, cross, d, [0, 1.0], step=1 / 64)
    pieces = advance(start, cross, d, [0, 1 / 64, 5 / 64, 40 / 64, 1.0], step=1 / 64)
    assert np.array_equal(whole[0], pieces[0])
    assert (whole[1] == 64).all() and (pieces[1] == 64).all()


def test_a_trajectory_does_not_depend_on_the_others():
    d, cross, start = setting(3, 2, 5, replicates=4)
    every = advance(start, cross, d, [0, 0.5, 1])
    alone = advance(start[2:3], cross, d, [0, 0.5, 1])
    assert np.array_equal(every[0][2:3], alone[0])
    middle = advance(start, cross, d, [0, 0.5, 1], first=1, last=3)
    assert np.array_equal(middle[0][1:3], every[0][1:3])
    assert np.array_equal(middle[0][[0, 3]], start[[0, 3]])
    assert (middle[1][[0, 3]] == 0).all()


def test_a_save_point_close_by_does_not_shorten_the_next_step():
    """A step cut to end on a save point keeps the longer plan: few more steps than without the save point."""
    d, cross, start = setting(3, 2, 5)
    plain = advance(start, cross, d, [0, 2])[1]
    cut = advance(start, cross, d, [0, 1, 1 + 1e-9, 2])[1]
    assert (cut <= plain + 8).all()  # two more landings, of two half steps each, and one refused growth each


def test_a_step_that_is_too_long_is_reported_with_its_time():
    """tr HᵀH > 1 is more than the series takes: NaN from there on, and the others go on as if alone."""
    d, cross, start = setting(3, 2, 5, 0.5, replicates=3)
    healthy = advance(start, cross, d, [0, 1, 2], step=0.1)
    wild = start.copy()
    wild[1] *= 30
    z, taken, failed = advance(wild, cross, d, [0, 1, 2], step=0.1)
    assert failed[1] == 0.1 and taken[1] == 0 and np.isnan(z[1]).all()
    assert np.array_equal(z[[0, 2]], healthy[0][[0, 2]])
    assert (failed[[0, 2]] == -1).all()
    # step control copes with the same start
    ours, _, failed = advance(wild, cross, d, [0, 1, 2])
    assert (failed == -1).all()
    assert relative(ours, solve(wild, cross, d, 2.0)).max() < 1e-8


def test_weights_that_are_not_finite_fail_at_once():
    d, cross, start = setting(3, 2, 5, replicates=2)
    start[0, 1, 1] = np.nan
    z, _, failed = advance(start, cross, d, [0, 1])
    assert failed.tolist() == [0.0, -1.0]
    assert np.isnan(z[0]).all() and np.isfinite(z[1]).all()


def test_zero_weights_are_a_fixed_point():
    d, cross, start = setting(3, 2, 5)
    for step in (0.0, 0.1):
        z, _, failed = advance(0 * start, cross, d, [0, 1, 2], step=step)
        assert not z.any() and (failed == -1).all()


def test_one_balanced_mode_is_a_logistic_curve():
    """ds/dt = 2 s (s* − s) d for s = w1 w2, w1 = w2 (Saxe et al. 2014): closed form, no solver between."""
    d, target, start, times = 0.8, 1.7, 1e-3, np.linspace(0, 8, 9)
    z = np.full((1, 2, 1), np.sqrt(start))
    for end in times[1:]:
        ours, _, _ = advance(z, np.array([[d * target]]), np.array([d]), [0, end])
        growth = np.exp(2 * d * target * end)
        exact = target * start * growth / (target + start * (growth - 1))
        assert ours[0, 0, 0] * ours[0, 1, 0] == pytest.approx(exact, rel=1e-8)
        assert ours[0, 0, 0] == pytest.approx(ours[0, 1, 0], rel=1e-12)  # stays balanced
