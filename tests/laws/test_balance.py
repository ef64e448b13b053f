import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import rankfall as rf
from laws import oracle_runs as c
from rankfall.laws import balance

SIZE = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(p=SIZE, k=SIZE, width=SIZE, decay=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 2**32))
def test_one_step_changes_the_balance_by_what_it_says(p, k, width, decay, seed):
    rng = np.random.default_rng(seed)
    W1, W2, G = rng.standard_normal((p, width)), rng.standard_normal((width, k)), rng.standard_normal((p, k))
    change = oracles.balance(*oracles.descent_step(W1, W2, G, 0.2, decay)) - oracles.balance(W1, W2)
    assert balance.step_change(W1, W2, G, 0.2, decay) == pytest.approx(change, abs=1e-12)


def test_the_drift_is_the_mean_of_noisy_steps():
    # E[Q_{t+1} − Q_t]/h of Euler–Maruyama steps without gradient, 5 standard errors
    rng = np.random.default_rng(1)
    problem = c.gaussian_problem(3, 2)
    W1, W2 = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    root = oracles.covariance_root(problem.covariance)
    noise = np.sqrt(0.02) * (root @ rng.standard_normal((100_000, 3, 2)))
    changes = oracles.balance(*oracles.descent_step(W1, W2, noise, 1.0)) - oracles.balance(W1, W2)
    error = changes.mean(0) - balance.drift(W1, W2, problem, c.STOCHASTIC_FLOW)
    assert (np.abs(error) < 5 * changes.std(0) / np.sqrt(1e5)).all()
    assert not balance.drift(W1, W2, problem, rf.GradientFlow()).any()


def test_the_closed_law_solves_the_equation():
    rng = np.random.default_rng(2)
    problem = c.white_problem(3, 3)
    W1, W2 = rng.standard_normal((3, 5)), rng.standard_normal((5, 3))
    start = oracles.balance(W1, W2)
    h = 1e-5
    slope = (balance.predict(problem, c.STOCHASTIC_FLOW, start, [h])[0] - start) / h
    assert slope == pytest.approx(balance.drift(W1, W2, problem, c.STOCHASTIC_FLOW), rel=1e-5, abs=1e-7)


def test_where_the_law_does_not_close_it_says_why():
    with pytest.raises(rf.LawNotApplicable, match="n_inputs = 3 and n_outputs = 2"):
        balance.predict(c.white_problem(3, 2), c.STOCHASTIC_FLOW, 1.0, [0.0])
    with pytest.raises(rf.LawNotApplicable, match="no multiple of I"):
        balance.predict(c.gaussian_problem(3, 3), c.STOCHASTIC_FLOW, 1.0, [0.0])
    with pytest.raises(rf.LawNotApplicable, match="steps"):
        balance.predict(c.white_problem(3, 3), rf.GradientDescent(0.1), 1.0, [0.0])
    assert balance.predict(c.gaussian_problem(3, 2), rf.GradientFlow(), 2.0, [0.0, 5.0]).tolist() == [2.0, 2.0]


def test_bad_shapes():
    with pytest.raises(rf.InvalidInput, match="W1 must have shape"):
        balance.step_change(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3)), 0.1)
    with pytest.raises(rf.InvalidInput, match="gradient must have shape"):
        balance.step_change(np.ones((2, 3)), np.ones((3, 1)), np.ones((2, 3)), 0.1)
    with pytest.raises(rf.InvalidInput, match="2 inputs"):
        balance.drift(np.ones((2, 3)), np.ones((3, 1)), c.gaussian_problem(3, 1), rf.GradientFlow())
    with pytest.raises(rf.InvalidInput, match="dimension"):
        balance.predict(c.gaussian_problem(3, 1), rf.GradientFlow(), 1.0, 0.0)


def test_gradient_flow_conserves_it(gradient_flow_run):
    verdict = balance.check(gradient_flow_run)
    assert verdict.passed is True
    assert verdict.tolerance < 1e-10
    tampered = gradient_flow_run.assign(balance_drift=gradient_flow_run.balance_drift + 1e-9)
    assert balance.check(tampered).passed is False


def test_whitened_inputs_and_as_many_outputs_give_an_exponential(white_flow_run):
    verdict = balance.check(white_flow_run)
    assert verdict.passed is True
    assert 1e-3 < verdict.error / verdict.tolerance < 1.0


@pytest.mark.parametrize("wrong", [1.05, 1 + 1e-6])
def test_a_wrong_exponent_fails(white_flow_run, wrong):
    verdict = balance.check(c.with_method(white_flow_run, rf.StochasticGradientFlow(2.0 * wrong, 0.01)))
    assert verdict.passed is False
    assert (verdict.errors > verdict.tolerances).all()


def test_a_balance_of_the_right_size_but_the_wrong_direction_fails(white_flow_run):
    # ‖Q_t‖ is untouched, so only ‖Q_t − Q_0‖ can tell
    tampered = white_flow_run.assign(balance_drift=white_flow_run.balance_drift * (1 + 1e-6))
    assert balance.check(tampered).passed is False


def test_the_recorded_matrices_obey_it_entry_by_entry(white_flow_run):
    Q = oracles.balance(white_flow_run.W1.values, white_flow_run.W2.values)
    expected = balance.predict(c.white_problem(3, 3), c.STOCHASTIC_FLOW, Q[:, 0], white_flow_run.time)
    assert np.abs(Q - np.moveaxis(expected, 0, 1)).max() < 1e-11


LEDGER_METHODS = {
    "descent": (rf.GradientDescent(0.01), {}),
    "label noise": (rf.LabelNoiseDescent(0.01, 2.0), {}),
    "decay": (rf.LabelNoiseDescent(0.01, 2.0, weight_decay=0.05), {}),
    "mini-batch": (rf.StochasticGradientDescent(0.01, 4, 1.0), {}),
    "euler": (rf.StochasticGradientFlow(2.0, 0.01, integrator="euler"), {"dt": 0.01}),
    "geometric": (rf.StochasticGradientFlow(2.0, 0.01), {"dt": 0.01}),
}


@pytest.mark.parametrize("name", LEDGER_METHODS)
@pytest.mark.parametrize(("p", "k", "width", "singular"), [(4, 2, 3, 0), (2, 4, 2, 0), (1, 1, 1, 0), (4, 2, 8, 2)])
def test_every_method_obeys_its_ledger_at_every_width(name, p, k, width, singular):
    method, options = LEDGER_METHODS[name]
    run = c.simulate(c.gaussian_problem(p, k, singular=singular), width, method, steps=400, save_every=50, **options)
    verdict = balance.check_ledger(run)
    assert verdict.passed is True, verdict
    assert verdict.tolerance < 1e-9


def test_the_ledger_of_the_stochastic_flow_integrates_the_equation():
    # the sum of the scalings against the trapezoidal rule of the drift along the same trajectory: second order in dt
    problem = c.gaussian_problem(3, 2)
    method = rf.StochasticGradientFlow(label_noise=0.5, step_size=0.01)
    run = c.simulate(problem, 3, method, steps=400, dt=0.005, save_every=1, replicates=2)
    rates = balance.drift(run.W1.values, run.W2.values, problem, method)
    integral = 0.005 * (rates[:, :-1] + rates[:, 1:]).sum(axis=1) / 2
    Q = oracles.balance(run.W1.values, run.W2.values)
    change = Q[:, -1] - Q[:, 0]
    assert np.linalg.norm(change - integral) < 2e-3 * np.linalg.norm(change)


@pytest.mark.parametrize(("wrong", "passed"), [(1.0, True), (1.05, False), (1 + 1e-6, False)])
def test_a_ledger_with_a_wrong_step_size_fails(wrong, passed):
    problem = c.gaussian_problem(3, 2)
    run = c.simulate(problem, 4, rf.GradientDescent(0.05), steps=300, save_every=1)
    W1, W2 = run.W1.values, run.W2.values
    changes = balance.step_change(W1, W2, oracles.gradient(problem, W1, W2), 0.05 * wrong)
    Q = oracles.balance(W1, W2)
    B = np.concatenate([Q[:, :1], Q[:, :1] + np.cumsum(changes[:, :-1], axis=1)], axis=1)
    tampered = run.assign(
        ledger_balance=(("replicate", "time"), np.linalg.norm(B, axis=(2, 3))),
        ledger_balance_error=(("replicate", "time"), np.linalg.norm(Q - B, axis=(2, 3))),
    )
    assert balance.check_ledger(tampered).passed is passed


def test_tiny_steps_without_noise_round_alike_and_do_not_fail():
    run = c.simulate(
        c.gaussian_problem(5, 2), 10, rf.GradientDescent(1e-9), steps=20_000, save_every=2000, replicates=3
    )
    assert balance.check_ledger(run).passed is True


def test_a_null_space_in_which_rounding_never_rests_does_not_fail():
    # without noise and with a singular covariance, the rounding of the gradient drives the weights one way for ever
    problem = c.gaussian_problem(5, 2, singular=2)
    run = c.simulate(problem, 10, rf.GradientDescent(0.03), steps=20_000, save_every=2000, replicates=3)
    assert balance.check_ledger(run).passed is True


def test_runs_without_the_ledger_or_the_law_are_refused(descent_run):
    with pytest.raises(rf.LawNotApplicable, match="ledger_balance"):
        balance.check_ledger(descent_run.drop_vars(["ledger_balance", "ledger_balance_error"]))
    with pytest.raises(rf.LawNotApplicable, match="steps"):
        balance.check(descent_run)
    method = rf.StochasticGradientFlow(2.0, 0.01, integrator="euler")
    run = c.simulate(c.white_problem(2, 2), 4, method, steps=5, dt=0.01)
    with pytest.raises(rf.LawNotApplicable, match="Euler"):
        balance.check(run)


def test_predict_from_ledger_is_the_recorded_norm(descent_run):
    assert np.array_equal(balance.predict_from_ledger(descent_run), descent_run.ledger_balance)
