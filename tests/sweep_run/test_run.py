"""`rankfall.sweep.run`: what it computes, keeps, reports and refuses; interruptions and failures."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

import rankfall as rf
from rankfall.errors import InvalidInput, OutputError, SweepInterrupted
from rankfall.sweep._run import execute
from sweep_run.studies import FUNCTION, ActingStudy, contents, expected

STUDY = ActingStudy(30, special={4: {"raises": True}, 9: {"diverges": True}})


def run(study, path, **options):
    defaults = dict.fromkeys(("workers", "scheduler", "threads"))
    defaults |= dict.fromkeys(("retry_failed", "extend", "wait", "progress"), False)
    return execute(study, path, **{**defaults, **options}, function=FUNCTION)


def counts(summary):
    return summary.total, summary.done, summary.failed, summary.reused


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted sweep in this process."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    return path, run(STUDY, path)


def test_the_store_holds_what_every_cell_gave(whole):
    path, summary = whole
    assert counts(summary) == (30, 28, 2, 0) and summary.left == 0 and summary.complete
    assert sorted(summary.reasons.values()) == ["ValueError: this cell raises", "diverged at t=3"]
    results = rf.sweep.open_results(path)
    for cell in STUDY.cells():
        found = results.isel(place=cell.index[0])
        if cell.settings.get("raises") or cell.settings.get("diverges"):
            assert int(found["status"]) == 2 and np.isnan(found["series"]).all()
            continue
        for name, values in expected(cell).items():
            np.testing.assert_array_equal(found[name].values, values)


def test_the_same_store_by_workers(whole, tmp_path):
    assert counts(run(STUDY, tmp_path / "s.zarr", workers=2)) == (30, 28, 2, 0)
    assert contents(tmp_path / "s.zarr") == contents(whole[0])


def test_again_nothing_is_computed(whole):
    path, _ = whole
    before = {file: file.stat().st_mtime_ns for file in path.glob("*/**/*") if ".rankfall" not in str(file)}
    assert counts(run(STUDY, path)) == (30, 28, 2, 30)
    assert "(0 in this run, 30 before" in str(run(STUDY, path, workers=2))
    assert len(before) > 5 and all(file.stat().st_mtime_ns == time for file, time in before.items())


def test_failed_cells_are_computed_again_when_asked(tmp_path):
    (tmp_path / "deaths").mkdir()
    deadly = ActingStudy(6, special={3: {"dies": 4, "folder": str(tmp_path / "deaths")}})
    assert counts(run(deadly, tmp_path / "s.zarr", workers=1)) == (6, 5, 1, 0)
    assert counts(run(deadly, tmp_path / "s.zarr")) == (6, 5, 1, 6)
    # It has died four times, which is all it wants to.
    summary = run(deadly, tmp_path / "s.zarr", retry_failed=True)
    assert counts(summary) == (6, 6, 0, 5) and summary.reasons == {}
    assert int(rf.sweep.open_results(tmp_path / "s.zarr")["status"].min()) == 1


def test_progress_counts_every_cell(tmp_path):
    seen = []
    run(ActingStudy(5), tmp_path / "s.zarr")
    run(ActingStudy(8, special={7: {"raises": True}}), tmp_path / "t.zarr", progress=seen.append)
    assert [(state.done, state.failed, state.left) for state in seen] == [
        *((done, 0, 8 - done) for done in range(8)),
        (7, 1, 0),
    ]
    assert seen[0].rate is None and seen[-1].rate > 0.0 and seen[-1].seconds_left == 0.0
    assert str(seen[3]).startswith("3 of 8 cells done, 0 failed, 5 left, ")


def interrupted(study, path, after, number=signal.SIGINT, **options):
    """Run, with a signal after so many cells."""

    def progress(state):
        if state.done + state.failed - state.reused >= after:
            os.kill(os.getpid(), number)

    with pytest.raises(SweepInterrupted) as stop:
        run(study, path, progress=progress, **options)
    return stop.value


@pytest.mark.parametrize("workers", [None, 2])
def test_ctrl_c_keeps_what_is_finished(whole, tmp_path, workers):
    path = tmp_path / "s.zarr"
    handler = signal.getsignal(signal.SIGINT)
    stop = interrupted(STUDY, path, 7, workers=workers)
    assert signal.getsignal(signal.SIGINT) is handler
    first = stop.summary
    assert first.total == 30 and 7 <= first.done + first.failed < 30 and not first.complete
    assert f"{first.done + first.failed} of 30 cells are finished" in str(stop)
    second = interrupted(STUDY, path, 8, workers=workers).summary
    assert second.reused == first.done + first.failed
    assert counts(run(STUDY, path, workers=workers))[:3] == (30, 28, 2)
    assert contents(path) == contents(whole[0])


def test_ctrl_c_waits_while_a_cell_is_written(tmp_path, monkeypatch):
    """The signal comes in the middle of every commit: the cell is there, and counted."""
    from rankfall.sweep._store import Store

    written = Store.commit_many

    def commit_many(store, results):
        signal.raise_signal(signal.SIGINT)
        written(store, results)

    monkeypatch.setattr(Store, "commit_many", commit_many)
    for done in range(1, 4):
        with pytest.raises(SweepInterrupted) as stop:
            run(ActingStudy(5), tmp_path / "s.zarr")
        assert counts(stop.value.summary) == (5, done, 0, done - 1)
        assert rf.sweep.status(tmp_path / "s.zarr").done == done


def test_outside_the_main_thread(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(ActingStudy(5), tmp_path / "s.zarr", workers=1)))
    thread.start()
    thread.join()
    assert counts(found[0]) == (5, 5, 0, 0)


def test_a_full_disk_says_what_is_kept(tmp_path, monkeypatch):
    import errno

    from rankfall.sweep._store import Store

    path, written, commits = tmp_path / "s.zarr", Store.commit_many, []

    def commit_many(store, results):
        if len(commits) == 5:
            raise OutputError(errno.ENOSPC, f"cannot write {path}: No space left on device")
        commits.append(1)
        written(store, results)

    monkeypatch.setattr(Store, "commit_many", commit_many)
    with pytest.raises(OutputError, match="No space left on device; 5 of 30 cells are finished and kept") as error:
        run(STUDY, path)
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert counts(run(STUDY, path))[:2] == (30, 28) and rf.sweep.status(path).left == 0


def test_another_study_is_refused_and_more_values_taken_over(tmp_path):
    path = tmp_path / "s.zarr"
    run(ActingStudy(5), path)
    with pytest.raises(InvalidInput, match=r"another study(.|\n)*seed"):
        run(ActingStudy(5, seed=1), path)
    with pytest.raises(InvalidInput, match="--extend"):
        run(ActingStudy(9), path)
    assert counts(run(ActingStudy(9), path, extend=True)) == (9, 9, 0, 5)
    run(ActingStudy(9), tmp_path / "t.zarr")
    assert contents(path) == contents(tmp_path / "t.zarr")


def test_a_second_run_waits_or_refuses(tmp_path):
    path, refused, notices = tmp_path / "s.zarr", [], []
    study = ActingStudy(20)

    def wait():
        run(study, path, wait=True, progress=lambda state: notices.append(state.notice))

    second = threading.Thread(target=wait)

    def progress(state):
        if state.done == 3:
            with pytest.raises(InvalidInput, match=f"written by another rankfall .process {os.getpid()}") as error:
                run(study, path)
            refused.append(error.value)
            second.start()

    assert counts(run(study, path, progress=progress)) == (20, 20, 0, 0)
    second.join()
    assert len(refused) == 1


def test_unusable_arguments(tmp_path):
    study, path = ActingStudy(3), tmp_path / "s.zarr"
    for options, words in (
        ({"workers": 0}, "workers"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "give one of them"),
        ({"threads": -1}, "threads"),
        ({"progress": 3}, "progress"),
        ({"scheduler": "localhost"}, "tcp://host:8786"),
    ):
        with pytest.raises(InvalidInput, match=words):
            run(study, path, **options)
    with pytest.raises(InvalidInput, match="Study"):
        rf.sweep.run("study.toml", path)
    assert not path.exists()


def test_the_number_of_threads_changes_no_bit(tmp_path):
    """Networks large enough that their singular values come from LAPACK, whose sums follow its number of threads."""
    from threadpoolctl import threadpool_info

    before = [(each["internal_api"], each["num_threads"]) for each in threadpool_info()]
    study = rf.sweep.Study(
        problem={"n_samples": 50, "n_inputs": 45, "n_outputs": 20},
        network={"width": 70},
        method={"name": "gradient-descent", "step_size": 0.001},
        run={"steps": 20, "replicates": 3, "save_points": 2},
        keep={"quantities": ["final_singular_values_Z", "log_det_slope", "final_log_det"]},
        axes={"scale": [0.1, 0.3]},
    )
    for name, options in (("one", {"threads": 1}), ("two", {"threads": 2}), ("worker", {"workers": 1})):
        assert counts(rf.sweep.run(study, tmp_path / name, **options)) == (2, 2, 0, 0)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "worker")
    after = [(each["internal_api"], each["num_threads"]) for each in threadpool_info()]
    assert after[: len(before)] == before


def test_a_full_disk_between_commits_is_no_failure_of_a_cell(tmp_path, monkeypatch):
    import errno

    from rankfall.sweep._store import Store
    from sweep_run.tiny import write_study

    def full(store):
        raise OutputError(errno.ENOSPC, "no space")

    study = rf.sweep.Study.from_toml(write_study(tmp_path / "study.toml", noises=2, scales=2))
    monkeypatch.setattr(Store, "fold_if_due", full)
    # The first commit is in the journal before it wants to fold.
    with pytest.raises(OutputError, match="no space; 1 of 4 cells are finished and kept"):
        rf.sweep.run(study, tmp_path / "s.zarr")
    monkeypatch.undo()
    status = rf.sweep.status(tmp_path / "s.zarr")
    assert (status.done, status.failed) == (1, 0)
