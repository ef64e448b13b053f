"""Damaged files: the cells concerned are found by their checksums and computed anew, only they; the store is whole."""

import random

import numpy as np
import pytest
from made_up_study import MadeUpStudy, computed, contents, run, small_study

from rankfall.errors import NotARun
from rankfall.sweep._opening import open_results
from rankfall.sweep._place import Place
from rankfall.sweep._store import Store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished store of several blocks."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    run(study(), path)
    return contents(path)


def study():
    return MadeUpStudy({"a": range(30), "b": range(50)})  # 1500 cells in two blocks


def made(tmp_path):
    run(study(), tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_a_flipped_bit_costs_its_cell_and_no_other(tmp_path, whole):
    path = made(tmp_path)
    generator = random.Random(2)
    for name, size in (
        ("final_rank", 8),
        ("singular_values", 24),
        ("replicates_used", 8),
        ("checksum", 8),
        ("status", 1),
    ):
        file = path / name / ("c.1.0" if name != "singular_values" else "c.1.0.0")
        content = bytearray(file.read_bytes())
        bit = generator.randrange(8 * size * 600)
        content[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(content)
        assert run(study(), path) == 1, name
        assert contents(path) == whole


def test_a_truncated_chunk_costs_what_was_cut_off(tmp_path, whole):
    path = made(tmp_path)
    file = path / "final_rank" / "c.0.0"
    kept = 313
    file.write_bytes(file.read_bytes()[: 8 * kept + 3])
    with pytest.raises(Exception, match=r"(?i)checksum|buffer|size"):  # Zarr refuses it: no wrong numbers
        open_results(path)["final_rank"].load()
    cells = [cell for cell in study().cells() if cell.index[0] < 15]  # those of the first block
    lost = sum(computed(cell).status == "done" for cell in cells[kept:])
    failed = len(cells[kept:]) - lost  # of a failed cell nothing but NaN was cut off
    assert failed and run(study(), path) == lost
    assert contents(path) == whole


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, bytes(1_000_000)])
def test_a_chunk_that_is_gone_or_rubbish_costs_its_block(tmp_path, whole, content):
    path = made(tmp_path)
    file = path / "singular_values" / "c.1.0.0"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert 600 < run(study(), path) <= 750
    assert contents(path) == whole


def test_a_damaged_wall_time_costs_no_cell(tmp_path, whole):
    path = made(tmp_path)
    file = path / "wall_time" / "c.0.0"
    good = file.read_bytes()
    file.write_bytes(good[:-6])
    assert run(study(), path) == 0
    assert contents(path) == whole
    times = open_results(path)["wall_time"].values.ravel()
    assert np.isnan(times).sum() == 1 and (times[~np.isnan(times)] == 0.5).all()


def test_chunks_that_changed_places_are_found(tmp_path, whole):
    """Each chunk is whole in itself; only the cells' checksums, which know their keys, can tell."""
    path = made(tmp_path)
    for folder in path.iterdir():
        for first in folder.glob("c.0.0*"):
            second = folder / first.name.replace("c.0.", "c.1.")
            one, two = first.read_bytes(), second.read_bytes()
            first.write_bytes(two)
            second.write_bytes(one)
    assert run(study(), path) == 1500
    assert contents(path) == whole


def test_lost_reasons_cost_the_failed_cells(tmp_path, whole):
    path = made(tmp_path)
    failed = sum(computed(cell).status == "failed" and cell.index[0] < 15 for cell in study().cells())
    Place(path).reason(0).write_text("{")
    assert run(study(), path) == failed > 0
    assert contents(path) == whole


def test_damaged_metadata_and_coordinates_are_written_anew(tmp_path, whole):
    path = made(tmp_path)
    (path / "zarr.json").write_text("{")
    (path / "final_rank" / "zarr.json").unlink()
    (path / "a" / "c.0").write_bytes(b"1234")
    with pytest.raises(NotARun):
        open_results(path)
    assert run(study(), path) == 0
    assert contents(path) == whole


def test_numbers_without_a_status_are_not_left_for_readers(tmp_path, whole):
    path = made(tmp_path)
    (path / "status" / "c.1.0").unlink()
    with Store.open(path, study()) as store:
        assert len(store.finished) + len(store.failed) == 750
    assert np.isnan(open_results(path)["final_rank"].values[15:]).all()
    assert run(study(), path) == 750
    assert contents(path) == whole


def test_a_journal_may_be_torn_or_damaged_anywhere(tmp_path):
    """Cut at every length, flip any bit: exactly the whole records count, those behind a damaged one too."""
    cells = list(small_study().cells())[:4]
    path = tmp_path / "s.zarr"
    store = Store.open(path, small_study())
    ends = [0]
    for cell in cells:
        store.commit(computed(cell))
        ends.append(store._journal.end)
    content = Place(path).journal.read_bytes()
    assert len(content) == ends[-1]
    store._pending.clear()  # as if killed: nothing is folded
    store._journal.close()
    store._lock.release()

    def found(journal):
        Place(path).journal.write_bytes(journal)
        from rankfall.sweep._journal import Journal
        from rankfall.sweep._records import journal_digest

        opened = Journal(Place(path).journal, journal_digest(store.layout), store.layout.cell_bytes)
        try:
            return [record.key.hex() for _, record in opened.scan()]
        finally:
            opened.close()

    keys = [cell.key for cell in cells]
    for length in range(len(content) + 1):
        assert found(content[:length]) == keys[: sum(end <= length for end in ends[1:])]
    generator = random.Random(3)
    for _ in range(200):
        bit = generator.randrange(8 * len(content))
        bad = bytearray(content)
        bad[bit // 8] ^= 1 << (bit % 8)
        hit = sum(end <= bit // 8 for end in ends[1:])
        assert found(bytes(bad)) == [key for i, key in enumerate(keys) if i != hit]
    rubbish = bytes(generator.randrange(256) for _ in range(3000))
    assert found(rubbish + content + rubbish) == keys
    # and opening the store with it brings them into the arrays
    Place(path).journal.write_bytes(rubbish + content + rubbish)
    with Store.open(path, small_study()) as store:
        assert store.finished | store.failed.keys() == set(keys)
    assert Place(path).journal.read_bytes() == b""
