"""What a study refuses before anything runs, in which words, naming the cell where it is one cell's."""

from __future__ import annotations

import time

import pytest

import rankfall as rf
from rankfall.sweep import Study

METHOD = {"name": "stochastic-gradient-flow", "label_noise": 1.0, "step_size": 0.01}
RUN = {"duration": 1.0}


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Fail if a bad study gets as far as drawing a start."""

    def work(*arguments):
        raise AssertionError("bad input reached the work")

    monkeypatch.setattr("rankfall._simulate.Run.execute", work)


def refused(message, **arguments):
    with pytest.raises(rf.InvalidInput, match=message):
        Study(**{"method": METHOD, "run": RUN, **arguments})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"problem": {"n_input": 3}}, r"\[problem\] has no setting 'n_input'. Did you mean 'n_inputs'\?"),
        ({"network": {"widht": 3}}, r"\[network\] has no setting 'widht'. Did you mean 'width'\?"),
        ({"run": {"durration": 3}}, r"\[run\] has no setting 'durration'. Did you mean 'duration'\?"),
        ({"keep": {"quantity": []}}, r"\[keep\] has no setting 'quantity'. Did you mean 'quantities'\?"),
        ({"stop": {"standard_eror": 1}}, r"\[stop\] has no setting 'standard_eror'. Did you mean 'standard_error'\?"),
        ({"method": {"name": "gradient-flwo"}}, r"got 'gradient-flwo'. Did you mean 'gradient-flow'\?"),
        ({"method": {}}, r"\[method\] needs a name"),
        ({"method": {"name": "gradient-descent"}}, "the method gradient-descent needs method.step_size"),
        ({"method": {**METHOD, "name": "gradient-flow"}}, "label_noise does not belong to the method gradient-flow"),
        ({"problem": {"kind": "gausian"}}, r"Did you mean 'gaussian'\?"),
        ({"problem": {"temperature": 1.0}}, "problem.temperature does not belong to a problem of kind 'gaussian'"),
        ({"problem": {"data": "iris"}}, "data must be one of diabetes, digits, breast-cancer, got 'iris'"),
        ({"problem": {"inputs": "nowhere.npy", "labels": "nowhere.npy"}}, "cannot read nowhere.npy: No such file"),
        ({"problem": {"inputs": __file__}}, "a problem of kind 'files' needs problem.labels"),
        ({"problem": {"n_inputs": "3"}}, "problem.n_inputs must be a whole number, got '3'"),
        ({"problem": {"n_inputs": True}}, "problem.n_inputs must be a whole number, got True"),
        ({"problem": {"n_inputs": 10**30}}, r"must be a whole number below 2\^64, got one of 31 digits"),
        ({"problem": {"n_samples": 0}}, "n_samples must be at least 1, got 0"),
        ({"problem": {"n_outputs": 0}}, "n_outputs must be at least 1, got 0"),
        ({"problem": {"kind": "whitened", "n_inputs": 10**9}}, "the machine has .* GiB"),
        ({"problem": {"kind": "whitened", "teacher_rank": 3}}, "teacher_rank must lie between 0 and .* = 2, got 3"),
        ({"problem": {"kind": "whitened", "teacher_scale": 0}}, "teacher_scale must be greater than 0"),
        ({"problem": {"teacher_rank": 3}}, "rank must be at most 2, got 3"),
        ({"problem": {"seed": -1}}, "seed must be at least 0, got -1"),
        ({"problem": {"covariance": [1.0], "cross_covariance": [[1.0]]}}, "covariance must be a list of rows"),
        ({"problem": {"covariance": [[1.0]], "cross_covariance": [["a"]]}}, "covariance must be a number, got 'a'"),
        ({"problem": [1]}, r"problem must be a table of names and values, got \[1\]"),
        ({"network": {"width": 8, "excess": 1}}, "give network.width, or network.excess"),
        ({"network": {"excess": -7}}, "leaves no hidden unit"),
        ({"network": {"width": []}}, "must name the units of at least one hidden layer"),
        ({"network": {"start": "zero"}}, "network.start must be 'gaussian', 'balanced' or 'given'"),
        ({"network": {"scale": 0.0}}, "scale must be greater than 0"),
        ({"network": {"scale": float("inf")}}, "network.scale must be finite"),
        ({"network": {"scale": 10**400}}, "network.scale must be a number that float64 holds"),
        ({"method": {**METHOD, "step_size": "0.1"}}, "method.step_size must be a number, got '0.1'"),
        ({"run": {}}, r"give the duration \(flow time\)"),
        ({"run": {"steps": 5}}, "a flow has no steps"),
        ({"run": {"duration": 1, "noise_time": 1}}, "give one of run.duration, run.noise_time and run.steps"),
        ({"run": {"noise_time": 1}, "method": {"name": "gradient-flow"}}, "give run.duration"),
        ({"run": {"noise_time": -1}}, "run.noise_time must be greater than 0, got -1"),
        ({"run": {**RUN, "replicates": 0}}, "replicates must be at least 1"),
        ({"run": {**RUN, "replicates": 10**9}}, "GiB of memory"),
        ({"run": {**RUN, "save_points": 1}}, "save_points must be at least 2"),
        ({"run": {**RUN, "save_points": [0.0, 2.0]}}, "after the end of the run"),
        ({"run": {**RUN, "start": "equal"}}, "run.start must be 'independent' or 'shared'"),
        ({"run": {**RUN, "noise_precision": "half"}}, "noise_precision must be 'single' or 'double'"),
        ({"keep": {"quantities": ["final_rnak"]}}, r"keep.quantities has no 'final_rnak'. Did you mean 'final_rank'\?"),
        ({"keep": {"quantities": ["loss"]}}, "keep.quantities has no 'loss'. It belongs to keep.time_series"),
        ({"keep": {"time_series": "loss"}}, "keep.time_series must be a list of names"),
        ({"keep": {"alive": 1.0}}, "below 1; got 1"),
        ({"keep": {"burn_in": 1.0}}, "burn_in must be a share"),
        ({"keep": {"batches": 1}}, "batches must be at least 2"),
        ({"keep": {"quantities": ["final_accuracy"]}}, "no cell of this study has 'final_accuracy'"),
        ({"keep": {"quantities": ["log_det_slope"]}, "network": {"width": 3}}, "no cell of this study has"),
        ({"keep": {"quantities": ["final_balance"]}, "network": {"width": [8, 8]}}, "it needs two layers"),
        ({"stop": {"quantity": "final_rank"}}, r"\[stop\] needs standard_error and at_most"),
        ({"stop": {"quantity": "steps", "standard_error": 1, "at_most": 9}}, "must have a standard error, got 'steps'"),
        ({"stop": {"quantity": "final_rank", "standard_error": 0, "at_most": 99}}, "must be greater than 0"),
        ({"stop": {"quantity": "final_rank", "standard_error": 1, "at_most": 9}}, "stop.at_most = 9 is fewer"),
        (
            {"stop": {"quantity": "rank", "standard_error": 1, "at_most": 99}, "run": {**RUN, "start": "shared"}},
            "it needs run.start = 'independent'",
        ),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**64}, "seed must be at most"),
        ({"name": 3}, "name must be a text in quotes, got 3"),
    ],
)  # fmt: skip
def test_bad_settings(change, message):
    refused(message, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"axes": {"teacher_rank": [1, 2, 3], "scale": [1.0, 2.0]}},
            r"in the cell problem.teacher_rank = 3, network.scale = 1.0: rank must be at most 2, got 3",
        ),
        ({"axes": {"scale": [1.0, -1.0]}}, "in the cell network.scale = -1.0: scale must be greater than 0, got -1"),
        (
            {"zipped": [{"n_inputs": [5, 1], "teacher_rank": [2, 2]}]},
            "in the cell problem.n_inputs = 1, problem.teacher_rank = 2: rank must be at most 1, got 2",
        ),
        (
            {"method": {"step_size": 0.1}, "axes": {"method.name": ["gradient-descent", "label-noise-descent"]}},
            "in the cell method.name = label-noise-descent: the method label-noise-descent needs method.label_noise",
        ),
        (
            {"axes": {"batch_size": [1, 2000]}, "method": {"name": "stochastic-gradient-descent", "step_size": 0.1}},
            "in the cell method.batch_size = 2000: batch_size must be at most the number of samples",
        ),
        ({"axes": {"network.start": ["gaussian", "zero"]}}, "in the cell network.start = zero: network.start must be"),
        (
            {"axes": {"method.name": ["StochasticGradientFlow", "stochastic-gradient-flow"]}, "method": {
                "label_noise": 1.0, "step_size": 0.1}},
            "it is the same as the cell method.name = StochasticGradientFlow",
        ),
        (
            {"axes": {"weight_decay": [0.0, 20.0]}, "method": {"name": "gradient-descent", "step_size": 0.1}},
            r"in the cell method.weight_decay = 20.0: weight_decay · step_size must be below 1",
        ),
    ],
)  # fmt: skip
def test_a_value_that_is_invalid_for_one_cell_only_is_reported_with_the_cell(change, message):
    refused(message, **change)


def test_unknown_tables_and_keys_of_the_file(tmp_path):
    path = tmp_path / "study.toml"
    for text, message in [
        ("[metod]\nname = 'gradient-flow'", r"study.toml: the study has no setting 'metod'. Did you mean 'method'\?"),
        ("[axis]\n", r"Did you mean 'axes'\?"),
        ("_axes = []", "the study has no setting '_axes'"),
        ("files = {}", "the study has no setting 'files'"),
        ("[method\n", r"study.toml is not TOML: .*line 1"),
        ("[axes]\nwidth = [1]\nwidth = [2]", r"study.toml is not TOML: .*[Cc]annot overwrite"),
        ("seed = " + "9" * 5000, "study.toml is not TOML"),
        ("seed = " + "[" * 100_000, "study.toml (is nested too deeply|is not TOML)"),
        ("seed = 0 # " + "x" * (1 << 20), "is larger than 1024 KiB"),
    ]:
        path.write_text(text)
        begun = time.perf_counter()
        with pytest.raises(rf.InvalidInput, match=message):
            Study.from_toml(path)
        assert time.perf_counter() - begun < 5.0
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(rf.InvalidInput, match="not a text file"):
        Study.from_toml(path)
    with pytest.raises(rf.InvalidInput, match=r"there is no file .*rankfall sweep --example"):
        Study.from_toml(tmp_path / "none.toml")
    with pytest.raises(rf.InvalidInput, match="cannot read"):
        Study.from_toml(tmp_path)
