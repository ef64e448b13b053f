"""The phase target: its studies, what it claims of them, and what breaks the claims."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import rankfall as rf
from rankfall.experiments import _phase_claims, _phase_figure, phase
from rankfall.experiments._runner import run_target
from rankfall.experiments._target import Work
from rankfall.experiments.phase import Settings
from rankfall.report import render_figure
from rankfall.sweep import Study
from rankfall.sweep._example import example
from rankfall.sweep._toml import parse_toml

FLOW, LABEL, SAMPLES = "stochastic-gradient-flow", "label-noise-descent", "stochastic-gradient-descent"


def small(name):
    """A study like the shipped one, of a few cells of a small size."""
    given = Study.from_mapping(parse_toml(example(f"phase-{name}").encode(), name)).to_mapping()
    given["problem"] |= {"n_inputs": 3, "n_outputs": 2}
    given["run"] |= {"replicates": 8, "noise_time": 30.0 if name == "step" else 100.0}
    given["axes"] = {setting: dict(axis) for setting, axis in given["axes"].items()}
    if name == "noise":
        given["axes"]["method.label_noise"]["values"] = [0.06, 20.0]
        given["axes"]["problem.teacher_rank"]["values"] = [0, 2]
        given["stop"] |= {"at_most": 16}
    elif name == "width":
        given["zipped"] = [{"name": "shape", "labels": ["3/2", "2/2"], "problem.n_inputs": [3, 2]}]
        given["problem"].pop("n_inputs")
        given["axes"]["network.excess"]["values"] = [-1, 0]
        given["stop"] |= {"at_most": 16}
    else:
        given["axes"]["method.step_size"]["values"] = [0.01, 0.03, 1.0]
    return Study.from_mapping({key: value for key, value in given.items() if key != "files"})


def work(folder, progress=False):
    return Work(threads=None, progress=progress, checkpoint=folder / "x.checkpoint")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phase")
    found = {name: phase._sweep(small(name), name, work(folder)) for name in ("noise", "width", "step")}
    assert not (folder / "x.checkpoint").exists()
    return found


def test_the_studies_are_those_that_ship():
    whole, few = (phase.studies(Settings.choose(quick=quick)) for quick in (False, True))
    for name, study in whole.items():
        shipped = Study.from_mapping(parse_toml(example(f"phase-{name}").encode(), name))
        assert study.differences(shipped) == [] and study.n_cells == shipped.n_cells
        # The quick cells are cells of the whole study, with the same numbers.
        assert {cell.key for cell in few[name].cells()} < {cell.key for cell in study.cells()}
        assert study.extends(few[name])
    other = phase.studies(Settings.choose(seed=5))["noise"]
    assert not {cell.key for cell in other.cells()} & {cell.key for cell in whole["noise"].cells()}


def test_claims_hold_on_small_sweeps(results):
    found = {verdict.law: verdict for verdict in _phase_claims.claims(results)}
    assert set(found) >= {
        "the teacher's rank survives weak noise", "strong noise forgets the teacher", "more noise leaves less rank",
        "det M falls at the law's rate wherever it is not zero",
        "the line width = inputs + outputs leaves no trace in the rank", "the flow obeys its law",
        "descents obey their ledger at any step",
    }  # fmt: skip
    for law in ("the flow obeys its law", "descents obey their ledger at any step",
                "det M falls at the law's rate wherever it is not zero"):  # fmt: skip
        assert found[law].passed is True and found[law].error < 1e-8
    assert found["the teacher's rank survives weak noise"].measured == 2.0
    # At η = 1 every network diverges: the cell is there, failed, and its numbers are NaN.
    assert (results["step"].status.sel(step_size=1.0, name=[LABEL, SAMPLES]) == 2).all()
    assert results["step"].final_loss.sel(step_size=1.0, name=LABEL).isnull()


def grid(dims, **variables):
    """A dataset over named dimensions, like that of a sweep."""
    shape = tuple(len(values) for values in dims.values())
    data = {
        name: (tuple(dims), np.broadcast_to(np.asarray(value, float), shape).copy())
        for name, value in variables.items()
    }
    return xr.Dataset(data, coords={name: (name, values) for name, values in dims.items()})


@pytest.fixture
def made_up():
    """What an ideal sweep would give."""
    noise = grid(
        {"teacher_rank": [0, 1, 2], "noise": [0.01, 1.0, 20.0]},
        final_rank=[[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [2.0, 1.5, 1.05]],
        final_rank_standard_error=0.05,
    )
    width = grid(
        {"noise": [0.1, 1.0], "excess": [-2, -1, 0, 1], "shape": ["2/1", "1/2"]},
        final_rank=[[[1.0, 1.0]] * 4, [[2.0, 1.0]] * 4],
        final_rank_standard_error=0.0,
        log_det_slope_predicted=-2.0,
        log_det_slope=np.array([np.nan, np.nan, -2.0, -2.0])[None, :, None],
    )
    steps = np.array([0.001, 0.01, 0.1])
    rates = -np.array([np.ones(3), 1 + 2 * steps, 1 + 3 * steps])
    step = grid(
        {"name": [FLOW, LABEL, SAMPLES], "step_size": steps},
        **{name: value for quantity in ("final_balance", "effective_rank") for name, value in (
            (quantity, -rates), (f"{quantity}_standard_error", 1e-5))},
        log_det_slope=rates * steps,
        log_det_slope_standard_error=1e-6 * steps,
        log_det_slope_predicted=rates * steps,
        diverged=0.0,
        status=1.0,
    )  # fmt: skip
    return {"noise": noise, "width": width, "step": step}


def test_all_claims_pass_on_ideal_results(made_up):
    verdicts = _phase_claims.claims(made_up)
    assert len(verdicts) == 9 and all(verdict.passed is True for verdict in verdicts)


@pytest.mark.parametrize(
    "part, law, spoil",
    [
        ("noise", "the teacher's rank survives weak noise", lambda d: d.final_rank.__setitem__((2, 0), 1.6)),
        ("noise", "strong noise forgets the teacher", lambda d: d.final_rank.__setitem__((2, 2), 1.4)),
        ("noise", "more noise leaves less rank", lambda d: d.final_rank.__setitem__((2, 1), 2.5)),
        ("width", "det M falls at the law's rate wherever it is not zero",
         lambda d: d.log_det_slope.__setitem__((0, 2, 1), -2.00001)),
        ("width", "the line width = inputs + outputs leaves no trace in the rank",
         lambda d: d.final_rank.__setitem__((1, 2, 0), 1.9)),
        ("step", "the flow obeys its law", lambda d: d.log_det_slope.__setitem__((0, 1), -0.0100001)),
        ("step", "descents obey their ledger at any step",
         lambda d: d.log_det_slope_predicted.__setitem__((1, 2), -0.1)),
        ("step", f"the flow is off in proportion to the step, {LABEL}",
         lambda d: [d[name].__setitem__((1, 2), -0.105) for name in ("log_det_slope", "log_det_slope_predicted")]),
    ],
)  # fmt: skip
def test_each_claim_can_fail(made_up, part, law, spoil):
    spoil(made_up[part])
    verdicts = {verdict.law: verdict.passed for verdict in _phase_claims.claims(made_up)}
    assert verdicts.pop(law) is False
    assert all(passed is True for passed in verdicts.values())


def test_a_quadratic_error_is_not_in_proportion(made_up):
    """2 η² and 2 √η in the place of 2 η: the exponents 2 and 1/2 are outside the band."""
    for power in (2.0, 0.5):
        steps = made_up["step"].step_size.values
        made_up["step"].log_det_slope[1] = -steps * (1 + 2 * (10 * steps) ** power / 10)
        (verdict,) = (v for v in _phase_claims._first_order(made_up["step"]) if LABEL in v.law)
        assert verdict.passed is False and abs(verdict.measured - power) < 0.05


def test_deviations_and_where_they_reach_a_tenth(made_up):
    off = _phase_claims.deviations(made_up["step"], "log_det_slope")
    np.testing.assert_allclose(off.deviation.sel(name=LABEL), 2 * off.step_size, rtol=1e-9)
    np.testing.assert_allclose(off.error.sel(name=LABEL), np.hypot(1e-6, 1e-6 * (1 + 2 * off.step_size)), rtol=1e-9)
    assert _phase_claims._crossing(np.array([0.01, 0.1]), np.array([0.02, 0.2]), 0.1) == pytest.approx(0.05)
    assert _phase_claims._crossing(np.array([0.01, 0.1]), np.array([0.02, np.nan]), 0.1) is None
    made_up["step"].status[2, 2] = 2.0
    made_up["step"].log_det_slope[2, 2] = np.nan
    notes = " ".join(_phase_claims.notes(made_up))
    assert "Label-noise-descent: the rate of log det M is off by a tenth at η = 0.05." in notes
    assert "the first networks diverge at η = 0.1" in notes
    assert "at σ² = 1 a teacher of rank 1 leaves 2 ± 0.05 modes" in notes


def test_the_figure_and_its_words_with_whatever_there_is(results, made_up):
    assert render_figure(_phase_figure.draw(results, 2), "png")
    for found in (results, made_up):
        assert _phase_figure.draw(found, 1) is not None
        for name in found:
            part = {name: found[name]}
            assert _phase_figure.draw(part, 2) is not None and _phase_figure.caption(part)
            assert _phase_claims.claims(part)
    assert _phase_figure.draw({}, 2) is None and _phase_claims.claims({}) == []
    # After Ctrl-C cells are missing.
    for name, result in made_up.items():
        empty = result.copy(deep=True)
        for variable in empty.data_vars.values():
            variable[...] = np.nan
        assert _phase_claims.claims({name: empty}) == [] and _phase_claims.notes({name: empty}) is not None
        assert render_figure(_phase_figure.draw({name: empty}, 1), "svg")


def test_ctrl_c_keeps_the_cells_and_the_same_command_continues(results, tmp_path):
    seen = []

    def stop_after_two(state):
        seen.append(state)
        if state.completed >= 2:
            raise KeyboardInterrupt

    study = small("noise")
    with pytest.raises(rf.SimulationInterrupted) as stop:
        phase._sweep(study, "rank", work(tmp_path, stop_after_two))
    assert int((stop.value.run.status == 1).sum()) == 2 and seen[-1].unit == "cells"
    found = phase._sweep(study, "rank", work(tmp_path))
    assert found.identical(results["noise"]) and not list(tmp_path.iterdir())


def test_the_runner_makes_a_report_and_replaces_a_stopped_one(tmp_path, monkeypatch):
    monkeypatch.setattr(phase, "studies", lambda settings: {name: small(name) for name in ("noise", "width", "step")})
    target = phase.target(Settings())
    folder = tmp_path / "report"

    def stop(title, state):
        if state.completed >= 1:
            raise KeyboardInterrupt

    assert run_target(target, folder, progress=stop).status == "partial"
    assert (folder / "noise.checkpoint").is_dir()
    outcome = run_target(target, folder, overwrite=True)
    assert outcome.status == "complete" and not (folder / "noise.checkpoint").exists()
    record = json.loads((folder / "verdicts.json").read_text())
    assert record["status"] == "complete" and len(record["claims"]) >= 7 and (folder / "figure.png").exists()


def test_settings():
    assert Settings.choose(quick=True, seed=None) == Settings("few", 0)
    for chosen, message in (
        ({"sead": 1}, "sead: no such setting"),
        ({"points": "some"}, "points must be 'all' or 'few'"),
        ({"seed": -1}, "seed must be at least 0"),
    ):
        with pytest.raises(rf.InvalidInput, match=message):
            Settings.choose(**chosen)
