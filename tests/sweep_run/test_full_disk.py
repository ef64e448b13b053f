"""A real disk that fills up under a sweep, and gets room again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import rankfall as rf
from rankfall.cli import app
from sweep_run.studies import contents
from sweep_run.tiny import write_study


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory that the store does not fit into, and how to enlarge it."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs Linux and root")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine does not let us mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_a_full_disk(tmp_path, small_disk, options):
    disk, enlarge = small_disk
    study = write_study(tmp_path / "study.toml", noises=8, scales=8)
    # Ten kilobytes a cell.
    series = '\n[keep]\ntime_series = ["rank", "loss", "singular_values_W1", "singular_values_W2"]\n'
    study.write_text(study.read_text().replace("save_points = 5", "save_points = 101") + series)
    words = ["sweep", str(study), *options, "--quiet", "--out"]
    full = CliRunner().invoke(app, [*words, str(disk / "s.zarr")])
    assert full.exit_code == 74 and "Traceback" not in full.output
    (message,) = full.stderr.splitlines()
    assert message.startswith("rankfall: ") and "No space left on device" in message
    kept = int(re.search(r"; (\d+) of 64 cells are finished and kept; the same call continues$", message).group(1))
    status = rf.sweep.status(disk / "s.zarr")
    assert 0 < kept <= 64 and status.done == kept and status.failed == 0
    enlarge()
    again = CliRunner().invoke(app, [*words, str(disk / "s.zarr")])
    assert again.exit_code == 0, again.output
    assert f"64 of 64 cells done, 0 failed ({64 - kept} in this run, {kept} before" in again.stdout
    rf.sweep.run(rf.sweep.Study.from_toml(study), tmp_path / "whole.zarr")
    assert contents(disk / "s.zarr") == contents(tmp_path / "whole.zarr")
