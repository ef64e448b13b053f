import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import rankfall as rf
from laws import oracle_runs as c
from rankfall.laws import ledger

SIZE = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(p=SIZE, k=SIZE, spare=st.integers(0, 3), decay=st.sampled_from([0.0, 0.1]), seed=st.integers(0, 2**32))
def test_one_step_changes_log_det_by_what_it_says(p, k, spare, decay, seed):
    rng = np.random.default_rng(seed)
    W1, W2 = rng.standard_normal((p, p + k + spare)), rng.standard_normal((p + k + spare, k))
    G = rng.standard_normal((p, k))
    step = 0.3 / np.linalg.norm(G)
    decay /= step
    before, after = (
        2 * np.log(np.linalg.svd(oracles.stack(*weights), compute_uv=False))
        for weights in ((W1, W2), oracles.descent_step(W1, W2, G, step, decay))
    )
    spread = np.exp((before[0] - before[-1]) / 2)
    assert after.sum() - before.sum() == pytest.approx(ledger.step_change(G, step, decay), abs=1e-13 * spread)


def test_it_agrees_with_the_determinant_of_the_step_itself_for_large_steps_too():
    G = np.random.default_rng(0).standard_normal((7, 3, 2))
    for step in (1e-9, 1e-3, 0.4, 3.0, 1e4):
        for decay in (0.0, 0.5 / step):
            expected = oracles.determinant_term(G, step, decay)
            assert ledger.step_change(G, step, decay) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_it_keeps_the_digits_of_tiny_steps_and_sees_a_determinant_die():
    assert ledger.step_change([[1e-9]], 1.0) == pytest.approx(-2e-18, rel=1e-12)
    assert ledger.step_change([[2.0]], 0.5) == -np.inf


def test_bad_arguments():
    with pytest.raises(rf.InvalidInput, match="shape"):
        ledger.step_change([1.0, 2.0], 0.1)
    with pytest.raises(rf.InvalidInput, match="weight_decay"):
        ledger.step_change([[1.0]], 0.5, 2.0)


METHODS = {
    "descent": (rf.GradientDescent(0.01), {}),
    "decay": (rf.GradientDescent(0.01, weight_decay=0.05), {}),
    "label noise": (rf.LabelNoiseDescent(0.01, 2.0), {}),
    "label noise, decay": (rf.LabelNoiseDescent(0.01, 2.0, weight_decay=0.05), {}),
    "mini-batch": (rf.StochasticGradientDescent(0.01, 4), {}),
    "mini-batch, noise": (rf.StochasticGradientDescent(0.01, 4, 1.0), {}),
    "euler": (rf.StochasticGradientFlow(2.0, 0.01, integrator="euler"), {"dt": 0.01}),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("p", "k", "width", "singular"), [(4, 2, 8, 0), (2, 4, 6, 0), (1, 1, 2, 0), (4, 2, 8, 2)])
def test_every_descent_obeys_it(name, p, k, width, singular):
    method, options = METHODS[name]
    run = c.simulate(c.gaussian_problem(p, k, singular=singular), width, method, steps=600, save_every=50, **options)
    verdict = ledger.check(run)
    assert verdict.passed is True, verdict
    assert verdict.n_checked == 6


@pytest.mark.parametrize("wrong", [1.05, 1 + 1e-6])
def test_a_wrong_constant_fails(descent_run, wrong):
    verdict = ledger.check(descent_run.assign(ledger_log_det=descent_run.ledger_log_det * wrong))
    assert verdict.passed is False
    assert (verdict.errors > verdict.tolerances).all()


def test_a_single_forgotten_step_fails(descent_run):
    # a typical step changes log det by 1e-3, and the tolerance is below 1e-9
    tampered = descent_run.ledger_log_det.copy(deep=True)
    tampered[2, 10:] += 1e-3
    verdict = ledger.check(descent_run.assign(ledger_log_det=tampered))
    assert (verdict.passed, verdict.replicate) == (False, 2)


def test_a_hundred_thousand_steps_stay_within_1e_9_while_well_conditioned():
    run = c.simulate(c.gaussian_problem(5, 2), 10, rf.LabelNoiseDescent(2e-3, 1.0), replicates=4, steps=100_000,
                     save_every=10_000, ledger="determinant")  # fmt: skip
    condition = run.singular_values_Z[..., 0] / run.singular_values_Z[..., -1]
    assert float(condition.max()) < 1e3
    verdict = ledger.check(run)
    assert verdict.passed is True
    assert verdict.errors.max() < 1e-11
    assert verdict.tolerances.max() < 1e-9


def test_tiny_steps_without_noise_round_alike_and_do_not_fail():
    for step in (1e-4, 1e-7, 1e-9):
        run = c.simulate(c.gaussian_problem(3, 2), 6, rf.GradientDescent(step), steps=4000, save_every=400)
        assert ledger.check(run).passed is True


def test_a_diverging_run_is_checked_until_then():
    method = rf.LabelNoiseDescent(0.6, 2.0)
    run = c.simulate(c.gaussian_problem(3, 2), 6, method, steps=300, save_every=1)
    diverged = run.outcome.str.startswith("diverged")
    assert bool(diverged.any())
    verdict = ledger.check(run)
    assert verdict.passed is True
    assert f"{int(diverged.sum())} of 6 replicates diverged at t=" in verdict.note
    assert verdict.n_checked == 6


def test_a_ledger_that_overflows_just_before_the_end_is_no_failure(descent_run):
    ledger_values = descent_run.ledger_log_det.copy(deep=True)
    ledger_values[3, 20:] = np.inf
    outcome = descent_run.outcome.values.astype(object)
    outcome[3] = "diverged at t=25"
    diverging = descent_run.assign(ledger_log_det=ledger_values, outcome=("replicate", outcome.astype(str)))
    assert ledger.check(diverging).passed is True
    assert ledger.check(diverging.assign(outcome=descent_run.outcome)).passed is False


def test_nan_in_a_completed_replicate_fails(descent_run):
    log_det = descent_run.log_det.copy(deep=True)
    log_det[1, 20:] = np.nan
    verdict = ledger.check(descent_run.assign(log_det=log_det))
    assert verdict.passed is False
    assert "1 completed replicates hold numbers that are not finite" in verdict.note
    assert np.isinf(verdict.errors[1])


def test_flows_and_runs_without_a_ledger_are_refused(flow_run, descent_run):
    with pytest.raises(rf.LawNotApplicable, match="determinant law of the flow"):
        ledger.check(flow_run)
    with pytest.raises(rf.LawNotApplicable, match="ledger='determinant'"):
        ledger.check(descent_run.drop_vars("ledger_log_det"))


def test_predict_starts_at_the_start(descent_run):
    predicted = ledger.predict(descent_run)
    assert np.array_equal(predicted[:, 0], descent_run.log_det[:, 0])
    assert np.abs(predicted - descent_run.log_det.values).max() < 1e-10
