"""Cells in this process and in worker processes: the same numbers, and workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from rankfall.errors import ExecutionError
from rankfall.sweep._job import Job
from rankfall.sweep._local import in_process
from rankfall.sweep._workers import RETRIES, in_workers
from sweep_run.studies import FUNCTION, QUANTITIES, ActingStudy, alive, same

TESTS = Path(__file__).parents[1]


def job(notices=None, function=FUNCTION):
    return Job(QUANTITIES, None, [].append if notices is None else notices.append, lambda: None, function)


def by_key(batches):
    found = {}
    for result in chain.from_iterable(batches):
        assert result.key not in found
        found[result.key] = result
    return found


def test_same_numbers_in_process_and_in_workers():
    study = ActingStudy(23, special={4: {"raises": True}, 9: {"diverges": True}})
    cells = list(study.cells())
    alone, together = by_key(in_process(iter(cells), job())), by_key(in_workers(iter(cells), job(), 3))
    assert set(alone) == set(together) == {cell.key for cell in cells}
    for cell in cells:
        for result in (alone[cell.key], together[cell.key]):
            if cell.settings.get("raises"):
                assert (result.status, result.reason) == ("failed", "ValueError: this cell raises")
            elif cell.settings.get("diverges"):
                assert (result.status, result.reason) == ("failed", "diverged at t=3")
            else:
                assert result.status == "done" and same(result, cell)


def test_every_worker_takes_part():
    # Cells that wait: however busy the machine is, one worker cannot do them before the other has started.
    study = ActingStudy(40, settings={"sleep": 0.1})
    seen, notices = [], []
    with closing(in_workers(study.cells(), job(notices), 2)) as results:
        for result in chain.from_iterable(results):
            seen.append((time.monotonic(), result))
    assert len(seen) == 40 and not notices
    # Alone one worker needs 4 s from the first result on.
    assert seen[-1][0] - seen[0][0] < 3.5


def test_a_cell_survives_workers_that_die(tmp_path):
    study = ActingStudy(12, special={5: {"dies": RETRIES, "folder": str(tmp_path)}})
    notices = []
    found = by_key(in_workers(study.cells(), job(notices), 2))
    cells = list(study.cells())
    assert all(found[cell.key].status == "done" and same(found[cell.key], cell) for cell in cells)
    assert len(notices) == RETRIES and all("SIGKILL" in notice and "again" in notice for notice in notices)


def test_a_cell_that_kills_every_worker_fails_alone(tmp_path):
    study = ActingStudy(12, special={5: {"dies": 99, "folder": str(tmp_path)}})
    found = by_key(in_workers(study.cells(), job(), 1))
    cells = list(study.cells())
    assert len(list(tmp_path.glob("death-*"))) == RETRIES + 1
    assert found[cells[5].key].status == "failed"
    assert "the worker died 4 times" in found[cells[5].key].reason and "SIGKILL" in found[cells[5].key].reason
    assert Counter(result.status for result in found.values()) == {"done": 11, "failed": 1}


def test_workers_that_are_killed_from_outside(tmp_path):
    """SIGKILL to any worker every few cells; each cell still comes once."""
    study = ActingStudy(60, settings={"sleep": 0.02})
    found, kills = {}, 0
    with closing(in_workers(study.cells(), job(), 2)) as results:
        for result in chain.from_iterable(results):
            assert result.key not in found
            found[result.key] = result
            if len(found) % 12 == 6:
                os.kill(children()[kills % 2], signal.SIGKILL)
                kills += 1
    assert kills == 5
    assert all(same(found[cell.key], cell) for cell in study.cells())


def children():
    """Workers of this process."""
    import multiprocessing

    return sorted(child.pid for child in multiprocessing.active_children())


def test_closing_ends_the_workers_in_the_middle_of_a_cell():
    study = ActingStudy(8, special={place: {"sleep": 60.0} for place in range(1, 8)})
    begun = time.monotonic()
    with closing(in_workers(study.cells(), job(), 2)) as results:
        next(results)
        assert len(children()) == 2
    assert not children()
    assert time.monotonic() - begun < 50.0


def test_workers_that_cannot_start(monkeypatch, capfd):
    monkeypatch.setattr("rankfall.sweep._worker._serve", _not_there)
    with pytest.raises(ExecutionError, match=r"end before they have started \(exit code 1\).*same command continues"):
        list(in_workers(ActingStudy(3).cells(), job(), 2))
    assert not children()
    capfd.readouterr()


def _not_there(*arguments):
    raise SystemExit(1)


def test_large_cells_and_large_results_do_not_block_each_other():
    study = ActingStudy(6, settings={"text": "x" * 1_000_000})
    found = by_key(in_workers(study.cells(), job(), 1))
    assert all(same(found[cell.key], cell) for cell in study.cells())


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    """Spawned processes of Python run the main script again, where many have no `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        print("begun", flush=True)
        from rankfall.sweep._job import Job
        from rankfall.sweep._workers import in_workers
        from sweep_run.studies import FUNCTION, QUANTITIES, ActingStudy
        job = Job(QUANTITIES, 1, print, lambda: None, FUNCTION)
        print(sum(len(results) for results in in_workers(ActingStudy(5).cells(), job, 2)))
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["begun", "5"] and done.stderr == ""


def test_workers_end_with_a_killed_sweep(tmp_path):
    """SIGKILL of the main process leaves no worker behind, although they are in the middle of long cells."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing
        from rankfall.sweep._job import Job
        from rankfall.sweep._workers import in_workers
        from sweep_run.studies import FUNCTION, QUANTITIES, ActingStudy
        study = ActingStudy(9, special={place: {"sleep": 300.0} for place in range(2, 9)})
        done = 0
        for results in in_workers(study.cells(), Job(QUANTITIES, 1, print, lambda: None, FUNCTION), 2):
            done += len(results)
            if done == 2:
                print(*(each.pid for each in multiprocessing.active_children()), flush=True)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as sweep:
        workers = [int(word) for word in sweep.stdout.readline().split()]
        sweep.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 30.0
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))
