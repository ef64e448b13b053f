"""Dask clusters of real processes, as a user starts them, that tests may kill."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]
SOURCES = Path(__file__).parents[2] / "src"


def environment(**more):
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SOURCES), str(TESTS)]),
        "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "True",
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "warning",
        **more,
    }


class Cluster:
    """A scheduler and its workers, each a process."""

    def __init__(self, folder, stack):
        self._folder, self._stack = Path(folder), stack
        self._count = 0
        self.workers = []
        self.scheduler = None
        self.address = None

    def start_scheduler(self, *options, prefix=()):
        file = self._folder / "scheduler.json"
        file.unlink(missing_ok=True)
        options = options or ("--host", "127.0.0.1", "--port", "0")
        common = ("--scheduler-file", str(file), "--dashboard-address", ":0")
        self.scheduler = self._start(
            [*prefix, sys.executable, "-m", "distributed.cli.dask_scheduler", *options, *common],
            "scheduler",
        )
        self.file = file
        wait_until(lambda: file.exists() and file.read_text().strip().endswith("}"), self.scheduler)
        import json

        self.address = json.loads(file.read_text())["address"]

    def start_worker(self, *options, prefix=(), address=None, code=None):
        program = ["-c", code] if code else ["-m", "distributed.cli.dask_worker"]
        options = [*options, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
        options += ["--local-directory", str(self._folder)]
        process = self._start(
            [*prefix, sys.executable, *program, address or self.address, *options], f"worker-{self._count}"
        )
        self._count += 1
        self.workers.append(process)
        return process

    def _start(self, command, name):
        log = self._stack.enter_context((self._folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            command, env=environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )
        self._stack.callback(end, process)
        return process

    def log(self):
        return "\n".join(file.read_text(errors="replace") for file in self._folder.glob("*.log"))


def _die_with_parent():
    """Tests that are killed leave no cluster behind; Linux alone knows how."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL


def end(process):
    process.kill()
    process.wait()


@contextmanager
def cluster(folder, workers=2):
    """Scheduler and workers on this machine."""
    with ExitStack() as stack:
        found = Cluster(folder, stack)
        found.start_scheduler()
        for _ in range(workers):
            found.start_worker()
        yield found


def wait_until(condition, process=None, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.02)
