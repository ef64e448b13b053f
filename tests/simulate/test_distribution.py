"""The random methods in distribution, against plain loops over explicit data with random numbers of their own."""

import numpy as np
import pytest
from scipy.stats import chi2, ks_2samp

import oracles
import rankfall as rf
from simulate.injected import problem_with_data

# Of all comparisons of one test together. Seeds are fixed: a test that passes keeps passing until the random numbers
# change, and then one change in a thousand fails it without being wrong.
FALSE_ALARM_RATE = 1e-3


def started(p=3, k=2, width=5, n=20):
    """A problem with data and one wide start for all replicates."""
    W1, W2 = (weights[0] for weights in rf.LinearNetwork.gaussian(p, width, k, 0.5).draw(1, seed=1))
    return problem_with_data(p, k, n=n), W1, W2


def simulated(problem, W1, W2, method, replicates, seed=1, **options):
    return rf.simulate(
        problem,
        rf.LinearNetwork.from_weights(W1, W2),
        method,
        replicates=replicates,
        seed=seed,
        save_points=2,
        ledger="both",
        threads=1,
        **options,
    )


# --- one step ---------------------------------------------------------------------------------------------------------


def step_gradients(problem, W1, W2, method, replicates, precision="single"):
    """The noisy G of one step of `simulate`, recovered from the change of W1 (W2 has full column rank)."""
    run = simulated(problem, W1, W2, method, replicates, steps=1, weights=True, noise_precision=precision)
    first, second = (run[name].values[:, 1] - run[name].values[:, 0] for name in ("W1", "W2"))
    G = first @ np.linalg.pinv(W2.T) / method.step_size
    # both layers moved by the same G: rounding of η G against weights of order 1, divided by η
    assert np.abs(second - method.step_size * (W1.T @ G)).max() < 1e-13
    assert np.abs(first - method.step_size * (G @ W2.T)).max() < 1e-13
    return G.reshape(replicates, -1)


def moments_agree(sample, mean, covariance):
    """p-values of the mean and of the covariance of a Gaussian sample (replicate, variable).

    In coordinates in which the covariance should be I: R|mean|² is χ² with m degrees of freedom, and the m(m+1)/2
    entries of the sample covariance S are nearly independent normals of variance 1/R (2/R on the diagonal), so that
    R/2 ‖S − I‖² is χ² with m(m+1)/2. The latter is an approximation for R → ∞, here 1e5.
    """
    count, m = sample.shape
    white = np.linalg.solve(np.linalg.cholesky(covariance), (sample - mean).T).T
    S = white.T @ white / count
    return (
        chi2.sf(count * (white.mean(0) ** 2).sum(), m),
        chi2.sf(count / 2 * ((S - np.eye(m)) ** 2).sum(), m * (m + 1) // 2),
    )


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_step_of_label_noise_descent_has_the_mean_and_covariance_of_the_formula(batch_size, precision):
    """G is C − ΣW1W2 plus noise of covariance (δ/b) Σ ⊗ I; 5 % off in the variance, or 5 % of a deviation in the mean
    of one entry, is rejected."""
    problem, W1, W2 = started()
    method = rf.LabelNoiseDescent(0.05, 2.0, batch_size=batch_size)
    G = step_gradients(problem, W1, W2, method, 100_000, precision)
    mean = oracles.gradient(problem, W1, W2).ravel()
    covariance = 2.0 / batch_size * np.kron(problem.covariance, np.eye(2))
    assert min(moments_agree(G, mean, covariance)) > FALSE_ALARM_RATE
    for wrong in (0.95, 1.05):
        assert moments_agree(G, mean, wrong * covariance)[1] < FALSE_ALARM_RATE**3
    shift = np.zeros(6)
    shift[3] = 0.05 * np.sqrt(covariance[3, 3])
    assert moments_agree(G, mean + shift, covariance)[0] < FALSE_ALARM_RATE**3
    # nor is the noise white where Σ is not
    white = 2.0 / batch_size * np.trace(problem.covariance) / 3 * np.eye(6)
    assert moments_agree(G, mean, white)[1] < FALSE_ALARM_RATE**3


def test_it_is_the_covariance_of_explicit_noisy_labels():
    """The formula itself: full-batch gradients with fresh noise of variance δ on all n labels have (δ/n) Σ ⊗ I."""
    problem, W1, W2 = started()
    rng = np.random.default_rng(2)
    labels = problem.labels + np.sqrt(2.0) * rng.standard_normal((100_000, 20, 2))
    G = oracles.batch_gradient(problem.inputs, labels, W1, W2).reshape(100_000, -1)
    mean = oracles.gradient(problem, W1, W2).ravel()
    covariance = 2.0 / 20 * np.kron(problem.covariance, np.eye(2))
    assert min(moments_agree(G, mean, covariance)) > FALSE_ALARM_RATE


def test_a_mini_batch_step_has_the_mean_and_covariance_of_sampling_without_replacement():
    """Cov G = (δ/b) Σ ⊗ I + (1/b)(n − b)/(n − 1) Cov over the samples of x(y − xᵀW)ᵀ.

    The batches are not Gaussian, so the covariance is tested by standard errors from the sample itself, 5 of them for
    each of the 21 entries: a false alarm once in 80 000 changes.
    """
    problem, W1, W2 = started()
    b, n, delta, replicates = 4, 20, 0.5, 200_000
    G = step_gradients(problem, W1, W2, rf.StochasticGradientDescent(0.05, b, label_noise=delta), replicates)
    each = (problem.inputs[:, :, None] * (problem.labels - problem.inputs @ W1 @ W2)[:, None]).reshape(n, -1)
    mean = each.mean(0)
    np.testing.assert_allclose(mean, oracles.gradient(problem, W1, W2).ravel(), rtol=1e-12)
    sampling = (each - mean).T @ (each - mean) / n * (n - b) / (n - 1) / b
    labels = delta / b * np.kron(problem.covariance, np.eye(2))
    assert 0.2 < np.trace(labels) / np.trace(sampling) < 5  # either part matters
    centred = G - mean
    products = np.einsum("ri,rj->rij", centred, centred)
    deviation = products.std(0) / np.sqrt(replicates)
    assert (np.abs(G.mean(0) - mean) < 5 * G.std(0) / np.sqrt(replicates)).all()

    def largest_excess(covariance):
        return (np.abs(products.mean(0) - covariance) / deviation).max()

    assert largest_excess(sampling + labels) < 5
    with_replacement = sampling * (n - 1) / (n - b)
    for wrong in (1.05 * sampling + labels, sampling + 1.05 * labels, 0.95 * (sampling + labels), with_replacement):
        assert largest_excess(wrong) > 5


# --- short runs -------------------------------------------------------------------------------------------------------


def plain_loop(problem, W1, W2, *, step_size, steps, batch_size, label_noise, replicates, seed, decay=0.0):
    """SGD as one would write it: rows of the data, noisy labels, both layers at once. Final weights."""
    rng, n = np.random.default_rng(seed), problem.n_samples
    W1, W2 = (np.repeat(weights[None], replicates, axis=0) for weights in (W1, W2))
    for _ in range(steps):
        if batch_size == n:
            rows = np.broadcast_to(np.arange(n), (replicates, n))
        else:
            rows = np.argpartition(rng.random((replicates, n)), batch_size, axis=1)[:, :batch_size]
        noise = np.sqrt(label_noise) * rng.standard_normal((replicates, batch_size, problem.n_outputs))
        G = oracles.batch_gradient(problem.inputs[rows], problem.labels[rows] + noise, W1, W2)
        W1, W2 = oracles.descent_step(W1, W2, G, step_size, decay)
    return W1, W2


def observed(problem, W1, W2):
    """Loss on the data and log singular values, by name."""
    residual = problem.inputs @ W1 @ W2 - problem.labels
    found = {"loss": (residual**2).sum((1, 2)) / (2 * problem.n_samples)}
    for name, weights in (("W1", W1), ("W2", W2), ("Z", oracles.stack(W1, W2))):
        logs = np.log(np.linalg.svd(weights, compute_uv=False))
        found |= {f"log σ{mode + 1}({name})": logs[:, mode] for mode in range(logs.shape[1])}
    return found


def recorded(run):
    """The same from what a run recorded."""
    found = {"loss": run.loss.values[:, -1]}
    for name in ("W1", "W2", "Z"):
        logs = np.log(run[f"singular_values_{name}"].values[:, -1])
        found |= {f"log σ{mode + 1}({name})": logs[:, mode] for mode in range(logs.shape[1])}
    return found


def p_value(ours, theirs):
    """Smallest of the two-sample Kolmogorov–Smirnov tests, times their number (Bonferroni)."""
    assert ours.keys() == theirs.keys()
    return len(ours) * min(ks_2samp(ours[name], theirs[name]).pvalue for name in ours)


REPLICATES, STEPS = 8000, 60


def test_label_noise_descent_is_descent_with_noisy_labels():
    """As many noisy labels as samples, b = n, is full-batch descent on Y + fresh noise: an equality of distributions.

    So is any b, if the full batch carries labels of variance δ n/b.
    """
    problem, W1, W2 = started()
    theirs = observed(
        problem,
        *plain_loop(
            problem, W1, W2, step_size=0.05, steps=STEPS, batch_size=20, label_noise=40.0, replicates=REPLICATES, seed=3
        ),
    )

    def ours(label_noise, batch_size):
        method = rf.LabelNoiseDescent(0.05, label_noise, batch_size=batch_size)
        return recorded(simulated(problem, W1, W2, method, REPLICATES, steps=STEPS))

    assert p_value(ours(40.0, 20), theirs) > FALSE_ALARM_RATE
    assert p_value(ours(4.0, 2), theirs) > FALSE_ALARM_RATE
    for wrong in (0.95, 1.05):
        assert p_value(ours(wrong * 4.0, 2), theirs) < FALSE_ALARM_RATE / 10


@pytest.mark.parametrize(("batch_size", "decay"), [(1, 0.0), (6, 0.3)])
def test_mini_batch_descent_with_noisy_labels_is_the_plain_loop(batch_size, decay):
    problem, W1, W2 = started()
    label_noise = 1.5 * batch_size
    theirs = observed(
        problem,
        *plain_loop(
            problem,
            W1,
            W2,
            step_size=0.05,
            steps=STEPS,
            batch_size=batch_size,
            label_noise=label_noise,
            replicates=REPLICATES,
            seed=4,
            decay=decay,
        ),
    )

    def ours(variance, b=batch_size, lambda_=decay):
        method = rf.StochasticGradientDescent(0.05, b, label_noise=variance, weight_decay=lambda_)
        return recorded(simulated(problem, W1, W2, method, REPLICATES, steps=STEPS))

    assert p_value(ours(label_noise), theirs) > FALSE_ALARM_RATE
    for wrong in (0.95, 1.05):
        assert p_value(ours(wrong * label_noise), theirs) < FALSE_ALARM_RATE / 10
    if decay:
        assert p_value(ours(label_noise, lambda_=0.95 * decay), theirs) < FALSE_ALARM_RATE / 10


def test_mini_batch_descent_without_label_noise_is_the_plain_loop():
    problem, W1, W2 = started()
    theirs = observed(
        problem,
        *plain_loop(
            problem, W1, W2, step_size=0.05, steps=STEPS, batch_size=3, label_noise=0.0, replicates=REPLICATES, seed=5
        ),
    )

    def ours(step_size, b):
        return recorded(simulated(problem, W1, W2, rf.StochasticGradientDescent(step_size, b), REPLICATES, steps=STEPS))

    assert p_value(ours(0.05, 3), theirs) > FALSE_ALARM_RATE
    assert p_value(ours(0.05 * 1.05, 3), theirs) < FALSE_ALARM_RATE / 10
    assert p_value(ours(0.05, 4), theirs) < FALSE_ALARM_RATE / 10


def test_replicates_and_seeds_are_independent_draws():
    """Final log det M of two seeds, and of even and odd replicates, is uncorrelated: five standard errors of 1/√R."""
    problem, W1, W2 = started()
    method = rf.LabelNoiseDescent(0.05, 2.0)
    first, second = (
        simulated(problem, W1, W2, method, REPLICATES, seed=seed, steps=STEPS).log_det.values[:, -1] for seed in (1, 2)
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(REPLICATES)
    assert abs(np.corrcoef(first[::2], first[1::2])[0, 1]) < 5 / np.sqrt(REPLICATES / 2)
    assert len(np.unique(np.concatenate([first, second]))) == 2 * REPLICATES
