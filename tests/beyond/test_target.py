"""The target "beyond": settings, what it needs, its parts and pages."""

import json
import sys
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

import rankfall as rf
from rankfall.experiments import _everything, beyond
from rankfall.experiments._catalogue import TARGETS, choose_target
from rankfall.experiments._runner import run_target
from rankfall.experiments.beyond import Settings

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture
def small(monkeypatch):
    """The target with two experiments of two seeds that take no time."""
    from rankfall.experiments._beyond import digits, teacher_student

    regression = teacher_student.Setup(inputs=4, units=6, samples=20, probe=15, steps=60, save_points=4)
    images = digits.Setup(
        step_size=0.1, wrong_labels=0.2, layers=2, width=12, samples=40, jacobian_probe=3, steps=60, save_points=4
    )
    made = [
        teacher_student._experiment("relu", regression, range(2)),
        digits._experiment("digits-wrong-large-step", "Wrong labels, large step", images, range(2)),
    ]
    monkeypatch.setattr(beyond, "_experiments", lambda settings: made)
    return lambda: beyond.target(Settings.choose(replicates=2))


def test_settings(tmp_path):
    assert Settings.choose() == Settings() and Settings.choose(seed=None) == Settings()
    assert Settings.choose(quick=True).quick and not Settings.choose().quick
    assert list(Settings.choose(seed=3, replicates=2).seeds) == [3, 4]
    assert Settings.choose(data_dir=tmp_path).data_dir == str(tmp_path)
    for wrong, message in (
        ({"colour": 1}, "colour: no such setting"),
        ({"replicates": 0}, "replicates must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**63 - 4}, f"seed must be at most {2**63 - 5}"),
        ({"data_dir": tmp_path / "absent"}, "data_dir must be a folder, got .*absent"),
        ({"only": "relu"}, "only must be names of experiments, got 'relu'"),
    ):
        with pytest.raises(rf.InvalidInput, match=message):
            Settings.choose(**wrong)


def test_the_experiments():
    names = ["relu", "tanh", "gelu", "digits-small-step", "digits-large-step"]
    wrong = ["digits-wrong-small-step", "digits-wrong-large-step"]
    vision = ["convolution", "transformer"]
    made = beyond._experiments(Settings.choose())
    lora = ["adapters", "adapters-small-step", "adapters-narrow", "adapters-both"]
    assert [each.name for each in made] == [*names, *wrong, *vision, *lora]
    assert [each.name for each in beyond._experiments(Settings.choose(quick=True))] == [*names, *vision, "adapters"]
    target = beyond.target(Settings.choose(only=("gelu", "tanh")))
    assert [part.name for part in target.parts] == [
        "tanh.gd", "tanh.sgd", "tanh.label-noise", "gelu.gd", "gelu.sgd", "gelu.label-noise",
    ]  # fmt: skip
    # what decides the numbers is in the settings, so that a report with other ones is not continued
    assert target.settings["experiments"]["gelu"]["steps"] == made[2].settings["steps"] == 50_000
    assert json.loads(json.dumps(target.settings))["only"] == ["gelu", "tanh"]
    with pytest.raises(rf.InvalidInput, match="no experiment elu; there are relu, tanh, gelu"):
        beyond.target(Settings.choose(only=("elu",)))


@pytest.mark.parametrize("module, name", [("torch", "PyTorch"), ("sklearn", "scikit-learn")])
def test_what_is_missing_is_said_before_any_work(tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(rf.InvalidInput, match=rf"need {name}, not installed.*pip install 'rankfall\[torch,data\]'"):
        choose_target("beyond")
    monkeypatch.setattr(_everything, "TARGETS", {"dichotomy": "", "beyond": ""})
    with pytest.raises(rf.InvalidInput, match=name):
        _everything.run_all(tmp_path / "all", quick=True)
    assert not (tmp_path / "all").exists()


def test_a_report(small, tmp_path):
    told = []
    outcome = run_target(small(), tmp_path / "report", progress=lambda title, state: told.append((title, state)))
    assert outcome.status == "complete" and outcome.failed == 0
    assert [each.law.split(": ")[0] for each in outcome.claims] == [
        *["ReLU, two layers"] * 3, *["Wrong labels, large step"] * 3,
    ]  # fmt: skip
    assert all(each.n_checked == 2 and each.passed is None for each in outcome.claims)  # five seeds are asked for
    page = (outcome.folder / "index.html").read_text()
    for words in (
        "Beyond linear networks",
        "least and largest of 2 seeds",
        "holds in 0 of 6 panels",
        "until σ²t = 0.12",
        "Loss on the samples",
        "20% of whose labels are wrong",
        "Accuracy on the samples",
        "see 0.25 of what as many large ones see",
        "step size 0.1",
        "rankfall reproduce beyond",
    ):
        assert words in page, words
    assert {title for title, _ in told} == {part.title for part in small().parts}
    assert (outcome.folder / "figure.svg").exists() and (outcome.folder / "relu.label-noise.nc").exists()
    again = run_target(small(), tmp_path / "report")
    assert again.was_complete and [asdict(v)["note"] for v in again.claims] == [v.note for v in outcome.claims]


def test_ctrl_c_and_the_same_command_again(small, tmp_path):
    def press(title, state):
        if title == "ReLU, two layers: mini-batches (SGD)" and state.completed >= 80:
            raise KeyboardInterrupt

    partial = run_target(small(), tmp_path / "report", progress=press)
    assert partial.status == "partial" and partial.claims == []
    page = (tmp_path / "report" / "index.html").read_text()
    assert "ReLU, two layers: mini-batches (SGD) was interrupted at step 27" in page
    assert "SGD with label noise has not begun" in page
    whole = run_target(small(), tmp_path / "report")
    plain = run_target(small(), tmp_path / "plain")
    assert whole.status == "complete"
    assert [v.to_dict() for v in whole.claims] == [v.to_dict() for v in plain.claims]


def test_before_anything_is_there(small):
    target = small()
    assert target.claims({}) == [] and target.figure({}, 1) is None
    assert target.caption({}).startswith("Effective rank") and len(target.notes({})) == 3


def test_the_command_line(tmp_path):
    from rankfall.cli import app

    assert "beyond" in TARGETS
    for words, message in (
        (("dichotomy", "--data-dir", str(tmp_path)), "--data-dir does not belong to the target dichotomy"),
        (("beyond", "--data-dir", str(tmp_path / "absent")), "must be a folder"),
        (("beyond", "--only", "relu", "--only", "elu"), "no experiment elu; there are relu, tanh"),
        (("repulsion", "--only", "relu"), "--only does not belong to the target repulsion"),
        (("beyond", "--width", "3"), "--width does not belong to the target beyond"),
    ):
        result = CliRunner().invoke(app, ["reproduce", *words, "--out", str(tmp_path / "report")])
        assert result.exit_code == 2 and message in " ".join(result.stderr.split())
        assert not (tmp_path / "report").exists()
