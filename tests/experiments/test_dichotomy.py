"""The report as a whole: what it claims, what lies in the folder, and what an interruption leaves."""

import json

import numpy as np
import pytest
import xarray as xr

import rankfall as rf
from rankfall.experiments import claims, dichotomy
from rankfall.experiments.dichotomy import Settings

FILES = {
    "delta-0.nc",
    "delta-2.nc",
    "figure.pdf",
    "figure.png",
    "figure.svg",
    "index.html",
    "settings.json",
    "verdicts.json",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The quick report with the paper's sizes."""
    folder = tmp_path_factory.mktemp("report") / "quick"
    return dichotomy.run(Settings.choose(quick=True), folder)


@pytest.fixture(scope="module")
def runs(report):
    return {noise: rf.open_run(report.folder / f"delta-{noise:g}.nc") for noise in (0.0, 2.0)}


def small(**changes):
    return Settings.choose(**({"replicates": 3, "save_points": 20, "duration": 20.0} | changes))


def test_folder_holds_what_was_promised_and_nothing_else(report):
    assert {file.name for file in report.folder.iterdir()} == FILES
    assert report.status == "complete" and not report.was_complete
    record = json.loads((report.folder / "settings.json").read_text())
    assert record["status"] == "complete"
    assert record["command"].startswith("rankfall reproduce dichotomy --n-samples 1000 --n-inputs 5")
    verdicts = json.loads((report.folder / "verdicts.json").read_text())
    assert verdicts["failed"] == 0
    assert [entry["law"] for entry in verdicts["claims"]] == [verdict.law for verdict in report.claims]
    assert set(verdicts["laws"]) == {"δ = 0, gradient flow", "δ = 2, stochastic gradient flow"}


def test_determinant_is_constant_to_1e_8_without_noise(runs):
    log_det = runs[0.0]["log_det"].values
    assert np.abs(np.expm1(log_det - log_det[:, :1])).max() <= 1e-8


def test_determinant_decays_with_the_predicted_slope_to_1e_6(runs):
    run = runs[2.0]
    slope = -2 * 2 * 0.01 * 2.0 * np.trace(run["covariance"].values)
    spectrum = run["singular_values_Z"].values
    for log_det, modes in zip(run["log_det"].values, spectrum, strict=True):
        resolved = modes[:, 0] <= 1e8 * modes[:, -1]
        assert resolved.sum() > 20
        fitted = np.polyfit(run["time"].values[resolved], log_det[resolved], 1)[0]
        assert fitted == pytest.approx(slope, rel=1e-6)


def test_three_singular_values_die_only_with_noise(runs):
    ratios = {
        noise: np.median((run["singular_values_W1"][:, -1] / run["singular_values_W1"][:, 0]).values, axis=0)
        for noise, run in runs.items()
    }
    assert (ratios[2.0] < 1e-3).sum() == 3
    assert (ratios[0.0] < 0.1).sum() == 0


def test_default_stays_within_float64(runs):
    # The duration is long enough for the claims and short enough for det M to be a number until the end.
    spectrum = runs[2.0]["singular_values_Z"].values
    assert (spectrum[..., -1] > 1e-14 * spectrum[..., 0]).mean() > 0.98


def test_every_claim_and_every_law_passes(report):
    assert [verdict.law for verdict in report.claims] == [
        "determinant constant",
        "no mode dies",
        "determinant decay",
        "smallest mode dies",
        "rank falls to the teacher's",
    ]
    for verdict in report.verdicts:
        assert verdict.passed is True, str(verdict)
    assert report.claims[4].measured == 3.0
    assert all(report.laws.values())


def test_both_runs_share_their_starts(runs):
    assert np.array_equal(runs[0.0]["log_det"][:, 0], runs[2.0]["log_det"][:, 0])


def test_page_shows_the_claims_and_the_command(report):
    text = (report.folder / "index.html").read_text()
    assert "none failed" in text and "Partial report" not in text
    for verdict in report.verdicts:
        assert verdict.law.replace("'", "&#39;") in text
    assert text.count("<svg") == 2
    assert "--label-noise 0" in text and "--label-noise 2" in text


def test_a_complete_report_is_not_made_again(report):
    before = {file.name: file.stat().st_mtime_ns for file in report.folder.iterdir()}
    again = dichotomy.run(Settings.choose(quick=True), report.folder)
    assert again.was_complete and again.status == "complete"
    assert [str(verdict) for verdict in again.claims] == [str(verdict) for verdict in report.claims]
    assert {file.name: file.stat().st_mtime_ns for file in report.folder.iterdir()} == before


class StopAfter:
    """A progress callback that presses Ctrl-C once a run has made this share of its steps."""

    def __init__(self, name, share):
        self.name, self.share = name, share

    def __call__(self, name, state):
        if self.name in name and state.stage == "running" and state.completed >= self.share * state.total:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name, share", [("δ = 0", 0.0), ("δ = 2", 0.0), ("δ = 2", 0.3)])
def test_an_interrupted_report_is_valid_and_continues_to_the_same_data(tmp_path, name, share):
    settings = small()
    whole = dichotomy.run(settings, tmp_path / "whole")
    partial = dichotomy.run(settings, tmp_path / "parts", progress=StopAfter(name, share))
    assert partial.status == "partial"
    assert json.loads((tmp_path / "parts" / "settings.json").read_text())["status"] == "partial"
    assert json.loads((tmp_path / "parts" / "verdicts.json").read_text())["status"] == "partial"
    page = (tmp_path / "parts" / "index.html").read_text()
    assert "Partial report: " + name in page
    assert partial.failed == 0
    continued = dichotomy.run(settings, tmp_path / "parts")
    assert continued.status == "complete"
    assert {file.name for file in (tmp_path / "parts").iterdir()} == FILES
    for noise in ("0", "2"):
        first, second = (rf.open_run(tmp_path / part / f"delta-{noise}.nc") for part in ("whole", "parts"))
        xr.testing.assert_identical(first.drop_attrs(), second.drop_attrs())
    assert (tmp_path / "whole" / "figure.svg").read_bytes() == (tmp_path / "parts" / "figure.svg").read_bytes()
    assert [str(v) for v in whole.verdicts] == [str(v) for v in continued.verdicts]
    assert "Partial report" not in (tmp_path / "parts" / "index.html").read_text()


def test_a_killed_run_is_begun_again(tmp_path):
    settings = small(label_noise=(2.0,))
    dichotomy.run(settings, tmp_path / "report")
    (tmp_path / "report" / "delta-2.nc").write_bytes(b"half a file")
    record = json.loads((tmp_path / "report" / "settings.json").read_text())
    (tmp_path / "report" / "settings.json").write_text(json.dumps(record | {"status": "running"}))
    again = dichotomy.run(settings, tmp_path / "report")
    assert again.status == "complete" and again.failed == 0


def test_narrow_networks_follow_the_balance(tmp_path):
    outcome = dichotomy.run(small(width=4), tmp_path / "narrow")
    assert outcome.failed == 0
    assert "balance constant" in [verdict.law for verdict in outcome.claims]
    assert "determinant decay" not in [verdict.law for verdict in outcome.claims]
    assert "det M is 0 at all times for so narrow a network" in (tmp_path / "narrow" / "index.html").read_text()


def test_a_run_too_short_for_the_claim_is_undecided_not_failed(tmp_path):
    outcome = dichotomy.run(small(), tmp_path / "short")
    by_law = {verdict.law: verdict for verdict in outcome.claims}
    assert by_law["smallest mode dies"].passed is None
    assert "a longer duration is needed" in by_law["smallest mode dies"].note
    assert by_law["rank falls to the teacher's"].passed is None
    assert by_law["determinant decay"].passed is True


@pytest.mark.parametrize("data", ["diabetes"])
def test_real_data(tmp_path, data):
    outcome = dichotomy.run(Settings.choose(data, replicates=2, save_points=20, duration=20.0), tmp_path / data)
    assert outcome.failed == 0
    assert "Inputs of “diabetes” are standardised; Σ has rank 10 of 10." in (tmp_path / data / "index.html").read_text()


def test_claims_fail_on_data_that_break_them(runs):
    quiet, noisy = (run.copy(deep=True) for run in runs.values())
    quiet["log_det"][3, 40:] += 2e-8
    verdict = claims.determinant_constant(quiet)
    assert verdict.passed is False and verdict.replicate == 3 and verdict.error == pytest.approx(2e-8, rel=0.6)
    noisy["log_det"].values[2] *= 1 + 1e-4
    verdict = claims.determinant_decay(noisy)
    assert verdict.passed is False and verdict.replicate == 2
    quiet["singular_values_W1"].values[:, -1, -1] *= 1e-4
    (verdict,) = claims.fallen_modes(quiet, 0.0)
    assert verdict.passed is False and verdict.measured == 1
    noisy["singular_values_W1"].values[:, -1, 1] *= 1e-5
    assert claims.fallen_modes(noisy, 2.0)[1].passed is False
    quiet["balance_drift"].values[1, -1] = 1.0
    assert claims.balance_constant(quiet).passed is False


def test_claims_leave_out_what_diverged(runs):
    noisy = runs[2.0].copy(deep=True)
    for name in ("log_det", "singular_values_W1", "singular_values_Z"):
        noisy[name].values[0, 1:] = np.nan
    verdict = claims.determinant_decay(noisy)
    assert verdict.passed is True and verdict.n_checked == 7
    assert "1 of 8 replicates left out" in verdict.note
    assert claims.fallen_modes(noisy, 2.0)[1].n_checked == 7


def test_survivors_are_the_rank_of_the_teacher_and_inputs_without_variance():
    problem = rf.Problem.gaussian(n_samples=100, n_inputs=6, n_outputs=3, seed=0, rank=2)
    inputs = np.column_stack([problem.inputs, np.zeros(100)])
    problem = rf.Problem.from_data(inputs, problem.labels)
    network = rf.LinearNetwork.gaussian(7, 12, 3)
    run = rf.simulate(problem, network, rf.StochasticGradientFlow(2.0, 0.01), duration=1.0, save_points=3)
    assert claims.expected_survivors(run) == 3


def test_settings_are_checked_and_the_command_repeats_them():
    settings = Settings.choose(label_noise=(2.0, 0.5, 2.0), step_size=0.1 + 0.2, replicates=3)
    assert settings.label_noise == (0.5, 2.0)
    words = " ".join(settings.options())
    assert "--label-noise 0.5 --label-noise 2 --step-size 0.30000000000000004" in words
    with pytest.raises(rf.InvalidInput, match="colour: no such setting"):
        Settings.choose(colour=3)
