"""`rankfall sweep` and `rankfall sweep status`: what they print, their exit codes, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import rankfall as rf
from rankfall.cli import app
from sweep_run.clusters import environment, wait_until
from sweep_run.studies import contents
from sweep_run.tiny import STUDY, finished_in, write_study


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert "Traceback" not in result.output
    return result


def start(*words, **options):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "rankfall.cli", *map(str, words)]
    return subprocess.Popen(command, env=environment(), text=True, start_new_session=True, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study, its store, and what the command said."""
    study = write_study(tmp_path_factory.mktemp("study") / "study.toml", noises=3)
    return study, study.with_suffix(".zarr"), run("sweep", study)


def test_a_sweep(finished):
    study, store, result = finished
    assert result.exit_code == 0, result.output
    assert re.search(r"^tiny: 12 of 12 cells done, 0 failed \(12 in this run; \d+ s\)$", result.stdout, re.MULTILINE)
    assert f"Results: {store}" in result.stdout
    assert "tiny: 12 cells (3 label_noise × 4 scale)" in result.stderr
    assert "tiny: 0 of 12 cells done, 0 failed, 12 left" in result.stderr
    assert "tiny: 12 of 12 cells done, 0 failed, 0 left" in result.stderr
    assert "\r" not in result.stderr and "\x1b" not in result.stderr
    results = rf.sweep.open_results(store)
    assert dict(results.sizes)["label_noise"] == 3 and (results["status"] == 1).all()
    # The same command finds everything there, also with workers.
    for options in ((), ("--workers", "2")):
        again = run("sweep", study, *options)
        assert again.exit_code == 0 and "(0 in this run, 12 before" in again.stdout


def test_quiet_and_workers(finished, tmp_path):
    study, store, _ = finished
    result = run("sweep", study, "--out", tmp_path / "s.zarr", "--workers", "2", "--quiet")
    assert result.exit_code == 0 and result.stderr == ""
    assert contents(tmp_path / "s.zarr") == contents(store)


def test_status(finished, tmp_path):
    _, store, _ = finished
    result = run("sweep", "status", store)
    assert result.exit_code == 0 and result.stderr == ""
    assert "tiny: 12 of 12 cells done, 0 failed, 0 left" in result.stdout
    assert "Not running, last written" in result.stdout and "continues" not in result.stdout
    (tmp_path / "empty.zarr").mkdir()
    for wrong in (tmp_path, tmp_path / "none.zarr", tmp_path / "empty.zarr"):
        result = run("sweep", "status", wrong)
        assert result.exit_code == 2 and result.stderr.startswith("rankfall: "), result.output
        assert len(result.stderr.splitlines()) == 1


def test_failed_cells(tmp_path):
    # At this step the cells diverge, from noise 1 on.
    study = write_study(tmp_path / "study.toml", noises=3, step_size=50.0)
    result = run("sweep", study)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    failed = [line for line in lines if line.startswith("  failed at label_noise=")]
    assert len(failed) == 10 and all("diverged" in line and "scale=" in line for line in failed)
    assert "  … and 2 more" in lines and "0 of 12 cells done, 12 failed" in lines[0]
    assert "--retry-failed" in result.stderr
    assert run("sweep", study).exit_code == 1
    again = run("sweep", study, "--retry-failed")
    assert again.exit_code == 1 and "(12 in this run;" in again.stdout
    told = run("sweep", "status", study.with_suffix(".zarr"))
    assert told.exit_code == 0 and told.stdout.count("  failed at label_noise=") == 10


def test_dry_run_computes_nothing(tmp_path):
    study = write_study(tmp_path / "study.toml")
    result = run("sweep", study, "--dry-run")
    assert result.exit_code == 0 and result.stderr == ""
    assert "16 cells (4 label_noise × 4 scale)" in result.stdout and "trajectories" in result.stdout
    assert not study.with_suffix(".zarr").exists()


def test_example_is_a_study(tmp_path):
    result = run("sweep", "--example")
    assert result.exit_code == 0 and result.stdout.startswith("# ")
    (tmp_path / "study.toml").write_text(result.stdout)
    assert rf.sweep.Study.from_toml(tmp_path / "study.toml").n_cells > 1
    assert run("sweep", "--dry-run", tmp_path / "study.toml").exit_code == 0


def test_bad_input_is_said_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    good = write_study(tmp_path / "study.toml")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(STUDY.replace("[run]\nsteps", "[run]\nstepps"))
    huge = tmp_path / "huge.toml"
    huge.write_text(STUDY + '"run.duration" = { from = 1, to = 1_000_000_000, step = 1 }\n')
    for words, message in (
        ((), "which study"),
        ((tmp_path / "none.toml",), "none.toml"),
        ((wrong,), "steps"),
        ((huge,), "cells"),
        ((good, "--workers", "0"), "workers"),
        ((good, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), "one of them"),
        ((good, "--scheduler", "localhost"), "tcp://"),
        ((good, "--out", tmp_path / "file"), "file"),
    ):
        result = run("sweep", *words)
        assert result.exit_code == 2, (words, result.output)
        assert message in result.stderr and "rankfall: " in result.stderr
    assert not good.with_suffix(".zarr").exists()


def test_a_second_run_refuses(tmp_path):
    study = write_study(tmp_path / "study.toml")
    with rf.sweep._run.Store.open(tmp_path / "study.zarr", rf.sweep.Study.from_toml(study)):
        result = run("sweep", study)
        assert result.exit_code == 2 and f"process {os.getpid()}" in result.stderr
        told = run("sweep", "status", tmp_path / "study.zarr")
        assert told.exit_code == 0 and f"Running: process {os.getpid()} on " in told.stdout


def test_no_scheduler_is_a_failure_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr("rankfall.sweep._dask._SECONDS_TO_CONNECT", 0.5)
    result = run("sweep", write_study(tmp_path / "study.toml"), "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 74 and "no Dask scheduler answers at tcp://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("options, group", [((), False), (("--workers", "2"), True)])
def test_ctrl_c_keeps_what_is_finished(tmp_path, finished, options, group):
    """As on a terminal: with workers, SIGINT goes to them as well."""
    study, store = write_study(tmp_path / "study.toml", noises=3, steps=4_000_000), tmp_path / "study.zarr"
    with start("sweep", study, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sweep:
        wait_until(lambda: finished_in(store), sweep)
        (os.killpg if group else os.kill)(sweep.pid, signal.SIGINT)
        stdout, stderr = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "Traceback" not in stderr and stderr.splitlines()[-1] == "rankfall: stopped; the same command continues it."
    done = int(re.search(r"^tiny: (\d+) of 12 cells done", stdout, re.MULTILINE).group(1))
    assert 1 <= done < 12 and rf.sweep.status(store).done == done


def test_on_a_terminal_it_is_a_bar(tmp_path):
    study = write_study(tmp_path / "study.toml", noises=2)
    parent, child = pty.openpty()
    with start("sweep", study, stdout=subprocess.PIPE, stderr=child) as sweep:
        os.close(child)
        shown = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # Linux says so at the end of a terminal
                break
            if not piece:
                break
            shown += piece
        os.close(parent)
        assert sweep.wait(60) == 0
    text = shown.decode()
    assert "\x1b[" in text and "100%" in text and "8 done, 0 failed, 0 left" in text


def test_nothing_in_a_store_acts_on_the_terminal(tmp_path):
    """Names and reasons in a store of anybody: what a terminal would obey is shown as question marks."""
    study, store = write_study(tmp_path / "study.toml", noises=2, step_size=1000), tmp_path / "study.zarr"
    study.write_text(study.read_text().replace('name = "tiny"', r'name = "ti\u001b]0;x\u0007ny"'))
    result = run("sweep", study)
    assert result.exit_code == 1 and "\x1b" not in result.output and "ti?]0;x?ny" in result.output
    for file in (store / ".rankfall" / "reasons").iterdir():
        file.write_text('{"0": "\\u001b]0;evil\\u0007"}')
    result = run("sweep", "status", store)
    assert "\x1b" not in result.output and "ti?]0;x?ny" in result.output and "?]0;evil?" in result.output


def test_two_commands_in_the_help():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "110"}).stdout
    assert re.search(r"^│ sweep +Run a study", text, re.MULTILINE)
    assert re.search(r"^│ sweep status +Say how far", text, re.MULTILINE)
    for words, usage in ((("sweep",), "[STUDY.toml]"), (("sweep", "status"), "RESULTS.zarr")):
        text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "110"}).stdout
        assert f"{' '.join(words)} [OPTIONS]" in text and usage in text


def test_sigterm_is_as_polite(tmp_path):
    study, store = write_study(tmp_path / "study.toml", noises=3, steps=4_000_000), tmp_path / "study.zarr"
    with start("sweep", study, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sweep:
        wait_until(lambda: finished_in(store), sweep)
        sweep.terminate()
        begun = time.monotonic()
        sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and time.monotonic() - begun < 30.0


def test_a_damaged_file_is_no_figure_and_the_message_says_what_mends_it(finished, tmp_path):
    store = tmp_path / "damaged.zarr"
    shutil.copytree(finished[1], store)
    (chunk,) = (store / "final_rank").glob("c.*")
    os.truncate(chunk, 10)
    result = run("plot", store, "--color", "final_rank")
    assert result.exit_code == 2 and result.stdout == "" and not (tmp_path / "damaged.svg").exists()
    assert "damaged.zarr is damaged (a file does not match its checksum); run the sweep again" in result.stderr
