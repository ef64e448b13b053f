"""History, files, states."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from rankfall.errors import InvalidInput, OutputError
from rankfall.torch import CsvLogger, RankMonitor, TensorBoardLogger
from torch_monitor.small import mlp, train


def started(**changed):
    model = mlp(6, 9, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    settings = {"every": 2, "budget": None, **changed}
    return model, optimizer, RankMonitor(model, optimizer, **settings)


def values(history):
    """Everything that is not a time."""
    return history.drop_vars(["training_seconds", "monitor_seconds"]).drop_attrs()


@pytest.mark.parametrize("measures", [("stable_rank", "effective_rank"), ("stable_rank", "participation_ratio")])
def test_resumed_history_is_the_uninterrupted_one(measures):
    model, optimizer, monitor = started(measures=measures)
    train(model, optimizer, 11)
    whole = values(monitor.history())

    model, optimizer, monitor = started(measures=measures)
    train(model, optimizer, 5)
    stream = io.BytesIO()
    torch.save({"m": model.state_dict(), "o": optimizer.state_dict(), "r": monitor.state_dict()}, stream)
    train(model, optimizer, 3, first=90)  # lost in the crash
    stream.seek(0)
    saved = torch.load(stream, weights_only=True)

    model, optimizer, monitor = started(measures=measures)
    model.load_state_dict(saved["m"])
    optimizer.load_state_dict(saved["o"])
    monitor.load_state_dict(saved["r"])
    train(model, optimizer, 6, first=5)
    assert values(monitor.history()).identical(whole)
    assert monitor.history().step.values.tolist() == [2, 4, 6, 8, 10]
    assert monitor.spending.measurements == 5


def test_states_of_other_monitors_are_refused():
    _, _, monitor = started()
    for other in (started(select="0")[2], started(measures="stable_rank")[2], started(spectra=2)[2]):
        before = monitor.state_dict()
        with pytest.raises(InvalidInput, match="watched something else"):
            other.load_state_dict(before)
    with pytest.raises(InvalidInput, match="state_dict"):
        monitor.load_state_dict({"version": 2})


def test_file_is_whole_after_each_measurement(tmp_path):
    path = tmp_path / "ranks.nc"
    model, optimizer, monitor = started(path=path, spectra=3)
    for number in range(1, 4):
        train(model, optimizer, 2)
        with xr.open_dataset(path, engine="h5netcdf") as stored:
            assert stored.load().step.values.tolist() == [2 * k for k in range(1, number + 1)]
    monitor.close()
    stored = xr.load_dataset(path, engine="h5netcdf")
    assert values(stored).equals(values(monitor.history()))
    assert stored.attrs["rankfall_version"] and stored.attrs["share"] > 0 and "|σ̂² − σ²|" in stored.attrs["error"]
    assert [name.name for name in tmp_path.iterdir()] == ["ranks.nc"]


CRASH = """
import os, signal, sys
from torch_monitor.test_history import started, train
model, optimizer, monitor = started(path=sys.argv[1], every=1)
train(model, optimizer, 3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_file_survives_a_crash(tmp_path):
    folder = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, *sys.path])}
    done = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path / "ranks.nc")], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    stored = xr.load_dataset(tmp_path / "ranks.nc", engine="h5netcdf")
    assert stored.step.values.tolist() == [1, 2, 3] and np.isfinite(stored.weights_norm).all()


def test_bad_paths(tmp_path):
    path = tmp_path / "ranks.nc"
    model, optimizer, _ = started(path=path)
    train(model, optimizer, 2)
    with pytest.raises(InvalidInput, match=r"exists already.*overwrite=True"):
        started(path=path)
    started(path=path, overwrite=True)
    assert path.exists()
    with pytest.raises(InvalidInput, match=r"must end in \.nc"):
        started(path=tmp_path / "ranks.csv")
    with pytest.raises(OutputError, match="cannot write"):
        started(path=tmp_path / "missing" / "ranks.nc")


def test_a_folder_that_disappears_does_not_end_the_training(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    model, optimizer, monitor = started(path=folder / "ranks.nc")
    folder.rmdir()
    train(model, optimizer, 4)
    assert monitor.history().sizes["step"] == 2
    assert len([text for text in monitor.problems if "cannot write" in text]) == 1


def test_a_callable_logger():
    lines = []
    model, optimizer, monitor = started(loggers=[lambda step, found: lines.append((step, found))])
    train(model, optimizer, 4)
    history = monitor.history()
    assert [step for step, _ in lines] == [2, 4]
    for step, found in lines:
        for name, value in found.items():
            thing, measure, layer = name.split("/")
            assert value == float(history[f"{thing}_{measure}"].sel(step=step, layer=layer))
        assert len(found) == 2 * (4 * 4 + 1)


def test_a_logger_that_fails_is_told_once_and_the_others_go_on():
    lines = []
    model, optimizer, monitor = started(loggers=[lambda step, found: 1 / 0, lambda step, found: lines.append(step)])
    train(model, optimizer, 6)
    assert lines == [2, 4, 6]
    assert len([text for text in monitor.problems if "division" in text]) == 1
    with pytest.raises(InvalidInput, match="logger"):
        started(loggers=["wandb"])


def test_csv(tmp_path):
    path = tmp_path / "ranks.csv"
    for _ in range(2):  # the second monitor continues the file
        model, optimizer, monitor = started(loggers=[CsvLogger(path)])
        train(model, optimizer, 2)
    with path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 2 * 2 * 17
    history = monitor.history()
    for line in lines[-34:]:
        expected = history[f"{line['thing']}_{line['measure']}"].sel(step=int(line["step"]), layer=line["layer"])
        assert float(line["value"]) == float(expected)
    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(InvalidInput, match="not a file of CsvLogger"):
        CsvLogger(tmp_path / "other.csv")
    with pytest.raises(OutputError):
        CsvLogger(tmp_path / "missing" / "ranks.csv")


class Writer:
    def __init__(self):
        self.lines = []

    def add_scalar(self, name, value, step):
        self.lines.append((name, value, step))

    def flush(self):
        self.lines.append("flush")


def test_tensorboard_writer():
    writer = Writer()
    model, optimizer, monitor = started(loggers=[TensorBoardLogger(writer)])
    train(model, optimizer, 2)
    names = {line[0]: line[1] for line in writer.lines[:-1]}
    assert names["rank/weights/stable_rank/0"] == float(monitor.history().weights_stable_rank.sel(step=2, layer="0"))
    assert writer.lines[-1] == "flush" and len(names) == 34


@pytest.mark.filterwarnings("ignore")  # of tensorboard and protobuf
def test_tensorboard_files(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, optimizer, monitor = started(loggers=[TensorBoardLogger(tmp_path)])
    train(model, optimizer, 4)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("rank/weights/effective_rank/2")]
    expected = monitor.history().weights_effective_rank.sel(layer="2")
    assert [step for step, _ in found] == [2, 4]
    np.testing.assert_allclose([value for _, value in found], expected.values, rtol=1e-6)  # stored as float32
