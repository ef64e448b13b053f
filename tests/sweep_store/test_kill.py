"""Processes that die: kill -9 at random moments, and two processes that want the same store."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from kill_loop import study
from made_up_study import computed, contents, run, small_study

from rankfall.sweep._lock import StoreBusy
from rankfall.sweep._status import read_status
from rankfall.sweep._store import Store

HERE = Path(__file__).parent
# Opens a store of the small study, says so, and stays until it is killed or its input ends.
HOLDER = """
import sys
from made_up_study import computed, small_study
from rankfall.sweep._store import Store
with Store.open(sys.argv[1], small_study()) as store:
    store.commit(computed(next(iter(small_study().cells()))))
    print("open", flush=True)
    sys.stdin.read()
"""
READER = """
import sys
from rankfall.sweep._status import read_status
print(flush=True)
while True:
    read_status(sys.argv[1])
"""


def python(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, text=True, **options)


@pytest.fixture
def memory_disk(tmp_path):
    """A folder in memory if there is one: kill -9 concerns what a process has said, not when the disk has heard it."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="rankfall-test-") as folder:
        yield Path(folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_at_least_fifty_times(tmp_path, memory_disk):
    """The loop itself checks after each kill that no committed cell is lost and none is computed twice."""
    path = memory_disk / "killed.zarr"
    process = python(HERE / "kill_loop.py", path, 60, 90, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    killed, in_opening, committed = map(int, re.findall(r"\d+", output))
    assert killed >= 50 and committed == 1080
    assert 0 < in_opening < killed  # both kinds of moments were hit
    run(study(), tmp_path / "whole.zarr")
    assert contents(path) == contents(tmp_path / "whole.zarr")


def hold(path):
    process = python("-c", HOLDER, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "open\n"
    return process


def end(process):
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=60)


def test_a_second_writer_is_refused_and_told_who_is_first(tmp_path):
    process = hold(tmp_path / "s.zarr")
    try:
        with pytest.raises(StoreBusy, match=rf"another rankfall \(process {process.pid} on .+, since \d+"):
            Store.open(tmp_path / "s.zarr", small_study())
        status = read_status(tmp_path / "s.zarr")
        assert status.running and status.writer.pid == process.pid
        assert status.done + status.failed == 1
        assert abs(status.writer.since - time.time()) < 600
    finally:
        end(process)
    assert not read_status(tmp_path / "s.zarr").running
    assert run(small_study(), tmp_path / "s.zarr") == 11


def test_the_kernel_releases_the_lock_of_a_killed_writer(tmp_path):
    process = hold(tmp_path / "s.zarr")
    process.send_signal(signal.SIGKILL)
    end(process)
    status = read_status(tmp_path / "s.zarr")
    assert not status.running and status.done + status.failed == 1  # it is in the journal
    with Store.open(tmp_path / "s.zarr", small_study()) as store:
        first = next(iter(small_study().cells()))
        assert first.key in store.finished or store.failed[first.key] == computed(first).reason


def test_a_second_writer_may_wait(tmp_path):
    process = hold(tmp_path / "s.zarr")
    told = []

    def tell(sentence):
        told.append(sentence)
        end(process)

    with Store.open(tmp_path / "s.zarr", small_study(), wait=True, on_wait=tell) as store:
        assert len(store.finished) + len(store.failed) == 1
    assert len(told) == 1 and f"process {process.pid}" in told[0] and "waiting" in told[0]


def test_asking_for_the_status_does_not_keep_a_writer_out(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    process = python("-c", READER, tmp_path / "s.zarr", stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        for _ in range(10):
            Store.open(tmp_path / "s.zarr", small_study()).close()
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_file_system_without_locks_is_refused_in_words(tmp_path, monkeypatch):
    import errno
    import fcntl

    from rankfall.errors import OutputError

    def refuse(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="knows no locks") as failure:
        Store.open(tmp_path / "s.zarr", small_study())
    assert failure.value.errno == errno.ENOSYS


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see what a descriptor is")
def test_a_power_cut_finds_everything_flushed_in_order(tmp_path, monkeypatch):
    """No power is cut here; but a file is flushed before it is renamed, its folder before the journal is emptied."""
    events = []

    def recorded(name, describe):
        real = getattr(os, name)

        def call(*arguments, **options):
            events.append((name, *describe(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    def file(descriptor, *_):
        return (str(Path(f"/proc/self/fd/{descriptor}").readlink()),)

    recorded("fsync", file)
    recorded("fdatasync", file)
    recorded("ftruncate", file)
    recorded("replace", lambda source, target: (str(source), str(target)))
    recorded("rename", lambda source, target: (str(source), str(target)))
    cells = list(small_study().cells())
    with Store.open(tmp_path / "s.zarr", small_study()) as store:
        store.commit(computed(cells[0]))
        journal = str(tmp_path / "s.zarr" / ".rankfall" / "journal")
        assert ("fdatasync", journal) in events  # the commit itself
        events.clear()
        store.fold()
        emptied = events.index(("ftruncate", journal))
        renamed = [event for event in events if event[0] in ("replace", "rename")]
        assert len(renamed) >= 6  # one for each array
        for event in renamed:
            at = events.index(event)
            assert ("fsync", event[1]) in events[:at], "renamed before it was flushed"
            assert ("fsync", str(Path(event[2]).parent)) in events[at:emptied], (
                "journal emptied before the name was safe"
            )
        assert Path(renamed[-1][2]).parent.name == "status"  # no reader sees a cell done before its values
