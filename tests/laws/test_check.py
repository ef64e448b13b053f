import numpy as np
import pytest
import xarray as xr

import rankfall as rf
from laws import oracle_runs as c
from rankfall import laws


def names(run):
    return [verdict.law for verdict in laws.check(run)]


def test_each_kind_of_run_gets_its_laws(flow_run, white_flow_run, gradient_flow_run, descent_run):
    assert names(flow_run) == ["determinant law", "balance ledger"]
    assert names(white_flow_run) == ["determinant law", "balance law", "balance ledger"]
    assert names(gradient_flow_run)[:2] == ["determinant law", "balance law"]
    assert names(descent_run) == ["determinant ledger", "balance ledger"]
    assert names(descent_run.drop_vars(["ledger_balance", "ledger_balance_error"])) == ["determinant ledger"]


def test_a_descent_without_a_ledger_gets_no_verdict():
    run = c.simulate(c.gaussian_problem(2, 1), 3, rf.GradientDescent(0.01), steps=3, ledger="none")
    assert laws.check(run) == []


@pytest.mark.parametrize("method", [rf.LabelNoiseDescent(0.01, 1.0), rf.GradientFlow(), c.STOCHASTIC_FLOW])
def test_a_narrow_network_gets_the_balance_and_the_reason(method):
    run = c.simulate(c.gaussian_problem(3, 2), 4, method, steps=50, dt=0.01, save_every=10)
    verdicts = laws.check(run)
    assert verdicts
    assert all(verdict.law.startswith("balance") and verdict.passed is True for verdict in verdicts)
    assert all("det M = 0 at all times because the width 4 is below inputs + outputs = 5" in v.note for v in verdicts)


def test_a_start_of_low_rank_gets_the_balance_and_the_reason(descent_run):
    low = descent_run.assign(log_det=xr.full_like(descent_run.log_det, -np.inf)).assign_attrs(start_rank=2)
    (verdict,) = laws.check(low)
    assert verdict.law == "balance ledger"
    assert "the start has rank 2" in verdict.note
    (verdict,) = laws.check(low.assign_attrs(start_rank=-1))
    assert "rank-deficient" in verdict.note


def test_the_problem_may_be_given_and_must_be_the_right_one(flow_run):
    assert all(verdict.passed for verdict in laws.check(flow_run, c.gaussian_problem(5, 2)))
    with pytest.raises(rf.InvalidInput, match="covariance differs by up to"):
        laws.check(flow_run, c.gaussian_problem(5, 2, seed=99))
    with pytest.raises(rf.InvalidInput, match="shape"):
        laws.check(flow_run, c.gaussian_problem(4, 2))
    with pytest.raises(rf.InvalidInput, match=r"rankfall\.Problem"):
        laws.check(flow_run, "diabetes")


def test_what_is_not_a_run(flow_run):
    with pytest.raises(rf.NotARun, match="open_run"):
        laws.check("run.nc")
    with pytest.raises(rf.NotARun, match="lacks log_det"):
        laws.check(xr.Dataset())
    with pytest.raises(rf.NotARun, match="singular_values_Z"):
        laws.check(flow_run.drop_vars("singular_values_Z"))


def test_a_reloaded_run_gets_the_same_verdicts(flow_run, tmp_path):
    flow_run.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as reloaded:
        assert [str(v) for v in laws.check(reloaded)] == [str(v) for v in laws.check(flow_run)]


def test_an_interrupted_run_is_checked_until_then(descent_run):
    cut = descent_run.copy(deep=True)
    for name, values in cut.data_vars.items():
        if "time" in values.dims:
            cut[name][4:, 12:] = np.nan
    outcome = cut.outcome.values.astype(object)
    outcome[4:] = "interrupted at t=11"
    verdicts = laws.check(cut.assign(outcome=("replicate", outcome.astype(str))))
    assert all(verdict.passed is True and verdict.n_checked == 6 for verdict in verdicts)
    assert all("2 of 6 replicates interrupted at t=11" in verdict.note for verdict in verdicts)


def test_only_a_start_leaves_everything_open(flow_run):
    assert [verdict.passed for verdict in laws.check(flow_run.isel(time=[0]))] == [None, None]


def test_an_integrator_driven_too_far_is_told_apart(flow_run):
    wrong = c.with_method(flow_run, rf.StochasticGradientFlow(2.1, 0.01))
    wrong = wrong.assign(largest_increment=("replicate", np.full(6, 2.5)))
    assert "‖H‖ = 2.5" in laws.check(wrong)[0].note
    assert "‖H‖" not in laws.check(flow_run.assign(largest_increment=("replicate", np.full(6, 2.5))))[0].note
