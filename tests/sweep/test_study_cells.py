"""Cells: keys and seeds, what two studies share, and the ways a study is written down."""

from __future__ import annotations

import hashlib
import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rankfall as rf
from rankfall.sweep import Study
from rankfall.sweep._toml import parse_toml

METHOD = {"name": "stochastic-gradient-flow", "step_size": 0.01}
BASE = {"method": METHOD, "run": {"duration": 1.0, "replicates": 4}}


def study(**more):
    return Study(**{**BASE, **more})


def keys(made):
    """Key → the values of its axes."""
    return {cell.key: cell.index for cell in made.cells()}


def test_adding_values_and_axes_of_one_value_changes_no_cell():
    small = study(axes={"label_noise": [1.0, 2.0], "width": [8, 10]})
    large = study(axes={"label_noise": [0.5, 1.0, 1.5, 2.0], "width": [7, 8, 9, 10]})
    assert set(keys(small)) <= set(keys(large)) and len(keys(large)) == 16
    assert keys(large)[next(small.cells()).key] == (1, 1)
    # The same cell, said in other ways: another order, zipped, defaults spelled out, a base value for an axis.
    (cell,) = study(axes={"label_noise": [1.0], "width": [8]}).cells()
    others = [
        study(axes={"width": [8], "label_noise": [1.0]}),
        study(zipped=[{"width": [8], "label_noise": [1]}]),
        study(axes={"excess": [1]}, method={**METHOD, "label_noise": 1, "batch_size": 1}, network={"scale": 1}),
        study(network={"width": np.int64(8)}, method={**METHOD, "label_noise": 1.0}, problem={"n_inputs": 5.0}, seed=0),
        study(network={"width": 8}, method={**METHOD, "name": "StochasticGradientFlow", "label_noise": 1.0}),
        study(network={"width": 8}, method={**METHOD, "label_noise": 1.0}, run={"noise_time": 0.01, "replicates": 4}),
    ]
    assert [next(other.cells()).key for other in others] == [cell.key] * len(others)
    assert next(others[0].cells()).seed == cell.seed


def test_every_setting_and_the_studys_seed_change_the_key_and_the_seed():
    plain = study(method={**METHOD, "label_noise": 1.0})
    others = [
        study(method={**METHOD, "label_noise": 1.0}, seed=1),
        study(method={**METHOD, "label_noise": np.nextafter(1.0, 2.0)}),
        study(method={**METHOD, "label_noise": 1.0, "integrator": "euler"}),
        study(method={**METHOD, "label_noise": 1.0}, problem={"seed": 1}),
        study(method={**METHOD, "label_noise": 1.0}, network={"start": "balanced"}),
        study(method={**METHOD, "label_noise": 1.0}, run={"duration": 1.0, "replicates": 5}),
        study(method={**METHOD, "label_noise": 1.0}, keep={"alive": 0.01}),
        study(method={**METHOD, "label_noise": 1.0}, keep={"quantities": ["lyapunov_rank"]}),
    ]
    cells = [next(each.cells()) for each in (plain, *others)]
    assert len({cell.key for cell in cells}) == len({cell.seed for cell in cells}) == len(cells)
    # The name and what else is kept are for the reader.
    same = study(method={**METHOD, "label_noise": 1.0}, name="other", keep={"time_series": ["loss"]})
    assert next(same.cells()).key == cells[0].key


def test_keys_stay_what_they_are():
    """A store is continued by later versions only if the same settings have the same key there."""
    (cell,) = study(method={**METHOD, "label_noise": 1.0}).cells()
    words = (
        '[1,0,{"method":{"batch_size":1,"integrator":"geometric","label_noise":1.0,"name":"stochastic-gradient-flow",'
        '"step_size":0.01},"network":{"scale":1.0,"start":"gaussian","width":10},"problem":{"kind":"gaussian",'
        '"n_inputs":5,"n_outputs":2,"n_samples":1000,"seed":0,"teacher_noise":0.0},"run":{"duration":1.0,'
        '"noise_precision":"single","replicates":4,"save_points":51,"start":"independent"},"summary":{"alive":0.001}}]'
    )
    key = hashlib.blake2b(words.encode(), digest_size=16, person=b"rankfall cell").hexdigest()
    seed = hashlib.blake2b(key.encode(), digest_size=8, person=b"rankfall seed").digest()
    assert (cell.key, cell.seed) == (key, int.from_bytes(seed, "big"))
    assert key == "b5295c95afda24f19526dd549a123a4a"
    assert all(0 <= cell.seed < 2**64 for cell in study(axes={"label_noise": {"log": [1, 9], "count": 50}}).cells())


def test_problems_are_the_same_in_all_cells_unless_they_name_a_seed():
    made = study(axes={"label_noise": [1.0, 2.0]}, seed=7)
    assert [cell.settings["problem"]["seed"] for cell in made.cells()] == [7, 7]
    made = study(axes={"problem.seed": [1, 2]}, method={**METHOD, "label_noise": 1.0}, seed=7)
    assert [cell.settings["problem"]["seed"] for cell in made.cells()] == [1, 2]


def test_objects_are_taken_for_their_settings():
    made = Study(
        problem=rf.Problem.gaussian(50, 3, 2, seed=1),
        network=rf.LinearNetwork.balanced(3, [6, 7], 2, scale=0.5),
        method=rf.LabelNoiseDescent(step_size=0.01, label_noise=1.0),
        run={"steps": 10},
    )
    (cell,) = made.cells()
    model = rf.sweep._model.Model.make(cell.settings)
    np.testing.assert_array_equal(model.problem.covariance, rf.Problem.gaussian(50, 3, 2, seed=1).covariance)
    assert (model.network.widths, model.network.start, model.network.scale) == ((3, 6, 7, 2), "balanced", 0.5)
    assert model.method == rf.LabelNoiseDescent(step_size=0.01, label_noise=1.0)
    assert Study.from_mapping(json.loads(json.dumps(made.to_mapping()))) == made
    assert repr(made) == "Study('study', 1 cell)"
    assert repr(study(axes={"label_noise": [1.0, 2.0], "width": [8, 9]})) == (
        "Study('study', 4 cells: 2 label_noise × 2 width)"
    )
    for bad, message in (
        ({"problem": rf.Problem.classification(9, 2, 2, seed=0)}, "give the study the files"),
        ({"network": rf.LinearNetwork.from_weights(np.ones((3, 4)), np.ones((4, 1)))}, "give the study the files"),
        ({"problem": rf.LinearNetwork.gaussian(3, 4, 1)}, "problem must be a table"),
        ({"problem": made.problem, "method": rf.StochasticGradientDescent(0.1, 4)}, "needs the data"),
    ):  # fmt: skip
        with pytest.raises(rf.InvalidInput, match=message):
            Study(**{"method": rf.GradientDescent(0.1), "run": {"steps": 9}, **bad})


def test_ten_thousand_cells_are_checked_and_listed_in_seconds():
    begun = time.process_time()
    made = study(axes={"label_noise": {"log": [0.1, 10], "count": 100}, "scale": {"linear": [0.1, 2], "count": 100}})
    checked = time.process_time()
    assert len(keys(made)) == made.n_cells == 10_000
    assert checked - begun < 10.0 and time.process_time() - checked < 5.0  # 1.8 s and 0.6 s on a quiet machine


def test_mappings_go_there_and_back():
    made = study(
        name="all of it",
        seed=3,
        problem={"kind": "whitened", "n_inputs": 4, "n_outputs": 3},
        network={"start": "gaussian"},
        axes={"label_noise": {"log": [0.1, 10], "count": 3, "name": "noise"}, "width": [5, [8, 8]]},
        zipped=[
            {"teacher_rank": [1, 2]},
            {"name": "two", "labels": ["a", "b"], "scale": [0.1, 1], "teacher_scale": {"values": [1, 2], "name": "s"}},
        ],
        keep={"quantities": ["final_rank"], "time_series": ["rank"]},
        stop={"quantity": "final_rank", "standard_error": 0.1, "at_most": 9},
    )
    text = json.dumps(made.to_mapping(), allow_nan=False)
    again = Study.from_mapping(json.loads(text))
    assert again == made and again.to_mapping() == made.to_mapping()
    assert (again.dims, again.coords, list(again.cells())) == (made.dims, made.coords, list(made.cells()))
    assert again.quantities() == made.quantities()
    assert made.differences(again) == [] and not made.extends(again)


# --- TOML ---


def toml(value):
    """A value as TOML, inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


SCALES = st.floats(min_value=1e-3, max_value=1e3)
AXES = {
    "network.scale": st.lists(SCALES, min_size=1, max_size=3, unique=True),
    "method.label_noise": st.builds(
        lambda a, b, n: {"log": [a, b], "count": n}, st.floats(0.01, 0.1), st.floats(0.5, 9.0), st.integers(2, 4)
    ),
    "network.excess": st.builds(
        lambda a, n: {"from": a, "to": a + n, "step": 1}, st.integers(-3, 3), st.integers(0, 3)
    ),
}


@given(
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=10),
    seed=st.integers(0, 2**63 - 1),
    axes=st.fixed_dictionaries({}, optional=AXES),
    alive=st.floats(1e-6, 0.5),
    replicates=st.integers(1, 9),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_toml_and_python_say_the_same(name, seed, axes, alive, replicates):
    written = {
        "name": name,
        "seed": seed,
        "method": METHOD if "method.label_noise" in axes else {**METHOD, "label_noise": 1.0},
        "run": {"duration": 0.5, "replicates": replicates},
        "axes": axes,
        "keep": {"alive": alive},
    }
    text = "\n".join(f"{key} = {toml(value)}" for key, value in written.items())
    read = Study.from_mapping(parse_toml(text.encode(), "a test"))
    assert read == Study(**written)
    stored = Study.from_mapping(json.loads(json.dumps(read.to_mapping())))
    assert stored == read and [cell.key for cell in stored.cells()] == [cell.key for cell in read.cells()]


def test_toml_axes_without_quotes(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        """
        [method]
        name = "gradient-flow"
        [run]
        duration = 1.0
        [axes]
        width = [8, 9]
        problem.teacher_rank = [1, 2]
        [[zipped]]
        problem.n_inputs = [4, 6]
        problem.seed = [0, 1]
        """
    )
    made = Study.from_toml(path)
    assert made.dims == {"width": 2, "teacher_rank": 2, "n_inputs_seed": 2}


# --- two studies ---


def test_differences_are_said_in_words():
    one = study(axes={"label_noise": [1.0, 2.0]}, network={"width": 10})
    two = study(axes={"label_noise": [1.0, 3.0]}, network={"width": 12}, seed=1, run={"duration": 2.0, "replicates": 4})
    assert two.differences(one) == [
        "seed is 1 here, 0 there",
        "network.width is 12 here, 10 there",
        "run.duration is 2.0 here, 1.0 there",
        "the axis method.label_noise has 3.0 more here and lacks 2.0 here",
    ]
    other = study(axes={"label_noise": [1.0, 2.0]}, keep={"alive": 0.01}, method={**METHOD, "integrator": "euler"})
    assert other.differences(one) == [
        "network.width is not given here, 10 there",
        "method.integrator is euler here, geometric there",
        "keep.alive is 0.01 here, 0.001 there",
        "network.excess is 3 here, not given there",
    ]


def test_what_is_left_unsaid_is_no_difference():
    one = study(axes={"label_noise": [1.0]})
    two = study(
        name="another",
        axes={"label_noise": [1.0]},
        problem={"kind": "gaussian", "n_samples": 1000},
        network={"excess": 3, "scale": 1.0, "start": "gaussian"},
        method={"name": "StochasticGradientFlow", "step_size": 0.01, "batch_size": 1},
        run={"duration": 1.0, "replicates": 4, "save_points": 51, "start": "independent"},
    )
    assert one.differences(two) == two.differences(one) == []


def test_the_order_of_axes_is_a_difference():
    one = study(axes={"label_noise": [1.0, 2.0], "width": [7, 8]})
    two = study(axes={"width": [7, 8], "label_noise": [1.0, 2.0]})
    three = study(axes={"width": [8, 7], "label_noise": [1.0, 2.0]})
    assert two.differences(one) == ["the axes come in another order"] and not two.extends(one)
    assert three.differences(two) == ["the axis network.width has its values in another order"]


def test_long_axes_are_compared_in_a_moment():
    points = {"linear": [0.1, 2], "count": 20_001}
    given = {"method": {**METHOD, "label_noise": 1.0}, "files": {}}  # as read from a store: cells are not checked again
    one, two = (Study.from_mapping({**given, "axes": {"dt": {**points, "count": count}}}) for count in (20_001, 40_001))
    begun = time.process_time()
    assert two.extends(one) and not one.extends(two)
    (words,) = two.differences(one)
    assert words.startswith("the axis run.dt has 0.1000475, ") and words.endswith("and 19995 others more here")
    assert time.process_time() - begun < 5.0  # the quadratic way takes a minute


def test_extending():
    one = study(axes={"label_noise": [1.0, 2.0], "width": [7, 8]}, zipped=[{"scale": [1, 2], "n_inputs": [4, 5]}])
    more = {"label_noise": [0.5, 1.0, 2.0], "width": [7, 8]}
    two = study(axes=more, zipped=[{"scale": [1, 2, 3], "n_inputs": [4, 5, 6]}])
    assert two.extends(one) and not one.extends(two) and not one.extends(one)
    assert set(keys(one)) <= set(keys(two))
    assert not study(axes=more, zipped=[{"scale": [1, 2], "n_inputs": [4, 5]}], seed=1).extends(one)
    assert not study(axes=more, zipped=[{"scale": [1, 2, 3], "n_inputs": [5, 4, 6]}]).extends(one)
    assert not study(axes={**more, "dt": [0.1]}, zipped=[{"scale": [1, 2], "n_inputs": [4, 5]}]).extends(one)


# --- files ---


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("x", "x2"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((20, 3)))
    np.save(tmp_path / "y.npy", rng.standard_normal((20, 2)))
    text = """
        method = {name = "gradient-flow"}
        run = {duration = 1.0}
        axes = {inputs = ["x.npy", "x2.npy"]}
        problem = {labels = "y.npy"}
    """
    (tmp_path / "study.toml").write_text(text)
    return tmp_path


def test_files_lie_beside_the_study_and_count_by_their_content(data, tmp_path_factory):
    made = Study.from_toml(data / "study.toml")
    assert made.n_cells == 2 and [cell.settings["network"]["width"] for cell in made.cells()] == [8, 8]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in data.iterdir():
        path.rename(elsewhere / path.name)
    moved = Study.from_toml(elsewhere / "study.toml")
    assert keys(moved) == keys(made) and moved != made
    assert moved.differences(made) == []
    # The study of a store is read where the files are not.
    stored = Study.from_mapping(json.loads(json.dumps(made.to_mapping())))
    assert keys(stored) == keys(made) and moved.differences(stored) == []
    np.save(elsewhere / "y.npy", np.ones((20, 2)))
    changed = Study.from_toml(elsewhere / "study.toml")
    assert not set(keys(changed)) & set(keys(made))
    assert len(changed.differences(stored)) == 1 and changed.differences(stored)[0].startswith("problem.labels is ")


def test_a_file_that_changes_under_a_running_sweep_fails_its_cells(data):
    made = Study.from_toml(data / "study.toml")
    cell = next(made.cells())
    np.save(data / "y.npy", np.ones((20, 2)))
    rf.sweep._build._problem.cache_clear()
    result = rf.sweep.run_cell(cell.settings, cell.seed, made.quantities(), key=cell.key)
    assert result.status == "failed" and "is not what it was when the study was read" in result.reason
    assert result.key == cell.key and result.values == {}


def test_given_weights(data):
    np.save(data / "w1.npy", np.ones((3, 4)))
    np.save(data / "w2.npy", np.ones((4, 2)))
    problem = {"inputs": str(data / "x.npy"), "labels": str(data / "y.npy")}
    made = Study(
        problem=problem,
        network={"W1": data / "w1.npy", "W2": str(data / "w2.npy")},
        method={"name": "gradient-flow"},
        run={"duration": 1.0},
    )
    (cell,) = made.cells()
    assert rf.sweep._model.Model.make(cell.settings).network.width == 4


def test_bundled_data():
    pytest.importorskip("sklearn")
    made = Study(
        problem={"data": "diabetes"}, method={"name": "gradient-flow"}, run={"duration": 1.0}, axes={"excess": [-2, 0]}
    )
    assert [cell.settings["network"]["width"] for cell in made.cells()] == [9, 11]


def test_statistics():
    made = Study(
        problem={"covariance": np.eye(2), "cross_covariance": [[1.0], [2.0]]},
        method={"name": "gradient-flow"},
        run={"duration": 1.0},
    )
    assert next(made.cells()).settings["problem"]["covariance"] == [[1.0, 0.0], [0.0, 1.0]]
    assert all(a == b for a, b in itertools.pairwise([made, Study.from_mapping(made.to_mapping())]))
