"""Modes of gradient flow, when each is learned, and predicted curves against runs and a literal ODE solver."""

import json

import numpy as np
import pytest

import oracles
import rankfall as rf
from laws import oracle_runs as c
from rankfall.laws import gradient_flow


def orthonormal(rows, columns, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, rows)))[0][:, :columns]


def decoupled(p, k, width, targets, variances, starts, seed=0):
    """A problem with Σ = U diag(d) Uᵀ and a start with the same singular vectors, hidden units rotated."""
    count = min(p, k)
    left, right = orthonormal(p, p, seed), orthonormal(k, count, seed + 1)
    cross = (left[:, :count] * (np.array(targets) * variances[:count])) @ right.T
    problem = rf.Problem.from_statistics((left * variances) @ left.T, cross)
    hidden = orthonormal(width, min(width, count), seed + 2)
    roots = np.sqrt(np.array(starts)[: hidden.shape[1]])
    W1 = (left[:, : len(roots)] * roots) @ hidden.T
    return problem, W1, hidden @ (right[:, : len(roots)] * roots).T


CASES = [
    (3, 3, 5, [3.0, 2.0, 0.5], [1.0, 1.0, 1.0], [1e-3, 0.02, 0.1]),  # whitened
    (4, 2, 6, [1.5, 0.7], [0.5, 2.0, 1.3, 0.2], [0.01, 1.2]),  # one starts above half of its target
    (2, 4, 2, [2.0, 2.0], [1.0, 3.0], [0.05, 0.05]),  # equal targets and strengths, told apart by Σ
    (3, 3, 1, [2.0, 1.0, 0.5], [1.0, 2.0, 0.5], [0.01, 0.0, 0.0]),  # one hidden unit
    (3, 2, 4, [1.0, 1.0], [1.0, 1.0, 0.0], [0.01, 0.01]),  # an input that never varies
]


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_at_its_learning_time_a_mode_has_the_share_of_its_target(case, share):
    problem, W1, W2 = decoupled(*case)
    modes = gradient_flow.decoupled_modes(problem, W1, W2)
    moving = modes.variance > 0
    times = gradient_flow.learning_times(
        modes.target[moving], modes.start[moving], share=share, variance=modes.variance[moving]
    )
    checked = 0
    for index, time in enumerate(times):
        reached = share * modes.target[index]
        if time == 0.0:
            assert modes.start[index] >= reached
        elif not np.isfinite(time):
            assert modes.start[index] == pytest.approx(0.0, abs=1e-12)
        else:
            for late, hit in ((1.0, True), (1.05, False)):  # 5 % later it is well past it
                first, second = oracles.gradient_flow(problem, W1, W2, [0.0, late * time])
                strength = modes.left[:, index] @ first[1] @ second[1] @ modes.right[:, index]
                assert (abs(strength - reached) < 1e-9 * reached) == hit
            checked += 1
    assert checked


def test_edges_of_the_learning_time():
    times = gradient_flow.learning_times([1.0, 1.0, 1.0, 0.0, -1.0], [1e-300, 0.0, 0.7, 0.1, 0.1])
    assert times[0] == pytest.approx(150 * np.log(10), rel=1e-12)
    assert times[1:].tolist() == [np.inf, 0.0, np.inf, np.inf]
    assert np.isfinite(gradient_flow.learning_times(1.0, 5e-324))
    assert gradient_flow.learning_times(2.0, 0.1, variance=[1.0, 4.0]).shape == (2,)
    for share in (0.0, 1.0, -1, "half"):
        with pytest.raises(rf.InvalidInput, match="share"):
            gradient_flow.learning_times(1.0, 0.1, share=share)
    with pytest.raises(rf.InvalidInput, match="variance"):
        gradient_flow.learning_times(1.0, 0.1, variance=0.0)
    with pytest.raises(rf.InvalidInput, match="broadcast"):
        gradient_flow.learning_times([1.0, 2.0], [0.1, 0.1, 0.1])


def test_which_starts_decouple():
    problem, W1, W2 = decoupled(*CASES[1])
    turned = orthonormal(4, 4, 9)
    with pytest.raises(rf.LawNotApplicable, match="modes of this start mix"):
        gradient_flow.decoupled_modes(problem, turned @ W1, W2)
    tilted = rf.Problem.from_statistics(turned @ problem.covariance @ turned.T, problem.cross_covariance)
    with pytest.raises(rf.LawNotApplicable, match="modes of this start mix"):
        gradient_flow.decoupled_modes(tilted, W1, W2)
    with pytest.raises(rf.LawNotApplicable, match="balanced"):
        gradient_flow.decoupled_modes(problem, 2 * W1, W2)
    zero = gradient_flow.decoupled_modes(problem, 0 * W1, 0 * W2)
    assert zero.start.tolist() == [0.0, 0.0]
    assert zero.target == pytest.approx([1.5, 0.7])


@pytest.mark.parametrize("sizes", [(4, 3, 6), (3, 5, 3), (5, 3, 2)])
def test_modes_that_mix_pass_their_share_when_the_flow_says_so(sizes):
    p, k, width = sizes
    problem = c.white_problem(p, k)
    W1, W2 = (weights[0] for weights in rf.LinearNetwork.balanced(p, width, k, 0.01).draw(1, seed=5))
    grid = np.linspace(0.0, 60.0, 601)
    found = gradient_flow.crossing_times(problem, W1, W2, grid, share=0.6)
    left, targets, right = np.linalg.svd(problem.solution)
    first, second = oracles.gradient_flow(problem, W1, W2, grid)
    paths = np.einsum("im,tij,mj->tm", left[:, :k][:, : min(p, k)], first @ second, right[: min(p, k)])
    for mode, time in enumerate(found):
        above = paths[:, mode] >= 0.6 * targets[mode]
        if np.isnan(time):
            assert not above.any()
            continue
        index = np.argmax(above)
        assert grid[index - 1] <= time <= grid[index]
        first, second = oracles.gradient_flow(problem, W1, W2, [0.0, time])
        strength = left[:, mode] @ first[1] @ second[1] @ right[mode]
        assert strength == pytest.approx(0.6 * targets[mode], rel=1e-8)
    assert np.isfinite(found).sum() == min(p, k, width)


def test_crossings_at_the_edges():
    problem = rf.Problem.from_statistics(np.eye(2), np.diag([2.0, 0.0]))
    start = np.diag([1.3, 0.1])
    assert gradient_flow.crossing_times(problem, start, start, [0.0, 1.0]).tolist() == [0.0, np.inf]
    for times in ([], [1.0, 1.0], [[0.0, 1.0]]):
        with pytest.raises(rf.InvalidInput, match="times"):
            gradient_flow.crossing_times(problem, start, start, times)


# The kernel promises weights within 1e-8 of the exact flow; spectra, products and losses of numbers of order 1 follow.
PROMISED = 1e-7


def largest_error(run, law):
    names = ("loss", "singular_values_W1", "singular_values_W2")
    return max(float(np.abs(run[name].values - law[name].values).max()) for name in names)


@pytest.mark.parametrize("width", [8, 2])
def test_a_whitened_balanced_run_follows_the_closed_form(width):
    problem = c.white_problem(4, 3)
    network = rf.LinearNetwork.balanced(4, width, 3, 0.05)
    run = rf.simulate(problem, network, rf.GradientFlow(), duration=4.0, replicates=3, seed=2, save_points=41)
    law = gradient_flow.predict(run)
    assert law.attrs["source"] == "balanced, whitened (Fukumizu)"
    assert largest_error(run, law) < PROMISED
    assert law.singular_values_W1.shape == run.singular_values_W1.shape
    assert law.singular_values_product.values[..., :2] == pytest.approx(
        law.singular_values_W1.values[..., :2] * law.singular_values_W2.values[..., :2], abs=1e-12
    )
    other = gradient_flow.predict(run.assign_attrs(seed=3))  # other starts, other curves
    assert largest_error(run, other) > 0.01


def test_a_decoupled_run_follows_its_modes_whatever_the_inputs():
    problem, W1, W2 = decoupled(*CASES[1])
    network = rf.LinearNetwork.from_weights(np.stack([W1, -W1]), np.stack([W2, -W2]))
    run = rf.simulate(problem, network, rf.GradientFlow(), duration=5.0, replicates=2, save_points=[0.5, 2.0, 5.0])
    law = gradient_flow.predict(run)
    assert law.attrs["source"] == "decoupled modes (Saxe)"
    assert largest_error(run, law) < PROMISED
    expected = gradient_flow.learning_times([1.5, 0.7], [0.01, 1.2], variance=[0.5, 2.0])
    assert law.learning_time.values == pytest.approx(np.tile(expected, (2, 1)), rel=1e-9)


def test_any_other_run_follows_the_solver():
    problem = c.gaussian_problem(4, 2)
    network = rf.LinearNetwork.gaussian(4, 7, 2, 0.5)
    run = rf.simulate(
        problem, network, rf.GradientFlow(), duration=3.0, replicates=2, seed=4, save_points=7, start="shared"
    )
    with pytest.raises(rf.LawNotApplicable, match="whitened"):
        gradient_flow.predict(run)
    law = gradient_flow.predict(run, numerically=True)
    assert largest_error(run, law) < PROMISED
    assert np.isnan(law.learning_time).all()


def test_modes_learned_before_the_first_save_point_and_a_bad_share():
    problem = c.white_problem(3, 2)
    network = rf.LinearNetwork.balanced(3, 4, 2, 0.5)
    early, late = (
        rf.simulate(problem, network, rf.GradientFlow(), duration=20.0, seed=1, save_points=points)
        for points in (np.linspace(0, 20, 201), [15.0, 20.0])
    )
    expected = gradient_flow.predict(early).learning_time.values
    assert (expected < 15.0).all()
    assert gradient_flow.predict(late).learning_time.values == pytest.approx(expected, rel=1e-9)
    with pytest.raises(rf.InvalidInput, match="share"):
        gradient_flow.predict(early, numerically=True, share=2.0)


def test_a_start_that_nearly_decouples_is_not_taken_for_one_that_does():
    problem, W1, W2 = decoupled(*CASES[0])
    turn = np.eye(3)
    turn[0, 1], turn[1, 0] = 1e-9, -1e-9
    with pytest.raises(rf.LawNotApplicable, match="mix"):
        gradient_flow.decoupled_modes(problem, turn @ W1, W2)


def test_where_no_curve_is_predicted(flow_run, white_flow_run):
    with pytest.raises(rf.LawNotApplicable, match="not gradient flow"):
        gradient_flow.predict(flow_run)
    network = rf.LinearNetwork.gaussian(3, 4, 2)
    run = rf.simulate(c.white_problem(3, 2), network, rf.GradientFlow(), duration=0.1, save_points=2)
    with pytest.raises(rf.LawNotApplicable, match="balanced"):
        gradient_flow.predict(run)
    settings = json.loads(run.attrs["settings"])
    assert settings["network"]["start"] == "gaussian"
    with pytest.raises(rf.InvalidInput, match="covariance"):
        gradient_flow.predict(run, c.white_problem(3, 2, variance=2.0))


@pytest.mark.parametrize("loss", ["squared", "logistic", "cross_entropy"])
def test_the_solver_goes_down_the_gradient_of_the_loss(loss):
    rng = np.random.default_rng(1)
    inputs, classes = rng.standard_normal((30, 3)), rng.integers(0, 2, 30)
    labels = np.eye(2)[classes]
    problem = rf.Problem.from_data(inputs, labels, loss=loss)
    W1, W2 = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))

    def literal(first, second):
        scores = inputs @ first @ second
        if loss == "squared":
            return np.sum((scores - labels) ** 2) / 60
        if loss == "logistic":
            return np.sum(np.log1p(np.exp(scores)) - labels * scores) / 30
        return np.sum(np.log(np.exp(scores).sum(axis=1)) - (labels * scores).sum(axis=1)) / 30

    first, second = gradient_flow.solve(problem, W1, W2, [2.0, 0.0, 1.0 - 1e-3, 1.0, 1.0 + 1e-3])
    assert np.array_equal(first[1], W1)
    assert np.array_equal(second[1], W2)
    for index in np.ndindex(3, 4):  # central differences of time and of the weights: errors of 1e-6
        velocity = (first[4] - first[2])[index] / 2e-3
        nudge = np.zeros((3, 4))
        nudge[index] = 1e-4
        slope = (literal(first[3] + nudge, second[3]) - literal(first[3] - nudge, second[3])) / 2e-4
        assert velocity == pytest.approx(-slope, abs=1e-5)
    start, end = (oracles.balance(W1, W2), oracles.balance(first[0], second[0]))
    assert np.abs(end - start).max() < 1e-9
    assert literal(first[0], second[0]) < literal(W1, W2)


def test_the_closed_forms_are_those_of_the_squared_loss():
    rng = np.random.default_rng(0)
    problem = rf.Problem.from_data(rng.standard_normal((20, 2)), rng.integers(0, 2, 20), loss="logistic")
    W1, W2 = np.array([[0.3], [0.0]]), np.array([[0.3]])
    for closed in (
        lambda: gradient_flow.balanced_flow(problem, W1, W2, [1.0]),
        lambda: gradient_flow.decoupled_modes(problem, W1, W2),
        lambda: gradient_flow.crossing_times(problem, W1, W2, [1.0]),
    ):
        with pytest.raises(rf.LawNotApplicable, match="squared loss only"):
            closed()


def test_the_solver_at_rest_and_bad_input():
    problem = c.gaussian_problem(3, 2)
    first, second = gradient_flow.solve(problem, np.zeros((3, 4)), np.zeros((4, 2)), [0.0, 5.0])
    assert not first.any()
    assert not second.any()
    assert gradient_flow.solve(problem, np.ones((3, 4)), np.ones((4, 2)), [])[0].shape == (0, 3, 4)
    with pytest.raises(rf.InvalidInput, match="shapes"):
        gradient_flow.solve(problem, np.ones((2, 4)), np.ones((4, 2)), [1.0])
    with pytest.raises(rf.InvalidInput, match="times"):
        gradient_flow.solve(problem, np.ones((3, 4)), np.ones((4, 2)), [-1.0])


def test_strengths_of_a_wrong_shape():
    with pytest.raises(rf.InvalidInput, match="product"):
        gradient_flow.mode_strengths(c.white_problem(3, 2), np.ones((2, 3)))


@pytest.mark.parametrize("size", [2, 3])
def test_a_start_of_the_wrong_sign_never_learns_its_last_mode(size):
    """det W1W2 keeps its sign along the flow, so the last mode is learned from one half of the balanced starts."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    targets = np.linspace(2.0, 1.0, size)
    problem = rf.Problem.from_statistics(np.eye(size), (left * targets) @ right)
    starts = rf.LinearNetwork.balanced(size, size + 2, size, 0.3).draw(24, seed=1)
    late = 25.0  # long enough for the slowest mode, too short for rounding to grow from u to 1: e^25 u < 1e-5
    signs = []
    for W1, W2 in zip(*starts, strict=True):
        product = gradient_flow.balanced_product(problem, W1, W2, [late])[0]
        strengths = np.einsum("im,ij,mj->m", left, product, right)
        signs.append(np.linalg.det(W1 @ W2) * np.linalg.det(problem.cross_covariance) > 0)
        assert (np.abs(strengths - targets) < 1e-3).sum() == (size if signs[-1] else size - 1)
    assert 4 <= sum(signs) <= 20
