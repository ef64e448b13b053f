"""Commit, continue, read: what was committed is there, whatever the order and however often the store was opened."""

import json
import math
import os
import random
import time

import numpy as np
import pytest
import xarray as xr
from made_up_study import QUANTITIES, MadeUpStudy, computed, contents, run, small_study

from rankfall.errors import InvalidInput
from rankfall.sweep._cell import CellResult, Quantity
from rankfall.sweep._layout import layout_of
from rankfall.sweep._opening import open_results
from rankfall.sweep._status import read_status
from rankfall.sweep._store import Store


def compare(dataset, study, committed):
    """Every cell of a dataset against what was computed for it."""
    for cell in study.cells():
        at = dict(zip(study.dims, cell.index, strict=True))
        found = dataset.isel(at)
        result = computed(cell)
        if cell.key not in committed:
            assert int(found["status"]) == 0 and math.isnan(found["final_rank"]) and int(found["checksum"]) == 0
        elif result.status == "failed":
            assert int(found["status"]) == 2 and np.isnan(found["singular_values"]).all()
            assert int(found["replicates_used"]) == -1
        else:
            assert int(found["status"]) == 1
            for name, values in result.values.items():
                np.testing.assert_array_equal(found[name].values, values)
            assert float(found["wall_time"]) == result.wall_time


def test_what_was_committed_is_read_back_over_the_axes(tmp_path):
    study = small_study()
    assert run(study, tmp_path / "s.zarr") == 12
    results = open_results(tmp_path / "s.zarr")
    assert dict(results.sizes) == {"noise": 3, "width": 4, "mode": 3}
    assert results["width"].values.tolist() == [4, 8, 16, 32] and results["noise"].dtype == np.float64
    compare(results, study, {cell.key for cell in study.cells()})
    assert results["final_rank"].attrs["long_name"] == "rank at the end"
    assert json.loads(results.attrs["study"]) == study.to_mapping()
    statuses = results["status"].values.ravel().tolist()
    assert 1 in statuses and 2 in statuses  # both kinds were tried


def test_it_is_what_plain_xarray_reads(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    xr.testing.assert_identical(
        open_results(tmp_path / "s.zarr").load(), xr.open_zarr(tmp_path / "s.zarr", chunks=None).load()
    )


def test_results_can_be_written_as_netcdf(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    results = open_results(tmp_path / "s.zarr").load()
    results.to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    again = xr.load_dataset(tmp_path / "s.nc", engine="h5netcdf")
    np.testing.assert_array_equal(again["final_rank"].values, results["final_rank"].values)


def test_texts_and_zipped_coordinates(tmp_path):
    class Zipped(MadeUpStudy):
        @property
        def coords(self):
            n = len(self.axes["case"])
            return {**super().coords, "depth": ("case", [2 + i for i in range(n)]), "sure": ("case", [True] * n)}

    study = Zipped({"case": ["wide", "schön", "a b"], "noise": [1, 2.5]})
    run(study, tmp_path / "s.zarr")
    results = open_results(tmp_path / "s.zarr")
    assert set(results.coords) == {"case", "noise", "depth", "sure"}
    assert [str(text) for text in results["case"].values] == ["wide", "schön", "a b"]
    assert results["depth"].dims == ("case",) and results["sure"].dtype == bool
    chosen = results.sel(case="schön", noise=2.5)
    cell = next(cell for cell in study.cells() if cell.index == (1, 1))
    assert float(chosen["final_rank"]) == float(computed(cell).values["final_rank"])


def test_a_study_without_axes_is_one_cell(tmp_path):
    study = MadeUpStudy({}, seed=3)
    assert run(study, tmp_path / "s.zarr") == 1
    assert run(study, tmp_path / "s.zarr") == 0
    results = open_results(tmp_path / "s.zarr")
    compare(results, study, {cell.key for cell in study.cells()})


def test_any_order_and_any_interruption_give_the_same_files(tmp_path):
    study = small_study()
    run(study, tmp_path / "one.zarr")
    cells = list(study.cells())
    random.Random(1).shuffle(cells)
    for start in range(0, len(cells), 5):
        with Store.open(tmp_path / "two.zarr", study) as store:
            store.commit_many([computed(cell, wall_time=9.0) for cell in cells[start : start + 2]])
            for cell in cells[start + 2 : start + 5]:
                store.commit(computed(cell, wall_time=7.0))
                store.fold()
    assert contents(tmp_path / "one.zarr") == contents(tmp_path / "two.zarr")


def test_half_a_sweep_can_be_read_and_counted_while_it_runs(tmp_path):
    study = small_study()
    cells = list(study.cells())
    with Store.open(tmp_path / "s.zarr", study) as store:
        for cell in cells[:5]:
            store.commit(computed(cell))
        status = read_status(tmp_path / "s.zarr")  # from the journal: nothing is folded yet
        failed = sum(computed(cell).status == "failed" for cell in cells[:5])
        assert (status.done, status.failed, status.left, status.total) == (5 - failed, failed, 7, 12)
        assert status.running and status.rate > 0 and status.seconds_left > 0
        store.fold()
        compare(open_results(tmp_path / "s.zarr"), study, {cell.key for cell in cells[:5]})
        assert read_status(tmp_path / "s.zarr").done == 5 - failed
    status = read_status(tmp_path / "s.zarr")
    assert not status.running and status.rate is None and status.updated >= status.started


def test_status_names_the_failed_cells(tmp_path):
    study = small_study()
    run(study, tmp_path / "s.zarr")
    status = read_status(tmp_path / "s.zarr")
    expected = [(c.index, c.settings, computed(c).reason) for c in study.cells() if computed(c).status == "failed"]
    assert [(f.index, f.coordinates, f.reason) for f in status.failures] == expected and expected
    assert sum(status.reasons.values()) == len(expected)
    assert status.study == study.to_mapping()


def test_a_failed_cell_may_be_tried_again_and_a_done_one_stays(tmp_path):
    study = small_study()
    cells = list(study.cells())
    good = CellResult(cells[0].key, "done", "", {"final_rank": np.float64(2.0)}, 1.0)
    with Store.open(tmp_path / "s.zarr", study) as store:
        store.commit(CellResult(cells[0].key, "failed", "worker\ndied\x1b[31m", {}, 1.0))
        store.commit(CellResult(cells[1].key, "failed", "diverged", {}, 1.0))
    with Store.open(tmp_path / "s.zarr", study) as store:
        assert store.failed == {cells[0].key: "worker died [31m", cells[1].key: "diverged"}
        store.commit(good)
        assert store.failed == {cells[1].key: "diverged"} and store.finished == {cells[0].key}
        store.commit(CellResult(cells[0].key, "done", "", {"final_rank": np.float64(5.0)}, 1.0))
        store.commit(CellResult(cells[0].key, "failed", "late", {}, 1.0))
    with Store.open(tmp_path / "s.zarr", study) as store:
        assert store.finished == {cells[0].key} and store.failed == {cells[1].key: "diverged"}
    assert float(open_results(tmp_path / "s.zarr")["final_rank"][0, 0]) == 2.0


def test_shorter_values_are_filled_up_and_wrong_ones_refused(tmp_path):
    study = small_study()
    keys = [cell.key for cell in study.cells()]
    with Store.open(tmp_path / "s.zarr", study) as store:
        short = {"singular_values": np.array([3.0, 1.0]), "replicates_used": 7}
        store.commit(CellResult(keys[0], "done", "", short, 1.0))
        for values in (
            {"singular_values": np.ones(4)},
            {"replicates_used": 1.5},
            {"no_such": 1.0},
            {"final_rank": "a"},
        ):
            with pytest.raises(InvalidInput):
                store.commit(CellResult(keys[1], "done", "", values, 1.0))
        with pytest.raises(InvalidInput, match="no cell with the key"):
            store.commit(CellResult("0" * 32, "done", "", {}, 1.0))
        with pytest.raises(InvalidInput, match="done or failed"):
            store.commit(CellResult(keys[1], "lost", "", {}, 1.0))
        assert store.finished == {keys[0]}
    results = open_results(tmp_path / "s.zarr")
    np.testing.assert_array_equal(results["singular_values"][0, 0], [3.0, 1.0, np.nan])
    assert int(results["replicates_used"][0, 0]) == 7


@pytest.mark.parametrize(
    ("shape", "quantity"),
    [((1,), 1), ((1001,), 1), ((7, 11, 13), 1), ((40, 30), 1), ((3, 1000, 2), 1), ((5, 6), 300_000), ((), 1)],
)
def test_every_cell_has_one_place_in_one_block(shape, quantity):
    study = MadeUpStudy(
        {f"a{i}": range(n) for i, n in enumerate(shape)}, quantities=[Quantity("x", ("t",), (quantity,))]
    )
    layout = layout_of(study)
    cells = np.arange(layout.n_cells)
    blocks, rows = layout.place(cells)
    assert len(set(zip(blocks.tolist(), rows.tolist(), strict=True))) == layout.n_cells
    for block in range(layout.n_blocks):
        members, at = layout.members(block)
        np.testing.assert_array_equal(np.sort(members), cells[blocks == block])
        np.testing.assert_array_equal(rows[members], at)
    assert layout.block_cells <= 1000 and layout.block_cells * 8 * quantity <= 1 << 22
    # few files: at most four times as many blocks as full ones would need
    full = min(1000, (1 << 22) // (8 * quantity))
    assert layout.n_blocks <= 4 * math.ceil(layout.n_cells / full)


@pytest.mark.parametrize("name", ["status", "wall_time", "a/b", "..", ".hidden", "zarr.json", "", "x" * 300])
def test_names_that_no_folder_may_have_are_refused(tmp_path, name):
    with pytest.raises(InvalidInput, match="cannot name a variable"):
        Store.open(tmp_path / "s.zarr", MadeUpStudy({name: [1, 2]}))
    assert not (tmp_path / "s.zarr").exists()


def test_quantities_of_one_name_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="have the name noise"):
        Store.open(tmp_path / "s.zarr", MadeUpStudy({"noise": [1]}, quantities=[Quantity("noise")]))
    with pytest.raises(InvalidInput, match="different"):
        Store.open(tmp_path / "s.zarr", MadeUpStudy({"noise": [1, 1]}, quantities=QUANTITIES))


def test_cells_that_took_long_are_flushed_one_by_one_and_short_ones_together(tmp_path, monkeypatch):
    study = small_study()
    cells = list(study.cells())
    flushes = []

    def slow_disk(descriptor):
        flushes.append(descriptor)
        time.sleep(0.05)

    monkeypatch.setattr(os, "fdatasync", slow_disk)
    with Store.open(tmp_path / "s.zarr", study) as store:
        store.commit(computed(cells[0], wall_time=1e-3))
        assert len(flushes) == 1  # the first measures how long it takes
        for cell in cells[1:7]:
            store.commit(computed(cell, wall_time=1e-3))
        assert len(flushes) == 1  # 6 ms of work: much less than ten flushes
        store.commit(computed(cells[7], wall_time=100.0))
        assert len(flushes) == 2
        store.commit(computed(cells[8], wall_time=math.nan))
        assert len(flushes) == 3
        store.commit_many([computed(cell, wall_time=0.3) for cell in cells[9:11]])  # 0.6 s together
        assert len(flushes) == 4
        store.commit(computed(cells[11], wall_time=1e-3))
        assert len(flushes) == 4
