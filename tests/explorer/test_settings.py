"""What a visitor may choose, and that an address says the same as the controls."""

import ast
import contextlib
import dataclasses
import io
from urllib.parse import parse_qs

import numpy as np
import pytest

import rankfall as rf
from rankfall.explorer._presets import PRESETS
from rankfall.explorer._settings import CHOICES, CONTROLS, Settings
from rankfall.explorer._visit import Visit

OWN = Settings(
    method="label-noise-descent", label_noise=1.5, step_size=0.05, batch_size=3, n_inputs=4, n_outputs=3, width=9,
    teacher_rank=1, scale=0.5, replicates=16, duration=30.0, seed=7,
)  # fmt: skip


@pytest.mark.parametrize("settings", [Settings(), OWN, *(preset.settings for preset in PRESETS.values())])
def test_an_address_brings_back_the_settings(settings):
    assert Settings.from_query(parse_qs(settings.to_query())) == settings
    assert Settings.from_values(settings.to_values()) == settings


def test_the_address_of_the_defaults_is_empty():
    assert Settings().to_query() == ""


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("delta=abc", r"delta .*must be a number from 0 to 10, got abc"),
        ("delta=nan", "must be a number"),
        ("delta=-1", "got -1"),
        ("p=2.5", "p .*must be a whole number from 1 to 10"),
        ("p=11", "whole number from 1 to 10, got 11"),
        ("replicates=100000", "from 8 to 64"),
        ("method=magic", "method must be one of gradient-flow"),
        ("rank=3", r"at most min\(p, k\) = 2, got 3"),
        ("colour=red", "'colour' is no setting"),
        ("p=3&p=4", "given 2 times"),
        ("seed=-1", "seed"),
    ],
)
def test_a_bad_address_is_refused_with_the_reason(query, words):
    with pytest.raises(rf.InvalidInput, match=words):
        Settings.from_query(parse_qs(query))


@pytest.mark.parametrize("values", [None, [], {}, {**Settings().to_values(), "more": 1}, {"p": 3}])
def test_messages_that_are_not_settings_are_refused(values):
    with pytest.raises(rf.InvalidInput, match="reload"):
        Settings.from_values(values)


def test_the_controls_lower_the_rank_with_the_sizes():
    chosen = Settings.from_values({**Settings().to_values(), "n_outputs": 1})
    assert (chosen.n_outputs, chosen.teacher_rank) == (1, 1)


def test_runs_that_would_take_too_long_are_refused():
    slow = Settings(method="gradient-descent", step_size=0.001, duration=2000.0, n_inputs=10, n_outputs=5, width=30,
                    replicates=64)  # fmt: skip
    with pytest.raises(rf.InvalidInput, match="too many for a page: shorten"):
        slow.begin()


def test_only_what_a_method_listens_to_acts():
    assert "delta" not in Settings(method="gradient-flow").acting
    assert "eta" in Settings(method="gradient-descent").acting
    assert "integrator" in Settings().acting
    assert all(Settings(method=method).acting <= {*CONTROLS, *CHOICES} for method in CHOICES["method"])


def test_a_step_that_is_too_large_is_warned_of_and_not_raised():
    assert "above 2/sharpness" in PRESETS["large-step"].settings.begin()[1]
    assert PRESETS["noise"].settings.begin()[1] == ""


@pytest.mark.parametrize("settings", [dataclasses.replace(OWN, duration=3.0), Settings("gradient-flow", duration=1.0)])
def test_the_script_makes_the_same_run(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    visit = Visit(settings)
    visit.move(1000)
    ast.parse(visit.file("rankfall-run.py"))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(visit.file("rankfall-run.py"), "run", "exec"), {"__name__": "__main__"})
    assert printed.getvalue().count("PASS") >= 2
    run, ours = rf.open_run(tmp_path / "rankfall-run.nc"), visit.run()
    assert run.attrs["settings"] == ours.attrs["settings"]
    # The kernels for any size add in another order: some hundred roundings of the weights, far below 1e-9 of them.
    for name in ("loss", "singular_values_Z"):
        np.testing.assert_allclose(ours[name], run[name], rtol=0, atol=1e-9 * float(run[name].max()))


def test_every_preset_has_a_story_of_three_sentences():
    for preset in PRESETS.values():
        assert len(preset.sentences) == 3
        assert all(sentence.endswith(".") for sentence in preset.sentences)
