"""The runner with a target made for the purpose: what is kept, what is made again, what the pages say."""

import json
import sys
from dataclasses import replace

import pytest
import xarray as xr
from matplotlib.figure import Figure

import rankfall as rf
from rankfall.experiments import _catalogue, _everything
from rankfall.experiments._runner import run_target
from rankfall.experiments._target import Part, Target
from rankfall.laws import Verdict


def verdict(law, passed):
    return Verdict(law, f"{law} holds", 1.0, 1.0 if passed else 2.0, 0.0 if passed else 1.0, 0.5, passed, n_checked=1)


def toy(calls, *, stop=None, passed=True, **changes):
    """Two parts that compute one number each; `stop` names a part at which Ctrl-C is pressed."""

    def part(name, value):
        def compute(work):
            calls.append(name)
            if stop == name:
                raise KeyboardInterrupt
            work.checkpoint.write_text("half")
            return xr.Dataset({"value": value, "word": ("entry", ["a", "bc"])}, attrs={"size": 3})

        return Part(name, f"the part {name}", compute, lambda result: [verdict(f"law of {name}", True)])

    def figure(results, columns):
        drawing = Figure(figsize=(2 * columns, 2))
        drawing.subplots().plot([float(each["value"]) for each in results.values()])
        return drawing

    settings = {
        "name": "toy",
        "title": "Numbers stay numbers",
        "lead": "Two numbers.",
        "settings": {"size": 3, "none": None, "share": 0.5},
        "parts": [part("one", 1.0), part("two", 2.0)],
        "claims": lambda results: [verdict("claim", passed)] if len(results) == 2 else [],
        "figure": figure,
        "caption": lambda results: f"{len(results)} numbers.",
        "notes": lambda results: ["Mind the gap."],
        "options": ["--seed", "1"],
    }
    return Target(**settings | changes)


def test_parts_are_kept_and_judged(tmp_path):
    calls = []
    outcome = run_target(toy(calls), tmp_path / "report")
    assert calls == ["one", "two"] and outcome.status == "complete" and not outcome.was_complete
    assert [each.law for each in outcome.verdicts] == ["claim", "law of one", "law of two"]
    names = {file.name for file in outcome.folder.iterdir()}
    assert names == {
        "one.nc",
        "two.nc",
        "figure.pdf",
        "figure.svg",
        "figure.png",
        "index.html",
        "verdicts.json",
        "settings.json",
    }
    page = (outcome.folder / "index.html").read_text()
    for text in (
        "Numbers stay numbers",
        "Two numbers.",
        "2 numbers.",
        "Mind the gap.",
        "the part one",
        "size",
        "3 of 3",
    ):
        assert text in page
    assert f"rankfall reproduce toy --seed 1 --out {outcome.folder}" in page.replace("<span>", "").replace(
        "</span>", ""
    )
    again = run_target(toy(calls), tmp_path / "report")
    assert calls == ["one", "two"] and again.was_complete
    assert [str(each) for each in again.verdicts] == [str(each) for each in outcome.verdicts]


def test_what_was_finished_survives_an_interruption(tmp_path):
    calls = []
    partial = run_target(toy(calls, stop="two"), tmp_path)
    assert partial.status == "partial" and set(partial.laws) == {"the part one"} and partial.claims == []
    assert "the part two has not begun" in (tmp_path / "index.html").read_text()
    whole = run_target(toy(calls), tmp_path)
    assert calls == ["one", "two", "two"] and whole.status == "complete" and not whole.was_complete
    assert "has not begun" not in (tmp_path / "index.html").read_text()


def test_a_partial_result_is_shown_and_computed_again(tmp_path):
    calls = []

    def stopped(work):
        raise rf.SimulationInterrupted("stopped", xr.Dataset({"value": 7.0}))

    target = toy(calls)
    half = replace(target, parts=[replace(target.parts[0], compute=stopped), target.parts[1]])
    assert run_target(half, tmp_path).status == "partial"
    with xr.open_dataset(tmp_path / "one.nc", engine="h5netcdf") as kept:
        assert float(kept["value"]) == 7.0
    assert run_target(target, tmp_path).status == "complete"
    assert calls == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_a_damaged_part_is_computed_again(tmp_path, content):
    calls = []
    run_target(toy(calls), tmp_path)
    (tmp_path / "two.nc").write_bytes(content)
    again = run_target(toy(calls), tmp_path)
    assert calls == ["one", "two", "two"] and not again.was_complete


def test_datasets_come_back_as_they_were(tmp_path):
    seen = []
    target = replace(toy([]), caption=lambda results: seen.append(results["one"]) or "")
    run_target(target, tmp_path)
    (tmp_path / "two.nc").unlink()
    run_target(target, tmp_path)
    made, read = seen
    xr.testing.assert_identical(made, read)


def test_failures_are_counted_and_shown(tmp_path):
    outcome = run_target(toy([], passed=False), tmp_path)
    assert outcome.failed == 1
    assert json.loads((tmp_path / "verdicts.json").read_text())["failed"] == 1
    assert "1 of 3 checks failed" in (tmp_path / "index.html").read_text()


def test_other_settings_need_overwrite_which_removes_old_parts(tmp_path):
    run_target(toy([]), tmp_path)
    changed = toy([], settings={"size": 4})
    with pytest.raises(rf.InvalidInput, match="size: 3 there, 4 asked for"):
        run_target(changed, tmp_path)
    fewer = replace(changed, parts=changed.parts[:1])
    (tmp_path / "mine.nc").write_text("x")
    run_target(fewer, tmp_path, overwrite=True)
    assert not (tmp_path / "two.nc").exists() and (tmp_path / "mine.nc").exists()


def test_a_forged_record_cannot_remove_other_files(tmp_path):
    run_target(toy([]), tmp_path / "report")
    (tmp_path / "precious.nc").write_text("x")
    record = tmp_path / "report" / "settings.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"parts": ["../precious", "*", 3]}))
    run_target(toy([]), tmp_path / "report", overwrite=True)
    assert (tmp_path / "precious.nc").exists()


def test_unknown_targets_and_settings_are_refused():
    with pytest.raises(rf.InvalidInput, match="Did you mean dichotomy"):
        _catalogue.choose_target("dichotmy")
    with pytest.raises(
        rf.InvalidInput, match="--colour does not belong to the target dichotomy, which takes --data, --n-samples"
    ):
        _catalogue.choose_target("dichotomy", colour=3)


@pytest.fixture
def toys(monkeypatch):
    """Two toy targets in place of the catalogue; `stop` can be set between runs."""
    calls, stop = [], {}

    def choose(name, *, quick=False, **chosen):
        return replace(toy(calls, stop=stop.get(name), settings={"quick": quick, **chosen}), name=name, options=())

    names = {"first": "one", "second": "two"}
    for module in (_everything, _catalogue):
        monkeypatch.setattr(module, "TARGETS", names)
    monkeypatch.setattr(_everything, "choose_target", choose)
    return calls, stop


def test_all_targets_share_an_index(tmp_path, toys):
    calls, _ = toys
    begun = []
    result = _everything.run_all(tmp_path / "all", begin=lambda *each: begun.append(each), options=["--seed", "5"])
    assert not result.interrupted and list(result.outcomes) == ["first", "second"]
    assert begun == [("first", 1, 2), ("second", 2, 2)]
    page = (tmp_path / "all" / "index.html").read_text()
    assert "6 of 6 checks passed, none failed." in page
    assert 'href="second/index.html"' in page and "first/figure.png" in page
    assert "rankfall reproduce --all --seed 5" in page
    assert calls == ["one", "two", "one", "two"]
    _everything.run_all(tmp_path / "all")
    assert calls == ["one", "two", "one", "two"]


def test_all_stops_and_continues(tmp_path, toys):
    calls, stop = toys
    stop["first"] = "two"
    result = _everything.run_all(tmp_path / "all")
    assert result.interrupted and list(result.outcomes) == ["first"]
    assert "not complete yet: first, second" in (tmp_path / "all" / "index.html").read_text()
    stop.clear()
    assert not _everything.run_all(tmp_path / "all").interrupted
    assert calls == ["one", "two", "two", "one", "two"]


def test_all_leaves_foreign_folders_alone(tmp_path, toys):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(rf.InvalidInput, match=r"holds something else \(thesis.tex\)"):
        _everything.run_all(tmp_path, overwrite=True)
    with pytest.raises(rf.InvalidInput, match="is a file"):
        _everything.run_all(tmp_path / "thesis.tex")
    with pytest.raises(rf.OutputError, match="cannot make the folder"):
        _everything.run_all(tmp_path / "thesis.tex" / "below")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_package_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(rf.InvalidInput, match=r"pip install 'rankfall\[data\]'"):
        _everything.run_all(tmp_path / "all", quick=True)
    assert not (tmp_path / "all").exists()
