"""Stores of other studies, of newer versions, of nobody; and growing a store."""

import itertools
import json
import os
import random

import numpy as np
import pytest
from made_up_study import QUANTITIES, MadeUpStudy, computed, contents, run, small_study

from rankfall.errors import InvalidInput, NotARun
from rankfall.sweep import _extension, _store
from rankfall.sweep._cell import Quantity
from rankfall.sweep._opening import open_results
from rankfall.sweep._place import Place
from rankfall.sweep._status import read_status
from rankfall.sweep._store import Store


def test_another_study_is_refused_with_the_difference(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    before = contents(tmp_path / "s.zarr")
    with pytest.raises(InvalidInput, match=r"another study[^$]*seed: 0 there, 1 here"):
        Store.open(tmp_path / "s.zarr", small_study(seed=1))
    smaller = MadeUpStudy({"noise": [0.0, 0.5], "width": [4, 8, 16, 32]})
    with pytest.raises(InvalidInput, match=r"axis noise: \[0.0, 0.5, 1.0\] there, \[0.0, 0.5\] here"):
        Store.open(tmp_path / "s.zarr", smaller, extend=True)
    assert contents(tmp_path / "s.zarr") == before


def test_other_quantities_of_the_same_study_are_refused(tmp_path):
    class Newer(MadeUpStudy):  # a version of rankfall that keeps one thing more
        def to_mapping(self):
            return {"seed": self.seed, "axes": self.axes, "kept": [q.name for q in QUANTITIES]}

        @classmethod
        def from_mapping(cls, mapping):
            return cls(mapping["axes"], seed=mapping["seed"], quantities=[*QUANTITIES, Quantity("loss")])

    run(small_study(), tmp_path / "s.zarr")
    for extend in (False, True):
        with pytest.raises(InvalidInput, match="kept other quantities"):
            Store.open(tmp_path / "s.zarr", Newer.from_mapping(small_study().to_mapping()), extend=extend)


def test_an_older_version_of_rankfall_is_warned_of(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    about = tmp_path / "s.zarr" / ".rankfall" / "store.json"
    about.write_text(about.read_text().replace('"rankfall_version": "', '"rankfall_version": "0.0.'))
    with pytest.warns(UserWarning, match=r"begun by rankfall 0\.0\."):
        Store.open(tmp_path / "s.zarr", small_study()).close()


def larger_study(**options):
    return MadeUpStudy({"noise": [0.0, 0.25, 0.5, 1.0], "width": [4, 8, 16, 32, 64]}, **options)


def test_added_axis_values_recompute_nothing(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    with pytest.raises(InvalidInput, match=r"fewer cells[^$]*--extend"):
        Store.open(tmp_path / "s.zarr", larger_study())
    assert run(larger_study(), tmp_path / "s.zarr", extend=True) == 20 - 12
    assert run(larger_study(), tmp_path / "s.zarr") == 0
    run(larger_study(), tmp_path / "fresh.zarr")
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "fresh.zarr")
    assert open_results(tmp_path / "s.zarr").sizes["width"] == 5


def test_added_cells_may_need_more_room(tmp_path):
    """The quantities of a study are as long as its largest cell needs."""
    shorter = [Quantity("loss", ("time",), (4,)), Quantity("modes", ("mode", "layer"), (2, 1), "int64")]
    longer = [Quantity("loss", ("time",), (6,)), Quantity("modes", ("mode", "layer"), (3, 2), "int64")]
    run(small_study(quantities=shorter), tmp_path / "s.zarr", quantities=shorter)
    # the old cells' values do not fill the new sizes
    with Store.open(tmp_path / "s.zarr", larger_study(quantities=longer), extend=True) as store:
        assert len(store.finished) + len(store.failed) == 12
    results = open_results(tmp_path / "s.zarr")
    assert results.sizes["time"] == 6
    for cell in small_study().cells():
        result = computed(cell, quantities=shorter)
        found = results.sel(cell.settings)
        assert int(found["status"]) == {"done": 1, "failed": 2}[result.status]
        if result.status == "done":
            np.testing.assert_array_equal(found["loss"].values[:4], result.values["loss"])
            assert np.isnan(found["loss"].values[4:]).all()
            np.testing.assert_array_equal(found["modes"].values[:2, :1], result.values["modes"])
            assert (found["modes"].values[2] == -1).all() and (found["modes"].values[:, 1] == -1).all()


def test_another_order_of_the_axes_or_another_name_is_the_same_study(tmp_path):
    class Named(MadeUpStudy):
        name = "first"

        def to_mapping(self):
            return {**super().to_mapping(), "name": self.name}

    study = Named({"noise": [0.0, 0.5, 1.0], "width": [4, 8, 16, 32]})
    swapped = Named({"width": [4, 8, 16, 32], "noise": [0.0, 0.5, 1.0]})
    swapped.name = "second"
    with Store.open(tmp_path / "s.zarr", study) as store:
        store.commit_many([computed(cell) for cell in list(study.cells())[:5]])
    assert run(swapped, tmp_path / "s.zarr") == 7
    run(study, tmp_path / "whole.zarr")
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


def test_another_order_of_the_axes_leaves_the_blocks_as_they_are(tmp_path):
    """37 × 50 cells lie in blocks of 19 × 50; 50 × 37 ones would be cut into 25 × 37."""
    study = MadeUpStudy({"a": range(37), "b": range(50)})
    swapped = MadeUpStudy({"b": range(50), "a": range(37)})
    with Store.open(tmp_path / "s.zarr", study) as store:
        store.commit_many([computed(cell) for cell in itertools.islice(study.cells(), 5)])
    run(swapped, tmp_path / "s.zarr")
    run(study, tmp_path / "whole.zarr")
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


class PowerCut(BaseException):
    """Nothing catches it but the test."""


def test_extending_may_be_cut_off_at_any_step(tmp_path, monkeypatch):
    """Stop before every single call that changes a file, then continue: the same store, nothing computed twice."""
    run(larger_study(), tmp_path / "fresh.zarr")
    expected = contents(tmp_path / "fresh.zarr")
    real = {
        name: getattr(os, name) for name in ("replace", "rename", "unlink", "pwrite", "fdatasync", "ftruncate", "rmdir")
    }
    stops = 0
    step = 0
    while True:
        path = tmp_path / f"{step}.zarr"
        if step == 0:
            run(small_study(), tmp_path / "old.zarr")
        copy(tmp_path / "old.zarr", path)
        calls = 0

        def counted(name, step=step):
            def call(*args, **options):
                nonlocal calls
                calls += 1
                if calls > step:
                    raise PowerCut
                return real[name](*args, **options)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counted(name))
            try:
                Store.open(path, larger_study(), extend=True).close()
                finished = True
            except PowerCut:
                stops += 1
                finished = False
        assert run(larger_study(), path, extend=True) == 8
        assert contents(path) == expected
        if finished:
            break
        # the first steps one by one, later ones in strides: renaming chunks is the same for each of them
        step += 1 if step < 10 else 9
    assert stops > 10


def copy(source, target):
    for file in source.rglob("*"):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())


def test_a_decided_extension_is_finished_even_for_the_old_study(tmp_path, monkeypatch):
    run(small_study(), tmp_path / "s.zarr")

    def cut(place):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(_store, "finish_extension", lambda place: None)
        real = _extension.prepare_extension

        def prepared_then_cut(*args):
            real(*args)
            raise PowerCut

        patch.setattr(_store, "prepare_extension", prepared_then_cut)
        with pytest.raises(PowerCut):
            Store.open(tmp_path / "s.zarr", larger_study(), extend=True)
    with pytest.raises(InvalidInput, match="another study"):
        Store.open(tmp_path / "s.zarr", small_study())
    assert run(larger_study(), tmp_path / "s.zarr") == 8


def test_nothing_of_anybody_else_is_touched(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("42")
    with pytest.raises(InvalidInput, match="not empty and not a store"):
        Store.open(tmp_path / "thesis", small_study())
    assert [file.name for file in (tmp_path / "thesis").rglob("*")] == ["chapter.tex"]
    (tmp_path / "file").write_text("42")
    with pytest.raises(InvalidInput, match="is a file"):
        Store.open(tmp_path / "file", small_study())
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="leads nowhere"):
        Store.open(tmp_path / "dangling", small_study())
    for path, words in (
        ("thesis", "no zarr.json"),
        ("file", "not a folder"),
        ("dangling", "not a folder"),
        ("n", "no fo"),
    ):
        for read in (open_results, read_status):
            with pytest.raises(NotARun, match=words):
                read(tmp_path / path)


def test_a_zarr_store_of_something_else_is_refused(tmp_path):
    import zarr

    group = zarr.open_group(tmp_path / "z.zarr", mode="w", zarr_format=3)
    group.create_array("a", data=np.ones(3))
    with pytest.raises(InvalidInput, match="not a store"):
        Store.open(tmp_path / "z.zarr", small_study())
    for read in (open_results, read_status):
        with pytest.raises(NotARun, match="not the store of a rankfall sweep"):
            read(tmp_path / "z.zarr")


def test_a_newer_store_is_refused(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    place = Place(tmp_path / "s.zarr")
    about = json.loads(place.about.read_text())
    place.about.write_text(json.dumps(about | {"format": 2, "rankfall_version": "9.1"}))
    with pytest.raises(InvalidInput, match=r"newer rankfall \(9.1, format 2"):
        Store.open(tmp_path / "s.zarr", small_study())
    with pytest.raises(NotARun, match="newer rankfall"):
        read_status(tmp_path / "s.zarr")
    root = tmp_path / "s.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"rankfall_sweep": 1', '"rankfall_sweep": 2'))
    with pytest.raises(NotARun, match="newer rankfall"):
        open_results(tmp_path / "s.zarr")


def test_links_inside_a_store_are_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, name in enumerate([".rankfall", "final_rank", ".rankfall/journal", ".rankfall/lock", "status/c.0.0"]):
        path = tmp_path / f"{number}.zarr"
        run(small_study(), path)
        (path / name).rename(outside / f"{number}")
        (path / name).symlink_to(outside / f"{number}")
        with pytest.raises((InvalidInput, OSError)):
            Store.open(path, small_study())
    with pytest.raises(NotARun, match="links"):
        open_results(tmp_path / "1.zarr")


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path):
    for name in (".rankfall/journal", ".rankfall/store.json", "final_rank/c.0.0"):
        path = tmp_path / f"{name.replace('/', '-')}.zarr"
        run(small_study(), path)
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises((InvalidInput, OSError)):
            Store.open(path, small_study())


@pytest.mark.parametrize(
    "change",
    [
        {"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle", "configuration": {}}]},
        {"data_type": "variable_length_bytes"},
        {"shape": [10**12], "dimension_names": ["noise"]},
        {"storage_transformers": [{"name": "x"}]},
        {"node_type": "group"},
        {"shape": "many"},
    ],
)
def test_metadata_that_asks_for_more_than_a_sweep_writes_is_refused(tmp_path, change):
    run(small_study(), tmp_path / "s.zarr")
    root = tmp_path / "s.zarr" / "zarr.json"
    fields = json.loads(root.read_text())
    fields["consolidated_metadata"]["metadata"]["noise"] |= change
    root.write_text(json.dumps(fields))
    with pytest.raises(NotARun):
        open_results(tmp_path / "s.zarr")


def test_sizes_that_no_memory_has_are_refused_before_anything_is_made(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    about = Place(tmp_path / "s.zarr").about
    fields = json.loads(about.read_text())
    good = json.dumps(fields)
    fields["layout"]["dims"]["noise"] = 10**12
    fields["layout"]["coords"].pop("noise")
    about.write_text(json.dumps(fields))
    with pytest.raises(NotARun, match="damaged"):
        read_status(tmp_path / "s.zarr")
    fields = json.loads(good)
    fields["layout"]["quantities"][1]["shape"] = [10**12]
    about.write_text(json.dumps(fields))
    with pytest.raises(NotARun, match="damaged"):
        read_status(tmp_path / "s.zarr")
    with pytest.raises(InvalidInput, match="split the study"):
        Store.open(tmp_path / "t.zarr", small_study(quantities=[Quantity("x", ("t",), (10**12,))]))


def test_random_rubbish_is_refused_in_words(tmp_path):
    """Any bytes in the description or the group's metadata: refused, or (harmless change) read, never anything else."""
    run(small_study(), tmp_path / "s.zarr")
    generator = random.Random(5)
    for file in (Place(tmp_path / "s.zarr").about, tmp_path / "s.zarr" / "zarr.json"):
        good = file.read_bytes()
        for _ in range(40):
            bad = bytearray(good)
            for _ in range(generator.choice([1, 3, 200])):
                bad[generator.randrange(len(bad))] = generator.randrange(256)
            file.write_bytes(bad[: generator.choice([len(bad), generator.randrange(len(bad))])])
            for read in (open_results, read_status):
                try:
                    read(tmp_path / "s.zarr")
                except NotARun as error:
                    assert str(error)
        for rubbish in (b"", b"[" * 100_000, b"null", b"[]", b"{}", b'"text"', b"\xff\xfe"):
            file.write_bytes(rubbish)
            for read in (open_results, read_status):
                if (file.name == "store.json") == (read is read_status):
                    with pytest.raises(NotARun):
                        read(tmp_path / "s.zarr")
        file.write_bytes(good)


@pytest.mark.parametrize(
    "change",
    [
        lambda layout: layout["dims"].update(noise=float("inf")),
        lambda layout: layout["quantities"][1].update(shape=[float("inf")]),
        lambda layout: layout["coords"]["width"][1].__setitem__(0, 10**400),
    ],
)
def test_numbers_that_no_number_holds_are_damage(tmp_path, change):
    """JSON knows Infinity, and whole numbers of any length."""
    run(small_study(), tmp_path / "s.zarr")
    about = Place(tmp_path / "s.zarr").about
    fields = json.loads(about.read_bytes())
    change(fields["layout"])
    about.write_text(json.dumps(fields))
    with pytest.raises(NotARun, match="damaged"):
        read_status(tmp_path / "s.zarr")
    with pytest.raises(InvalidInput, match="damaged"):
        Store.open(tmp_path / "s.zarr", small_study())


@pytest.mark.parametrize("make", [lambda file: file.symlink_to("/dev/zero"), os.mkfifo, os.mkdir])
def test_a_chunk_that_leads_elsewhere_is_not_read(tmp_path, make):
    """Coordinates are read when a store is opened: /dev/zero would fill the memory, a pipe would be waited for."""
    run(small_study(), tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr" / "noise" / "c.0"
    chunk.unlink()
    make(chunk)
    with pytest.raises(NotARun, match="never writes"):
        open_results(tmp_path / "s.zarr")


def test_half_characters_are_damage(tmp_path):
    """JSON may hold halves of characters, of which no file can be made."""
    run(small_study(), tmp_path / "s.zarr")
    place = Place(tmp_path / "s.zarr")
    failed = read_status(tmp_path / "s.zarr").failed
    assert failed
    for file in place.reasons.iterdir():
        file.write_text(json.dumps({str(cell): "\ud800" for cell in range(12)}))
    assert run(small_study(), tmp_path / "s.zarr") == failed
    fields = json.loads(place.about.read_bytes())
    fields["study"]["name"] = "\ud800"
    place.about.write_text(json.dumps(fields))
    with pytest.raises(InvalidInput, match="damaged"):
        Store.open(tmp_path / "s.zarr", small_study())


def test_a_copy_without_the_hidden_folder_is_readable(tmp_path):
    run(small_study(), tmp_path / "s.zarr")
    for file in sorted((tmp_path / "s.zarr" / ".rankfall").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (tmp_path / "s.zarr" / ".rankfall").rmdir()
    results = open_results(tmp_path / "s.zarr")
    cell = next(cell for cell in small_study().cells() if computed(cell).status == "done")
    assert float(results["final_rank"][cell.index]) == float(computed(cell).values["final_rank"])
    with pytest.raises(NotARun, match="hidden folder"):
        read_status(tmp_path / "s.zarr")
