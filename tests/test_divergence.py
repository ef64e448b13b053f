"""Runs that blow up end as such, alone, and lose nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import rankfall as rf
from small import PROBLEM


def ensemble(scales, width=7):
    """One start per scale: the larger ones diverge."""
    W1, W2 = rf.LinearNetwork.gaussian(3, width, 2).draw(len(scales), seed=1)
    factors = np.asarray(scales)[:, None, None]
    return rf.LinearNetwork.from_weights(factors * W1, factors * W2)


METHODS = {
    "descent": (rf.GradientDescent(step_size=0.05), {"steps": 400, "ledger": "both"}),
    "label noise": (rf.LabelNoiseDescent(step_size=0.05, label_noise=0.1), {"steps": 400, "ledger": "both"}),
    "mini-batch": (rf.StochasticGradientDescent(step_size=0.05, batch_size=30), {"steps": 400, "ledger": "both"}),
    "euler": (rf.StochasticGradientFlow(0.1, 0.05, integrator="euler"), {"duration": 20.0, "dt": 0.05}),
    "geometric": (rf.StochasticGradientFlow(0.1, 0.05), {"duration": 20.0, "dt": 0.05}),
    "gradient flow, given steps": (rf.GradientFlow(), {"duration": 20.0, "dt": 0.05}),
}
SCALES = (0.3, 40.0, 0.3, 0.4, 200.0)
TAME = [0, 2, 3]
WILD = [1, 4]


@pytest.mark.parametrize("width", [7, 3], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", METHODS)
def test_others_go_on(name, width):
    method, options = METHODS[name]
    options = dict(options)
    if width == 3 and "ledger" in options:
        options["ledger"] = "balance"
    with pytest.warns(rf.StepSizeWarning):
        run = rf.simulate(
            PROBLEM, ensemble(SCALES, width), method, replicates=5, save_points=21, weights=True, **options
        )
    assert (run.outcome[TAME] == "completed").all()
    for index in WILD:
        words = str(run.outcome.values[index])
        assert words.startswith("diverged at t=")
        gone = run.time.values >= float(words.removeprefix("diverged at t=")) - 1e-9
        assert gone.any() and not gone[0]
        for variable, values in run.data_vars.items():
            if "time" in values.dims and not (variable == "log_det" and width == 3):
                assert np.isfinite(values[index, ~gone]).all(), variable
                assert np.isnan(values[index, gone]).all(), variable
    alone = rf.simulate(
        PROBLEM, ensemble(SCALES[:1], width), method, replicates=1, save_points=21, weights=True, **options
    )
    np.testing.assert_array_equal(run.W1[0], alone.W1[0])
    np.testing.assert_array_equal(run.log_det[0], alone.log_det[0])
    for verdict in rf.laws.check(run):
        assert verdict.passed, verdict


def test_large_networks_too():
    """The path through LAPACK: more rows than the lanes record."""
    problem = rf.Problem.gaussian(n_samples=200, n_inputs=60, n_outputs=2, seed=0)
    W1, W2 = rf.LinearNetwork.gaussian(60, 4, 2, scale=0.1).draw(3, seed=1)
    W1[1] *= 1000
    network = rf.LinearNetwork.from_weights(W1, W2)
    with pytest.warns(rf.StepSizeWarning):
        run = rf.simulate(problem, network, rf.GradientDescent(0.05), steps=200, replicates=3, save_points=5)
    assert [str(words).split(" at")[0] for words in run.outcome.values] == ["completed", "diverged", "completed"]
    assert np.isfinite(run.loss[[0, 2]]).all() and np.isnan(run.loss[1, 1:]).all()
    assert np.isnan(run.singular_values_W1[1, 1:]).all() and np.isnan(run.balance[1, 1:]).all()


def test_all_diverged_is_a_run_as_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rf.StepSizeWarning)
        run = rf.simulate(PROBLEM, ensemble((50.0, 80.0)), rf.GradientDescent(0.1), steps=100, replicates=2)
    assert all(str(words).startswith("diverged") for words in run.outcome.values)
    rf.save_run(run, tmp_path / "run.nc")
    assert rf.open_run(tmp_path / "run.nc").identical(run)
    for verdict in rf.laws.check(run):
        assert verdict.passed is not False, verdict
