"""A disk that fills up: the error says so, nothing that was committed is lost, and the same call continues."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_study import MadeUpStudy, computed, contents, run

from rankfall.errors import OutputError
from rankfall.sweep._status import read_status
from rankfall.sweep._store import Store

HERE = Path(__file__).parent


def study():
    return MadeUpStudy({"a": range(20), "b": range(10)})


class FullDisk:
    """Lets so many bytes through os.write and os.pwrite, then writes a part and says ENOSPC."""

    def __init__(self, room):
        self.room = room
        self._write, self._pwrite = os.write, os.pwrite

    def pwrite(self, descriptor, content, offset):
        taken = self._pwrite(descriptor, content[: self._take(len(content))], offset)
        return taken

    def _take(self, wanted):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(wanted, self.room)
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, 100, 5_000, 14_999])
def test_a_commit_that_does_not_fit_leaves_the_earlier_ones(tmp_path, monkeypatch, room):
    cells = list(study().cells())
    disk = FullDisk(room)
    with Store.open(tmp_path / "s.zarr", study()) as store:
        committed = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", disk.pwrite)
            with pytest.raises(OutputError) as failure:
                for cell in cells:
                    store.commit(computed(cell))
                    committed += 1
        assert failure.value.errno == errno.ENOSPC and "No space left" in failure.value.strerror
        assert len(store.finished) + len(store.failed) == committed
        # the journal has no torn tail, and goes on as if nothing had been when there is room again
        status = read_status(tmp_path / "s.zarr")
        assert status.done + status.failed == committed
        store.commit(computed(cells[committed]))
    assert run(study(), tmp_path / "s.zarr") == len(cells) - committed - 1
    run(study(), tmp_path / "whole.zarr")
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


LIMITED = """
import resource, signal, sys
from made_up_study import computed
from test_disk_full import study
from rankfall.errors import OutputError
from rankfall.sweep._store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.open(sys.argv[1], study())
# 3 kB for any one file: the chunk of the singular values of all cells has 4.8 kB
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, resource.RLIM_INFINITY))
try:
    with store:
        for cell in study().cells():
            store.commit(computed(cell))
            print(cell.key, flush=True)
            if sys.argv[2] == "fold":
                store.fold()
except OutputError as error:
    print(error.errno, file=sys.stderr)
    sys.exit(74)
"""


@pytest.mark.parametrize("when", ["commit", "fold"])
def test_a_limit_of_the_system_on_files(tmp_path, when):
    """The kernel itself refuses to write, in the journal or in the middle of a fold."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "s.zarr", when], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 74, ended.stderr
    assert int(ended.stderr) == errno.EFBIG
    committed = ended.stdout.split()
    assert (len(committed) == 1) if when == "fold" else (len(committed) > 10)
    status = read_status(tmp_path / "s.zarr")
    assert status.done + status.failed == len(committed) and not status.running
    assert not list((tmp_path / "s.zarr" / ".rankfall" / "aside").iterdir())
    assert run(study(), tmp_path / "s.zarr") == 200 - len(committed)
    run(study(), tmp_path / "whole.zarr")
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(tmp_path, small_disk):
    path = small_disk / "s.zarr"
    cells = list(study().cells())
    Store.open(path, study()).close()
    blocker = small_disk / "blocker"
    committed = 0
    with pytest.raises(OutputError) as failure:
        with Store.open(path, study()) as store:
            fill_up(blocker, leave=8_000)
            for cell in cells:
                store.commit(computed(cell))
                committed += 1
                if committed % 10 == 0:
                    store.fold()
    assert failure.value.errno == errno.ENOSPC
    status = read_status(path)
    assert status.done + status.failed == committed > 0
    blocker.unlink()
    assert run(study(), path) == len(cells) - committed
    run(study(), tmp_path / "whole.zarr")
    assert contents(path) == contents(tmp_path / "whole.zarr")


def test_a_full_disk_at_the_very_beginning(tmp_path, small_disk):
    blocker = small_disk / "blocker"
    fill_up(blocker, leave=0)
    with pytest.raises(OutputError) as failure:
        Store.open(small_disk / "s.zarr", study())
    assert failure.value.errno == errno.ENOSPC
    blocker.unlink()
    assert run(study(), small_disk / "s.zarr") == 200


def fill_up(path, *, leave):
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        stream.truncate(max(0, stream.tell() - leave))
