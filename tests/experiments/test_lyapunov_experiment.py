"""The Lyapunov target: its parts, what it claims of them, and what breaks the claims."""

from __future__ import annotations

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments import _lyapunov_claims, lyapunov
from rankfall.experiments._target import Work
from rankfall.experiments.lyapunov import Settings
from rankfall.report import render_figure

SMALL = {"sizes": ((2, 1),), "ratios": (2,), "intensities": (0.05, 2.0), "duration": 300.0, "replicates": 9}


def work(folder, progress=False):
    return Work(threads=None, progress=progress, checkpoint=folder / "x.checkpoint")


@pytest.fixture(scope="module")
def target():
    return lyapunov.target(Settings.choose(**SMALL))


@pytest.fixture(scope="module")
def results(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lyapunov")
    return {part.name: part.compute(work(folder)) for part in target.parts}


def test_parts_are_named_and_hold_every_cell(target, results):
    assert [part.name for part in target.parts] == ["decay", "grid-2x1", "ratio"]
    grid = results["grid-2x1"]
    assert grid.sizes["cell"] == 4 and grid.teacher_rank.values.tolist() == [0, 0, 1, 1]
    assert np.isfinite(grid.exponents).all() and (grid.diverged == 0).all()
    # the sum of the exponents is −k tr Σ in units of σ²
    np.testing.assert_allclose(grid.exponents.sum("mode"), -2.0, rtol=1e-9)


def test_laws_and_claims_hold(target, results):
    for part in target.parts:
        verdicts = part.laws(results[part.name])
        assert verdicts and all(verdict.passed is True for verdict in verdicts)
    found = {verdict.law: verdict for verdict in target.claims(results)}
    assert list(found) == [
        "slopes are Lyapunov exponents",
        "teacher's rank survives weak noise, p = 2, k = 1",
        "strong noise forgets the teacher, p = 2, k = 1",
    ]
    assert found["slopes are Lyapunov exponents"].passed is True
    assert found["teacher's rank survives weak noise, p = 2, k = 1"].passed is True
    # smallest singular value: far below the smallest float64, at slope −1.5 to −1.8 σ²
    assert results["decay"].log_singular_values_Z.values[:, -1, -1].max() < np.log(1e-150)


def test_where_the_teacher_does_not_decide_is_said(target, results):
    verdicts = _lyapunov_claims.cell_verdicts(results["grid-2x1"])
    assert len(verdicts) == 4
    assert verdicts[2].passed is True and verdicts[2].predicted == verdicts[2].measured == 1
    text = " ".join(target.notes(results))
    held = sum(v.passed is True for v in [*verdicts, *_lyapunov_claims.cell_verdicts(results["ratio"])])
    assert f"holds in {held} of the 5 cells" in text
    others = [verdict for verdict in verdicts if verdict.passed is not True]
    assert others  # the smallest size has them already
    for verdict in others:
        rank = verdict.law.removeprefix("final rank, p = 2, k = 1, teacher of rank ").split(",")[0]
        assert f"p = 2, k = 1, a teacher of rank {rank}, where" in text


def changed(results, name, **values):
    return {**results, name: results[name].copy(deep=True).assign(values)}


def test_a_slope_five_per_cent_off_is_seen(target, results):
    wrong = changed(results, "grid-2x1", exponents=results["grid-2x1"].exponents * 1.05)
    assert target.claims(wrong)[0].passed is False


def test_another_rank_is_seen_and_a_wide_band_left_open(target, results):
    ranks = results["grid-2x1"].final_rank.copy(deep=True)
    ranks.values[2] = 2, 2  # weak noise, teacher of rank one
    assert target.claims(changed(results, "grid-2x1", final_rank=ranks))[1].passed is False
    ranks.values[2] = 1, 2
    verdict = target.claims(changed(results, "grid-2x1", final_rank=ranks))[1]
    assert verdict.passed is None and "between 1 and 2 modes survive" in verdict.note
    ranks.values[:] = [[1, 1], [1, 1], [1, 1], [2, 2]]
    assert target.claims(changed(results, "grid-2x1", final_rank=ranks))[2].passed is False
    ranks.values[3] = 1, 1
    assert target.claims(changed(results, "grid-2x1", final_rank=ranks))[2].passed is True


def test_a_sum_that_is_off_is_seen(target, results):
    sums = results["ratio"].sum_rule.copy(deep=True)
    sums.values[0, 2] = 2 * sums.values[0, 3]
    part = target.parts[-1]
    (verdict,) = part.laws(changed(results, "ratio", sum_rule=sums)["ratio"])
    assert verdict.passed is False


@pytest.mark.parametrize("columns", [1, 2])
def test_figures_of_everything_and_of_parts(target, results, columns):
    first, second = (render_figure(target.figure(results, columns), "svg") for _ in range(2))
    assert first == second and len(first) > 20_000
    assert "300/σ²" in target.caption(results)
    assert target.figure({}, columns) is None and target.claims({}) == [] and target.notes({}) == []
    for name in results:
        some = target.figure({name: results[name]}, columns)
        assert some is None if name == "ratio" else render_figure(some, "svg")


class StopAt:
    """Presses Ctrl-C in the run of this number."""

    def __init__(self, number):
        self.left, self.last = number, 0

    def __call__(self, state):
        if state.stage == "running" and state.completed < self.last:
            self.left -= 1
        self.last = state.completed
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_grid_is_partial_and_judged(target, tmp_path):
    part = target.parts[1]
    with pytest.raises(rf.SimulationInterrupted) as stop:
        part.compute(work(tmp_path, StopAt(2)))
    partial = stop.value.run
    done = np.isfinite(partial.exponents.values).all(axis=1)
    assert 0 < done.sum() < 4
    assert part.laws(partial)[0].n_checked == done.sum()
    assert len(_lyapunov_claims.cell_verdicts(partial)) == done.sum()
    assert target.figure({"grid-2x1": partial}, 2) is not None
    assert target.claims({"grid-2x1": partial}) is not None


def test_settings_are_checked():
    assert Settings.choose(replicates=None) == Settings.choose()
    assert Settings.choose(intensities=(2.0, 0.1, 2.0)).intensities == (0.1, 2.0)
    for wrong, words in (
        ({"colour": 1}, "no such setting"),
        ({"sizes": ()}, "at least one entry"),
        ({"sizes": (3,)}, "pairs of inputs and outputs"),
        ({"sizes": ((0, 1),)}, "at least 1"),
        ({"intensities": (0.0,)}, "greater than 0"),
        ({"replicates": 1}, "at least 2"),
        ({"duration": -1.0}, "greater than 0"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(rf.InvalidInput, match=words):
            Settings.choose(**wrong)


def test_quick_is_smaller():
    quick, full = Settings.choose(quick=True), Settings.choose()
    assert len(quick.sizes) < len(full.sizes) and quick.duration < full.duration
    assert quick.intensities[0] == full.intensities[0]
