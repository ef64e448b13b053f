"""What a study will take: counts that are exact where they can be, and times of the right size."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

import rankfall as rf
from rankfall.sweep import Study, run_cell
from rankfall.sweep._example import EXAMPLES, example
from rankfall.sweep._toml import parse_toml

PROBLEM = {"n_samples": 60, "n_inputs": 3, "n_outputs": 2}
FLOW = {"name": "stochastic-gradient-flow", "step_size": 0.02}


def test_steps_and_trajectories_are_those_that_are_run():
    study = Study(
        problem=PROBLEM,
        network={"width": 7, "scale": 0.7},
        method=FLOW,
        run={"duration": 9.0, "replicates": 4, "save_points": [0.0, 4.5, 9.0]},
        axes={"label_noise": [1.0, 2.0, 30.0]},
    )
    found = study.estimate(trial=False)
    results = [run_cell(cell.settings, cell.seed, study.quantities(), 1) for cell in study.cells()]
    assert found.steps[0] == found.steps[1] == sum(int(result.values["steps"]) * 4 for result in results)
    assert found.cells == 3 and found.trajectories == (12, 12) and not found.tried
    assert found.bytes >= sum(value.nbytes for result in results for value in result.values.values())


def test_an_adaptive_stop_gives_a_range():
    stop = {"quantity": "final_rank", "standard_error": 0.1, "at_most": 64}
    method = {"name": "label-noise-descent", "step_size": 0.01, "label_noise": 1.0}
    study = Study(problem=PROBLEM, method=method, run={"duration": 5.0, "replicates": 16}, stop=stop)
    found = study.estimate(trial=False)
    assert found.trajectories == (16, 64) and found.steps == (16 * 500, 64 * 500)
    assert found.seconds[0] <= found.seconds[1] and "16 to 64 trajectories, 8,000 to 32,000 steps" in str(found)


def test_a_large_grid_is_sampled():
    axes = {"label_noise": {"log": [0.1, 10], "count": 60}, "scale": {"linear": [0.1, 1], "count": 60}}
    study = Study(problem=PROBLEM, method=FLOW, run={"duration": 9.0, "dt": 0.01, "replicates": 4}, axes=axes)
    begun = time.process_time()
    found = study.estimate(trial=False)
    assert time.process_time() - begun < 3.0
    assert found.cells == 3600 and found.trajectories == (14400, 14400)
    assert found.steps[0] == pytest.approx(900 * 14400, rel=1e-9)


@pytest.mark.parametrize(
    "method, run",
    [
        ({**FLOW, "label_noise": 1.0}, {"duration": 2000.0}),
        ({"name": "gradient-flow"}, {"duration": 1.0}),
        ({"name": "gradient-descent", "step_size": 0.01}, {"steps": 200_000}),
        ({"name": "label-noise-descent", "step_size": 0.01, "label_noise": 1.0}, {"duration": 0.02}),
    ],
)
def test_a_trial_gives_a_time_of_the_right_size(method, run):
    study = Study(problem=PROBLEM, network={"width": 7, "scale": 0.7}, method=method, run={**run, "replicates": 16})
    found = study.estimate()
    assert found.tried and 0.0 < found.seconds[0] < 60.0
    (cell,) = study.cells()
    taken = min(run_cell(cell.settings, cell.seed, study.quantities()).wall_time for _ in range(2))
    # A shared machine may be some times slower or faster from one moment to the next.
    assert taken / 20 - 0.05 < found.seconds[0] < 20 * taken + 0.05


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_studies_that_come_with_rankfall_are_whole(name):
    study = Study.from_mapping(parse_toml(example(name).encode(), name))
    assert study.n_cells > 1 and study.quantities()


def test_the_first_example_runs_in_seconds():
    study = Study.from_mapping(parse_toml(example().encode(), "example"))
    assert study.estimate(trial=False).seconds[1] < 10.0


def test_every_quantity_of_the_first_example_has_a_value():
    """A newcomer plots what it keeps; at the two ends of the axes, with the fewest trajectories."""
    study = Study.from_mapping(parse_toml(example().encode(), "example"))
    cells = list(study.cells())
    for cell in (cells[0], cells[-1]):
        values = run_cell(cell.settings, cell.seed, study.quantities()).values
        assert set(study.keep["quantities"]) <= set(values)
        assert not [name for name in study.keep["quantities"] if not np.isfinite(values[name]).all()]


def test_a_span_of_which_both_ends_read_alike_is_one_number():
    study = Study.from_mapping(parse_toml(example().encode(), "example"))
    found = dataclasses.replace(study.estimate(trial=False), seconds=(0.2, 0.9))
    assert "about 1 s (without a trial)" in str(found)
    assert "about 1 s to 3 s (" in str(dataclasses.replace(found, seconds=(0.2, 3.0)))


def test_an_example_of_another_name():
    with pytest.raises(rf.InvalidInput, match=r"there is no example 'exmple'.* Did you mean 'example'\?"):
        example("exmple")
