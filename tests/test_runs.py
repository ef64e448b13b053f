"""Runs on disk: written whole or not at all, read only if they are runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import rankfall as rf
from small import METHODS, NARROW, PROBLEM, WIDE


def make(name="label noise", network=WIDE, **options):
    method, length = METHODS[name]
    return rf.simulate(PROBLEM, network, method, **length, replicates=3, seed=2**63 + 5, save_points=4, **options)


@pytest.fixture(scope="module")
def run():
    return make(weights=True)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_run_comes_back(name, network, tmp_path):
    run = make(name, network)
    rf.save_run(run, tmp_path / "run.nc")
    found = rf.open_run(tmp_path / "run.nc")
    assert found.identical(run)
    assert rf.runs.method_of(found) == METHODS[name][0]
    problem, made = rf.runs.problem_of(found), rf.runs.network_of(found)
    assert np.array_equal(problem.covariance, PROBLEM.covariance) and problem.minimum_loss == PROBLEM.minimum_loss
    assert repr(made) == repr(network)
    before, after = rf.laws.check(run, PROBLEM), rf.laws.check(found)
    assert [verdict.to_dict() for verdict in before] == [verdict.to_dict() for verdict in after]


def test_xarray_writes_it_too(run, tmp_path):
    run.to_netcdf(tmp_path / "run.nc")
    assert rf.open_run(tmp_path / "run.nc").identical(run)
    opened = xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf")
    np.testing.assert_array_equal(opened.log_det, run.log_det)
    opened.close()


def test_an_old_file_is_replaced_whole(run, tmp_path):
    path = tmp_path / "run.nc"
    path.write_bytes(b"old")
    rf.save_run(run, path)
    assert rf.open_run(path).identical(run)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.nc"]


def test_what_cannot_be_written(run, tmp_path):
    with pytest.raises(rf.OutputError, match="cannot write"):
        rf.save_run(run, tmp_path / "none" / "run.nc")
    with pytest.raises(rf.OutputError, match="cannot write"):
        rf.save_run(run, tmp_path)
    with pytest.raises(rf.NotARun, match="got dict"):
        rf.save_run({}, tmp_path / "run.nc")
    with pytest.raises(rf.NotARun):
        rf.save_run(xr.Dataset(), tmp_path / "run.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="no limit on the size of files here")
def test_a_full_disk_leaves_the_old_file(run, tmp_path):
    """A limit on the size of files stands in for a disk without space."""
    rf.save_run(run, tmp_path / "run.nc")
    before = (tmp_path / "run.nc").read_bytes()
    program = (
        "import resource, signal, sys, rankfall as rf\n"
        "run = rf.open_run(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, {len(before) // 2}))\n"
        "try:\n    rf.save_run(run, sys.argv[1])\n"
        "except rf.OutputError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run.nc")], capture_output=True, text=True, check=False
    )
    assert "cannot write" in done.stdout, done.stderr
    assert (tmp_path / "run.nc").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.nc"]


def test_what_is_no_run(run, tmp_path):
    rf.save_run(run, tmp_path / "run.nc")
    good = (tmp_path / "run.nc").read_bytes()
    cases = {
        "empty.nc": b"",
        "text.nc": b"not a run at all",
        "cut.nc": good[: len(good) // 2],
        "zeros.nc": good[:5000] + bytes(len(good) - 5000),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(rf.NotARun, match=r"not a rankfall run .*or it is damaged"):
            rf.open_run(tmp_path / name)
    xr.Dataset({"loss": ("time", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(rf.NotARun, match="lacks the attributes format_version"):
        rf.open_run(tmp_path / "other.nc")
    with pytest.raises(rf.NotARun, match="there is no file"):
        rf.open_run(tmp_path / "none.nc")
    with pytest.raises(rf.NotARun, match="is not a file"):
        rf.open_run(tmp_path)


def changed(run, **attributes):
    return run.copy().assign_attrs(attributes)


def test_newer_and_damaged_runs(run, tmp_path):
    settings = json.loads(run.attrs["settings"])
    for broken, message in [
        (changed(run, format_version=2, rankfall_version="9.1"), r"written by a newer rankfall \(9.1, format 2"),
        (changed(run, format_version="one"), "format_version is damaged"),
        (changed(run, settings="{"), "settings are damaged"),
        (changed(run, settings="[]"), "settings are damaged"),
        (changed(run, settings=json.dumps(settings | {"method": 3})), "settings are damaged"),
        (run.drop_vars(["loss", "outcome"]), "lacks loss, outcome"),
    ]:
        broken.to_netcdf(tmp_path / "broken.nc", engine="h5netcdf")
        with pytest.raises(rf.NotARun, match=message):
            rf.open_run(tmp_path / "broken.nc")


@pytest.mark.parametrize(
    "part, value, of, message",
    [
        ("method", {"name": "Popen", "args": ["ls"]}, rf.runs.method_of, "method 'Popen' is not one of this version"),
        ("method", {"name": "GradientDescent"}, rf.runs.method_of, "method GradientDescent is damaged"),
        ("method", {"name": "GradientDescent", "step_size": -1}, rf.runs.method_of, "damaged: step_size must be"),
        ("network", {"start": "eval"}, rf.runs.network_of, "network is damaged"),
        ("network", {}, rf.runs.network_of, "network is damaged"),
        ("problem", {"n_samples": -3}, rf.runs.problem_of, "problem is damaged: n_samples must be"),
        ("simulate", {"shell": 1}, rf.rerun, "settings are damaged"),
    ],
)
def test_settings_of_a_hostile_file(run, part, value, of, message):
    settings = json.loads(run.attrs["settings"]) | {part: value}
    with pytest.raises(rf.NotARun, match=message):
        of(changed(run, settings=json.dumps(settings)))


def test_rerun_with_changes(run):
    longer = rf.rerun(run, steps=600, save_points=7)
    np.testing.assert_array_equal(longer.W1[:, :4], run.W1)
    with pytest.raises(rf.InvalidInput, match="simulate has no argument replicate"):
        rf.rerun(run, replicate=3)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(run, tmp_path):
    rf.save_run(run, tmp_path / "run.nc")
    (tmp_path / "run.nc").chmod(0)
    with pytest.raises(rf.NotARun, match="may not be read"):
        rf.open_run(tmp_path / "run.nc")
