"""The curves of the page: measured, on the law, and the same as the dataset's."""

import dataclasses
import json
import math

import numpy as np
import pytest

from rankfall import laws
from rankfall.explorer import _words
from rankfall.explorer._frames import COLUMNS, Film, _sorted_quantiles
from rankfall.explorer._plots import Plots, frame_columns
from rankfall.explorer._presets import PRESETS
from rankfall.explorer._settings import Settings
from rankfall.explorer._visit import Visit

SHORT = {"replicates": 8, "duration": 5.0}


def column(film, name):
    return film.rows[: film.filled, COLUMNS.index(name)]


@pytest.fixture(scope="module")
def finished():
    visits = {}
    for name, preset in PRESETS.items():
        visit = Visit(preset.settings)
        while not visit.finished:
            visit.move(20)
        visits[name] = visit
    return visits


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_obeys_its_laws(finished, name):
    visit = finished[name]
    verdicts = visit.verdicts()
    assert len(verdicts) >= 2
    assert [verdict["status"] for verdict in verdicts] == ["PASS"] * len(verdicts)
    assert visit.moment.alive == visit.settings.replicates


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "narrow"])
def test_the_curve_lies_on_its_law(finished, name):
    film = finished[name].film
    curve, law = column(film, "log_det_middle"), column(film, "log_det_law")
    assert np.isfinite(curve).all() and np.isfinite(law).all()
    # Rounding of the ensemble's median: 1e-9 of a power of ten, where 5 % of the constant would be 0.01 and more.
    assert (np.abs(curve - law) <= 1e-9 * (1.0 + np.abs(law))).all()
    if name in ("noise", "repulsion", "teacher"):
        settings = finished[name].settings
        trace = np.trace(finished[name].run()["covariance"].values)
        slope = -2 * settings.n_outputs * settings.step_size * settings.label_noise * trace / math.log(10)
        measured = (curve[-1] - curve[0]) / column(film, "time")[-1]
        assert abs(measured / slope - 1) < 1e-9
    if name == "gradient-flow":
        assert np.ptp(curve) < 1e-9
    if name == "large-step":
        assert curve[-1] < curve[0] - 0.5


def test_what_the_presets_promise(finished):
    assert finished["gradient-flow"].moment.rank == 5
    assert finished["noise"].moment.rank == 2
    assert finished["teacher"].moment.rank == 2
    assert finished["narrow"].moment.rank < 4
    assert np.isnan(column(finished["narrow"].film, "log_det_middle")).all()
    assert "det M = 0" in _words.silent(finished["narrow"].film, finished["narrow"].settings)["log_det"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_sum_of_the_exponents_is_its_law(finished, name):
    moment = finished[name].moment
    assert abs(moment.rate_sum - moment.rate_law) < 1e-8


def test_columns_are_the_dataset(finished):
    visit = finished["large-step"]
    run, film = visit.run(), visit.film
    np.testing.assert_array_equal(column(film, "time"), run.time)
    logs = np.log10(run.singular_values_W1.values)
    for mode in range(5):
        np.testing.assert_allclose(column(film, f"singular_{mode}"), np.median(logs[..., mode], axis=0), atol=1e-8)
        np.testing.assert_allclose(column(film, f"path_{mode}"), logs[0, :, mode], atol=1e-8)
    np.testing.assert_allclose(column(film, "balance_middle"), np.median(run.balance, axis=0), rtol=1e-12)
    np.testing.assert_allclose(column(film, "loss_low"), np.quantile(np.log10(run.loss), 0.1, axis=0), atol=1e-12)
    eigenvalues = 2 * np.log10(run.singular_values_Z.values[0])
    for mode in range(7):
        np.testing.assert_allclose(column(film, f"eigenvalue_{mode}"), eigenvalues[:, mode], atol=1e-8)


def test_pushes_are_the_repulsion_of_the_run():
    settings = dataclasses.replace(PRESETS["repulsion"].settings, **SHORT)
    visit = Visit(settings)
    moment = visit.move(40)
    run = visit.run().isel(time=[-1])
    recorded = laws.eigenvalues.decompose(run).repulsion.values[0, 0]
    np.testing.assert_allclose(moment.pushes, recorded / math.log(10), rtol=1e-10)
    assert abs(moment.pushes.sum()) < 1e-10 * np.abs(moment.pushes).max()
    assert moment.pushes[0] > 0 > moment.pushes[-1]


def test_where_there_is_no_repulsion_the_page_says_why():
    for settings, words in (
        (Settings("gradient-flow", **SHORT), "without label noise"),
        (Settings("stochastic-gradient-descent", batch_size=4, **SHORT), "mini-batches"),
    ):
        moment = Visit(settings).move(3)
        assert words in moment.repulsion_note
        assert np.isnan(moment.pushes).all()


def test_quantiles_leave_out_what_is_not_finite():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 9, 3))
    values[0, :3] = np.nan
    values[1, 2, 1] = np.inf
    values[2] = np.nan
    low, middle, high = _sorted_quantiles(values, (0.1, 0.5, 0.9))
    kept = np.where(np.isfinite(values), values, np.nan)
    for found, share in ((low, 0.1), (middle, 0.5), (high, 0.9)):
        np.testing.assert_allclose(found[[0, 1, 3]], np.nanquantile(kept[[0, 1, 3]], share, axis=1))
        assert np.isnan(found[2]).all()


@pytest.mark.parametrize("pieces", [[1, 1, 5, 3], [10]])
def test_a_film_does_not_depend_on_how_the_run_is_cut(pieces):
    settings = Settings(**SHORT)
    visit = Visit(settings)
    for piece in pieces:
        visit.move(piece)
    whole = Film(settings, visit._stream)
    whole.take()
    np.testing.assert_array_equal(visit.film.rows, whole.rows)


def test_divergence_is_drawn_until_it_happens():
    visit = Visit(Settings("gradient-descent", step_size=0.3, duration=30.0))
    moment = visit.move(1000)
    assert moment.alive < 32
    assert "diverged" in _words.captions(visit.settings, visit.film, moment, 1.0)["loss"]
    json.dumps(Plots().frame(visit.film, 0, moment), allow_nan=False)


def test_a_frame_holds_every_row_once():
    visit, plots = Visit(Settings(**SHORT)), Plots()
    first = plots.frame(visit.film, 0, visit.move(1))
    then = plots.frame(visit.film, 1, visit.move(4))
    assert len(first["rows"]) == 1 and len(then["rows"]) == 4
    assert {len(row) for row in first["rows"] + then["rows"]} == {len(frame_columns(5, 7))}
    assert "guards" in first and "guards" not in then
    x0, y0, x1, y1 = then["arrows"]
    assert len(x0) == 7 and all(np.isfinite([*x0, *y0, *x1, *y1]))
    assert json.loads(json.dumps(then, allow_nan=False)) == then


@pytest.mark.parametrize("method", ["label-noise-descent", "stochastic-gradient-descent", "gradient-descent"])
def test_descents_follow_their_ledger(method):
    visit = Visit(Settings(method, label_noise=1.0, step_size=0.02, duration=5.0, batch_size=8))
    visit.move(1000)
    np.testing.assert_allclose(column(visit.film, "log_det_middle"), column(visit.film, "log_det_law"), atol=1e-8)
    assert all(verdict["status"] == "PASS" for verdict in visit.verdicts())


def test_euler_follows_its_ledger_and_not_the_flow():
    visit = Visit(Settings(integrator="euler", duration=20.0))
    moment = visit.move(1000)
    np.testing.assert_allclose(column(visit.film, "log_det_middle"), column(visit.film, "log_det_law"), atol=1e-8)
    assert math.isnan(visit.film.flow_rate)
    assert "ledger of the steps" in _words.captions(visit.settings, visit.film, moment, 1.0)["log_det"]
