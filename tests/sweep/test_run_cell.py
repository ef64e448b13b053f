"""One cell: its numbers are those of `simulate` and `lyapunov_spectrum`, whatever runs it; failures are recorded."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest

import rankfall as rf
from rankfall.sweep import Study, run_cell
from rankfall.sweep._measuring import mean_and_error, middle
from rankfall.sweep._run_cell import _compute
from rankfall.sweep._seeds import batch_seed
from rankfall.sweep._stop import Stop

PROBLEM = {"n_samples": 60, "n_inputs": 3, "n_outputs": 2}
NETWORK = {"width": 7, "scale": 0.7}
FLOW = {"name": "stochastic-gradient-flow", "label_noise": 2.0, "step_size": 0.02}
METHODS = {
    "gradient flow": ({"name": "gradient-flow"}, {"duration": 3.0}),
    "geometric": (FLOW, {"duration": 3.0}),
    "euler": ({**FLOW, "integrator": "euler"}, {"duration": 3.0, "dt": 0.01}),
    "gradient descent": ({"name": "gradient-descent", "step_size": 0.01, "weight_decay": 0.01}, {"steps": 300}),
    "label noise": ({"name": "label-noise-descent", "step_size": 0.01, "label_noise": 1.0}, {"steps": 300}),
    "mini-batch": ({"name": "stochastic-gradient-descent", "step_size": 0.01, "batch_size": 5}, {"steps": 300}),
}
KEPT = {
    "quantities": [
        "final_rank", "stable_rank", "effective_rank", "final_loss", "final_log_det", "final_balance", "balance_drift",
        "log_det_slope", "log_det_slope_predicted", "final_singular_values_W1", "final_singular_values_W2",
        "final_singular_values_Z",
    ],
    "time_series": ["loss", "rank", "log_det", "balance", "singular_values_W1", "singular_values_Z"],
}  # fmt: skip


def only(**more):
    """A study of one cell, and the cell."""
    study = Study(**{"problem": PROBLEM, "network": NETWORK, **more})
    (cell,) = study.cells()
    return study, cell


def result_of(study, cell, **how):
    result = run_cell(cell.settings, cell.seed, study.quantities(), key=cell.key, **how)
    for quantity in study.quantities():
        if result.status == "done":
            assert result.values[quantity.name].shape == quantity.shape
            assert result.values[quantity.name].dtype == quantity.dtype
    return result


def same(one, two):
    return one.values.keys() == two.values.keys() and all(
        np.array_equal(one.values[name], two.values[name], equal_nan=True) for name in one.values
    )


def direct(cell, **more):
    """`simulate` called by hand with the settings of a cell."""
    p, n, m, r = (dict(cell.settings[part]) for part in ("problem", "network", "method", "run"))
    problem = rf.Problem.gaussian(p["n_samples"], p["n_inputs"], p["n_outputs"], seed=p["seed"])
    network = rf.LinearNetwork.gaussian(p["n_inputs"], n["width"], p["n_outputs"], n["scale"])
    method = getattr(rf, "".join(word.capitalize() for word in m.pop("name").split("-")))(**m)
    return rf.simulate(problem, network, method, **{**r, "seed": cell.seed, **more}), problem, method


def close(a, b):
    """To rounding: the same numbers, added up in another order."""
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_the_numbers_are_those_of_simulate(name):
    method, length = METHODS[name]
    study, cell = only(method=method, run={**length, "replicates": 6, "save_points": 13}, keep=KEPT)
    found = result_of(study, cell, threads=1)
    assert (found.status, found.reason, found.key) == ("done", "", cell.key)
    values = found.values
    run, problem, method = direct(cell)
    w1 = run.singular_values_W1.values
    for quantity, samples in {
        "final_loss": run.loss.values[:, -1],
        "final_log_det": run.log_det.values[:, -1],
        "final_balance": run.balance.values[:, -1],
        "balance_drift": run.balance_drift.values[:, -1],
        "stable_rank": (w1[:, -1] ** 2).sum(-1) / w1[:, -1, 0] ** 2,
        "final_rank": (w1[:, -1] >= 1e-3 * w1[:, 0]).sum(-1),
        "loss": run.loss.values,
        "log_det": run.log_det.values,
        "balance": run.balance.values,
        "rank": (w1 >= 1e-3 * w1[:, :1]).sum(-1),
    }.items():
        close(values[quantity], samples.mean(axis=0))
        close(values[quantity + "_standard_error"], samples.std(axis=0, ddof=1) / np.sqrt(6))
    for layer in ("W1", "W2", "Z"):
        every = run[f"singular_values_{layer}"].values
        np.testing.assert_array_equal(values[f"final_singular_values_{layer}"], np.median(every[:, -1], axis=0))
    np.testing.assert_array_equal(values["singular_values_W1"], np.median(w1, axis=0))
    np.testing.assert_array_equal(values["save_time"], run.time.values)
    slopes = [np.polyfit(run.time.values, each, 1)[0] for each in run.log_det.values]
    # Least squares of a straight line, centred or not; gradient flow's slope is zero but for rounding of log det M.
    np.testing.assert_allclose(values["log_det_slope"], np.mean(slopes), rtol=1e-9, atol=1e-12)
    if isinstance(method, rf.GradientFlow | rf.StochasticGradientFlow):
        predicted = rf.laws.determinant.rate(problem, method)
    else:
        predicted = np.mean([np.polyfit(run.time.values, each, 1)[0] for each in run.ledger_log_det.values])
    np.testing.assert_allclose(values["log_det_slope_predicted"], predicted, rtol=1e-9, atol=1e-12)
    assert values["replicates_used"] == 6 and values["diverged"] == 0
    assert values["steps"] == (run.step.values[-1] if "step" in run.coords else -1)
    assert values["step_length"] == run.attrs["step_length"]


def test_lyapunov_exponents_are_those_of_lyapunov_spectrum():
    keep = {"quantities": ["lyapunov_exponents", "lyapunov_rank", "lyapunov_rank_lowest", "lyapunov_rank_highest",
                           "final_loss"], "time_series": ["loss"], "burn_in": 0.3, "batches": 7}  # fmt: skip
    for method, length in (
        METHODS["geometric"],
        METHODS["label noise"],
        ({**FLOW, "label_noise": 9.0}, {"duration": 99}),
    ):
        study, cell = only(method=method, run={**length, "replicates": 9, "save_points": 11}, keep=keep)
        values = result_of(study, cell, threads=1).values
        run, problem, made = direct(cell, save_points=11)
        network = rf.LinearNetwork.gaussian(3, 7, 2, 0.7)
        found = rf.lyapunov_spectrum(
            problem, network, made, **length, replicates=9, seed=cell.seed, burn_in=0.3, batches=7
        )
        np.testing.assert_array_equal(values["lyapunov_exponents"], found.exponents.values)
        np.testing.assert_array_equal(values["lyapunov_exponents_standard_error"], found.standard_error.values)
        for name in ("rank", "rank_lowest", "rank_highest"):
            assert values[f"lyapunov_{name}"] == found.attrs[f"final_{name}"]
        close(values["final_loss"], found.loss.values[:, -1].mean())
        # The time series is at the save points that were asked for, not at the batches' ends.
        gap = np.diff(run.time.values)[0]
        assert values["save_time"].shape == (11,) and np.abs(values["save_time"] - run.time.values).max() < gap / 2
        assert values["loss"].shape == (11,) and values["loss"][0] == pytest.approx(run.loss.values[:, 0].mean())


def test_singular_values_below_float64():
    keep = {"quantities": ["final_log_singular_values_W1", "final_log_singular_values_Z"],
            "time_series": ["log_singular_values_W1"]}  # fmt: skip
    study, cell = only(method={**FLOW, "label_noise": 20.0}, run={"duration": 100.0, "replicates": 4}, keep=keep)
    values = result_of(study, cell, threads=1).values
    run, _, _ = direct(cell, observables=["log_singular_values_W1", "log_singular_values_Z"])
    close(values["final_log_singular_values_Z"], run.log_singular_values_Z.values[:, -1].mean(axis=0))
    close(values["log_singular_values_W1"], run.log_singular_values_W1.values.mean(axis=0))
    assert values["final_log_singular_values_Z"][-1] < -40.0


def test_accuracy_of_a_classifier():
    keep = {"quantities": ["final_accuracy"], "time_series": ["accuracy"]}
    problem = {"kind": "classification", "n_samples": 50, "n_inputs": 3, "n_outputs": 3}
    method = {"name": "gradient-descent", "step_size": 0.1}
    study, cell = only(problem=problem, network={}, method=method, run={"steps": 200, "replicates": 3}, keep=keep)
    values = result_of(study, cell, threads=1).values
    made = rf.Problem.classification(50, 3, 3, seed=0)
    run = rf.simulate(
        made, rf.LinearNetwork.gaussian(3, 9, 3), rf.GradientDescent(0.1), steps=200, replicates=3, seed=cell.seed,
        save_points=51,
    )  # fmt: skip
    close(values["final_accuracy"], run.accuracy.values[:, -1].mean())
    close(values["accuracy"], run.accuracy.values.mean(axis=0))


def test_deep_and_narrow_cells_have_nan_where_they_have_nothing():
    study = Study(
        problem=PROBLEM,
        method=FLOW,
        run={"duration": 1.0, "replicates": 3, "save_points": [0.0, 0.5, 1.0]},
        axes={"width": [2, 7, [6, 6]]},
        keep={"quantities": ["final_rank", "log_det_slope", "lyapunov_rank", "lyapunov_exponents", "final_balance",
                             "final_singular_values_W1"], "time_series": ["loss", "singular_values_W1"]},
    )  # fmt: skip
    narrow, wide, deep = (result_of(study, cell, threads=1).values for cell in study.cells())
    assert wide["final_singular_values_W1"].shape == (3,) and np.isfinite(wide["log_det_slope"])
    assert np.isfinite(narrow["final_singular_values_W1"]).tolist() == [True, True, False]
    assert np.isnan(narrow["log_det_slope"]) and np.isfinite(narrow["lyapunov_exponents"]).all()
    assert np.isnan(deep["lyapunov_exponents"]).all() and deep["lyapunov_rank"] == -1
    assert np.isnan(deep["final_balance"]) and np.isfinite(deep["final_rank"]) and np.isfinite(deep["loss"]).all()


def test_fewer_steps_than_save_points():
    method = {"name": "gradient-descent", "step_size": 0.01}
    study, cell = only(method=method, run={"steps": 3, "replicates": 2}, keep={"time_series": ["loss"]})
    values = result_of(study, cell, threads=1).values
    assert values["save_time"].shape == (51,)
    np.testing.assert_array_equal(np.isfinite(values["save_time"]), np.arange(51) < 4)
    np.testing.assert_array_equal(np.isfinite(values["loss"]), np.arange(51) < 4)


def test_modes_of_a_start_of_low_rank_do_not_count():
    """Below the resolution of float64 a ratio to the start says nothing."""
    study, cell = only(
        network={"start": "balanced", "width": 6}, method={"name": "gradient-flow"}, run={"duration": 0.5}
    )
    assert result_of(study, cell).values["final_rank"] == 2.0


def test_the_share_that_a_living_mode_keeps_is_the_studys():
    for alive in (1e-3, 0.5):
        study, cell = only(method={**FLOW, "label_noise": 9.0}, run={"duration": 9.0}, keep={"alive": alive})
        run, _, _ = direct(cell)
        w1 = run.singular_values_W1.values
        assert result_of(study, cell).values["final_rank"] == (w1[:, -1] >= alive * w1[:, 0]).sum(-1).mean()


# --- whatever runs it ---


def test_threads_and_the_way_of_a_cell_to_a_worker_change_nothing():
    study, cell = only(method=FLOW, run={"duration": 2.0, "replicates": 19}, keep=KEPT)
    one, two = (result_of(study, cell, threads=threads) for threads in (1, 2))
    sent = json.loads(json.dumps(dict(cell.settings)))
    quantities = pickle.loads(pickle.dumps(study.quantities()))  # as concurrent.futures does
    three = run_cell(sent, cell.seed, quantities, 2)
    assert same(one, two) and same(one, three)


STOP = {"quantity": "final_loss", "standard_error": 1e-9, "at_most": 21}


def test_the_adaptive_stop_doubles_replicates_until_the_error_is_small_enough():
    study, cell = only(method=FLOW, run={"duration": 2.0, "replicates": 4}, stop=STOP, keep=KEPT)
    one, two = (result_of(study, cell, threads=threads) for threads in (1, 2))
    assert same(one, two)
    assert one.values["replicates_used"] == 21  # 4, 4, 8 and the 5 that are left
    samples = np.concatenate(
        [
            direct(cell, seed=batch_seed(cell.seed, batch), replicates=count)[0].loss.values[:, -1]
            for batch, count in enumerate([4, 4, 8, 5])
        ]
    )
    close(one.values["final_loss"], samples.mean())
    errors = {used: samples[:used].std(ddof=1) / np.sqrt(used) for used in (4, 8, 16, 21)}
    for bound in (errors[4] * 1.001, errors[4] * 0.999, errors[16] * 1.001):
        settings = {**cell.settings, "stop": {**STOP, "standard_error": float(bound)}}
        values, _ = _compute(settings, cell.seed, study.quantities(), 1, None)
        used = next((used for used, error in errors.items() if error <= bound), 21)
        assert values["replicates_used"] == used
        close(values["final_loss_standard_error"], errors[used])


def test_the_stops_quantity_is_kept_with_its_error():
    study, cell = only(method=FLOW, run={"duration": 1.0, "replicates": 4}, stop={**STOP, "at_most": 4},
                       keep={"quantities": ["final_rank"]})  # fmt: skip
    assert "final_loss_standard_error" in result_of(study, cell).values


def test_when_to_stop():
    rule = Stop("final_rank", 0.1, 100)
    assert [rule.more(0.11, used) for used in (8, 64, 100)] == [8, 36, 0]
    assert rule.more(0.1, 8) == 0 and rule.more([0.05, 0.2, np.nan], 8) == 8
    assert rule.more(np.nan, 1) == 1 and rule.more(np.nan, 8) == 0  # a cell without a single error gets no more


def test_lyapunov_exponents_stop_over_all_batches():
    keep = {"quantities": ["lyapunov_exponents"]}
    rule = {"quantity": "lyapunov_exponents", "standard_error": 1e-9, "at_most": 16}
    study, cell = only(method=FLOW, run={"duration": 5.0, "replicates": 8}, stop=rule, keep=keep)
    values = result_of(study, cell, threads=1).values
    network, (_, problem, method) = rf.LinearNetwork.gaussian(3, 7, 2, 0.7), direct(cell)
    each = [
        rf.lyapunov_spectrum(
            problem, network, method, duration=5.0, replicates=8, seed=batch_seed(cell.seed, batch)
        ).replicate_exponents.values
        for batch in (0, 1)
    ]
    assert values["replicates_used"] == 16
    assert values["lyapunov_exponents"].sum() == pytest.approx(np.concatenate(each).mean(axis=0).sum(), rel=1e-12)


# --- what goes wrong ---


def test_divergence_is_recorded_with_its_reason():
    method = {"name": "gradient-descent", "step_size": 5.0}
    study, cell = only(method=method, run={"steps": 200, "replicates": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = result_of(study, cell)
    assert result.status == "failed" and result.values == {}
    assert result.reason.startswith("all 3 replicates diverged, the first at t=")


def test_replicates_that_diverge_are_left_out_and_counted():
    """A step at which some starts diverge: the others are what the numbers are of."""
    study, cell = only(method={"name": "gradient-descent", "step_size": 0.2}, network={"width": 7, "scale": 1.0},
                       run={"steps": 300, "replicates": 40}, keep={"quantities": ["final_loss"]})  # fmt: skip
    values = result_of(study, cell, threads=1).values
    with pytest.warns(rf.StepSizeWarning):
        run, _, _ = direct(cell)
    kept = run.outcome.values == "completed"
    assert 2 <= kept.sum() < 40 and values["diverged"] == 40 - kept.sum()
    close(values["final_loss"], run.loss.values[kept, -1].mean())
    close(values["final_loss_standard_error"], run.loss.values[kept, -1].std(ddof=1) / np.sqrt(kept.sum()))


def test_exceptions_are_recorded_and_ctrl_c_is_not(monkeypatch):
    study, cell = only(method=FLOW, run={"duration": 1.0, "replicates": 2})
    study.quantities()
    for error, reason in [
        (MemoryError(), "MemoryError: no message"),
        (RuntimeError("one\ntwo"), "RuntimeError: one two"),
        (rf.InvalidInput("what was wrong"), "what was wrong"),
    ]:

        def fail(*arguments, error=error, **more):
            raise error

        monkeypatch.setattr("rankfall.sweep._run_cell.simulate", fail)
        result = run_cell(cell.settings, cell.seed, study.quantities())
        assert (result.status, result.reason, result.values) == ("failed", reason, {})
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell.settings, cell.seed, study.quantities(), stop=lambda: True)
    asked = []
    kept = run_cell(cell.settings, cell.seed, study.quantities(), stop=lambda: asked.append(1) is not None)
    assert kept.status == "done" and asked


# --- statistics ---


def test_means_errors_and_medians_leave_out_what_is_not_finite():
    samples = np.array([[1.0, np.nan, -np.inf], [3.0, 2.0, np.nan], [5.0, np.nan, np.nan]])
    mean, error = mean_and_error(samples)
    np.testing.assert_array_equal(mean, [3.0, 2.0, np.nan])
    np.testing.assert_allclose(error, [2.0 / np.sqrt(3), np.nan, np.nan], rtol=1e-15)
    np.testing.assert_array_equal(middle(samples), [3.0, 2.0, np.nan])
    assert np.isnan(mean_and_error(np.empty((0, 2)))[0]).all() and np.isnan(middle(np.empty((0, 2)))).all()


def test_no_field_of_a_quantity_is_an_axis_name_and_every_one_can_be_computed():
    from rankfall.sweep._measuring import _EACH
    from rankfall.sweep._quantities import MEASURES
    from rankfall.sweep._run_cell import _OF_THE_CELL

    assert set(_EACH) | {name for name, each in MEASURES.items() if each.series} | _OF_THE_CELL == set(MEASURES)
