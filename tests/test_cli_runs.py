"""The command line with simulations behind it, small ones."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from urllib.parse import unquote

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import rankfall as rf
from rankfall.cli import app

FLOW = ("--method", "stochastic-gradient-flow", "--label-noise", "2", "--step-size", "0.01", "--duration", "5")
SMALL = ("--replicates", "3", "--save-points", "10")


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    file = tmp_path_factory.mktemp("runs") / "run.nc"
    result = run("simulate", *FLOW, *SMALL, "--seed", "4", "--out", file)
    assert result.exit_code == 0, result.output
    return file, result


def test_simulate_writes_what_the_library_would(saved):
    file, result = saved
    problem = rf.Problem.gaussian(1000, 5, 2, seed=4)
    expected = rf.simulate(
        problem,
        rf.LinearNetwork.gaussian(5, 10, 2),
        rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01),
        duration=5.0,
        replicates=3,
        save_points=10,
        seed=4,
    )
    found = rf.open_run(file)
    for name in ("log_det", "loss", "singular_values_W1", "balance"):
        assert np.array_equal(found[name], expected[name]), name
    assert [entry.name for entry in file.parent.iterdir() if "checkpoint" in entry.name] == []
    assert "3 of 3 replicates completed" in result.stdout
    assert f"Run: {file}" in result.stdout
    assert "PASS determinant" in result.stdout


def test_progress_is_plain_lines_without_a_terminal(saved):
    _, result = saved
    assert "stochastic-gradient-flow: 100%" in result.stderr
    assert "\r" not in result.stderr and "\x1b" not in result.stderr


def test_quiet_prints_no_progress(tmp_path):
    result = run("simulate", *FLOW, *SMALL, "--quiet", "--out", tmp_path / "run.nc")
    assert result.exit_code == 0 and result.stderr == ""


def test_check_prints_the_verdicts_and_exits_by_them(saved, tmp_path):
    file, _ = saved
    result = run("check", file)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith("PASS determinant law")
    record = json.loads(run("check", "--json", file).stdout)
    assert record[0]["file"] == str(file) and record[0]["verdicts"][0]["passed"] is True
    broken = rf.open_run(file)
    broken["log_det"].values[1, 4:] += 1e-3
    rf.save_run(broken, tmp_path / "broken.nc")
    result = run("check", file, tmp_path / "broken.nc")
    assert result.exit_code == 1
    assert f"{tmp_path / 'broken.nc'}:" in result.stdout
    assert "FAIL determinant law" in result.stdout and "replicate 1" in result.stdout


def test_check_writes_a_page(saved, tmp_path):
    file, _ = saved
    page = tmp_path / "page.html"
    result = run("check", file, "--html", page)
    assert result.exit_code == 0 and f"Page: {page}" in result.stderr
    text = page.read_text(encoding="utf-8")
    assert "checks passed, none failed" in text and "determinant law" in text and "<svg" in text
    assert f"<span>rankfall check {file}</span> <span>--html {page}</span>" in text
    assert "method step size" in text
    result = run("check", file, "--html", page)
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert run("check", file, "--html", page, "--overwrite").exit_code == 0
    for words, message in (
        ((file, file, "--html", tmp_path / "b.html"), "page of one run, got 2"),
        ((file, "--html", tmp_path / "b.txt"), "must end in .html"),
        ((file, "--html", tmp_path / "none" / "b.html"), "there is no folder"),
    ):
        result = run("check", *words)
        assert result.exit_code == 2 and message in result.stderr and not result.stdout


def test_a_page_in_another_folder_leads_to_its_run(saved, tmp_path):
    file, _ = saved
    (tmp_path / "pages").mkdir()
    page = tmp_path / "pages" / "page.html"
    assert run("check", file, "--html", page).exit_code == 0
    (address,) = re.findall('<a href="([^"]*)"', page.read_text(encoding="utf-8"))
    assert (page.parent / unquote(address)).resolve() == file.resolve()


def test_plot_writes_beside_the_run_or_where_told(saved, tmp_path):
    file, _ = saved
    assert run("plot", file).exit_code == 0
    assert file.with_suffix(".svg").read_bytes().startswith(b"<?xml")
    for name, start in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml")):
        result = run("plot", file, "--out", tmp_path / name, "--columns", "1")
        assert result.exit_code == 0 and f"Figure: {tmp_path / name}" in result.stdout
        assert (tmp_path / name).read_bytes().startswith(start)
    result = run("plot", file, "--out", tmp_path / "none" / "a.png")
    assert result.exit_code == 74 and "cannot write" in result.stderr


def test_plot_of_learning(saved, tmp_path):
    noisy, _ = saved
    result = run("plot", noisy, "--learning")
    assert result.exit_code == 2 and "--learning is for runs of gradient flow" in result.stderr
    problem = rf.Problem.from_statistics(np.eye(2), np.diag([2.0, 1.0]))
    for start in ("balanced", "gaussian"):  # with a closed form, and without
        network = getattr(rf.LinearNetwork, start)(2, 3, 2)
        rf.save_run(rf.simulate(problem, network, rf.GradientFlow(), duration=1.0, save_points=5), tmp_path / "flow.nc")
        for options in ((), ("--learning",)):
            assert run("plot", tmp_path / "flow.nc", *options).exit_code == 0


@pytest.mark.parametrize("command", ["check", "plot"])
def test_what_is_not_a_run_is_refused(saved, tmp_path, command):
    file, _ = saved
    (tmp_path / "text.nc").write_text("not a run")
    (tmp_path / "empty.nc").write_bytes(b"")
    (tmp_path / "cut.nc").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    xr.Dataset({"x": ("t", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    for name in ("text.nc", "empty.nc", "cut.nc", "other.nc", "none.nc", "."):
        result = run(command, tmp_path / name)
        assert result.exit_code == 2, (name, result.output)
        assert result.stderr.startswith("rankfall: ") and len(result.stderr.splitlines()) == 1, result.stderr
    newer = rf.open_run(file)
    newer.attrs["format_version"] = 99
    newer.to_netcdf(tmp_path / "newer.nc", engine="h5netcdf")
    result = run(command, tmp_path / "newer.nc")
    assert result.exit_code == 2 and "newer" in result.stderr


METHODS = {
    "gradient-flow": (),
    "stochastic-gradient-flow": ("--label-noise", "0.5", "--step-size", "0.01", "--integrator", "euler"),
    "gradient-descent": ("--step-size", "0.005", "--weight-decay", "0.01"),
    "label-noise-descent": ("--step-size", "0.005", "--label-noise", "1", "--batch-size", "4"),
    "stochastic-gradient-descent": ("--step-size", "0.001", "--batch-size", "8"),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_obeys_its_laws(tmp_path, method):
    file = tmp_path / "run.nc"
    result = run("simulate", "--method", method, *METHODS[method], *SMALL, "--duration", "1", "--out", file)
    assert result.exit_code == 0, result.output
    assert "FAIL" not in result.stdout
    assert rf.open_run(file).attrs["method"] == "".join(word.capitalize() for word in method.split("-"))


def test_steps_for_descents_and_a_narrow_balanced_network(tmp_path):
    words = ("--width", "3", "--start", "balanced", "--scale", "0.5", "--steps", "50", "--weights")
    result = run("simulate", "--method", "gradient-descent", "--step-size", "0.01", *words, "--out", tmp_path / "a.nc")
    assert result.exit_code == 0, result.output
    found = rf.open_run(tmp_path / "a.nc")
    assert found["W1"].shape[2:] == (5, 3) and int(found["step"][-1]) == 50
    assert np.isneginf(found["log_det"]).all()
    assert run("plot", tmp_path / "a.nc").exit_code == 0


def test_data_from_files(tmp_path):
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((40, 3)), rng.standard_normal(40)
    np.save(tmp_path / "x.npy", inputs)
    np.savetxt(tmp_path / "y.csv", labels, header="y", comments="")
    words = ("--inputs", tmp_path / "x.npy", "--labels", tmp_path / "y.csv", "--scale", "0.5")
    result = run("simulate", "--method", "gradient-flow", "--duration", "2", *words, "--out", tmp_path / "run.nc")
    assert result.exit_code == 0, result.output
    found = rf.open_run(tmp_path / "run.nc")
    assert np.allclose(found["covariance"], inputs.T @ inputs / 40, rtol=1e-14)
    assert found.attrs["width"] == 7


SGD = ("--method", "stochastic-gradient-descent", "--step-size", "0.1")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--method", "gradient-flow"), "duration"),
        (("--method", "gradient-flow", "--duration", "0"), "duration"),
        (("--method", "gradient-flow", "--duration", "1", "--replicates", "0"), "replicates must be at least 1, got 0"),
        (("--method", "gradient-flow", "--duration", "1", "--steps", "5"), "steps"),
        ((*SGD, "--batch-size", "1001", "--steps", "5"), "1000"),
    ],
)
def test_bad_runs_are_refused_by_the_library_in_one_sentence(tmp_path, options, message):
    result = run("simulate", *options, "--out", tmp_path / "run.nc")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def start(*words):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    # A shell without job control starts what it puts into the background deaf to Ctrl-C, and its children inherit that.
    hearing = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import rankfall.cli as c; c.main()"
    )
    command = [sys.executable, "-c", hearing, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def stop_in_the_middle(process, line, number):
    """Send the signal once a line of progress says that the run with this name goes."""
    for text in process.stderr:
        if line in text and "%" in text:
            break
    time.sleep(0.3)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_the_same_command_continues(tmp_path, number):
    words = ("simulate", *FLOW[:-1], "1000", "--dt", "0.001", "--replicates", "512", "--save-points", "50")
    code, _, errors = stop_in_the_middle(
        start(*words, "--out", tmp_path / "run.nc"), "stochastic-gradient-flow", number
    )
    assert code == 130, errors
    assert "The same command continues it." in errors and "Traceback" not in errors
    assert not (tmp_path / "run.nc").exists()
    partial = rf.open_run(tmp_path / "run.partial.nc")
    assert all(str(outcome).startswith("interrupted at t=") for outcome in partial["outcome"].values)
    assert (tmp_path / "run.checkpoint").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_ctrl_c_leaves_a_partial_report(tmp_path):
    words = ("reproduce", "--out", tmp_path / "report", "--dt", "0.0002", "--replicates", "256")
    code, output, errors = stop_in_the_middle(start(*words), "δ = 2", signal.SIGINT)
    assert code == 130, errors
    assert "a partial report is in" in errors and "Traceback" not in errors
    assert "PASS determinant constant" in output
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Partial report: δ = 2, stochastic gradient flow was interrupted at t = " in page
    assert json.loads((tmp_path / "report" / "settings.json").read_text())["status"] == "partial"


def test_reproduce_from_the_command_line(tmp_path):
    words = ("reproduce", "--out", tmp_path / "report", "--duration", "10", *SMALL)
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert f"Report: {tmp_path / 'report' / 'index.html'}" in result.stdout
    again = run(*words)
    assert again.exit_code == 0 and "nothing to do; --overwrite makes it again" in again.stderr
    assert [line for line in again.stdout.splitlines() if "PASS" in line] == [
        line for line in result.stdout.splitlines() if "PASS" in line
    ]
    other = run(*words, "--seed", "1")
    assert other.exit_code == 2 and "seed: 0 there, 1 asked for" in other.stderr
    replaced = run(*words, "--seed", "1", "--overwrite")
    assert replaced.exit_code == 0
    assert json.loads((tmp_path / "report" / "settings.json").read_text())["settings"]["seed"] == 1


def test_the_command_in_the_report_repeats_it(tmp_path):
    import shlex

    assert run("reproduce", "--out", tmp_path / "a", "--duration", "3", "--step-size", "0.02", *SMALL).exit_code == 0
    command = json.loads((tmp_path / "a" / "settings.json").read_text())["command"]
    words = shlex.split(command)[1:]
    words[words.index("--out") + 1] = str(tmp_path / "b")
    assert run(*words).exit_code == 0
    for name in ("delta-0.nc", "delta-2.nc"):
        first, second = (rf.open_run(tmp_path / folder / name) for folder in "ab")
        assert np.array_equal(first["log_det"], second["log_det"])
    assert (tmp_path / "a" / "figure.svg").read_bytes() == (tmp_path / "b" / "figure.svg").read_bytes()


def test_lyapunov_prints_the_spectrum_and_its_sum(tmp_path):
    words = ("lyapunov", "--quiet", "--label-noise", "2", "--step-size", "0.05", "--n-inputs", "3", "--n-outputs", "1")
    result = run(*words, "--duration", "2000", "--out", tmp_path / "spectrum.nc")
    assert result.exit_code == 0, result.output
    assert "rank that is left: 1" in result.stdout
    assert "PASS sum of the Lyapunov exponents" in result.stdout
    found = rf.open_run(tmp_path / "spectrum.nc")
    rows = [line.split() for line in result.stdout.splitlines()[1:5]]
    assert [float(row[1]) for row in rows] == pytest.approx(found["exponents"].values, rel=1e-4, abs=1e-12)
    assert rows[0][3] == "–" and float(rows[3][3]) == pytest.approx(
        np.log(10) / -found["exponents"].values[3], rel=1e-3
    )
    assert run(*words, "--duration", "10", "--out", tmp_path / "spectrum.nc").exit_code == 2
    short = run(*words, "--duration", "10", "--out", tmp_path / "short.nc")
    assert short.exit_code == 0 and "undecided, 0 to 4; try a longer duration" in short.stdout
    flow = run("lyapunov", "--quiet", "--method", "gradient-flow", "--duration", "1", "--out", tmp_path / "flow.nc")
    assert flow.exit_code == 2 and "all its exponents are zero" in flow.stderr


def test_observables_are_kept(tmp_path):
    words = ("simulate", "--quiet", "--method", "stochastic-gradient-flow", "--label-noise", "1", "--step-size", "0.1")
    both = ("--observable", "eigenvalues", "--observable", "log_singular_values_Z")
    assert run(*words, "--duration", "1", *both, "--out", tmp_path / "run.nc").exit_code == 0
    found = rf.open_run(tmp_path / "run.nc")
    assert np.allclose(np.log(found["eigenvalues"]), 2 * found["log_singular_values_Z"], atol=1e-12)
    wrong = run(*words, "--duration", "1", "--observable", "colour", "--out", tmp_path / "other.nc")
    assert wrong.exit_code == 2 and "got 'colour'" in wrong.stderr
