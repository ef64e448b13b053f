"""The eigenvalue law against derivatives of the eigenvalues themselves, and against ensembles of the simulator."""

import mpmath
import numpy as np
import pytest
import xarray as xr

import oracles
import rankfall as rf
from laws.oracle_runs import gaussian_problem
from rankfall.laws import eigenvalues
from small import METHODS, NARROW, PROBLEM, WIDE

NOISY = rf.StochasticGradientFlow(label_noise=1.5, step_size=0.2)
PARTS = ("gradient", "noise", "repulsion")


def weights(p, l, k, seed=1, scale=0.8):
    first, second = rf.LinearNetwork.gaussian(p, l, k, scale).draw(1, seed=seed)
    return first[0], second[0]


# --- against the eigenvalues themselves -------------------------------------------------------------------------------


def logs_along(Z, directions, count):
    """First and second derivatives of the `count` largest log eigenvalues of ZZᵀ along Z + ε D Z, to some 20 digits."""
    with mpmath.workdps(50):
        start = mpmath.matrix(Z.tolist())
        epsilon = mpmath.mpf(10) ** -15

        def logs(direction, sign):
            moved = start + sign * epsilon * (mpmath.matrix(direction.tolist()) * start)
            values = sorted(mpmath.eigsy(moved * moved.T, eigvals_only=True), reverse=True)[:count]
            return [mpmath.log(value) for value in values]

        middle = logs(np.zeros((len(Z), len(Z))), 0)
        first, second = [], []
        for direction in directions:
            ahead, behind = logs(direction, 1), logs(direction, -1)
            first.append([float((a - b) / (2 * epsilon)) for a, b in zip(ahead, behind, strict=True)])
            second.append([float((a - 2 * m + b) / epsilon**2) for a, m, b in zip(ahead, middle, behind, strict=True)])
    return np.array(first), np.array(second)


@pytest.mark.parametrize(("p", "k", "l"), [(3, 2, 6), (2, 2, 4), (2, 3, 3), (3, 1, 2)], ids=str)
def test_drift_and_covariance_are_those_of_itos_formula(p, k, l):
    """Generator ∂_ĜZ + ½ Σ σ² ∂²_{D Z} over the directions D = [[0, L_Σ E], [·, 0]], E the p·k unit matrices.

    Derivatives by central differences with 50 digits: their error is ε² ~ 1e-30, ours some 1e-15 times 1/gap.
    """
    problem = gaussian_problem(p, k)
    W1, W2 = weights(p, l, k)
    Z, m = oracles.stack(W1, W2), min(p + k, l)
    root = np.linalg.cholesky(problem.covariance)
    units = np.eye(p * k).reshape(-1, p, k)
    noise = [oracles.symmetric(root @ unit) for unit in units]
    drift = oracles.symmetric(oracles.gradient(problem, W1, W2))
    first, second = logs_along(Z, [drift, *noise], m)
    found = eigenvalues.forces(W1, W2, problem, NOISY)
    sigma2 = NOISY.intensity
    np.testing.assert_allclose(found.gradient, first[0], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.drift, first[0] + sigma2 / 2 * second[1:].sum(0), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.covariance, sigma2 * first[1:].T @ first[1:], rtol=1e-11, atol=1e-12)
    # and each part matters: 5 % of any is a thousand million times the tolerance
    assert all(np.abs(getattr(found, part)).min() > 1e-3 for part in PARTS)


def literal_rates(problem, vectors, sigma2):
    """n_ij = σ² ‖(L_Σᵀa_i) b_jᵀ + (L_Σᵀa_j) b_iᵀ‖²_F, pair by pair."""
    p, root = problem.n_inputs, np.linalg.cholesky(problem.covariance)
    a, b = root.T @ vectors[:p], vectors[p:]
    count = vectors.shape[1]
    return np.array(
        [
            [sigma2 * np.sum((np.outer(a[:, i], b[:, j]) + np.outer(a[:, j], b[:, i])) ** 2) for j in range(count)]
            for i in range(count)
        ]
    )


def test_parts_are_the_formulas_pair_by_pair_and_have_their_sums():
    problem = gaussian_problem(3, 2)
    W1, W2 = weights(3, 8, 2)
    found = eigenvalues.forces(W1, W2, problem, NOISY)
    Z = oracles.stack(W1, W2)
    values, vectors = np.linalg.eigh(Z @ Z.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    rates = literal_rates(problem, vectors, NOISY.intensity)
    np.testing.assert_allclose(np.exp(found.log_eigenvalues), values, rtol=1e-12)
    np.testing.assert_allclose(found.rates, rates, rtol=1e-11, atol=1e-13)
    for i in range(5):
        for j in range(5):
            pushed = 2 * rates[i, j] / np.tanh((np.log(values[i]) - np.log(values[j])) / 2) if i != j else 0.0
            assert found.pairs[i, j] == pytest.approx(pushed, rel=1e-10)
    np.testing.assert_allclose(found.noise, -rates.sum(1), rtol=1e-12)
    np.testing.assert_allclose(np.diag(found.covariance), 4 * np.diag(rates), rtol=1e-11)
    # the sums, to the rounding of numbers of order 1
    decay = rf.laws.determinant.rate(problem, NOISY)
    assert abs(found.gradient.sum()) < 1e-13 * np.abs(found.gradient).sum() + 1e-14
    assert found.noise.sum() == pytest.approx(decay, rel=1e-13)
    np.testing.assert_array_equal(found.pairs, -found.pairs.T)
    assert found.drift.sum() == pytest.approx(decay, rel=1e-12)
    assert np.abs(found.covariance.sum(1)).max() < 1e-13  # the sum of the log eigenvalues has no noise


def test_narrow_networks_feel_the_eigenvalues_that_are_zero():
    """With all p + k vectors, those of the null space included in any basis: coth = 1, so that each gives 2 n_ij."""
    problem = gaussian_problem(3, 2)
    W1, W2 = weights(3, 3, 2)
    found = eigenvalues.forces(W1, W2, problem, NOISY)
    vectors = np.linalg.svd(oracles.stack(W1, W2))[0]  # all five
    rates = literal_rates(problem, vectors, NOISY.intensity)
    np.testing.assert_allclose(found.zero_modes, 2 * rates[:3, 3:].sum(1), rtol=1e-11)
    np.testing.assert_allclose(found.noise, -rates[:3].sum(1), rtol=1e-12)
    assert found.zero_modes.min() > 1e-3
    wide = eigenvalues.forces(*weights(3, 5, 2), problem, NOISY)
    np.testing.assert_array_equal(wide.zero_modes, 0.0)


def test_it_is_vectorised_over_any_leading_axes():
    rng = np.random.default_rng(0)
    W1, W2 = rng.standard_normal((4, 6, 3, 7)), rng.standard_normal((4, 6, 7, 2))
    together = eigenvalues.forces(W1, W2, PROBLEM, NOISY)
    one = eigenvalues.forces(W1[2, 5], W2[2, 5], PROBLEM, NOISY)
    assert together.pairs.shape == (4, 6, 5, 5)
    for name in ("log_eigenvalues", "gradient", "noise", "pairs", "zero_modes", "rates", "covariance", "drift"):
        np.testing.assert_array_equal(getattr(together, name)[2, 5], getattr(one, name))


# --- what float64 cannot tell, and what is refused --------------------------------------------------------------------


def test_modes_below_rounding_are_nan_and_their_push_on_the_others_is_kept():
    """A start of rank 2 in a wide network: three eigenvalues are rounding noise, their space is not."""
    problem = gaussian_problem(3, 2)
    network = rf.LinearNetwork.balanced(3, 7, 2)
    W1, W2 = (layer[0] for layer in network.draw(1, seed=3))
    found = eigenvalues.forces(W1, W2, problem, NOISY)
    vectors = np.linalg.svd(oracles.stack(W1, W2))[0]
    rates = literal_rates(problem, vectors, NOISY.intensity)
    for name in ("gradient", "noise", "repulsion", "drift"):
        assert np.isfinite(getattr(found, name)).tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(found.pairs[:2, 2:].sum(1), 2 * rates[:2, 2:].sum(1), rtol=1e-10)
    assert np.isfinite(found.covariance).sum() == 4


def test_equal_eigenvalues_do_not_push_each_other():
    problem = rf.Problem.from_statistics(np.eye(1), np.zeros((1, 1)))
    found = eigenvalues.forces([[1.0, 0.0]], [[0.0], [1.0]], problem, NOISY)
    np.testing.assert_array_equal(found.pairs, 0.0)


def test_gradient_flow_has_the_gradient_alone_and_descents_their_limit():
    W1, W2 = weights(3, 7, 2)
    flow = eigenvalues.forces(W1, W2, PROBLEM, rf.GradientFlow())
    assert not flow.noise.any() and not flow.pairs.any() and flow.gradient.any()
    limit = eigenvalues.forces(W1, W2, PROBLEM, rf.StochasticGradientFlow(0.6, 0.02, batch_size=3))
    n = PROBLEM.n_samples
    for method in (
        rf.LabelNoiseDescent(0.02, 0.6, batch_size=3, weight_decay=0.1),
        rf.StochasticGradientDescent(0.02, n, label_noise=0.2 * n, weight_decay=0.1),
    ):
        found = eigenvalues.forces(W1, W2, PROBLEM, method)
        np.testing.assert_allclose(found.drift, limit.drift - 0.2, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": rf.StochasticGradientDescent(0.01, 5)}, "noise of mini-batches .batch_size 5 of 60"),
        ({"W1": np.ones((2, 7))}, "map 2 inputs to 2 outputs, the problem 3 to 2"),
        ({"W1": np.ones((4, 3, 7))}, "the same leading axes, got"),
        ({"W1": np.ones((3, 6))}, "W1 must have shape"),
        ({"W1": np.full((3, 7), np.nan)}, "weights must be finite"),
        ({"W1": "weights"}, "must be numeric arrays"),
    ],
)
def test_bad_input(change, message):
    arguments = {"W1": np.ones((3, 7)), "W2": np.ones((7, 2)), "problem": PROBLEM, "method": NOISY}
    with pytest.raises(rf.InvalidInput, match=message):
        eigenvalues.forces(**{**arguments, **change})


def test_other_losses_are_refused():
    labels = np.where(PROBLEM.labels > 0, 1.0, 0.0)
    problem = rf.Problem.from_data(PROBLEM.inputs, labels, loss="logistic")
    with pytest.raises(rf.InvalidInput, match="the problem has the logistic loss"):
        eigenvalues.forces(np.ones((3, 7)), np.ones((7, 2)), problem, NOISY)


# --- recorded runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "mini-batch"])
def test_what_a_run_records_is_the_law_at_its_weights(name, network):
    method, length = METHODS[name]
    run = rf.simulate(
        PROBLEM,
        network,
        method,
        **length,
        replicates=5,
        save_points=4,
        weights=True,
        observables=["eigenvalue_forces", "eigenvalues"],
    )
    recorded = eigenvalues.decompose(run)
    after = eigenvalues.decompose(run.drop_vars([name for name in run if str(name).startswith("force_")]))
    # the weights of a wide network are recorded after two multiplications more; 1e-9 for what near-collisions amplify
    for part in ("log_eigenvalues", "drift", "gradient", "noise", "repulsion", "pairs", "rates", "covariance"):
        scale = np.abs(after[part]).max()
        np.testing.assert_allclose(recorded[part], after[part], rtol=1e-9, atol=1e-10 * scale)
    np.testing.assert_allclose(np.log(run.eigenvalues), recorded.log_eigenvalues, rtol=1e-12, atol=1e-12)
    assert recorded.drift.dims == ("replicate", "time", "mode_Z")
    assert recorded.pairs.dims == ("replicate", "time", "mode_Z", "mode_Z_other")


def test_recording_changes_no_bit_and_has_the_same_bits_for_any_threads_and_replicates():
    method, length = METHODS["geometric"]
    options = {**length, "seed": 4, "save_points": 3}
    with_forces = rf.simulate(PROBLEM, WIDE, method, replicates=9, observables=["eigenvalue_forces"], **options)
    plain = rf.simulate(PROBLEM, WIDE, method, replicates=9, **options)
    np.testing.assert_array_equal(with_forces.singular_values_Z, plain.singular_values_Z)
    for replicates, threads in ((9, 1), (9, 2), (3, 1), (1, 1)):
        other = rf.simulate(
            PROBLEM, WIDE, method, replicates=replicates, threads=threads, observables=["eigenvalue_forces"], **options
        )
        for name in ("force_gradient", "force_pairs", "eigenvalue_covariance", "force_noise", "noise_rates"):
            np.testing.assert_array_equal(other[name], with_forces[name][:replicates])


def test_recorded_forces_survive_the_disk_a_rerun_and_an_interruption(tmp_path):
    method, length = METHODS["geometric"]
    options = {**length, "replicates": 3, "seed": 4, "save_points": 6, "observables": ["eigenvalue_forces"]}
    run = rf.simulate(PROBLEM, WIDE, method, **options)
    rf.save_run(run, tmp_path / "run.nc")
    assert rf.open_run(tmp_path / "run.nc").identical(run) and rf.rerun(run).identical(run)

    def stop(state):
        if state.completed > 0:
            raise KeyboardInterrupt

    with pytest.raises(rf.SimulationInterrupted) as caught:
        rf.simulate(PROBLEM, WIDE, method, **options, checkpoint=tmp_path / "c", progress=stop)
    part = eigenvalues.decompose(caught.value.run)
    np.testing.assert_array_equal(part.pairs, eigenvalues.decompose(run).pairs[:, : part.sizes["time"]])
    assert rf.simulate(PROBLEM, WIDE, method, **options, checkpoint=tmp_path / "c").identical(run)


def test_diverged_replicates_have_no_forces():
    with pytest.warns(rf.StepSizeWarning):
        run = rf.simulate(
            PROBLEM,
            rf.LinearNetwork.gaussian(3, 7, 2, 3.0),
            rf.GradientDescent(0.5),
            steps=200,
            save_points=3,
            observables=["eigenvalue_forces"],
        )
    assert str(run.outcome.values[0]).startswith("diverged")
    assert np.isfinite(run.force_gradient[0, 0]).all() and np.isnan(run.force_gradient[0, -1]).all()
    assert np.isnan(eigenvalues.decompose(run).drift[0, -1]).all()


def test_recording_of_mini_batches_is_refused():
    method, length = METHODS["mini-batch"]
    with pytest.raises(rf.InvalidInput, match="Use LabelNoiseDescent or StochasticGradientFlow"):
        rf.simulate(PROBLEM, WIDE, method, **length, observables=["eigenvalue_forces"])


def test_a_run_without_weights_and_forces_cannot_be_decomposed():
    method, length = METHODS["geometric"]
    run = rf.simulate(PROBLEM, WIDE, method, **length, save_points=3)
    with pytest.raises(rf.LawNotApplicable, match="eigenvalue_forces"):
        eigenvalues.decompose(run)
    with pytest.raises(rf.NotARun):
        eigenvalues.decompose({"W1": 1})


# --- the martingale ---------------------------------------------------------------------------------------------------

# Of the two tests together. Seeds are fixed: a test that passes keeps passing until the random numbers change.
FALSE_ALARM_RATE = 1e-3


@pytest.fixture(scope="module")
def ensemble():
    """40 000 trajectories from one start with gaps of 2.5: the noise moves them by some 0.7, so that the repulsion is
    felt.

    The step is 1/64 of a save interval, which itself is short against the gaps: over three seeds what both leave of
    bias was 0.1 % of the first mode's variance, 0.8 of its standard error, and less elsewhere (0.25 % with steps of
    1/16).
    """
    problem = rf.Problem.from_statistics(np.diag([0.6, 1.4]), [[0.08], [-0.18]])
    rng = np.random.default_rng(2)
    u = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    v = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    Z = u * np.exp(np.array([1.0, -1.5, -4.0]) / 2) @ v[:3]
    run = rf.simulate(
        problem,
        rf.LinearNetwork.from_weights(Z[:2], Z[2:].T),
        rf.StochasticGradientFlow(label_noise=0.5, step_size=1.0),
        duration=0.5,
        dt=0.5 / 3200,
        replicates=40_000,
        seed=1,
        save_points=51,
        observables=["eigenvalue_forces"],
    )
    return eigenvalues.decompose(run)


def test_an_ensemble_moves_with_the_predicted_drift_and_covariance(ensemble):
    found = eigenvalues.martingale(ensemble)
    assert min(found.drift_p, found.covariance_p) > FALSE_ALARM_RATE / 2
    assert found.used.min() > 0.7 and found.n_replicates == 40_000


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize("part", ["drift", *PARTS])
def test_a_drift_wrong_by_5_percent_is_rejected(ensemble, part, factor):
    wrong = ensemble.assign(drift=ensemble.drift + (factor - 1) * ensemble[part])
    assert eigenvalues.martingale(wrong).drift_p < FALSE_ALARM_RATE**2


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_covariance_wrong_by_5_percent_is_rejected(ensemble, factor):
    wrong = ensemble.assign(covariance=factor * ensemble.covariance)
    assert eigenvalues.martingale(wrong).covariance_p < FALSE_ALARM_RATE**2


def test_the_minus_one_matters(ensemble):
    """Dropping −n_ij of each pair, or doubling the coth's force, is no small thing."""
    others = -ensemble.noise - ensemble.rates.values.diagonal(axis1=-2, axis2=-1)
    wrong = ensemble.assign(drift=ensemble.drift + others)
    assert eigenvalues.martingale(wrong).drift_p < 1e-100


def test_residuals_of_slabs_can_be_joined(ensemble):
    slabs = [eigenvalues.residuals(ensemble.isel(replicate=part)) for part in (slice(15_000), slice(15_000, None))]
    joined = eigenvalues.martingale(xr.concat(slabs, "replicate"))
    whole = eigenvalues.martingale(ensemble)
    assert joined.drift_p == pytest.approx(whole.drift_p) and joined.covariance_p == pytest.approx(whole.covariance_p)


def test_martingale_says_what_it_needs(ensemble):
    with pytest.raises(rf.LawNotApplicable, match="at least 12 replicates, got 5"):
        eigenvalues.martingale(ensemble.isel(replicate=slice(5)))
    with pytest.raises(rf.LawNotApplicable, match="fell below 1e-14"):
        eigenvalues.martingale(ensemble.isel(replicate=slice(50)).assign(drift=ensemble.drift * np.nan))
