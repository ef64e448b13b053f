"""A sweep that is killed again and again: `killing.py FOLDER STUDY KILLS SECONDS SEED`.

Everything is imported and compiled before the first fork, so that a life costs no more than opening the store. Each
life is a process that runs the sweep and that this one ends by SIGKILL at a random moment: while it opens the store, or
some time after so many cells, so that a slow machine comes to its end as well. When a life has completed the sweep, the
next store is begun, until there have been kills enough. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import rankfall as rf
from rankfall.sweep import _store

# Folding every other moment and not every two seconds: kills shall come in the middle of it too.
_store._FOLD_EVERY = 0.02


def main() -> None:
    folder, study_file, kills_wanted, seconds, seed = Path(sys.argv[1]), *sys.argv[2:]
    study = rf.sweep.Study.from_toml(study_file)
    cells, quantities = list(study.cells()), study.quantities()
    for cell in cells[:4]:
        rf.sweep.run_cell(cell.settings, cell.seed, quantities, threads=1)
    generator = random.Random(int(seed))
    deadline = time.monotonic() + float(seconds)
    kills, stores, done = 0, [], []
    while kills < int(kills_wanted):
        path = folder / f"killed-{len(stores)}.zarr"
        stores.append(str(path))
        while (finished := life(study, path, generator)) is None:
            kills += 1
            done.append(rf.sweep.status(path).done if (path / ".rankfall" / "store.json").exists() else 0)
            if time.monotonic() > deadline:
                sys.exit(f"only {kills} kills and {len(stores)} stores in time: {done}")
        if finished != 0:
            sys.exit(f"the sweep ended with {finished}")
    print(json.dumps({"kills": kills, "stores": stores, "done_after_kills": done}))


def life(study, path, generator):
    """The exit code of a process that runs the sweep, None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            code = rf.sweep.run(study, path, threads=1, progress=lambda state: os.write(writing, b".")).left
        finally:
            os._exit(code)
    os.close(writing)
    if generator.random() < 0.75:
        # A report comes when the store is open, and one after each cell.
        for _ in range(generator.randint(1, 7)):
            os.read(reading, 1)
    time.sleep(generator.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    main()
