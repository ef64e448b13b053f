import errno
import os
from pathlib import Path

import pytest

import rankfall as rf
from rankfall._files import check_folder, write_atomically


def test_text_and_bytes_replace_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, "δ")
    assert file.read_bytes() == "δ".encode()
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_atomically(file, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(rf.OutputError, match=r"cannot write .*a\.txt: No space left on device"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(rf.OutputError, match="No such file or directory"):
        write_atomically(Path(tmp_path / "none" / "a.txt"), "x")


def test_folders_are_checked_before_the_work(tmp_path):
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(rf.OutputError, match=r"cannot write to .*: No such file"):
        check_folder(tmp_path / "none")
