"""Workers on hosts of their own: network namespaces, joined to the scheduler's by cables that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, closing
from itertools import chain

import pytest

pytest.importorskip("distributed")

from rankfall.sweep._dask import in_dask
from rankfall.sweep._job import Job
from sweep_run.clusters import Cluster
from sweep_run.studies import FUNCTION, QUANTITIES, ActingStudy, same

# From the block that is set aside for benchmarks of networks, so that it is nobody's.
NET = "198.18.{}.{}"


def ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"ip {' '.join(map(str, words))} failed")


class Host:
    """A namespace with a cable to ours: NET.1 on this side, NET.2 there."""

    def __init__(self, number, stack):
        self.name, self.number = f"rankfall-{os.getpid()}-{number}", number
        self.cable = f"rf{os.getpid()}-{number}"[:15]
        ip("netns", "add", self.name)
        stack.callback(subprocess.run, ["ip", "netns", "del", self.name], capture_output=True)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "cable", "netns", self.name)
        stack.callback(subprocess.run, ["ip", "link", "del", self.cable], capture_output=True)
        ip("addr", "add", f"{self.here}/30", "dev", self.cable)
        ip("link", "set", self.cable, "up")
        for words in (("addr", "add", f"{self.there}/30", "dev", "cable"), ("link", "set", "cable", "up")):
            ip("-n", self.name, *words)
        ip("-n", self.name, "link", "set", "lo", "up")

    @property
    def here(self):
        return NET.format(self.number, 1)

    @property
    def there(self):
        return NET.format(self.number, 2)

    @property
    def prefix(self):
        return ("ip", "netns", "exec", self.name)

    def cut(self):
        ip("link", "set", self.cable, "down")


@pytest.fixture
def hosts():
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and the command ip")
    with ExitStack() as stack:
        try:
            yield [Host(number, stack) for number in (1, 2)]
        except OSError as error:
            pytest.skip(f"this machine does not let us make network namespaces: {error}")


def test_workers_on_other_hosts_one_of_which_is_cut_off(hosts, tmp_path, monkeypatch):
    # A cable that is cut says nothing: the scheduler misses the worker's heartbeat, by default after five minutes.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "3s")
    study, results, names = ActingStudy(60, settings={"sleep": 0.05}), {}, []
    with ExitStack() as stack:
        found = Cluster(tmp_path, stack)
        found.start_scheduler("--host", "0.0.0.0", "--port", "0")
        port = found.address.rpartition(":")[2]
        for host in hosts:
            # Each knows the scheduler by another address: they are in networks of their own.
            found.start_worker(prefix=host.prefix, address=f"tcp://{host.here}:{port}")
        address = f"tcp://{hosts[0].here}:{port}"
        job = Job(QUANTITIES, None, names.append, lambda: None, FUNCTION)
        _wait_for_workers(address, 2)
        with closing(in_dask(study.cells(), job, address)) as batches:
            for result in chain.from_iterable(batches):
                assert result.key not in results
                results[result.key] = result
                if len(results) == 10:
                    hosts[1].cut()
        assert "2 workers" in names[0]
        assert "198.18.2.2" in found.log()
    assert all(same(results[cell.key], cell) for cell in study.cells())


def _wait_for_workers(address, count):
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)
        assert {each.split("//")[1].split(":")[0] for each in client.nthreads()} == {"198.18.1.2", "198.18.2.2"}
