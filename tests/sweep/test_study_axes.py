"""Axes: lists and ranges, crossed and moving together, and what is refused before anything long is built."""

from __future__ import annotations

import time

import numpy as np
import pytest

import rankfall as rf
from rankfall.sweep import Study

METHOD = {"name": "stochastic-gradient-flow", "label_noise": 1.0, "step_size": 0.01}
BASE = {"method": METHOD, "run": {"duration": 1.0}}


def study(**more):
    return Study(**{**BASE, **more})


def values(specification, name="scale"):
    (column,) = [values for dim, values in study(axes={name: specification}).coords.values()]
    return column


def test_ranges_have_the_points_that_they_say():
    assert values([0.5, 0.25]) == [0.5, 0.25]
    assert values({"values": [1, 2]}) == [1.0, 2.0]
    assert values({"from": 0.1, "to": 0.5, "step": 0.1}) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert values({"from": 1.0, "to": 0.5, "step": -0.25}) == [1.0, 0.75, 0.5]
    assert values({"from": 0.1, "to": 0.55, "step": 0.1}) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert values({"from": 1, "to": 2, "count": 3}) == values({"linear": [1, 2], "count": 3}) == [1.0, 1.5, 2.0]
    assert values({"log": [0.01, 100], "count": 5}) == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert values(np.array([1.0, 2.0])) == [1.0, 2.0]
    assert values(range(6, 9), "width") == values({"values": range(6, 9)}, "width") == [6, 7, 8]


def test_a_finer_log_range_holds_the_points_of_the_coarse_one():
    coarse, fine = (values({"log": [0.3, 17.0], "count": n}) for n in (9, 17))
    assert fine[::2] == coarse


def test_whole_settings_take_whole_points():
    assert values({"log": [1, 100], "count": 3}, "width") == [1, 10, 100]
    assert values({"log": [1, 4], "count": 9}, "width") == [1, 2, 3, 4]  # what rounds to the same is one point
    assert values({"from": 2, "to": 6, "step": 2}, "network.width") == [2, 4, 6]
    assert all(isinstance(value, int) for value in values([2.0, 3.0], "width"))


def test_dimensions_come_in_the_order_of_the_axes_with_the_last_one_fastest():
    made = study(
        axes={"scale": [0.5, 1.0], "problem.teacher_rank": [1, 2]},
        zipped=[{"name": "shape", "labels": ["flat", "tall"], "problem": {"n_inputs": [2, 6]}, "n_outputs": [6, 2]}],
    )
    assert made.dims == {"scale": 2, "teacher_rank": 2, "shape": 2} and made.n_cells == 8
    assert made.coords == {
        "scale": ("scale", [0.5, 1.0]),
        "teacher_rank": ("teacher_rank", [1, 2]),
        "n_inputs": ("shape", [2, 6]),
        "n_outputs": ("shape", [6, 2]),
        "shape": ("shape", ["flat", "tall"]),
    }
    cells = list(made.cells())
    assert [cell.index for cell in cells] == list(np.ndindex(2, 2, 2))
    assert [cell.settings["problem"]["n_inputs"] for cell in cells] == [2, 6] * 4
    assert [cell.settings["network"]["width"] for cell in cells] == [11] * 8
    assert [cell.settings["network"]["scale"] for cell in cells] == [0.5] * 4 + [1.0] * 4


def test_names_of_dimensions():
    assert list(study(axes={"run.duration": {"values": [1.0], "name": "T"}}, run={}).dims) == ["T"]
    # Short unless that is the name of another axis or of something in the store.
    names = study(axes={"run.start": ["independent"], "network.start": ["gaussian"]}).dims
    assert list(names) == ["run_start", "network_start"]
    assert list(study(zipped=[{"n_inputs": [2], "n_outputs": [3]}]).dims) == ["n_inputs_n_outputs"]
    assert list(study(zipped=[{"n_inputs": [2]}]).dims) == ["n_inputs"]


def test_widths_of_deep_networks_are_shown_as_text():
    made = study(axes={"width": [8, [8, 8], [10]]})
    assert made.coords["width"] == ("width", ["8", "8,8", "10"])
    assert [cell.settings["network"]["width"] for cell in made.cells()] == [8, [8, 8], 10]


@pytest.mark.parametrize(
    "axes, message",
    [
        ({"scale": []}, "the axis network.scale is empty"),
        ({"width": range(5, 5)}, "the axis network.width is empty"),
        ({"width": range(1, 10**12)}, r"the study has 999,999,999,999 .* at most 1,000,000 are run"),
        ({"width": {"values": range(1, 10**12)}}, r"the study has 999,999,999,999 .* at most 1,000,000 are run"),
        ({"scale": {"log": [1, 2], "count": 0}}, "the axis network.scale is empty"),
        ({"widht": [1]}, r"there is no setting 'widht' .* Did you mean 'width'\?"),
        ({"network.widht": [1]}, r"Did you mean 'network.width'\?"),
        ({"network": {"widht": [1]}}, r"Did you mean 'network.width'\?"),
        ({"start": ["gaussian"]}, "may mean network.start or run.start"),
        ({"scale": [1.0], "network.scale": [2.0]}, "network.scale is an axis twice"),
        ({"scale": [1.0, 2, 1]}, "has the value 1.0 twice"),
        ({"width": [3, [3]]}, "has the value 3 twice"),
        ({"label_noise": [1.0]}, r"method.label_noise is an axis and has one value under \[method\]"),
        ({"scale": 1.0}, "the axis network.scale must be a table"),
        ({"scale": {"log": [0, 1], "count": 3}}, "a log range has ends above 0"),
        ({"scale": {"log": [1], "count": 3}}, r"must be \[from, to\], got 1 values"),
        ({"scale": {"log": [1, 2]}}, "needs count beside 'log'"),
        ({"scale": {"from": 1, "to": 2}}, "needs step or count"),
        ({"scale": {"from": 1, "step": 2}}, "has 'from' but no 'to'"),
        ({"scale": {"from": 1, "to": 2, "step": 0}}, "never gets from 1 to 2 in steps of 0"),
        ({"scale": {"from": 1, "to": 2, "step": -1}}, "never gets"),
        ({"scale": {"from": 1, "to": 2, "step": 5e-324}}, "at most 1,000,000 are run"),
        ({"scale": {"from": 1, "to": 2, "step": 1, "count": 2}}, "takes step or count, not both"),
        ({"scale": {"from": 1, "to": float("nan"), "step": 1}}, "the end of the axis network.scale must be a finite"),
        ({"scale": {"log": [1, 2], "count": 1}}, "count must be at least 2"),
        ({"scale": {"log": [1, 2], "count": 2.5}}, "must be a whole number, got 2.5"),
        ({"scale": {"log": [1, 2], "coutn": 2}}, r"no setting 'coutn'. Did you mean 'count'\?"),
        ({"scale": {"log": [1, 2], "linear": [1, 2], "count": 2}}, "needs a list of values, or one of"),
        ({"scale": {"count": 2}}, "needs a list of values, or one of"),
        ({"scale": {"values": [1], "count": 2}}, "has no setting 'count'"),
        ({"scale": {"values": [1], "name": "final_rank"}}, "cannot be called 'final_rank'"),
        ({"scale": {"values": [1], "name": "a/b"}}, "must be letters, digits and underscores"),
        ({"width": [2.5]}, "network.width must be a whole number, got 2.5"),
        ({"width": {"from": 1, "to": 2, "step": 0.5}}, "network.width must be a whole number, got 1.5"),
        ({"covariance": [[[1.0]]]}, "problem.covariance cannot be an axis"),
        ({"keep.alive": [0.1]}, "there is no setting 'keep.alive'"),
    ],
)
def test_bad_axes(axes, message):
    with pytest.raises(rf.InvalidInput, match=message):
        study(axes=axes)


@pytest.mark.parametrize(
    "zipped, message",
    [
        ([{"n_inputs": [2, 3], "n_outputs": [2]}], "problem.n_inputs has 2, problem.n_outputs has 1"),
        ([{"name": "x"}], "number 1 names no setting"),
        ([{"n_inputs": [2, 3], "labels": [1]}], "must be 2 numbers or texts"),
        ([{"n_inputs": [2], "labels": [float("inf")]}], "must be 1 numbers or texts"),
        ([{"n_inputs": [2]}, {"n_inputs": [2]}], "is an axis twice"),
        ({"n_inputs": [2]}, "zipped must be a list of tables"),
        ([{"n_inputs": [2, 2], "n_outputs": [3, 3]}], "has the value 2, 3 twice"),
        ([3], "must be a table"),
    ],
)
def test_bad_zipped_axes(zipped, message):
    with pytest.raises(rf.InvalidInput, match=message):
        study(zipped=zipped)


@pytest.mark.parametrize(
    "axes",
    [
        {"scale": {"from": 1, "to": 1e6, "step": 1}, "label_noise": {"from": 1, "to": 1e6, "step": 1}},
        {"scale": {"log": [1, 2], "count": 10**12}},
        {name: {"linear": [1, 2], "count": 1000} for name in ("scale", "label_noise", "dt", "duration")},
    ],
)
def test_a_grid_of_a_billion_cells_and_more_is_refused_with_its_count_at_once(axes):
    begun = time.perf_counter()
    with pytest.raises(rf.InvalidInput, match=r"1,000,000,000,000 cells; at most 1,000,000 are run"):
        Study(method={"name": "stochastic-gradient-flow", "step_size": 0.01}, axes=axes)
    assert time.perf_counter() - begun < 0.5
