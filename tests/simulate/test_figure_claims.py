"""What the figure of Varre, Sagitova & Flammarion (NeurIPS 2024) shows, as assertions on runs of its setting.

n = 1000 Gaussian samples, p = 5, k = 2, l = 10, a Gaussian start and a Gaussian teacher; label noise δ = 0 and δ = 2,
with step size η = 0.01 and one label per step, so that σ² = ηδ. 64 replicates from the same starts for both.
"""

import numpy as np
import pytest

import oracles
import rankfall as rf

DURATION = 600.0
NETWORK = rf.LinearNetwork.gaussian(n_inputs=5, width=10, n_outputs=2)
NOISY = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)


def simulated(problem, method, duration=DURATION):
    return rf.simulate(problem, NETWORK, method, duration=duration, replicates=64, seed=1, save_points=301, threads=1)


@pytest.fixture(scope="module")
def problem():
    return rf.Problem.gaussian(n_samples=1000, n_inputs=5, n_outputs=2, seed=0)


@pytest.fixture(scope="module")
def without_noise(problem):
    return simulated(problem, rf.GradientFlow())


@pytest.fixture(scope="module")
def with_noise(problem):
    return simulated(problem, NOISY)


def shares(run, name, at=-1):
    """Singular values as fractions of those that each replicate started with."""
    values = run[f"singular_values_{name}"].values
    return values[:, at] / values[:, 0]


def resolved(run):
    """Save points with κ ≤ 1e8: rounding moves log det M by less than 12 u √3 κ √steps = 1e-4, of 1e2 that it falls."""
    spectrum = run.singular_values_Z.values
    return spectrum[..., 0] <= 1e8 * spectrum[..., -1]


def test_the_determinant_is_constant_without_noise(without_noise):
    log_det = without_noise.log_det.values
    assert np.abs(np.expm1(log_det - log_det[:, :1])).max() < 1e-8
    assert (without_noise.loss[:, -1] < 1e-8 * without_noise.loss[:, 0]).all()  # while everything was learned


def test_the_determinant_decays_at_the_predicted_rate_with_noise(problem, with_noise):
    """Every replicate, by the slope of log det M and at every save point."""
    rate = -2 * 2 * (0.01 * 2.0) * np.sum(problem.inputs**2) / 1000
    time = with_noise.time.values
    for log_det, known in zip(with_noise.log_det.values, resolved(with_noise), strict=True):
        assert time[known].max() > 150
        assert np.polyfit(time[known], log_det[known], 1)[0] == pytest.approx(rate, rel=1e-6)
        assert np.abs(log_det - log_det[0] - rate * time)[known].max() < 1e-6 * abs(rate * time[known].max())


@pytest.mark.parametrize(
    "method",
    [
        rf.StochasticGradientFlow(label_noise=0.5, step_size=0.01),
        rf.StochasticGradientFlow(label_noise=2.0, step_size=0.005),
        rf.StochasticGradientFlow(label_noise=6.0, step_size=0.01, batch_size=4),
    ],
    ids=["variance", "step size", "batch size"],
)
def test_the_rate_is_proportional_to_step_size_and_variance_over_batch_size(problem, method):
    run = simulated(problem, method, duration=50.0)
    rate = -2 * 2 * method.step_size * method.label_noise / method.batch_size * np.sum(problem.inputs**2) / 1000
    slopes = (run.log_det[:, -1] - run.log_det[:, 0]).values / 50.0
    assert resolved(run).all()
    np.testing.assert_allclose(slopes, rate, rtol=1e-6)


def test_three_singular_values_of_W1_die_with_noise_in_every_replicate(problem, with_noise):
    """As many as p exceeds the rank of the teacher, 5 − 2: W1 falls to the rank that the data need. None of W2 does."""
    assert np.linalg.matrix_rank(problem.solution) == 2
    W1, W2 = shares(with_noise, "W1"), shares(with_noise, "W2")
    assert (W1[:, 2:] < 1e-3).all()
    assert (W1[:, :2] > 0.1).all() and (W2 > 0.1).all()
    assert (with_noise.loss[:, -1] < 0.1 * with_noise.loss[:, 0]).all()  # not because all was forgotten


def test_none_dies_without_noise(problem, without_noise):
    """W1ᵀW1 = Q + W2W2ᵀ ⪰ Q, and Q is conserved: σ_i(W1)² stays above the i-th eigenvalue of Q_0 for ever."""
    assert (shares(without_noise, "W1") > 0.3).all()
    assert (shares(without_noise, "W2") > 0.1).all()
    start = oracles.balance(*NETWORK.draw(64, seed=1))
    floor = np.linalg.eigvalsh(start)[:, :-6:-1]
    assert (floor > 0).all()
    # conserved to rounding: 1e-10 of ‖Q‖
    assert (without_noise.singular_values_W1.values**2 > floor[:, None] - 1e-10 * floor[:, None, :1]).all()


def test_both_begin_alike(with_noise, without_noise):
    for name in ("log_det", "singular_values_W1", "loss", "balance"):
        assert np.array_equal(with_noise[name][:, 0], without_noise[name][:, 0])


def test_a_teacher_of_rank_one_leaves_one(problem):
    """Then four singular values of W1 die and one of W2, the slowest of them with large excursions: by the median."""
    run = simulated(rf.Problem.gaussian(1000, 5, 2, seed=0, rank=1), NOISY, duration=2400.0)
    W1, W2 = (np.median(shares(run, name), axis=0) for name in ("W1", "W2"))
    assert (W1[1:] < 1e-3).all() and W1[0] > 0.1
    assert W2[1] < 1e-3 and W2[0] > 0.1


def test_every_law_holds(problem, with_noise, without_noise):
    for run, laws in ((without_noise, 2), (with_noise, 1)):
        verdicts = rf.laws.check(run, problem)
        assert [verdict.passed for verdict in verdicts] == [True] * laws, [str(verdict) for verdict in verdicts]
