"""The command line without simulations: help, usage errors, bad input."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

import rankfall
from rankfall.cli import app


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def plain(text):
    """Help without colours, boxes and line breaks."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.strip() == f"rankfall {rankfall.__version__}"


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("reproduce",),
        ("simulate",),
        ("lyapunov",),
        ("check",),
        ("plot",),
        ("scan",),
        ("explore",),
        ("doctor",),
        ("sweep",),
        ("sweep", "status"),
    ],
)
def test_help_shows_examples_and_exit_codes(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    text = plain(result.stdout)
    assert "Examples rankfall " + " ".join(command) in text
    assert "130 stopped by Ctrl-C" in text
    assert "[bold]" not in text


def test_help_names_extras_whole():
    """In help texts [explore] would be a tag, of which nothing is shown."""
    assert "pip install 'rankfall[explore]'" in plain(run("explore", "--help").stdout)


def test_help_of_reproduce_states_the_defaults():
    text = plain(run("reproduce", "--help").stdout)
    for default in ("420", "0 and 2", "rankfall-report", "64", "1000"):
        assert default in text


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; from rankfall.cli import app; import contextlib\n"
        "with contextlib.suppress(SystemExit): app(['--help'])\n"
        "heavy = {'numba', 'xarray', 'matplotlib', 'scipy', 'sklearn', 'h5py', 'zarr', 'distributed'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    begun = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    # Twice the second that it should take at most: test machines are busy.
    assert time.monotonic() - begun < 2.0


def refused(result, message):
    assert result.exit_code == 2, result.output
    text = plain(result.stderr)
    assert re.search(message, text), text
    assert "Traceback" not in result.output
    return True


@pytest.mark.parametrize(
    "options, message",
    [
        (("--replicates", "0"), "replicates must be at least 1, got 0"),
        (("--duration", "0"), "duration must be greater than 0"),
        (("--duration", "nan"), "duration must be finite"),
        (("--label-noise", "-1"), "label_noise must be at least 0, got -1"),
        (("--step-size", "0"), "step_size must be greater than 0"),
        (("--dt", "-0.1"), "dt must be greater than 0"),
        (("--width", "0"), "width must be at least 1"),
        (("--save-points", "1"), "save_points must be at least 2"),
        (("--seed", "-1"), "seed must be at least 0"),
        (("--n-samples", "0"), "n_samples must be at least 1"),
        (("--data", "iris"), "data must be one of diabetes, digits, breast-cancer, got 'iris'"),
        (("--data", "digits", "--n-inputs", "3"), "n_inputs cannot be chosen together with data"),
        (("--replicates", "many"), "Invalid value for '--replicates'"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_reproduce_refuses_bad_options_before_it_writes(tmp_path, options, message):
    assert refused(run("reproduce", "--out", tmp_path / "report", *options), message)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (("dichotmy",), "there is no target 'dichotmy'; the targets are dichotomy, .*Did you mean dichotomy"),
        (("--all", "dichotomy"), "--all runs every target; leave out 'dichotomy'"),
        (("--all", "--width", "3", "--seed", "2"), "--width cannot be used with --all"),
    ],
)
def test_reproduce_refuses_bad_targets(tmp_path, words, message):
    assert refused(run("reproduce", "--out", tmp_path / "report", *words), message)
    assert not (tmp_path / "report").exists()


def test_reproduce_leaves_foreign_folders_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert refused(run("reproduce", "--out", tmp_path, "--overwrite"), "not empty and not a report of rankfall")
    assert refused(run("reproduce", "--out", tmp_path / "notes.txt"), "is a file, not a folder")
    result = run("reproduce", "--out", tmp_path / "notes.txt" / "below")
    assert result.exit_code == 74 and "cannot make the folder" in plain(result.stderr)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


SIMULATE = ("simulate", "--quiet", "--duration", "1")


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "Missing option '--method'"),
        (("--method", "adam"), "Invalid value for '--method'"),
        (
            ("--method", "gradient-flow", "--label-noise", "2"),
            "--label-noise does not belong to --method gradient-flow",
        ),
        (
            ("--method", "stochastic-gradient-flow", "--weight-decay", "1", "--tolerance", "1"),
            "--weight-decay, --tolerance does not belong to --method stochastic-gradient-flow, which takes "
            "--label-noise, --step-size, --batch-size, --integrator",
        ),
        (("--method", "stochastic-gradient-flow"), "needs --label-noise, --step-size"),
        (("--method", "stochastic-gradient-descent", "--step-size", "0.1"), "needs --batch-size"),
        (
            ("--method", "stochastic-gradient-flow", "--label-noise", "-2", "--step-size", "0.1"),
            "label_noise must be at least 0",
        ),
        (("--method", "gradient-descent", "--step-size", "0"), "step_size must be greater than 0"),
        (("--method", "gradient-flow", "--inputs", "x.npy"), "--inputs and --labels belong together"),
        (("--method", "gradient-flow", "--data", "digits", "--n-inputs", "5"), "--n-inputs: only for Gaussian data"),
        (
            ("--method", "gradient-flow", "--data", "digits", "--inputs", "x.npy", "--labels", "y.npy"),
            "--data cannot be used together",
        ),
        (("--method", "gradient-flow", "--inputs", "x.npy", "--labels", "y.npy"), "inputs: there is no file x.npy"),
        (("--method", "gradient-flow", "--teacher-rank", "3"), "rank must be at most 2"),
        (("--method", "gradient-flow", "--width", "0"), "width must be at least 1"),
        (("--method", "gradient-flow", "--scale", "-1"), "scale must be greater than 0"),
    ],
)
def test_simulate_refuses_bad_options(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert refused(run(*SIMULATE, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_simulate_does_not_replace_files_or_guess_folders(tmp_path):
    flow = (*SIMULATE, "--method", "gradient-flow", "--out")
    (tmp_path / "run.nc").write_text("precious")
    assert refused(run(*flow, tmp_path / "run.nc"), "is there already; choose another --out, or --overwrite")
    assert (tmp_path / "run.nc").read_text() == "precious"
    assert refused(run(*flow, tmp_path / "none" / "run.nc"), "there is no folder")
    assert refused(run(*flow, tmp_path / "run.txt"), r"must end in \.nc")


def test_simulate_refuses_bad_data(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((10, 3)))
    np.save(tmp_path / "y.npy", np.ones((9, 1)))
    np.save(tmp_path / "nan.npy", np.full((10, 1), np.nan))
    np.save(tmp_path / "pickle.npy", np.array([print], dtype=object), allow_pickle=True)
    (tmp_path / "ragged.csv").write_text("1,2,3\n4,5\n")

    def with_data(inputs, labels):
        words = (*SIMULATE, "--method", "gradient-flow", "--out", tmp_path / "run.nc")
        return run(*words, "--inputs", tmp_path / inputs, "--labels", tmp_path / labels)

    assert refused(with_data("x.npy", "y.npy"), "one row per sample, got 10 and 9 rows")
    assert refused(with_data("x.npy", "nan.npy"), "NaN or infinite")
    assert refused(with_data("x.npy", "pickle.npy"), "never unpickled")
    assert refused(with_data("ragged.csv", "y.npy"), "line 2 of .* has 2 cells")
    assert not (tmp_path / "run.nc").exists()


def test_plot_checks_the_ending_first(tmp_path):
    assert refused(run("plot", tmp_path / "run.nc", "--out", "figure.gif"), r"must end in \.svg, \.png or \.pdf")
    assert refused(run("plot", tmp_path / "run.nc", "--columns", "3"), "Invalid value for '--columns'")


def test_reader_that_goes_away_is_no_error_of_ours(tmp_path):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "rankfall.cli", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
