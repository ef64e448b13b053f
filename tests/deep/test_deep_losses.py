"""Deep networks with the losses of classification: the gradient by autodiff, and the ledgers of every pair."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankfall as rf

jax.config.update("jax_enable_x64", True)


def problem(loss):
    if loss == "cross_entropy":
        return rf.Problem.classification(60, 4, 3, seed=0)
    rng = np.random.default_rng(1)
    return rf.Problem.from_data(rng.standard_normal((60, 4)), rng.integers(0, 2, (60, 2)).astype(float), loss=loss)


def loss_of(name, inputs, labels):
    def value(layers):
        scores = inputs
        for layer in layers:
            scores = scores @ layer
        if name == "cross_entropy":
            return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(scores), axis=1))
        return jnp.mean(jnp.sum(jnp.logaddexp(0.0, scores) - labels * scores, axis=1))

    return value


@pytest.mark.parametrize("loss", ["cross_entropy", "logistic"])
@pytest.mark.parametrize("hidden", [[6, 5], [5, 7, 6]])
def test_descent_is_that_of_plain_autodiff(loss, hidden):
    given = problem(loss)
    network = rf.LinearNetwork.gaussian(given.n_inputs, hidden, given.n_outputs, scale=0.3)
    layers = [jnp.asarray(layer[0]) for layer in network.draw(1, seed=3)]
    value = loss_of(loss, jnp.asarray(given.inputs), jnp.asarray(given.labels))
    expected = []
    for _ in range(40):
        gradients = jax.grad(value)(layers)
        layers = [layer - 0.02 * gradient for layer, gradient in zip(layers, gradients, strict=True)]
        expected.append(float(value(layers)))
    run = rf.simulate(
        given, network, rf.GradientDescent(0.02), steps=40, seed=3, weights=True, save_points=np.arange(41) * 0.02
    )
    # Forty steps of sums of at most 60 terms: a few hundred roundings of numbers of order one.
    assert np.abs(run.loss.values[0, 1:] - expected).max() < 1e-12
    for i, layer in enumerate(layers, start=1):
        assert np.abs(run[f"W{i}"].values[0, -1] - np.asarray(layer)).max() < 1e-12
    scores = given.inputs @ np.linalg.multi_dot([np.asarray(layer) for layer in layers])
    right = (scores > 0) == (given.labels > 0.5)
    if loss == "cross_entropy":
        right = scores.argmax(1) == given.labels.argmax(1)
    assert float(run.accuracy[0, -1]) == pytest.approx(right.mean(), abs=1e-15)


METHODS = {
    "descent": rf.GradientDescent(0.02, weight_decay=0.01),
    "mini-batches, flips": rf.StochasticGradientDescent(0.02, 8, label_noise=0.2),
    "flips beside": rf.LabelNoiseDescent(0.02, 0.2, batch_size=5),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("loss", ["cross_entropy", "logistic"])
def test_every_pair_obeys_its_ledgers(name, loss):
    given = problem(loss)
    hidden = [3, 12, 5]  # the middle one is wide enough for a determinant
    network = rf.LinearNetwork.gaussian(given.n_inputs, hidden, given.n_outputs, scale=0.3)
    run = rf.simulate(given, network, METHODS[name], steps=500, replicates=3, seed=1, save_points=6)
    verdicts = rf.laws.check(run, given)
    assert [verdict.law for verdict in verdicts] == [
        "balance ledger, layers 1–2",
        "determinant ledger, layers 2–3",
        "balance ledger, layers 2–3",
        "balance ledger, layers 3–4",
    ]
    assert all(verdict.passed is True for verdict in verdicts), verdicts
    wrong = run.assign(ledger_log_det=1.0001 * run.ledger_log_det, ledger_balance_error=run.ledger_balance_error + 1e-9)
    assert [verdict.passed for verdict in rf.laws.check(wrong, given)] == [False] * 4


def test_flips_do_not_depend_on_the_replicates_beside_them(tmp_path):
    given = problem("cross_entropy")
    network = rf.LinearNetwork.gaussian(given.n_inputs, [6, 5], given.n_outputs, scale=0.3)
    method = METHODS["mini-batches, flips"]
    many, few = (rf.simulate(given, network, method, steps=130, replicates=n, seed=5, save_points=3) for n in (9, 2))
    for name in ("loss", "accuracy", "singular_values_product"):
        assert np.array_equal(many[name][:2], few[name])
    assert len(set(many.loss.values[:, -1])) == 9
    rf.save_run(few, tmp_path / "run.nc")
    assert rf.rerun(rf.open_run(tmp_path / "run.nc")).identical(few)


def test_gradient_flow_keeps_what_every_pair_conserves():
    given = problem("logistic")
    network = rf.LinearNetwork.gaussian(given.n_inputs, [3, 12, 5], given.n_outputs, scale=0.3)
    run = rf.simulate(given, network, rf.GradientFlow(), duration=3.0, replicates=2, save_points=4)
    verdicts = rf.laws.check(run, given)
    assert len(verdicts) == 4 and all(verdict.passed is True for verdict in verdicts)
    assert all(later <= earlier for earlier, later in itertools.pairwise(run.loss.values[0]))
