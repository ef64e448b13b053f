"""The status of a store that somebody is writing to, or has tampered with."""

import pytest
from made_up_study import computed, run, small_study

from rankfall.sweep import _status
from rankfall.sweep._blocks import Blocks
from rankfall.sweep._journal import Journal, Record
from rankfall.sweep._layout import layout_of
from rankfall.sweep._place import Place
from rankfall.sweep._status import read_status
from rankfall.sweep._store import Store, journal_digest


@pytest.mark.parametrize("seen", ["the journal", "a block"])
def test_cells_that_are_folded_in_while_one_looks_are_counted(tmp_path, monkeypatch, seen):
    """The fold comes after the first thing that the status reads, whichever that is."""
    with Store.open(tmp_path / "s.zarr", small_study()) as store:
        cells = list(small_study().cells())
        store.commit_many([computed(cell) for cell in cells[:4]])
        store.fold()
        store.commit_many([computed(cell) for cell in cells[4:9]])
        before = read_status(tmp_path / "s.zarr")
        assert before.done + before.failed == 9

        def then_fold(function):
            def called(*arguments):
                found = function(*arguments)
                monkeypatch.undo()
                store.fold()
                return found

            return called

        if seen == "the journal":
            monkeypatch.setattr(_status, "_read_journal", then_fold(_status._read_journal))
        else:
            monkeypatch.setattr(Blocks, "read", then_fold(Blocks.read))
        found = read_status(tmp_path / "s.zarr")
        assert (found.done, found.failed, found.left) == (before.done, before.failed, before.left)


def test_a_journal_with_a_state_that_there_is_not(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    before = read_status(tmp_path / "s.zarr")
    layout = layout_of(small_study())
    journal = Journal(Place(tmp_path / "s.zarr").journal, journal_digest(layout), layout.cell_bytes)
    journal.append([Record(bytes(16), 3, 200, "", 0.0, bytes(layout.cell_bytes))])
    journal.close()
    assert (read_status(tmp_path / "s.zarr").done, before.left) == (before.done, 0)
