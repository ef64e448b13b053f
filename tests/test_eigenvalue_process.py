"""The eigenvalues on their own, against the networks they belong to, in distribution and path by path."""

import numpy as np
import pytest
from scipy.optimize import root
from scipy.stats import ks_2samp

import rankfall as rf
from rankfall._engine import eigenvalues as engine
from rankfall._kernels.eigenvalues import _orthogonalise, _repel
from rankfall._kernels.noise import normals
from small import NARROW, PROBLEM, WIDE

METHOD = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.05)
SHORT = {"duration": 2.0, "dt": 0.01, "replicates": 3, "seed": 5, "save_points": 5}


# --- the pieces of a step ---------------------------------------------------------------------------------------------


def test_the_implicit_repulsion_is_the_root_that_scipy_finds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = -np.sort(-rng.standard_normal(5))
        weights = rng.uniform(0.01, 0.2, (5, 5))
        weights += weights.T
        y = x + 0.3 * rng.standard_normal(5)  # need not be sorted

        def excess(values, y=y, weights=weights):
            gaps = values[:, None] - values[None, :] + np.eye(5)
            return values - y - np.where(np.eye(5) == 1, 0.0, weights / np.tanh(gaps / 2)).sum(1)

        found = x.copy()
        assert _repel(found, y, weights, np.empty((5, 5)), np.empty(5))
        assert (np.diff(found) < 0).all()
        assert np.abs(excess(found)).max() < 1e-12
        assert found.sum() == pytest.approx(y.sum(), abs=1e-13)
        theirs = root(
            excess, found + 1e-3 * np.arange(5, 0, -1)
        ).x  # the only one in the cone, a convex function's minimum
        assert np.abs(excess(theirs)).max() < 1e-10
        np.testing.assert_allclose(found, theirs, rtol=1e-8, atol=1e-8)


def test_equal_eigenvalues_are_driven_apart():
    """Alone, and both with weight w: gap = 2w coth(gap/2), 2√w for small w."""
    found, weights = np.zeros(2), np.full((2, 2), 1e-6)
    assert _repel(found, np.zeros(2), weights, np.empty((2, 2)), np.empty(2))
    assert found[0] - found[1] == pytest.approx(2e-3, rel=1e-5) and found.sum() == pytest.approx(0.0, abs=1e-15)


def test_a_thin_gap_between_large_numbers_is_solved_to_their_rounding():
    """log λ near −150, driven together against a weak repulsion: this once counted as diverged."""
    x = np.array([0.0, -150.0, -150.2])
    y, weights = np.array([0.0, -150.3, -150.0]), np.full((3, 3), 1e-9)
    assert _repel(x, y, weights, np.empty((3, 3)), np.empty(3))
    # two alone: gap = −0.3 + 4e-9 / gap, that is 1.33e-8, of which the rounding of 150 leaves some 1e-5
    assert x[1] - x[2] == pytest.approx(4e-9 / 0.3, rel=1e-4) and x.sum() == pytest.approx(y.sum(), abs=1e-11)


def test_vectors_are_singular_vectors_and_orthonormal_however_graded():
    rng = np.random.default_rng(1)
    x = np.linalg.qr(rng.standard_normal((6, 4)))[0] + 0.05 * rng.standard_normal((6, 4))
    mild = np.array([1.0, 0.7, 0.69, 0.1])
    u = x * mild
    _orthogonalise(u, np.empty(4))
    theirs = np.linalg.svd(x * mild)[0][:, :4]
    np.testing.assert_allclose(np.abs(np.sum(u * theirs, 0)), 1.0, rtol=1e-12)
    # far beyond 1e-16 the vectors are those of Gram and Schmidt
    u = x * 10.0 ** np.array([0.0, -40.0, -80.0, -120.0])
    _orthogonalise(u, np.empty(4))
    np.testing.assert_allclose(np.abs(np.sum(u * np.linalg.qr(x)[0], 0)), 1.0, rtol=1e-13)
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=1e-14)


# --- against the full simulation --------------------------------------------------------------------------------------

# Of all comparisons of a test together; seeds are fixed.
FALSE_ALARM_RATE = 1e-3


@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
def test_one_step_is_the_law_with_and_without_repulsion(network):
    """One step, whose normals are known: s' − s − 2 UᵀN̂U = h · drift, the repulsion taken at s'.

    The drift is that of `laws.eigenvalues` at the start; its pushes are taken to s' by the ratio of the coths. Rounding
    leaves 1e-14 of numbers of order 1, the Newton iteration 1e-13.
    """
    h, (W1, W2) = 0.003, network.draw(20, seed=4)
    force = rf.laws.eigenvalues.forces(W1, W2, PROBLEM, METHOD)
    d, basis = PROBLEM.eigenbasis()
    noise = np.sqrt(METHOD.intensity * h * d)[:, None] * normals(4, 20, 0, 1, 6).reshape(20, 3, 2)
    Z = np.concatenate([basis.T @ W1, W2.transpose(0, 2, 1)], axis=1)
    u = np.linalg.svd(Z, full_matrices=False)[0]
    kick = 4 * np.einsum("rai,rab,rbi->ri", u[:, :3], noise, u[:, 3:])
    options = {"duration": h, "dt": h, "replicates": 20, "seed": 4, "save_points": 2}
    for repulsion in (True, False):
        run = rf.eigenvalue_process(PROBLEM, network, METHOD, repulsion=repulsion, **options)
        after = run.log_eigenvalues.values[:, 1]
        expected = force.log_eigenvalues + kick + h * (force.gradient + force.noise)
        if repulsion:
            others = ~np.eye(after.shape[1], dtype=bool)
            gaps = np.where(others, after[:, :, None] - after[:, None, :], 1.0)
            pushes = np.where(others, 2 * force.rates / np.tanh(gaps / 2), 0.0)
            expected = expected + h * (pushes.sum(-1) + force.zero_modes)
        else:
            expected = -np.sort(-expected, axis=-1)
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-11)


@pytest.fixture(scope="module")
def small_teacher():
    given = rf.Problem.gaussian(n_samples=100, n_inputs=2, n_outputs=2, seed=0)
    problem = rf.Problem.from_statistics(given.covariance, 0.2 * given.cross_covariance)
    W1, W2 = (layer[0] for layer in rf.LinearNetwork.gaussian(2, 4, 2, 0.5).draw(1, seed=1))
    network = rf.LinearNetwork.from_weights(W1, W2)
    flow = rf.StochasticGradientFlow(label_noise=1.0, step_size=1.0)
    full = rf.simulate(
        problem, network, flow, duration=1.0, dt=1 / 1600, replicates=6000, seed=1, save_points=2, ledger="none"
    )
    return problem, network, 2 * np.log(full.singular_values_Z.values[:, -1])


def test_distribution_is_that_of_the_full_simulation(small_teacher, monkeypatch):
    """Log eigenvalues at σ²t = 1, when the repulsion has moved them by 1 to 4; Kolmogorov–Smirnov for each mode.

    Times the four modes (Bonferroni). The scheme's own error at this dt is below 0.013 standard deviations, the
    resolution of the test about 0.05.
    """
    problem, network, theirs = small_teacher

    def p_value(intensity=1.0, strength=1.0):
        flow = rf.StochasticGradientFlow(label_noise=intensity, step_size=1.0)
        made = engine.EigenvalueEngine
        with monkeypatch.context() as patch:
            patch.setattr(engine, "EigenvalueEngine", lambda *given: made(*given[:3], strength, given[4]))
            run = rf.eigenvalue_process(
                problem, network, flow, duration=1.0, dt=1 / 400, replicates=6000, seed=2, save_points=2
            )
        ours = run.log_eigenvalues.values[:, -1]
        return 4 * min(ks_2samp(ours[:, mode], theirs[:, mode]).pvalue for mode in range(4))

    assert p_value() > FALSE_ALARM_RATE
    assert p_value(intensity=1.05) < FALSE_ALARM_RATE**2
    assert p_value(strength=1.05) < FALSE_ALARM_RATE**2
    assert p_value(strength=0.95) < FALSE_ALARM_RATE**2


@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
def test_paths_approach_those_of_the_full_simulation_with_order_one_half(network):
    """The same normals at the same dt; the root mean square distance at t = 1 halves when dt falls fourfold.

    The slope over a factor 64 in dt is between 0.35 and 0.75 for 200 trajectories: the noise of a slope is some 0.05.
    """
    steps, distances = (40, 320, 2560), []
    for count in steps:
        options = {"duration": 1.0, "dt": 1.0 / count, "replicates": 200, "seed": 6, "save_points": 2}
        full = rf.simulate(PROBLEM, network, METHOD, ledger="none", **options)
        own = rf.eigenvalue_process(PROBLEM, network, METHOD, **options)
        apart = own.log_eigenvalues.values[:, -1] - 2 * np.log(full.singular_values_Z.values[:, -1])
        distances.append(np.sqrt(np.mean(apart**2)))
        if count == steps[-1]:
            spread = own.log_eigenvalues.values[:, -1].std(0).mean()
            assert distances[-1] < 0.05 * spread
            assert np.abs(own.loss - full.loss).mean() < 0.05 * full.loss.mean()
            np.testing.assert_allclose(own.singular_values_W1, full.singular_values_W1, rtol=0.2, atol=0.03)
    slope = np.polyfit(np.log(1.0 / np.array(steps)), np.log(distances), 1)[0]
    assert 0.35 < slope < 0.75, distances


# --- what it keeps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repulsion", [True, False])
def test_determinant_law_holds_to_rounding(repulsion):
    """Each of 200 steps rounds five numbers below 10: 1e-12 is a thousand times their roundings together."""
    run = rf.eigenvalue_process(PROBLEM, WIDE, METHOD, repulsion=repulsion, **SHORT)
    rate = -2 * 2 * METHOD.intensity * np.trace(PROBLEM.covariance)
    expected = run.log_det.values[:, :1] + rate * run.time.values
    np.testing.assert_allclose(run.log_det, expected, rtol=0, atol=1e-12)
    assert (np.diff(run.log_eigenvalues, axis=-1) <= 0).all()


def test_without_repulsion_eigenvalues_only_diffuse_apart_and_with_it_they_part_at_a_rate():
    """No teacher and white inputs: all directions are alike, and what drives eigenvalues apart is the repulsion alone.

    The spread grows like t with it and like √t without: from t/4 to t four times against twice, medians of 24 runs.
    """
    problem = rf.Problem.from_statistics(np.eye(3), np.zeros((3, 3)))
    network = rf.LinearNetwork.gaussian(3, 6, 3)
    options = {"duration": 120.0, "dt": 0.04, "replicates": 24, "seed": 1, "save_points": [30.0, 120.0]}
    spread = {}
    for repulsion in (True, False):
        logs = rf.eigenvalue_process(problem, network, METHOD, repulsion=repulsion, **options).log_eigenvalues
        spread[repulsion] = (logs[..., 0] - logs[..., -1]).median("replicate").values
    assert spread[True][1] > 3 * spread[True][0] and spread[False][1] < 2.5 * spread[False][0]
    assert spread[True][1] > 4 * spread[False][1]


def test_modes_are_followed_far_below_float64():
    """2kσ²tr(Σ) t = 1800: singular values of Z down to e^(−900), of which float64 knows nothing."""
    problem = rf.Problem.from_statistics(np.eye(2), 0.3 * np.eye(2)[:, :1])
    network = rf.LinearNetwork.gaussian(2, 3, 1)
    method = rf.StochasticGradientFlow(label_noise=1.0, step_size=1.0)
    run = rf.eigenvalue_process(problem, network, method, duration=450.0, dt=0.02, replicates=2, save_points=3)
    assert (run.outcome == "completed").all() and np.isfinite(run.log_eigenvalues).all()
    assert float(run.log_eigenvalues[:, -1, -1].max()) < -800
    expected = run.log_det[:, 0] - 4 * 450.0
    np.testing.assert_allclose(run.log_det[:, -1], expected, rtol=1e-10)


def test_same_seed_same_bits_whatever_threads_replicates_and_save_points():
    reference = rf.eigenvalue_process(PROBLEM, WIDE, METHOD, **SHORT)
    for change in ({"threads": 1}, {"threads": 3}, {"replicates": 8}, {"replicates": 1}, {"save_points": 3}):
        other = rf.eigenvalue_process(PROBLEM, WIDE, METHOD, **{**SHORT, **change})
        count = min(3, other.sizes["replicate"])
        for name in ("log_eigenvalues", "log_det", "loss", "singular_values_W1", "singular_values_W2"):
            ours = reference[name].values[:count, [0, -1]]
            np.testing.assert_array_equal(other[name].values[:count, [0, -1]], ours)
    assert not np.array_equal(rf.eigenvalue_process(PROBLEM, WIDE, METHOD, **{**SHORT, "seed": 6}).loss, reference.loss)


def test_it_starts_where_simulate_starts():
    own = rf.eigenvalue_process(PROBLEM, WIDE, METHOD, **SHORT)
    full = rf.simulate(PROBLEM, WIDE, METHOD, **SHORT)
    np.testing.assert_allclose(own.log_eigenvalues[:, 0], 2 * np.log(full.singular_values_Z[:, 0]), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(own.time, full.time)
    np.testing.assert_allclose(own.loss[:, 0], full.loss[:, 0], rtol=1e-12)


# --- as in simulate ---------------------------------------------------------------------------------------------------


def test_diverged_replicates_are_reported():
    problem = rf.Problem.from_statistics(np.eye(2), np.zeros((2, 1)))
    first = np.array([np.eye(2, 3), 60.0 * np.eye(2, 3)])  # the first start has two equal eigenvalues
    second = np.array([[[0.0], [0.0], [0.5]], [[40.0], [3.0], [60.0]]])
    network = rf.LinearNetwork.from_weights(first, second)
    with pytest.warns(rf.StepSizeWarning):
        run = rf.eigenvalue_process(problem, network, METHOD, duration=5.0, dt=0.05, replicates=2, save_points=3)
    assert str(run.outcome[0].values) == "completed" and str(run.outcome[1].values).startswith("diverged at t=")
    assert np.isfinite(run.log_eigenvalues[0]).all() and np.isnan(run.log_eigenvalues[1, -1]).all()
    assert np.isnan(run.loss[1, -1]) and np.isnan(run.singular_values_W1[1, -1]).all()


def test_progress_and_interruption():
    seen = []

    def stop(state):
        seen.append(state)
        if state.stage == "running" and state.completed > 0.3 * state.total:
            raise KeyboardInterrupt

    with pytest.raises(rf.SimulationInterrupted, match="stopped at t=") as caught:
        rf.eigenvalue_process(
            PROBLEM, WIDE, METHOD, duration=400.0, dt=0.005, replicates=20, save_points=101, progress=stop
        )
    part = caught.value.run
    assert 1 <= part.sizes["time"] < 101
    assert str(part.outcome[0].values).startswith("interrupted at t=")
    assert seen[-1].total == 400 * 200 * 20 and seen[0].completed == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": rf.GradientFlow()}, "method must be a StochasticGradientFlow"),
        ({"method": rf.StochasticGradientFlow(0.0, 0.1)}, "label_noise must be above 0"),
        ({"repulsion": "no"}, "repulsion must be True or False, got 'no'"),
        ({"replicates": 0}, "replicates must be at least 1"),
        ({"dt": -1.0}, "dt must be greater than 0"),
        ({"duration": None}, "give the duration"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"progress": 3}, "progress must be True, False or a function"),
        ({"network": rf.LinearNetwork.gaussian(4, 6, 2)}, "make the network for the problem"),
        ({"network": rf.LinearNetwork.balanced(3, 6, 2)}, "3 of 3 starts are rank-deficient"),
        ({"problem": PROBLEM.covariance}, "problem must be a Problem"),
    ],
)
def test_bad_input(change, message):
    arguments = {"problem": PROBLEM, "network": WIDE, "method": METHOD, **SHORT}
    with pytest.raises(rf.InvalidInput, match=message):
        rf.eigenvalue_process(**{**arguments, **change})
