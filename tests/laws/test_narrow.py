"""The narrow case: the balance equation as a certificate, its fixed points, and the rank they allow."""

import numpy as np
import pytest

import oracles
import rankfall as rf
from laws import oracle_runs as c
from rankfall import laws
from rankfall.laws import narrow


def noise(step_size, label_noise=1.0):
    return rf.StochasticGradientFlow(label_noise=label_noise, step_size=step_size)


def literal_distance(problem, W1, W2):
    first = problem.n_outputs * W1.T @ problem.covariance @ W1
    second = np.trace(problem.covariance) * W2 @ W2.T
    return np.linalg.norm(first - second) / (np.linalg.norm(first) + np.linalg.norm(second))


def test_distance_is_zero_at_a_fixed_point_and_literal_elsewhere():
    problem = c.gaussian_problem(5, 2)
    rng = np.random.default_rng(0)
    W2 = rng.standard_normal((4, 2))
    columns = np.linalg.qr(rng.standard_normal((5, 2)))[0]
    values, vectors = np.linalg.eigh(problem.covariance)
    root = (vectors / np.sqrt(values)) @ vectors.T
    W1 = np.sqrt(np.trace(problem.covariance) / 2) * root @ columns @ W2.T
    assert float(narrow.distance(W1, W2, problem)) < 1e-14
    assert np.linalg.matrix_rank(W1) == 2
    for scale in (0.5, 1.05):
        assert float(narrow.distance(scale * W1, W2, problem)) == pytest.approx(
            literal_distance(problem, scale * W1, W2), rel=1e-12
        )
    assert float(narrow.distance(0 * W1, 0 * W2, problem)) == 0.0
    with pytest.raises(rf.InvalidInput):
        narrow.distance(W1[:3], W2, problem)


@pytest.fixture(scope="module")
def runs():
    """Long narrow runs of Σ = s I with p ≠ k, at two intensities 16 times apart, equally long in units of 1/σ²."""
    problem = c.white_problem(5, 2, variance=1.0)
    network = rf.LinearNetwork.gaussian(5, 4, 2)
    return {
        step: rf.simulate(
            problem, network, noise(step), duration=20.0 / step, replicates=48, seed=3, save_points=201, weights=True
        )
        for step in (0.04, 0.0025)
    }


def test_norms_of_a_whitened_run_give_the_distance_that_its_weights_give(runs):
    run = runs[0.04]
    from_norms = narrow.fixed_point_distance(run.drop_vars(["W1", "W2"]))
    from_weights = narrow.fixed_point_distance(run)
    # the square of the distance is a difference of numbers of order 1: √(100 u) = 1e-7
    assert np.abs(from_norms - from_weights).max() < 1e-7
    first, second = run.W1.values[3, 50], run.W2.values[3, 50]
    assert from_weights[3, 50] == pytest.approx(literal_distance(c.white_problem(5, 2, variance=1.0), first, second))
    other = c.simulate(c.gaussian_problem(3, 2), 2, noise(0.05), steps=20, dt=0.01, save_every=10)
    assert narrow.fixed_point_distance(other).shape == (6, 3)
    with pytest.raises(rf.LawNotApplicable, match="weights=True"):
        narrow.fixed_point_distance(other.drop_vars(["W1", "W2"]))


def test_with_as_many_inputs_as_outputs_and_whitened_it_relaxes_exactly():
    problem = c.white_problem(3, 3, variance=1.3)
    network = rf.LinearNetwork.gaussian(3, 4, 3)
    run = rf.simulate(problem, network, noise(0.1), duration=60.0, replicates=8, seed=1, save_points=61)
    distance = narrow.fixed_point_distance(run)
    assert (distance[:, -1] < 1e-8).all()
    # ‖Q‖ decays at σ²ks: a rate that is 5 % off would be off by a factor of e^0.6 at t = 30
    ratio = run.balance.values[:, 30] / run.balance.values[:, 0]
    assert ratio == pytest.approx(np.exp(-0.1 * 3 * 1.3 * 30), rel=1e-9)


def test_otherwise_it_stays_at_a_distance_proportional_to_the_noise(runs):
    """The balance does not relax to its fixed point at a given intensity; only for σ → 0 it does."""
    late = {step: narrow.fixed_point_distance(run)[:, 100:].mean(axis=1) for step, run in runs.items()}
    for step, run in runs.items():
        assert (narrow.fixed_point_distance(run)[:, 0] > 0.15).all()
        assert late[step].mean() > 5 * late[step].std() / np.sqrt(48)  # it is not zero
    ratio = late[0.04].mean() / late[0.0025].mean()
    error = ratio * np.hypot(*(values.std() / values.mean() / np.sqrt(48) for values in late.values()))
    # σ differs by 4; corrections of relative order σ ≈ 0.2 to the larger. Five standard errors: false alarm 6e-7.
    assert abs(ratio - 4.0) < 5 * error + 0.2 * 4.0
    assert ratio < 8  # proportional to σ² it would be 16


def test_the_mean_force_vanishes_with_time(runs):
    """(1/T)∫(tr(Σ) W2W2ᵀ − k W1ᵀΣW1)dt = (Q_T − Q_0)/(σ²T), computed here by a plain sum over the save points."""
    step = 0.04
    run = runs[step]
    first, second = run.W1.values, run.W2.values
    force = 5.0 * second @ np.swapaxes(second, -1, -2) - 2.0 * np.swapaxes(first, -1, -2) @ first
    mean = np.trapezoid(force, run.time.values, axis=1) / run.time.values[-1]
    change = oracles.balance(first[:, -1], second[:, -1]) - oracles.balance(first[:, 0], second[:, 0])
    # The save points are samples of a mean: their spread divided by √200, six times; the start is a transient of 1/σ².
    spread = 6 * force.std(axis=1) / np.sqrt(200)
    assert (np.abs(mean - change / (step * run.time.values[-1])) < spread).all()
    sizes = np.linalg.norm(force, axis=(-2, -1)).mean(axis=1)
    assert (np.linalg.norm(mean, axis=(-2, -1)) < 0.5 * sizes).all()


def test_what_is_left_above_the_rank_of_w2_is_bounded_by_the_distance(runs):
    run = runs[0.04]
    first, second = run.W1.values, run.W2.values
    excess = 2.0 * np.linalg.svd(first, compute_uv=False)[..., 2] ** 2  # k λ_3(W1ᵀW1), rank W2 = 2
    force = 5.0 * second @ np.swapaxes(second, -1, -2) - 2.0 * np.swapaxes(first, -1, -2) @ first
    assert (excess <= np.linalg.norm(force, 2, axis=(-2, -1)) * (1 + 1e-9) + 1e-12).all()


def test_the_final_rank_is_within_the_prediction(runs):
    network = rf.LinearNetwork.gaussian(5, 4, 2)
    assert narrow.predicted_rank(c.white_problem(5, 2), network) == 2
    for run in runs.values():
        assert (run.singular_values_W1[:, 0, 3] > 1e-3 * run.singular_values_W1[:, 0, 0]).all()  # it starts at 4
        ranks = narrow.final_rank(run)
        assert (ranks <= 2).all()
        assert ranks.tolist() == [(sigma > 1e-3 * sigma[0]).sum() for sigma in run.singular_values_W1.values[:, -1]]
    assert (narrow.final_rank(runs[0.04], share=1e-15) == 4).mean() > 0.5  # at any finite time none is zero
    with pytest.raises(rf.InvalidInput, match="share"):
        narrow.final_rank(runs[0.04], share=1.0)


def test_predicted_ranks():
    wide = c.gaussian_problem(6, 4)
    assert narrow.predicted_rank(wide, rf.LinearNetwork.gaussian(6, 3, 4)) == 3
    assert narrow.predicted_rank(wide, rf.LinearNetwork.balanced(6, 8, 4)) == 4
    assert narrow.predicted_rank(c.gaussian_problem(6, 4, singular=3), rf.LinearNetwork.gaussian(6, 8, 4)) == 3
    W1, W2 = (
        np.ones((6, 5)),
        np.arange(20.0).reshape(5, 4),
    )  # ranks 1 and 2, together 2: ones are among the columns' span
    assert np.linalg.matrix_rank(np.concatenate([W1, W2.T])) == 2
    assert narrow.predicted_rank(wide, rf.LinearNetwork.from_weights(W1, W2)) == 2
    assert narrow.predicted_rank(wide, rf.LinearNetwork.from_weights(0 * W1, np.ones((5, 4)))) == 1
    assert narrow.predicted_rank(wide, rf.LinearNetwork.from_weights(np.eye(6, 5), W2)) == 4
    with pytest.raises(rf.InvalidInput, match="network"):
        narrow.predicted_rank(wide, rf.LinearNetwork.gaussian(5, 3, 4))


def test_a_layer_alone_can_gain_rank_so_its_start_is_no_bound():
    problem = c.gaussian_problem(5, 2)
    rng = np.random.default_rng(2)
    network = rf.LinearNetwork.from_weights(np.zeros((5, 4)), rng.standard_normal((4, 2)))
    run = rf.simulate(problem, network, noise(0.02), duration=5.0, replicates=2, seed=0, save_points=3)
    assert (narrow.final_rank(run) == 2).all()
    assert narrow.predicted_rank(problem, network) == 2


def test_inputs_that_never_vary_are_left_out_of_the_rank():
    problem = c.gaussian_problem(4, 1, singular=2)
    network = rf.LinearNetwork.gaussian(4, 3, 1)
    run = rf.simulate(problem, network, noise(0.2), duration=200.0, replicates=2, seed=0, save_points=11, weights=True)
    assert (narrow.final_rank(run) == 1).all()
    assert (run.singular_values_W1[:, -1, 1] > 1e-2).all()  # what they weigh stays
    with pytest.raises(rf.LawNotApplicable, match="never vary"):
        narrow.final_rank(run.drop_vars(["W1", "W2"]))


CERTIFIED = [(5, 2, 4, 0.02, 100.0, 2001), (3, 3, 4, 0.02, 50.0, 1001), (2, 4, 3, 0.02, 100.0, 2001)]


@pytest.mark.parametrize(("p", "k", "width", "step", "duration", "points"), CERTIFIED)
def test_the_integral_certifies_a_run_and_rejects_five_percent(p, k, width, step, duration, points):
    problem = c.gaussian_problem(p, k)
    network = rf.LinearNetwork.gaussian(p, width, k)
    run = rf.simulate(
        problem, network, noise(step), duration=duration, replicates=8, seed=1, save_points=points, weights=True
    )
    verdict = narrow.check(run)
    assert verdict.passed is True
    assert verdict.n_checked == 8
    assert "balance equation" in [found.law for found in laws.check(run)]
    for wrong in (0.95, 1.05):  # σ² off by 5 %: every single replicate says so
        verdict = narrow.check(c.with_method(run, noise(step, wrong)))
        assert verdict.passed is False
        assert (verdict.errors > verdict.tolerances).all()


def test_each_of_the_two_constants_is_checked():
    """k and tr Σ weigh the two sides; a problem whose Σ is scaled on one side only is another problem."""
    problem = c.gaussian_problem(5, 2)
    run = c.simulate(problem, 4, noise(0.05), steps=8000, dt=0.005, save_every=4, replicates=2)
    assert narrow.check(run).passed is True
    broken = run.copy(deep=True)
    broken["W2"].values *= np.sqrt(1.05)  # as if tr Σ were 5 % larger, in Q as well
    assert narrow.check(broken).passed is False
    broken = run.copy(deep=True)
    broken["W1"].values[1, 1000:] *= 1.02  # weights that do not come from this run
    verdict = narrow.check(broken)
    assert verdict.passed is False
    assert verdict.replicate == 1


def test_sparse_save_points_leave_it_undecided():
    problem = c.gaussian_problem(5, 2)
    network = rf.LinearNetwork.gaussian(5, 4, 2)
    run = rf.simulate(problem, network, noise(0.02), duration=100.0, replicates=3, save_points=11, weights=True)
    verdict = narrow.check(run)
    assert verdict.passed is None
    assert verdict.note.startswith("save points too far apart since t=0 in 3 of 3 replicates")
    assert "balance equation" not in [found.law for found in laws.check(run)]
    assert all(found.passed for found in laws.check(run))


@pytest.mark.filterwarnings("ignore::rankfall.StepSizeWarning")
def test_a_run_that_diverges_is_checked_until_then():
    problem = c.gaussian_problem(4, 2)
    network = rf.LinearNetwork.gaussian(4, 3, 2, 1.2)
    run = rf.simulate(
        problem, network, noise(0.02), duration=100.0, dt=0.2, replicates=24, seed=0, save_points=501, weights=True
    )
    diverged = np.char.startswith(run.outcome.values.astype(str), "diverged")
    assert diverged.any()
    verdict = narrow.check(run)
    assert verdict.passed is None
    assert "diverged" in verdict.note
    assert narrow.final_rank(run).shape == (24,)
    assert np.isfinite(narrow.fixed_point_distance(run)[~diverged]).all()


def test_where_the_integral_says_nothing(flow_run):
    problem = c.gaussian_problem(3, 2)
    for method in (rf.GradientFlow(), rf.StochasticGradientFlow(1.0, 0.05, integrator="euler"), noise(0.1, 0.0)):
        with pytest.raises(rf.LawNotApplicable, match="stochastic flow with noise"):
            narrow.check(c.simulate(problem, 2, method, steps=4, dt=0.01))
    with pytest.raises(rf.LawNotApplicable, match="weights=True"):
        narrow.check(flow_run.drop_vars(["W1", "W2"]))


def test_the_tolerance_covers_the_error_without_drowning_it():
    """Errors of 64 replicates: all well inside four conservative standard deviations, and not a hundredth of them."""
    problem = c.gaussian_problem(4, 2)
    network = rf.LinearNetwork.gaussian(4, 3, 2)
    run = rf.simulate(problem, network, noise(0.05), duration=20.0, replicates=64, save_points=2001, weights=True)
    verdict = narrow.check(run)
    ratios = (verdict.errors / verdict.tolerances)[np.isfinite(verdict.errors)]
    assert verdict.passed is True
    assert verdict.n_checked > 32
    assert 0.02 < np.median(ratios) < 0.3


def test_a_change_that_is_small_by_chance_does_not_make_a_run_fail():
    """Scalar hidden space: F of one interval may end where it began, and its neighbours say how much it moves."""
    problem = c.gaussian_problem(1, 5)
    network = rf.LinearNetwork.gaussian(1, 1, 5)
    run = rf.simulate(problem, network, noise(0.01), duration=60.0, replicates=256, save_points=2001, weights=True)
    verdict = narrow.check(run)
    assert verdict.passed is True
    assert verdict.n_checked > 128
