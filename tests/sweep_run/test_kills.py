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
from sweep_run.studies import contents

STUDY = """
name = "tiny"
[problem]
n_samples = 50
n_inputs = 2
n_outputs = 1
[network]
width = 4
[method]
name = "label-noise-descent"
step_size = 0.05
[run]
steps = 100
replicates = 4
save_points = 5
[axes]
label_noise = { log = [0.1, 10.0], count = 8 }
scale = { from = 0.25, to = 2.0, count = 8 }
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("study") / "study.toml"
    file.write_text(STUDY)
    return file


@pytest.fixture(scope="module")
def whole(study_file):
    """What an undisturbed sweep in this process leaves."""
    path = study_file.with_suffix(".zarr")
    summary = rf.sweep.run(rf.sweep.Study.from_toml(study_file), path, threads=2)
    assert (summary.done, summary.failed) == (64, 0)
    return contents(path)


def test_sixty_kills_of_the_main_process(tmp_path, study_file, whole):
    """Killed at random moments of opening, computing, committing and folding."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "killing.py", tmp_path, study_file, "60", "90", "5"],
        env=environment(), capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 60
    # They came at many different stages: not all before the first cell or after the last one.
    assert len(set(found["done_after_kills"])) > 15
    for path in found["stores"]:
        assert contents(path) == whole
