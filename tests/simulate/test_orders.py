"""Strong order 1/2 and weak order 1 of both integrators of the stochastic flow, and moments that are known exactly.

Weak order through the public `simulate`. Strong order needs Brownian paths of several step lengths with the same ends,
which `simulate` does not take: it is measured on the same steps written for a whole ensemble in NumPy, and one test
shows that these are the steps that `simulate` takes.
"""

import functools

import numpy as np
import pytest

import oracles
import rankfall as rf
from rankfall._kernels import noise
from simulate.injected import problem_with_data

INTEGRATORS = ("geometric", "euler")


def intensity(value, integrator="geometric"):
    """The stochastic flow with σ² = value."""
    return rf.StochasticGradientFlow(label_noise=value, step_size=1.0, integrator=integrator)


def slope(steps, errors):
    """Order: minus the slope of log error against log number of steps."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


# --- strong order -----------------------------------------------------------------------------------------------------


def advance(Z, increments, duration, d, C, sigma2, integrator):
    """Z (replicate, p + k, l) along Brownian increments (replicate, step, p, k), with Σ = diag(d)."""
    (p, k), steps = C.shape, increments.shape[1]
    h = duration / steps
    K = sigma2 * np.concatenate([k * d, np.full(k, d.sum())])
    quarter = np.exp(-K * h / 4)[:, None] if integrator == "geometric" else 1.0
    for step in range(steps):
        Z = quarter * Z
        H = h * (C - d[:, None] * (Z[:, :p] @ np.swapaxes(Z[:, p:], 1, 2)))
        hat = oracles.symmetric(H + np.sqrt(sigma2 * d)[:, None] * increments[:, step])
        if integrator == "geometric":
            values, vectors = np.linalg.eigh(hat)
            Z = quarter * ((vectors * np.exp(values)[:, None]) @ (np.swapaxes(vectors, 1, 2) @ Z))
        else:
            Z = Z + hat @ Z
    return Z


class Commuting:
    """One input and one output: all noise is a multiple of one matrix."""

    d, C, width, scale, sigma2 = np.array([1.0]), np.array([[0.5]]), 2, 0.5, 0.5


class Noncommuting:
    """The general case, small enough weights for the noise to decide the error."""

    d, width, scale, sigma2 = np.array([0.5, 1.0, 1.5]), 5, 0.3, 0.5
    C = 0.3 * np.random.default_rng(4).standard_normal((3, 2))


@functools.cache
def ends(case, integrator):
    """Z at time 1 of 400 paths, with 16, 32, …, 512 steps."""
    rng = np.random.default_rng(0)
    (p, k), finest, paths = case.C.shape, 512, 400
    Z = np.broadcast_to(case.scale * rng.standard_normal((p + k, case.width)), (paths, p + k, case.width))
    increments = rng.standard_normal((paths, finest, p, k)) / np.sqrt(finest)
    counts = [16, 32, 64, 128, 256, 512]
    summed = [increments.reshape(paths, count, -1, p, k).sum(axis=2) for count in counts]
    return np.array(counts), [advance(Z, path, 1.0, case.d, case.C, case.sigma2, integrator) for path in summed]


def mean_distances(some, others):
    return [np.linalg.norm(a - b, axis=(1, 2)).mean() for a, b in zip(some, others, strict=True)]


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_steps_below_are_those_of_simulate(integrator):
    case, steps, replicates = Noncommuting, 100, 6
    problem = rf.Problem.from_statistics(np.diag(case.d), case.C)
    network = rf.LinearNetwork.gaussian(3, case.width, 2, case.scale)
    run = rf.simulate(
        problem,
        network,
        intensity(case.sigma2, integrator),
        duration=1.0,
        dt=1 / steps,
        replicates=replicates,
        seed=2,
        save_points=2,
        weights=True,
        ledger="balance",
        noise_precision="single",
    )
    drawn = noise.normals(2, replicates, 0, steps, 6).reshape(replicates, steps, 3, 2)
    start = oracles.stack(*network.draw(replicates, seed=2))
    end = advance(start, drawn / np.sqrt(steps), 1.0, case.d, case.C, case.sigma2, integrator)
    d, basis = problem.eigenbasis()
    np.testing.assert_array_equal(d, case.d)  # so that the kernel's normals are those of the inputs
    np.testing.assert_array_equal(np.abs(basis), np.eye(3))
    ours = oracles.stack(run.W1.values[:, -1], run.W2.values[:, -1])
    # rounding of 100 steps in 7 places each, relative to the largest entry, all the same way: 8e-14
    assert np.abs(ours - end).max() < 1e-13 * np.abs(end).max()


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_strong_order_one_half(integrator):
    """E‖Z_h − Z_{h/2}‖ falls as √h. 400 paths tell the slope to 0.02; the next order adds 0.05."""
    counts, found = ends(Noncommuting, integrator)
    errors = mean_distances(found[:-1], found[1:])
    assert abs(slope(counts[:-1], errors) - 0.5) < 0.1, errors


def test_both_integrators_have_the_same_strong_limit():
    """Their distance on the same paths falls at the same rate, so that they solve one and the same equation."""
    counts, geometric = ends(Noncommuting, "geometric")
    distances = mean_distances(geometric, ends(Noncommuting, "euler")[1])
    assert abs(slope(counts, distances) - 0.5) < 0.1, distances


@pytest.mark.parametrize(("integrator", "order"), [("geometric", 1.0), ("euler", 0.5)])
def test_where_the_noise_commutes_the_geometric_integrator_has_order_one(integrator, order):
    """It takes the noise of such a step exactly. (And the measurement can tell 1/2 from 1.)"""
    counts, found = ends(Commuting, integrator)
    errors = mean_distances(found[:-1], found[1:])
    assert abs(slope(counts[:-1], errors) - order) < 0.1, errors


# --- weak order -------------------------------------------------------------------------------------------------------


def ensemble(problem, W1, W2, sigma2, integrator, duration, steps, replicates, *, ledger="balance", **options):
    return rf.simulate(
        problem,
        rf.LinearNetwork.from_weights(W1, W2),
        intensity(sigma2, integrator),
        duration=duration,
        dt=duration / steps,
        replicates=replicates,
        seed=steps,  # independent ensembles
        ledger=ledger,
        threads=1,
        **{"save_points": 2, **options},
    )


def assert_first_order(steps, biases, errors, tolerance):
    """Bias ∝ h: by slope, and all far above their standard errors."""
    steps, biases, errors = (np.asarray(values, dtype=float) for values in (steps, biases, errors))
    assert (np.abs(biases) > 8 * errors).all(), (biases, errors)
    assert (np.sign(biases) == np.sign(biases[0])).all()
    assert abs(slope(steps, np.abs(biases)) - 1.0) < tolerance, (biases, errors)


class Mode:
    """One balanced mode, W1 = W2 = √x: y = 1/(W1W2) obeys a linear equation, so that its mean is known at every time.

    With d = Σ and c = C the flow is dx = (2x(c − dx) + σ²dx) dt + 2σ√d x dB, and by Itô's formula
    dy = (2d − (2c − 3σ²d) y) dt − 2σ√d y dB.
    """

    def __init__(self, cross, variance, sigma2, start):
        self.problem = rf.Problem.from_statistics([[variance]], [[cross]])
        self.cross, self.variance, self.sigma2, self.start = cross, variance, sigma2, start

    def mean(self, wrong=1.0):
        """E[y] at time 1."""
        rate = 2 * self.cross - 3 * wrong * self.sigma2 * self.variance
        limit = 2 * self.variance / rate
        return limit + (1 / self.start - limit) * np.exp(-rate)

    def biases(self, integrator, steps, replicates=300_000):
        """Means of y over ensembles minus the exact one, and their standard errors."""
        weight, found = [[np.sqrt(self.start)]], []
        for count in steps:
            run = ensemble(self.problem, weight, weight, self.sigma2, integrator, 1.0, count, replicates, weights=True)
            y = 1.0 / (run.W1.values[:, -1, 0, 0] * run.W2.values[:, -1, 0, 0])
            found.append((y.mean() - self.mean(), y.std() / np.sqrt(replicates)))
        return tuple(np.array(found).T)


@pytest.mark.parametrize(
    ("integrator", "mode"), [("geometric", Mode(1.5, 0.5, 0.05, 0.3)), ("euler", Mode(0.5, 1.0, 0.02, 2.0))]
)
def test_weak_order_one_against_a_moment_that_is_known(integrator, mode):
    """Little noise, so that the biases are 13 standard errors and more, which gives the slope to 0.05.

    The next order in h adds up to 0.15 at the coarsest step.
    """
    steps = (8, 16, 32, 64)
    assert_first_order(steps, *mode.biases(integrator, steps, 100_000), 0.2)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_limit_is_the_moment_that_is_known(integrator):
    """Much noise: extrapolated to h = 0 the mean is the exact one, and not that of a 5 % larger σ²."""
    mode, steps = Mode(1.0, 1.0, 0.2, 0.3), (16, 32)
    (coarse, fine), errors = mode.biases(integrator, steps)
    known_to = 4 * np.hypot(errors[0], 2 * errors[1]) + abs(coarse) / 16  # four standard errors, and the next order
    assert abs(2 * fine - coarse) < known_to
    assert abs(2 * fine - coarse - (mode.mean(wrong=1.05) - mode.mean())) > known_to


def test_euler_has_weak_order_one_in_the_determinant():
    """The law gives log det M to compare with; the geometric integrator has no error in it at all."""
    problem = problem_with_data(3, 2)
    W1, W2 = (weights[0] for weights in rf.LinearNetwork.gaussian(3, 5, 2, 0.5).draw(1, seed=1))
    law = -2 * 2 * 0.2 * np.trace(problem.covariance) * 0.5
    steps, biases, errors = (16, 32, 64, 128), [], []
    for count in steps:
        run = ensemble(problem, W1, W2, 0.2, "euler", 0.5, count, 50_000, ledger="both")
        change = run.log_det[:, -1] - run.log_det[:, 0] - law
        biases.append(float(change.mean()))
        errors.append(float(change.std()) / np.sqrt(50_000))
    # the slope is known to 0.02; the next order in h is a twentieth of the bias at the coarsest step
    assert_first_order(steps, biases, errors, 0.15)
    run = ensemble(problem, W1, W2, 0.2, "geometric", 0.5, 16, 1000)
    # κ = 10 at most, 16 steps: rounding of 12 u √(7/3) κ √(16 + 40) = 2e-13
    assert np.abs(run.log_det[:, -1] - run.log_det[:, 0] - law).max() < 1e-12


def test_geometric_has_weak_order_one_in_the_loss_and_the_limit_of_euler():
    """E[loss] against Euler–Maruyama with 512 steps, which shares neither the exponential nor the scaling by K."""
    problem, replicates = problem_with_data(3, 2), 200_000
    W1, W2 = (weights[0] for weights in rf.LinearNetwork.gaussian(3, 5, 2, 0.5).draw(1, seed=1))

    def mean_loss(integrator, count):
        loss = ensemble(problem, W1, W2, 0.2, integrator, 0.5, count, replicates).loss[:, -1]
        return float(loss.mean()), float(loss.std()) / np.sqrt(replicates)

    exact, uncertain = mean_loss("euler", 512)
    steps = (8, 16, 32)
    means, errors = zip(*(mean_loss("geometric", count) for count in steps), strict=True)
    biases, errors = np.array(means) - exact, np.hypot(errors, uncertain)
    # biases of 60, 27 and 12 standard errors: the slope is known to 0.07; the next order adds up to 0.15
    assert_first_order(steps, biases, errors, 0.3)
    assert abs(2 * biases[2] - biases[1]) < 4 * np.sqrt(4 * errors[2] ** 2 + errors[1] ** 2)


# --- balance ----------------------------------------------------------------------------------------------------------


def balance_of(run):
    return oracles.balance(run.W1.values, run.W2.values)


def test_the_balance_decays_as_it_must_where_its_equation_closes():
    """Σ = s, p = k = 1: Q_t = Q_0 exp(−σ²st), exactly for the geometric integrator, at first order in h for Euler."""
    problem = rf.Problem.from_statistics([[0.8]], [[0.4]])
    W1, W2 = np.array([[1.2, 0.1]]), np.array([[0.3], [-0.2]])
    start = oracles.balance(W1, W2)
    steps, biases, errors = (4, 8, 16, 32), [], []
    for count in steps:
        exact = start * np.exp(-0.3 * 0.8 * 1.0)
        run = ensemble(problem, W1, W2, 0.3, "geometric", 1.0, count, 100, weights=True)
        # 32 steps, each rounding Q by a few u σ₁ ‖Z‖ < 2
        assert np.abs(balance_of(run)[:, -1] - exact).max() < 1e-13
        Q = balance_of(ensemble(problem, W1, W2, 0.3, "euler", 1.0, count, 20_000, weights=True))[:, -1, 0, 0]
        biases.append(Q.mean() - exact[0, 0])
        errors.append(Q.std() / np.sqrt(len(Q)))
    # biases of 8 and more standard errors: the slope is known to 0.06; the next order adds up to 0.15
    assert_first_order(steps, biases, errors, 0.25)


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize(("p", "k", "width"), [(3, 2, 2), (3, 2, 8), (2, 3, 6)])
def test_the_mean_balance_solves_its_equation(integrator, p, k, width):
    """E[Q_t] − Q_0 = ∫ σ²(tr Σ E[W2W2ᵀ] − k E[W1ᵀΣW1]) ds, the integral by the trapezoidal rule over 256 steps.

    What is left over is of order h, 1/256 of a change of order 1, and chance where the integrator has noise in Q.
    Wrong by 5 % in either term, the equation leaves several times as much.
    """
    problem, sigma2, steps = problem_with_data(p, k), 0.3, 256
    W1, W2 = (weights[0] for weights in rf.LinearNetwork.gaussian(p, width, k, 0.5).draw(1, seed=1))
    run = ensemble(
        problem,
        W1,
        W2,
        sigma2,
        integrator,
        1.0,
        steps,
        600,
        weights=True,
        save_points=steps + 1,
        ledger="balance",
    )
    first, second = run.W1.values, run.W2.values
    outer = sigma2 * np.trace(problem.covariance) * (second @ np.swapaxes(second, 2, 3)).mean(0)
    inner = sigma2 * k * (np.swapaxes(first, 2, 3) @ problem.covariance @ first).mean(0)
    Q = oracles.balance(first[:, [0, -1]], second[:, [0, -1]])
    change = Q[:, 1] - Q[:, 0]

    def left_over(of_outer, of_inner):
        rates = of_outer * outer - of_inner * inner
        integral = (rates[1:] + rates[:-1]).sum(0) / (2 * steps)
        return np.linalg.norm(change.mean(0) - integral)

    chance = 0.0
    if integrator == "euler":
        # Q − ∫ is a martingale: its size from how the replicates scatter about their own integrals
        own = sigma2 * np.trace(problem.covariance) * (second @ np.swapaxes(second, 2, 3))
        own -= sigma2 * k * (np.swapaxes(first, 2, 3) @ problem.covariance @ first)
        rest = change - (own[:, 1:] + own[:, :-1]).sum(1) / (2 * steps)
        chance = np.sqrt(rest.var(0).sum() / len(rest))
    size = max(np.linalg.norm(outer.mean(0)), np.linalg.norm(inner.mean(0)))
    known_to = 4 * chance + 2 * size / steps
    assert left_over(1.0, 1.0) < known_to
    for wrong in ((1.05, 1.0), (1.0, 1.05), (1.05, 1.05)):
        assert left_over(*wrong) > known_to, wrong
