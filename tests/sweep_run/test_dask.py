"""Cells on a Dask cluster of several processes: the same numbers, and what happens when parts of it are lost."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from itertools import chain

import pytest

distributed = pytest.importorskip("distributed")

from rankfall.errors import ExecutionError, InvalidInput  # noqa: E402
from rankfall.sweep._dask import check_scheduler, in_dask  # noqa: E402
from rankfall.sweep._job import Job  # noqa: E402
from sweep_run.clusters import cluster  # noqa: E402
from sweep_run.studies import FUNCTION, QUANTITIES, ActingStudy, same  # noqa: E402


def job(notices=None):
    return Job(QUANTITIES, None, [].append if notices is None else notices.append, lambda: None, FUNCTION)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


def by_key(batches):
    found = {}
    for result in chain.from_iterable(batches):
        assert result.key not in found
        found[result.key] = result
    return found


def test_same_numbers_as_here(two_workers):
    study = ActingStudy(450, special={4: {"raises": True}, 9: {"diverges": True}})
    notices = []
    found = by_key(in_dask(study.cells(), job(notices), two_workers.address))
    assert len(found) == 450
    for cell in study.cells():
        result = found[cell.key]
        if cell.settings.get("raises"):
            assert (result.status, result.reason) == ("failed", "ValueError: this cell raises")
        elif cell.settings.get("diverges"):
            assert (result.status, result.reason) == ("failed", "diverged at t=3")
        else:
            assert result.status == "done" and same(result, cell) and result.wall_time > 0.0
    assert two_workers.address in notices[0] and "dashboard http://" in notices[0]


def test_a_scheduler_file_a_client_and_a_cluster_object(two_workers):
    study = ActingStudy(7)
    with distributed.Client(two_workers.address, set_as_default=False) as client:
        for scheduler in (str(two_workers.file), two_workers.file, client):
            found = by_key(in_dask(study.cells(), job(), scheduler))
            assert all(same(found[cell.key], cell) for cell in study.cells())
        assert client.status == "running"


def test_a_cell_that_kills_every_worker_fails_alone(tmp_path):
    (tmp_path / "deaths").mkdir()
    study = ActingStudy(12, special={5: {"dies": 99, "folder": str(tmp_path / "deaths")}})
    # Workers without a nanny: four die with the cell and others that waited behind it, four more with the cell alone.
    with cluster(tmp_path, workers=9) as found:
        results = by_key(in_dask(study.cells(), job(), found.address))
    cells = list(study.cells())
    assert results[cells[5].key].status == "failed"
    assert "the worker died 4 times at this cell alone" in results[cells[5].key].reason
    assert all(same(results[cell.key], cell) for cell in cells if cell is not cells[5])


def test_killed_workers_are_dask_s_business(tmp_path):
    study = ActingStudy(60, settings={"sleep": 0.02})
    results = {}
    with cluster(tmp_path, workers=2) as found, closing(in_dask(study.cells(), job(), found.address)) as coming:
        for result in chain.from_iterable(coming):
            assert result.key not in results
            results[result.key] = result
            if len(results) in (10, 30):
                os.kill(found.workers[len(results) // 20].pid, signal.SIGKILL)
                found.start_worker()
    assert all(same(results[cell.key], cell) for cell in study.cells())


def test_a_lost_scheduler_is_said_at_once(tmp_path):
    study = ActingStudy(500, settings={"sleep": 0.02})
    with cluster(tmp_path, workers=2) as found:
        results = []
        with pytest.raises(ExecutionError, match=r"scheduler tcp://.* is lost.*the same command continues"):
            for result in chain.from_iterable(in_dask(study.cells(), job(), found.address)):
                results.append(result)
                if len(results) == 20:
                    found.scheduler.send_signal(signal.SIGKILL)
        assert 20 <= len(results) < 500


def test_workers_that_come_later(tmp_path):
    study, notices = ActingStudy(5), []
    with cluster(tmp_path, workers=0) as found:

        def tell(notice):
            notices.append(notice)
            if "no worker" in notice:
                found.start_worker()

        results = by_key(in_dask(study.cells(), Job(QUANTITIES, None, tell, lambda: None, FUNCTION), found.address))
    assert all(same(results[cell.key], cell) for cell in study.cells())
    assert "0 workers" in notices[0] and "has no worker" in notices[1]


WITHOUT_RANKFALL = """
import sys
sys.modules["rankfall"] = None  # importing it raises ModuleNotFoundError
from distributed.cli.dask_worker import main
main()
"""
OLD_RANKFALL = """
import rankfall._version
rankfall._version.__version__ = "0.0.1"
from distributed.cli.dask_worker import main
main()
"""


@pytest.mark.parametrize(
    "code, words", [(WITHOUT_RANKFALL, "has no rankfall"), (OLD_RANKFALL, r"has rankfall 0\.0\.1, here it is")]
)
def test_workers_with_no_rankfall_or_another(tmp_path, code, words):
    with cluster(tmp_path, workers=0) as found:
        found.start_worker(code=code)
        with pytest.raises(ExecutionError, match=rf"{words}.*install rankfall"):
            list(in_dask(ActingStudy(5).cells(), job(), found.address))
        assert found.workers[0].poll() is None


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("rankfall.sweep._dask._SECONDS_TO_CONNECT", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://127.0.0.1:1"):
        with pytest.raises(ExecutionError, match=f"no Dask scheduler answers at {address}"):
            list(in_dask(ActingStudy(5).cells(), job(), address))


def test_what_is_not_a_scheduler(tmp_path, monkeypatch):
    for wrong in ("localhost", tmp_path / "none.json", 3):
        with pytest.raises(InvalidInput, match="scheduler must be"):
            check_scheduler(wrong)
    file = tmp_path / "scheduler.json"
    file.write_text("{}")
    check_scheduler(file)
    with pytest.raises(ExecutionError, match="not a scheduler file"):
        list(in_dask(ActingStudy(5).cells(), job(), file))
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(InvalidInput, match=r"pip install 'rankfall\[dask\]'"):
        check_scheduler("tcp://127.0.0.1:1")
