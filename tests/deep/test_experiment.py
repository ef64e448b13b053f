"""The target `deep`: its settings, and claims that say what the runs show."""

from __future__ import annotations

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments import deep
from rankfall.experiments._target import Work
from rankfall.report import render_figure

SETTINGS = deep.Settings.choose(
    depths=[3], duration=400.0, replicates=4, save_points=9, width=7, scale=0.4, label_noise=8.0, n_samples=100
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    work = Work(threads=1, progress=False, checkpoint=tmp_path_factory.mktemp("deep") / "x.checkpoint")
    return {part.name: part.compute(work) for part in deep.target(SETTINGS).parts}


def test_claims_say_what_the_runs_show(results):
    target = deep.target(SETTINGS)
    assert list(results) == ["depth-3-gradient-flow", "depth-3-label-noise"]
    for part in target.parts:
        assert all(verdict.passed for verdict in part.laws(results[part.name])), part.name
    found = {verdict.law: verdict for verdict in target.claims(results)}
    assert list(found) == [
        "no layer loses rank, 3 layers",
        "first layer falls to the teacher's rank, 3 layers",
        "last layer falls to the teacher's rank, 3 layers",
        "middle layers keep their rank, 3 layers",
    ]
    assert all(verdict.passed for verdict in found.values()), [str(verdict) for verdict in found.values()]


def test_claims_fail_and_wait_where_they_must(results):
    target = deep.target(SETTINGS)
    quiet, noisy = results["depth-3-gradient-flow"], results["depth-3-label-noise"]
    # what label noise does, passed off as gradient flow, and the other way round
    swapped = {verdict.law: verdict for verdict in target.claims({"depth-3-gradient-flow": noisy})}
    assert swapped["no layer loses rank, 3 layers"].passed is False
    swapped = {verdict.law: verdict for verdict in target.claims({"depth-3-label-noise": quiet})}
    assert swapped["first layer falls to the teacher's rank, 3 layers"].passed is None
    # a teacher of full rank must not lose a mode of the last layer
    full = deep.target(deep.Settings.choose(depths=[3], teacher_rank=2))
    laws = [verdict.law for verdict in full.claims({"depth-3-label-noise": noisy})]
    assert "last layer falls to the teacher's rank, 3 layers" not in laws
    failed = {verdict.law: verdict for verdict in full.claims({"depth-3-label-noise": noisy})}
    assert failed["first layer falls to the teacher's rank, 3 layers"].passed is False


@pytest.mark.parametrize("columns", [1, 2])
def test_figure_of_all_and_of_parts(results, columns):
    target = deep.target(SETTINGS)
    assert render_figure(target.figure(results, columns), "svg").startswith(b"<?xml")
    assert target.figure({"depth-3-gradient-flow": results["depth-3-gradient-flow"]}, columns) is not None
    assert target.figure({}, columns) is None and target.claims({}) == []
    assert "rank" in target.caption({}) and target.notes({})


def test_options_make_the_same_settings():
    chosen = deep.Settings.choose(quick=True, depths=(2, 4), scale=0.25)
    words = deep.target(chosen).options
    assert words[:4] == ("--depths", "2", "--depths", "4")
    pairs = list(zip(words[::2], words[1::2], strict=True))
    given = {name.removeprefix("--").replace("-", "_"): float(value) for name, value in pairs if name != "--depths"}
    assert deep.Settings.choose(depths=[2, 4], **given) == chosen


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"depths": []}, "at least one"),
        ({"depths": [1]}, "depths must be at least 2"),
        ({"teacher_rank": 3}, "teacher_rank must be at most 2"),
        ({"colour": "red"}, "colour: no such setting"),
        ({"label_noise": 0.0}, "label_noise must be greater than 0"),
    ],
)
def test_bad_settings(chosen, words):
    with pytest.raises(rf.InvalidInput, match=words):
        deep.Settings.choose(**chosen)


def test_settings_are_json_ready():
    import json

    assert json.loads(json.dumps(deep.target(SETTINGS).settings))["depths"] == [3]
    assert deep.Settings.choose(depths=3).depths == (3,)
    assert np.isclose(deep.Settings.choose(scale=None).scale, 0.316)
