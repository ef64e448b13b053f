"""Sweeps of real cells whose processes are killed: in the end the store is that of an undisturbed run, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rankfall as rf
from sweep_run.clusters import cluster, environment, wait_until
from sweep_run.studies import alive, contents
from sweep_run.tiny import finished_in, write_study


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "study.toml", noises=8, scales=8)


@pytest.fixture(scope="module")
def whole(study_file):
    """What an undisturbed sweep in this process leaves."""
    path = study_file.with_suffix(".zarr")
    summary = rf.sweep.run(rf.sweep.Study.from_toml(study_file), path, threads=2)
    assert (summary.done, summary.failed) == (64, 0)
    return contents(path)


def command(study_file, path, *options):
    """The sweep as a user starts it."""
    words = [sys.executable, "-m", "rankfall.cli", "sweep", study_file, "--out", path, *options]
    return subprocess.Popen(list(map(str, words)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def end(sweep, code):
    """Wait for its end."""
    output = sweep.communicate(timeout=120)[0].decode()
    assert sweep.returncode == code, output
    return output


def test_sixty_kills_of_the_main_process(tmp_path, study_file, whole):
    """Killed at random moments of opening, computing, committing and folding."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "killing.py", tmp_path, study_file, "60", "120", "5"],
        env=environment(), capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 60
    # They came at many different stages: not all before the first cell or after the last one.
    assert len(set(found["done_after_kills"])) > 15
    for path in found["stores"]:
        assert contents(path) == whole


@pytest.fixture(scope="module")
def paced(tmp_path_factory):
    """A study whose cells take long enough to be killed in, and what an undisturbed sweep of it leaves."""
    file = write_study(tmp_path_factory.mktemp("paced") / "study.toml", noises=6, scales=6, steps=200_000)
    summary = rf.sweep.run(rf.sweep.Study.from_toml(file), file.with_suffix(".zarr"), threads=2)
    assert (summary.done, summary.failed) == (36, 0)
    return file, contents(file.with_suffix(".zarr"))


def wait_for_cells(path, count, sweep):
    """Until so many are finished, or the sweep has ended, which is not to be."""
    wait_until(lambda: finished_in(path) >= count, sweep)


def workers_of(sweep):
    """Processes that a sweep has started for its cells; Python starts another one, which keeps its books."""
    found = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_kills_of_workers_and_of_their_sweep(tmp_path, paced):
    study_file, whole = paced
    path = tmp_path / "s.zarr"
    sweep = command(study_file, path, "--workers", "2")
    wait_for_cells(path, 2, sweep)
    os.kill(workers_of(sweep)[0], signal.SIGKILL)
    wait_for_cells(path, 8, sweep)
    left = workers_of(sweep)
    sweep.kill()
    sweep.communicate()
    wait_until(lambda: not any(map(alive, left)))
    done = finished_in(path)
    sweep = command(study_file, path, "--workers", "2")
    for more in (2, 6):
        wait_for_cells(path, done + more, sweep)
        os.kill(workers_of(sweep)[0], signal.SIGKILL)
    output = end(sweep, 0)
    assert "36 of 36 cells done, 0 failed" in output and output.count("its cell is tried again") == 2
    assert contents(path) == whole


def test_kills_of_dask_workers_of_the_scheduler_and_of_the_sweep(tmp_path, paced):
    pytest.importorskip("distributed")
    study_file, whole = paced
    path = tmp_path / "s.zarr"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with cluster(tmp_path / "first", workers=2) as found:
        sweep = command(study_file, path, "--scheduler", found.file)
        wait_for_cells(path, 3, sweep)
        found.workers[0].kill()
        found.start_worker()
        wait_for_cells(path, 7, sweep)
        found.scheduler.kill()
        begun = time.monotonic()
        output = end(sweep, 74)
        assert "is lost. All finished cells are kept, the same command continues." in output
        assert "Traceback" not in output and time.monotonic() - begun < 30.0
    with cluster(tmp_path / "second", workers=2) as found:
        done = finished_in(path)
        assert 7 <= done < 36
        sweep = command(study_file, path, "--scheduler", found.address)
        wait_for_cells(path, done + 3, sweep)
        sweep.kill()
        sweep.communicate()
        # Cells of the killed sweep may still be under way at the workers.
        output = end(command(study_file, path, "--scheduler", found.address), 0)
    assert "36 of 36 cells done, 0 failed" in output and "dashboard http://" in output
    assert contents(path) == whole
