import numpy as np
import pytest

import rankfall as rf
from laws import oracle_runs as c
from rankfall.laws import determinant


def test_the_rate_is_the_trace_of_the_noise_operator():
    # K = blockdiag(kσ²Σ, σ²tr(Σ)I_k) is the quadratic variation of the noise, and −tr K the rate
    problem = c.gaussian_problem(4, 3)
    method = rf.StochasticGradientFlow(label_noise=0.7, step_size=0.03, batch_size=5)
    intensity = 0.03 * 0.7 / 5
    trace = np.trace(3 * intensity * problem.covariance) + intensity * np.trace(problem.covariance) * 3
    assert determinant.rate(problem, method) == pytest.approx(-trace, rel=1e-14)


def test_prediction_has_one_row_per_start():
    problem = c.gaussian_problem(5, 2)
    predicted = determinant.predict(problem, c.STOCHASTIC_FLOW, np.array([1.0, 2.0]), np.linspace(0, 1, 5))
    assert predicted.shape == (2, 5)
    assert np.array_equal(predicted[:, 0], [1.0, 2.0])
    assert np.ptp(determinant.predict(problem, rf.GradientFlow(), 3.0, [0.0, 9.0])) == 0.0


def test_descents_and_singular_starts_have_no_law_of_the_flow():
    problem = c.gaussian_problem(2, 1)
    with pytest.raises(rf.LawNotApplicable, match="ledger"):
        determinant.predict(problem, rf.GradientDescent(0.1), 0.0, [0.0])
    with pytest.raises(rf.LawNotApplicable, match="rank"):
        determinant.predict(problem, rf.GradientFlow(), -np.inf, [0.0])
    with pytest.raises(rf.InvalidInput, match="dimension"):
        determinant.predict(problem, rf.GradientFlow(), 0.0, 1.0)


def test_the_stochastic_flow_obeys_it_to_rounding(flow_run):
    verdict = determinant.check(flow_run)
    assert verdict.passed is True
    assert verdict.n_checked == 6
    assert (verdict.errors < 1e-11).all()
    assert 1e-3 < verdict.error / verdict.tolerance < 1.0  # the tolerance is not absurdly loose


@pytest.mark.parametrize("wrong", [1.05, 1 + 1e-6, 1 - 1e-6])
def test_a_wrong_constant_fails(flow_run, wrong):
    method = rf.StochasticGradientFlow(label_noise=2.0 * wrong, step_size=0.01)
    verdict = determinant.check(c.with_method(flow_run, method))
    assert verdict.passed is False
    # every single replicate shows it, not only the worst
    assert (verdict.errors > verdict.tolerances).all()


def test_the_mean_of_the_final_spectrum_is_not_what_is_compared(flow_run):
    # one bad replicate of six is found and named
    log_det = flow_run.log_det.copy(deep=True)
    log_det[4, 10:] += 1e-8
    verdict = determinant.check(flow_run.assign(log_det=log_det))
    assert verdict.passed is False
    assert verdict.replicate == 4
    assert int((verdict.errors > verdict.tolerances).sum()) == 1


def test_gradient_flow_conserves_it(gradient_flow_run):
    verdict = determinant.check(gradient_flow_run)
    assert verdict.passed is True
    assert "2kσ²" not in verdict.statement
    noisy = c.with_method(gradient_flow_run, rf.StochasticGradientFlow(label_noise=1e-8, step_size=0.01))
    assert determinant.check(noisy).passed is False


def test_euler_is_sent_to_its_ledger_because_it_misses_the_law():
    method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01, integrator="euler")
    run = c.simulate(c.gaussian_problem(3, 2), 6, method, steps=400, dt=0.02, save_every=100)
    with pytest.raises(rf.LawNotApplicable, match="ledger"):
        determinant.check(run)
    as_if = c.with_method(run, c.STOCHASTIC_FLOW)
    assert determinant.check(as_if).passed is False


def test_beyond_float64_is_said_and_not_judged():
    method = rf.StochasticGradientFlow(label_noise=40.0, step_size=0.05)
    run = c.simulate(c.gaussian_problem(3, 1), 5, method, steps=3000, dt=0.005, save_every=30)
    smallest = run.singular_values_Z[..., -1] / run.singular_values_Z[..., 0]
    assert float(smallest.min()) < 1e-15
    verdict = determinant.check(run)
    assert verdict.passed is True
    assert "beyond float64 since t=" in verdict.note
    assert "of 6 replicates" in verdict.note
    # what is rounding noise neither fails ...
    raw = np.abs(run.log_det - determinant.predict(c.gaussian_problem(3, 1), method, run.log_det[:, 0], run.time))
    assert float(raw.max()) > 1.0
    # ... nor passes: with nothing else to check the verdict is open
    late = run.isel(time=[0, -2, -1])
    undecided = determinant.check(late)
    assert undecided.passed is None
    assert undecided.n_checked == 0
    assert "nothing could be checked" in undecided.note
    assert np.isnan(undecided.errors).all()
