"""Classification from end to end: problems, all methods against literal NumPy loops, laws, files, command line."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from typer.testing import CliRunner

import rankfall as rf
from rankfall import _stability, datasets, laws
from rankfall._engine import rounds
from rankfall._kernels import host, noise
from rankfall.cli import app

jax.config.update("jax_enable_x64", True)

N, P, K = 30, 3, 3
WIDE = rf.LinearNetwork.gaussian(P, P + K + 1, K, 0.6)
NARROW = rf.LinearNetwork.gaussian(P, 4, K, 0.6)
REPLICATES = 5
each_loss = pytest.mark.parametrize("loss", ["logistic", "cross_entropy"])


def problem_of(loss, soft=False):
    """Classes that no network can tell apart entirely: the loss has a minimum."""
    rng = np.random.default_rng(11)
    inputs = rng.standard_normal((N, P)) * [1.0, 0.5, 2.0]
    scores = inputs @ rng.standard_normal((P, K)) + rng.gumbel(size=(N, K))
    if loss == "logistic":
        labels = rng.uniform(0, 1, (N, K)) if soft else (scores > 0).astype(float)
    else:
        labels = rng.dirichlet(np.ones(K), N) if soft else np.eye(K)[scores.argmax(axis=1)]
    return rf.Problem.from_data(inputs, labels, loss=loss)


def jax_loss(problem, product):
    scores = problem.inputs @ product
    if problem.loss == "logistic":
        return jnp.sum(jax.nn.softplus(scores) - problem.labels * scores) / problem.n_samples
    return -jnp.sum(problem.labels * jax.nn.log_softmax(scores)) / problem.n_samples


def link(scores, loss):
    if loss == "logistic":
        return 1 / (1 + np.exp(-scores))
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True)


# --- problems ---


@each_loss
@pytest.mark.parametrize("soft", [False, True])
def test_loss_and_gradient_are_those_of_automatic_differentiation(loss, soft):
    problem = problem_of(loss, soft)
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 30.0):
        product = scale * rng.standard_normal((P, K))
        value, slope = jax.value_and_grad(lambda w: jax_loss(problem, w))(product)
        # sums of N·K terms, each with a few roundings of numbers of the size of the scores
        size = 2.0**-53 * (N * K + 20) * np.abs(problem.inputs).max() * (1 + np.abs(problem.inputs @ product).max())
        assert abs(problem.evaluate(product) - value) <= size * K
        assert np.abs(problem.gradient(product) + slope).max() <= size


def test_the_gradient_of_the_squared_loss_as_well():
    problem = rf.Problem.gaussian(20, 3, 2, seed=0, noise=1.0)
    product = np.ones((3, 2))
    slope = jax.grad(lambda w: jnp.sum((problem.inputs @ w - problem.labels) ** 2) / 40)(product)
    np.testing.assert_allclose(problem.gradient(product), -slope, rtol=1e-13, atol=1e-13)


@each_loss
def test_losses_of_huge_scores_are_finite_and_right(loss):
    problem = problem_of(loss)
    product = 1e4 * np.random.default_rng(1).standard_normal((P, K))
    scores, labels = problem.inputs @ product, problem.labels
    if loss == "logistic":  # log(1 + e^s) is max(s, 0) at this size
        exact = (np.maximum(scores, 0) - labels * scores).sum() / N
    else:
        exact = (scores.max(axis=1) - (labels * scores).sum(axis=1)).mean()
    assert problem.evaluate(product) == pytest.approx(exact, rel=1e-12)
    assert np.isfinite(problem.gradient(product)).all()


def test_classes_become_one_hot_in_sorted_order():
    x = np.eye(4)
    expected = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=float)
    for labels in (
        ["cat", "ape", "dog", "cat"],
        np.array(["cat", "ape", "dog", "cat"], dtype=object),
        [3, -1, 7, 3],
        np.array([[3.0], [-1.0], [7.0], [3.0]]),
        expected,
    ):
        problem = rf.Problem.from_data(x, labels, loss="cross_entropy")
        np.testing.assert_array_equal(problem.labels, expected)
        assert problem.n_outputs == 3
    two = rf.Problem.from_data(x, [True, False, True, True], loss="cross_entropy")
    np.testing.assert_array_equal(two.labels[:, 1], [1, 0, 1, 1])
    assert rf.Problem.from_data(x, [True, False, True, True], loss="logistic").n_outputs == 1


BAD_LABELS = [
    ("cross_entropy", [1, 1, 1, 1], "two classes or more, all 4 are 1"),
    ("cross_entropy", [0.5, 1, 0, 0], "class numbers must be whole, got 0.5"),
    ("cross_entropy", [np.nan, 1, 0, 0], "class numbers must be whole, got nan"),
    ("cross_entropy", [[0.5, 0.6]] * 4, "4 of 4 rows are not, the first is row 0 with sum 1.1"),
    ("cross_entropy", [[1, 0], [-0.5, 1.5], [0, 1], [1, 0]], "the first is row 1 with sum 1 and smallest entry -0.5"),
    ("cross_entropy", [None, "a", "b", 1], "class labels must be numbers or text"),
    ("cross_entropy", [1, 0], "one row per sample, got 4 and 2"),
    ("logistic", [0, 1, 2, 0], "between 0 and 1, got values from 0 to 2"),
    ("logistic", [-1, 1, 1, -1], r"For labels ±1 give \(labels \+ 1\) / 2"),
    ("logistic", ["a", "b", "a", "b"], "must be numbers, 0 or 1; for named classes use loss='cross_entropy'"),
    ("logistic", [0, np.inf, 1, 0], "must be finite"),
    ("hinge", [0, 1, 1, 0], "loss must be one of squared, logistic, cross_entropy, got 'hinge'"),
]


@pytest.mark.parametrize(("loss", "labels", "message"), BAD_LABELS)
def test_wrong_labels_are_refused(loss, labels, message):
    with pytest.raises(rf.InvalidInput, match=message):
        rf.Problem.from_data(np.eye(4), labels, loss=loss)


def test_accuracy_counts_right_samples():
    x = np.eye(4)
    problem = rf.Problem.from_data(x, [0, 1, 2, 2], loss="cross_entropy")
    product = np.array([[3.0, 0, 0], [0, 1, 2], [0, 1, 2], [-1, -2, -0.5]])
    assert problem.accuracy(product) == 0.75
    binary = rf.Problem.from_data(x, [[0, 1], [1, 1], [0, 0], [1, 0]], loss="logistic")
    assert binary.accuracy([[-1.0, 1], [1, 1], [1, -1], [1, 1]]) == 0.75
    with pytest.raises(rf.InvalidInput, match="no accuracy"):
        rf.Problem.gaussian(5, 2, 1, seed=0).accuracy(np.zeros((2, 1)))


def test_what_needs_the_squared_loss_says_so():
    problem = problem_of("cross_entropy")
    with pytest.raises(rf.InvalidInput, match="only the squared loss has a solution"):
        _ = problem.solution
    assert problem.minimum_loss == 0.0
    assert repr(problem) == "Problem(n_samples=30, n_inputs=3, n_outputs=3, from data, loss=cross_entropy)"
    flow = rf.StochasticGradientFlow(0.1, 0.1)
    white = rf.Problem.from_data(np.eye(2), [0, 1], loss="cross_entropy")
    for law in (
        lambda: laws.determinant.rate(white, flow),
        lambda: laws.balance.predict(white, flow, 1.0, [0.0]),
        lambda: laws.balance.drift(np.eye(2), np.eye(2), white, flow),
        lambda: laws.gradient_flow.balanced_product(white, np.eye(2), np.eye(2), [0.0]),
    ):
        with pytest.raises(rf.LawNotApplicable, match="squared loss only, the problem has loss='cross_entropy'"):
            law()
    assert laws.determinant.rate(white, rf.GradientFlow()) == 0.0


def test_the_generator_of_classifications():
    hard = rf.Problem.classification(400, 6, 4, seed=1, rank=2)
    again = rf.Problem.classification(400, 6, 4, seed=1, rank=2)
    np.testing.assert_array_equal(hard.labels, again.labels)
    assert not np.array_equal(hard.labels, rf.Problem.classification(400, 6, 4, seed=2, rank=2).labels)
    np.testing.assert_array_equal(hard.labels.sum(axis=1), 1.0)
    # the teacher behind it is that of the regression with the same seed, and classifies all samples
    teacher = rf.Problem.gaussian(400, 6, 4, seed=1, rank=2)
    assert np.linalg.matrix_rank(teacher.solution, tol=1e-8) == 2
    assert hard.accuracy(teacher.solution) == 1.0
    for keywords, message in (
        ({"n_classes": 1}, "n_classes must be at least 2"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"rank": 5}, "rank must be at most 4"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
    ):
        with pytest.raises(rf.InvalidInput, match=message):
            rf.Problem.classification(**{"n_samples": 10, "n_inputs": 6, "n_classes": 4, "seed": 0, **keywords})


def test_classes_at_a_temperature_have_the_probabilities_of_softmax():
    """40,000 samples; sums of s·(y − softmax(s/T)), with their known variances, over all and by input and class.

    Thirteen comparisons with 5 standard errors: a false alarm in 1e5. A temperature off by 5 % is seen.
    """
    n, temperature = 40_000, 0.7
    problem = rf.Problem.classification(n, 4, 3, seed=3, temperature=temperature)
    scores = problem.inputs @ rf.Problem.gaussian(n, 4, 3, seed=3).solution

    def deviations(t):
        q = link(scores / t, "cross_entropy")
        each = problem.inputs.T @ (problem.labels - q) / np.sqrt(np.square(problem.inputs).T @ (q * (1 - q)))
        variance = (q * scores**2).sum(axis=1) - (q * scores).sum(axis=1) ** 2
        total = (scores * (problem.labels - q)).sum() / np.sqrt(variance.sum())
        return np.abs([*each.ravel(), total])

    assert deviations(temperature).max() < 5 < deviations(1.05 * temperature)[-1]


# --- descents against a literal loop ---

METHODS = {
    "descent": rf.GradientDescent(0.05, weight_decay=0.1),
    "flips beside": rf.LabelNoiseDescent(0.05, 0.3, batch_size=4),
    "flips of all": rf.LabelNoiseDescent(0.05, 0.3, batch_size=N),
    "batches": rf.StochasticGradientDescent(0.05, 4),
    "batches, flips": rf.StochasticGradientDescent(0.05, 4, label_noise=0.3, weight_decay=0.05),
    "large batches, flips": rf.StochasticGradientDescent(0.05, 27, label_noise=0.3),
    "all in one batch": rf.StochasticGradientDescent(0.05, N, label_noise=0.3),
}
each_method = pytest.mark.parametrize("name", METHODS)
STEPS = 90


def literal(problem, W1, W2, method, seed, steps=STEPS):
    """Weights after every step, with the numbers that the kernel draws; nothing else is shared with it."""
    X, Y, n, loss = problem.inputs, problem.labels, problem.n_samples, problem.loss
    b = getattr(method, "batch_size", n)
    delta, eta, decay = getattr(method, "label_noise", 0.0), method.step_size, method.weight_decay
    path = [(W1.copy(), W2.copy())]
    chosen = noise.batches(seed, REPLICATES, 0, steps, n, b, 1)[0]
    turned = noise.flips(seed, REPLICATES, 0, steps, b, K, delta, loss)
    W1, W2 = W1.copy(), W2.copy()
    for step in range(steps):
        for r in range(REPLICATES):
            rows = np.arange(n) if b == n else chosen[r, step]
            noisy = Y[rows].copy()
            for place, turn in enumerate(turned[r, step]):
                if loss == "logistic":
                    noisy[place] = np.where(turn, 1 - noisy[place], noisy[place])
                else:
                    noisy[place] = np.roll(noisy[place], turn)
            W = W1[r] @ W2[r]
            if isinstance(method, rf.StochasticGradientDescent):
                G = X[rows].T @ (noisy - link(X[rows] @ W, loss)) / b
            else:
                G = X.T @ (Y - link(X @ W, loss)) / n + X[rows].T @ (noisy - Y[rows]) / b
            W1[r], W2[r] = (
                (1 - eta * decay) * W1[r] + eta * G @ W2[r].T,
                (1 - eta * decay) * W2[r] + eta * W1[r].T @ G,
            )
        path.append((W1.copy(), W2.copy()))
    return [np.stack(parts, axis=1) for parts in zip(*path, strict=True)]


@each_loss
@each_method
def test_descents_are_the_literal_ones(loss, name):
    problem, method = problem_of(loss), METHODS[name]
    run = rf.simulate(
        problem, WIDE, method, steps=STEPS, save_points=STEPS + 1, replicates=REPLICATES, seed=4, weights=True
    )
    W1, W2 = literal(problem, *WIDE.draw(REPLICATES, 4), method, 4)
    # Each of the steps rounds an entry in about N + p + k places by u of the largest weight, in either program, and the
    # dynamics amplify by a small factor; the errors found are a hundred times smaller.
    tolerance = 4 * STEPS * (N + P + K) * 2.0**-53 * np.abs(W1).max()
    assert np.abs(run.W1.values - W1).max() < tolerance and np.abs(run.W2.values - W2).max() < tolerance
    losses = np.array([[float(jax_loss(problem, w)) for w in each] for each in W1 @ W2])
    np.testing.assert_allclose(run.loss, losses, rtol=1e-9)
    scores = problem.inputs @ W1 @ W2
    if loss == "logistic":
        right = ((scores > 0) == (problem.labels > 0.5)).mean(axis=(-1, -2))
    else:
        right = (scores.argmax(-1) == problem.labels.argmax(-1)).mean(axis=-1)
    np.testing.assert_allclose(run.accuracy, right, rtol=1e-14)
    assert run.loss.attrs["long_name"] == {"logistic": "logistic loss", "cross_entropy": "cross-entropy"}[loss]


@each_loss
def test_one_batch_of_all_samples_is_label_noise_on_all(loss):
    problem = problem_of(loss)
    runs = [
        rf.simulate(problem, WIDE, METHODS[name], steps=60, replicates=REPLICATES, seed=2)
        for name in ("all in one batch", "flips of all")
    ]
    np.testing.assert_array_equal(runs[0].loss, runs[1].loss)
    plain = [
        rf.simulate(problem, WIDE, method, steps=60, replicates=REPLICATES, seed=2)
        for method in (
            rf.GradientDescent(0.05),
            rf.LabelNoiseDescent(0.05, 0.0, 3),
            rf.StochasticGradientDescent(0.05, N),
        )
    ]
    np.testing.assert_array_equal(plain[0].loss, plain[1].loss)
    np.testing.assert_array_equal(plain[0].loss, plain[2].loss)


def test_tiles_and_soft_labels_as_well():
    """p·k above the unrolled kernels, rows of probabilities that are turned, and a start that is given."""
    rng = np.random.default_rng(6)
    p, k, n = 8, 4, 21
    problem = rf.Problem.from_data(rng.standard_normal((n, p)), rng.dirichlet(np.ones(k), n), loss="cross_entropy")
    network = rf.LinearNetwork.gaussian(p, 13, k, 0.3)
    run = rf.simulate(
        problem, network, rf.StochasticGradientDescent(0.1, 5, 0.4), steps=40, save_points=2, seed=9, weights=True,
        replicates=REPLICATES,
    )  # fmt: skip
    W1, W2 = (w[0].copy() for w in network.draw(1, 9))
    chosen, turned = noise.batches(9, 1, 0, 40, n, 5, 1)[0][0], noise.flips(9, 1, 0, 40, 5, k, 0.4, "cross_entropy")[0]
    for rows, shifts in zip(chosen, turned, strict=True):
        x = problem.inputs[rows]
        noisy = np.stack([np.roll(y, s) for y, s in zip(problem.labels[rows], shifts, strict=True)])
        G = x.T @ (noisy - link(x @ W1 @ W2, "cross_entropy")) / 5
        W1, W2 = W1 + 0.1 * G @ W2.T, W2 + 0.1 * W1.T @ G
    tolerance = 4 * 40 * (n + p + k) * 2.0**-53 * np.abs(W1).max()
    assert np.abs(run.W1.values[0, -1] - W1).max() < tolerance


# --- gradient flow ---


@each_loss
def test_gradient_flow_is_that_of_a_solver(loss):
    problem = problem_of(loss)
    run = rf.simulate(
        problem, WIDE, rf.GradientFlow(), duration=20.0, save_points=5, replicates=2, seed=4, weights=True
    )
    W1, W2 = (w[1] for w in WIDE.draw(2, 4))
    l = W1.shape[1]

    def velocity(_, state):
        first, second = state[: P * l].reshape(P, l), state[P * l :].reshape(l, K)
        G = problem.inputs.T @ (problem.labels - link(problem.inputs @ first @ second, loss)) / N
        return np.concatenate([(G @ second.T).ravel(), (first.T @ G).ravel()])

    start = np.concatenate([W1.ravel(), W2.ravel()])
    solution = scipy.integrate.solve_ivp(
        velocity, (0, 20), start, method="DOP853", t_eval=run.time.values, rtol=1e-12, atol=1e-14
    )
    # `GradientFlow.tolerance` promises 1e-8 of the weights over a whole run.
    exact = solution.y.T[:, : P * l].reshape(-1, P, l)
    assert np.abs(run.W1.values[1] - exact).max() < 1e-8 * np.linalg.norm(start)
    assert [verdict.passed for verdict in laws.check(run, problem)] == [True, True]
    assert (np.diff(run.loss.values) < 0).all()


@each_loss
def test_descent_arrives_at_the_optimum(loss):
    """The convex loss of the product, minimised by BFGS with JAX's gradient."""
    problem = problem_of(loss)
    value = jax.jit(jax.value_and_grad(lambda w: jax_loss(problem, w.reshape(P, K))))
    best = scipy.optimize.minimize(
        lambda w: tuple(np.asarray(part) for part in value(w)), np.zeros(P * K), jac=True, method="BFGS", tol=1e-9
    )
    run = rf.simulate(problem, WIDE, rf.GradientDescent(0.05), steps=80_000, save_points=2, seed=1, weights=True)
    assert float(run.loss[0, -1]) == pytest.approx(best.fun, rel=1e-9)
    W = run.W1.values[0, -1] @ run.W2.values[0, -1]
    expected = link(problem.inputs @ best.x.reshape(P, K), loss)
    np.testing.assert_allclose(link(problem.inputs @ W, loss), expected, atol=1e-5)


def test_the_optimum_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    problem = problem_of("cross_entropy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # how "no penalty" is spelled changes between versions
        model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=10_000)
        model.fit(problem.inputs, problem.labels.argmax(axis=1))
    run = rf.simulate(problem, WIDE, rf.GradientDescent(0.05), steps=80_000, save_points=2, seed=1)
    assert float(run.loss[0, -1]) == pytest.approx(problem.evaluate(model.coef_.T), rel=1e-7)


# --- laws ---


@each_loss
@each_method
@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_ledgers_hold_for_any_loss(loss, name, network):
    problem = problem_of(loss)
    ledger = "both" if network is WIDE else "balance"
    run = rf.simulate(problem, network, METHODS[name], steps=400, replicates=3, seed=8, ledger=ledger, save_points=9)
    verdicts = laws.check(run, problem)
    assert [verdict.law for verdict in verdicts] == ["determinant ledger"] * (network is WIDE) + ["balance ledger"]
    assert all(verdict.passed for verdict in verdicts), [str(verdict) for verdict in verdicts]
    # A ledger that is off by a millionth of its own change is seen.
    if network is WIDE:
        run["ledger_log_det"] = run["ledger_log_det"] * (1 + 1e-6)
        assert laws.ledger.check(run).passed is False


def test_the_ledger_is_not_that_of_the_clean_gradient():
    """What the kernel adds up is the determinant of the steps that were taken, flips and all."""
    problem = problem_of("cross_entropy")
    method = METHODS["flips of all"]
    run = rf.simulate(problem, WIDE, method, steps=1, save_points=2, seed=4, replicates=REPLICATES, weights=True)
    clean = [problem.gradient(w) for w in run.W1.values[:, 0] @ run.W2.values[:, 0]]
    turned = noise.flips(4, REPLICATES, 0, 1, N, K, 0.3, "cross_entropy")[:, 0]
    taken = [
        G + problem.inputs.T @ (np.stack(list(map(np.roll, problem.labels, shifts))) - problem.labels) / N
        for G, shifts in zip(clean, turned, strict=True)
    ]
    np.testing.assert_allclose(run.ledger_log_det[:, 1], laws.ledger.step_change(np.array(taken), 0.05), rtol=1e-10)
    assert not np.allclose(run.ledger_log_det[:, 1], laws.ledger.step_change(np.array(clean), 0.05), rtol=1e-2)


def test_laws_refuse_the_problem_of_another_loss():
    problem = problem_of("cross_entropy")
    run = rf.simulate(problem, WIDE, rf.GradientDescent(0.1), steps=5)
    squared = rf.Problem.from_data(problem.inputs, problem.labels)
    with pytest.raises(rf.InvalidInput, match="its loss is squared, the run's cross_entropy"):
        laws.check(run, squared)
    assert all(verdict.passed for verdict in laws.check(run, problem))


# --- flips seen from outside ---


@each_loss
def test_flips_in_a_run_have_the_frequencies_they_claim(loss):
    """From W1 = 0, W2 = I one step is ΔW1 = ηG, and with inputs I row i of nG is ỹ_i less the link of zero.

    40,000 replicates of 6 samples: shares with a standard error of 1.3 % of themselves or less; of 5.5 of these an
    honest share leaves 4e-8. A probability off by 5 % is refused.
    """
    n, k, delta, replicates = 6, 3, 0.25, 40_000
    labels = np.eye(k)[np.arange(n) % k]
    if loss == "logistic":
        labels = (np.arange(n * k).reshape(n, k) % 2).astype(float)
    problem = rf.Problem.from_data(np.eye(n), labels, loss=loss)
    start = rf.LinearNetwork.from_weights(np.zeros((n, k)), np.eye(k))
    method = rf.StochasticGradientDescent(1.0, n, delta)
    run = rf.simulate(problem, start, method, steps=1, replicates=replicates, save_points=[1.0], seed=2, weights=True)
    noisy = run.W1.values[:, 0] * n + (0.5 if loss == "logistic" else 1 / k)
    np.testing.assert_allclose(noisy, np.rint(noisy), atol=1e-12)
    noisy = np.rint(noisy)

    def z(share, expected):
        return (share - expected) / np.sqrt(expected * (1 - expected) / replicates)

    if loss == "logistic":
        flipped = (noisy != labels).mean(axis=0)  # every label on its own
        assert np.abs(z(flipped, delta)).max() < 5.5
        assert abs(z(flipped.mean(), 1.05 * delta)) * np.sqrt(n * k) > 5.5
    else:
        np.testing.assert_array_equal(noisy.sum(axis=-1), 1.0)
        shares = noisy.mean(axis=0)
        expected = np.where(labels == 1.0, 1 - delta, delta / (k - 1))
        assert np.abs(z(shares, expected)).max() < 5.5
        wrong = np.where(labels == 1.0, 1 - 1.05 * delta, 1.05 * delta / (k - 1))
        assert z(shares, wrong)[labels == 1.0].mean() * np.sqrt(n) > 5.5


# --- bits, files and arguments ---

BITS = {**METHODS, "flow": rf.GradientFlow()}


def bits_of(name, loss="cross_entropy", **options):
    length = {"duration": 5.0} if name == "flow" else {"steps": 130}
    options = {"seed": 3, "save_points": 4, "weights": True, "replicates": 9, **length, **options}
    return rf.simulate(problem_of(loss), WIDE, BITS[name], **options)


def assert_same_bits(one, other, replicates=slice(None)):
    for variable in ("W1", "W2", "loss", "accuracy", "log_det", "singular_values_Z"):
        np.testing.assert_array_equal(one[variable][replicates], other[variable][replicates], err_msg=variable)


@pytest.mark.parametrize("name", BITS)
def test_bits_do_not_depend_on_threads_widths_and_replicates(name, monkeypatch):
    whole = bits_of(name, threads=1)
    assert_same_bits(whole, bits_of(name, threads=2))
    assert_same_bits(bits_of(name, replicates=2), whole, slice(2))
    monkeypatch.setattr(host, "host_lanes", lambda: 4)
    assert_same_bits(whole, bits_of(name))


@pytest.mark.parametrize("name", ["flips beside", "batches, flips", "flow"])
def test_interrupted_continued_saved_and_repeated(name, monkeypatch, tmp_path):
    whole = bits_of(name)
    monkeypatch.setattr(rounds, "_SECONDS_PER_ROUND", 1e-9)
    monkeypatch.setattr(rounds, "_FIRST_ROUND", 1)

    def stop(state):
        if state.stage == "running" and state.completed > 0:
            raise KeyboardInterrupt

    path = tmp_path / "here"
    with pytest.raises(rf.SimulationInterrupted):
        bits_of(name, checkpoint=path, progress=stop)
    with pytest.raises(rf.InvalidInput, match=r"problem\.loss is cross_entropy there, logistic here"):
        bits_of(name, loss="logistic", checkpoint=path)
    assert_same_bits(whole, bits_of(name, checkpoint=path))
    rf.save_run(whole, tmp_path / "run.nc")
    opened = rf.open_run(tmp_path / "run.nc")
    again = rf.rerun(opened)
    assert_same_bits(whole, again)
    assert again.attrs == whole.attrs
    problem = rf.runs.problem_of(opened)
    assert problem.loss == "cross_entropy"
    np.testing.assert_array_equal(problem.labels, problem_of("cross_entropy").labels)
    opened = opened.drop_vars("labels")
    with pytest.raises(rf.NotARun, match="problem is damaged"):
        rf.runs.problem_of(opened)


def test_methods_and_arguments_that_do_not_fit_are_refused():
    problem, squared = problem_of("cross_entropy"), rf.Problem.gaussian(20, P, K, seed=0)
    cases = [
        (problem, rf.StochasticGradientFlow(0.1, 0.1), {"duration": 1.0}, "flipped labels. Use LabelNoiseDescent"),
        (problem, rf.LabelNoiseDescent(0.1, 1.0), {"steps": 1}, "must be below 1, got 1"),
        (problem, rf.StochasticGradientDescent(0.1, 2, 1.5), {"steps": 1}, "probability that a label is flipped"),
        (problem, rf.LabelNoiseDescent(0.1, 0.1, N + 1), {"steps": 1}, "got 31 for 30 samples"),
        (squared, rf.GradientDescent(0.1), {"steps": 1, "observables": ["accuracy"]}, "squared loss has no accuracy"),
    ]
    for which, method, length, message in cases:
        with pytest.raises(rf.InvalidInput, match=message):
            rf.simulate(which, WIDE, method, **length)
    bare = rf.Problem(problem.covariance, problem.cross_covariance, loss="logistic")
    for act in (
        lambda: rf.simulate(bare, WIDE, rf.GradientDescent(0.1), steps=1),
        lambda: bare.evaluate(np.zeros((P, K))),
    ):
        with pytest.raises(rf.InvalidInput, match="loss='logistic' needs the data"):
            act()


@each_loss
def test_the_warning_of_large_steps_bounds_the_sharpness(loss):
    """Above the largest eigenvalue of the Hessian that JAX finds, and not by more than the curvature is less than its
    bound: at scores of zero σ(1−σ) = ¼ is the bound, and softmax over three classes has 1/3 of the ½."""
    problem = problem_of(loss)
    for scale, slack in ((0.01, 1.6), (1.0, 40.0)):
        W1, W2 = rf.LinearNetwork.gaussian(P, 5, K, scale).draw(3, 0)
        bound = _stability.sharpness(problem, W1, W2)
        largest = -np.inf
        for first, second in zip(W1, W2, strict=True):

            def total(weights):
                return jax_loss(problem, weights[: P * 5].reshape(P, 5) @ weights[P * 5 :].reshape(5, K))

            hessian = jax.hessian(total)(np.concatenate([first.ravel(), second.ravel()]))
            largest = max(largest, float(np.linalg.eigvalsh(hessian)[-1]))
        # the power iteration comes from below, within a few per cent
        assert 0.95 * largest < bound < slack * largest
    with pytest.warns(rf.StepSizeWarning, match="the loss may rise and oscillate"):
        rf.simulate(problem, WIDE, rf.GradientDescent(50.0), steps=2)


@pytest.mark.parametrize(
    ("name", "loss", "outputs"),
    [("digits", "cross_entropy", 10), ("digits", "logistic", 10), ("breast-cancer", "logistic", 1),
     ("breast-cancer", "cross_entropy", 2)],
)  # fmt: skip
def test_bundled_classifications(name, loss, outputs):
    problem = datasets.load(name, loss=loss)
    assert problem.loss == loss and problem.n_outputs == outputs
    assert set(np.unique(problem.labels)) == {0.0, 1.0}
    if outputs > 1:
        np.testing.assert_array_equal(problem.labels.sum(axis=1), 1.0)
    np.testing.assert_array_equal(problem.inputs, datasets.load(name).inputs)


def test_bundled_regression_has_no_classes():
    with pytest.raises(rf.InvalidInput, match="diabetes is a regression"):
        datasets.load("diabetes", loss="logistic")
    with pytest.raises(rf.InvalidInput, match="loss must be one of"):
        datasets.load("digits", loss="hinge")


def command(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_line(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((40, 3)))
    (tmp_path / "y.csv").write_text("class\n" + "\n".join(str(c) for c in rng.integers(0, 3, 40)))
    data = ("--inputs", tmp_path / "x.npy", "--labels", tmp_path / "y.csv", "--loss", "cross-entropy")
    method = (
        "--method",
        "stochastic-gradient-descent",
        "--step-size",
        "0.1",
        "--batch-size",
        "5",
        "--label-noise",
        "0.1",
    )
    method = (*method, "--scale", "0.3")
    result = command("simulate", *method, *data, "--steps", "60", "--out", tmp_path / "run.nc", "-q")
    assert result.exit_code == 0, result.output
    assert "accuracy 0." in result.stdout and "PASS determinant ledger" in result.stdout
    assert command("check", tmp_path / "run.nc").exit_code == 0
    plotted = command("plot", tmp_path / "run.nc", "--out", tmp_path / "run.svg")
    assert plotted.exit_code == 0 and (tmp_path / "run.svg").exists()
    found = rf.open_run(tmp_path / "run.nc")
    assert found["labels"].shape == (40, 3) and "accuracy" in found
    drawn = command(
        "simulate", "--method", "gradient-flow", "--duration", "1", "--loss", "cross-entropy", "--n-samples", "30",
        "--n-outputs", "3", "--out", tmp_path / "flow.nc", "-q",
    )  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    for words, message in (
        (("--loss", "logistic"), "--loss logistic needs --inputs"),
        (("--loss", "cross-entropy", "--teacher-noise", "1"), "--teacher-noise is for the squared loss"),
        (("--loss", "logistic", *data[:4]), "between 0 and 1"),
    ):
        bad = command("simulate", *method, *words, "--steps", "5", "--out", tmp_path / "bad.nc", "-q")
        assert bad.exit_code == 2 and message in bad.stderr, bad.output
