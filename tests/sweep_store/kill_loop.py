"""Kills a writing process again and again, at random moments: python kill_loop.py STORE KILLS SECONDS.

The writers are forked from here, where everything is imported and no thread runs, so that a kill costs milliseconds.
A writer reports each cell when its commit has returned, and what it has found when it has opened the store.
"""

import os
import random
import signal
import sys
import time

from made_up_study import MadeUpStudy, computed

from rankfall.sweep import _store
from rankfall.sweep._store import Store


def study():
    return MadeUpStudy({"a": range(24), "b": range(45)})


def write(path, pipe):
    _store._FOLD_EVERY = 0.01  # so that many kills hit a fold
    _store._FOLD_SHARE = 1.0
    generator = random.Random(os.getpid())
    with Store.open(path, study()) as store:
        found = sorted(store.finished | store.failed.keys())
        os.write(pipe, b"".join(b"found " + key.encode() + b"\n" for key in found) + b"opened\n")
        left = [cell for cell in study().cells() if cell.key not in store.finished and cell.key not in store.failed]
        generator.shuffle(left)
        for cell in left:
            store.commit(computed(cell))
            time.sleep(0.0005)  # a cell that takes some time
            os.write(pipe, b"done " + cell.key.encode() + b"\n")
    os.write(pipe, b"closed\n")


def main():
    path, kills, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    generator = random.Random(11)
    committed = set()
    killed = in_opening = 0
    begun = time.monotonic()
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            write(path, writer)
            os._exit(0)
        os.close(writer)
        last = killed >= kills or time.monotonic() - begun > seconds
        if not last:
            # every third one soon, most probably while it opens the store; the others after some commits
            lines = wait_for(reader, 0 if killed % 3 == 0 else generator.randrange(1, 16))
            time.sleep(generator.uniform(0.0, 0.01))
            os.kill(child, signal.SIGKILL)
        else:
            lines = b""
        lines = (lines + rest(reader)).decode().split("\n")[:-1]  # whole ones: a kill may cut a long report short
        os.close(reader)
        _, status = os.waitpid(child, 0)
        if "opened" in lines:
            found = {line.split()[1] for line in lines if line.startswith("found")}
            assert committed <= found, f"{len(committed - found)} committed cells were lost"
            # the cell in flight may have been kept although its commit had not returned
            assert len(found - committed) <= 1, "cells that nobody committed"
            committed = found
        elif last:
            raise AssertionError("the store could not be opened")
        for line in lines:
            if line.startswith("done"):
                key = line.split()[1]
                assert key not in committed, "a cell was computed twice"
                committed.add(key)
        if last:
            assert os.waitstatus_to_exitcode(status) == 0
            break
        if os.WIFSIGNALED(status):
            killed += 1
            in_opening += "opened" not in lines
    print(f"killed {killed} in_opening {in_opening} committed {len(committed)}")


def wait_for(reader, commits):
    """Read until so many commits have returned, or the writer has ended."""
    lines = b""
    while lines.count(b"done") < commits:
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        lines += piece
    return lines


def rest(reader):
    lines = b""
    while piece := os.read(reader, 1 << 16):
        lines += piece
    return lines


if __name__ == "__main__":
    main()
