"""Studies whose cells do what a test wants, and a loop in the place of a simulation; imported by workers too."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rankfall.sweep._cell import Cell, CellResult, Quantity

FUNCTION = "sweep_run.studies:act"
QUANTITIES = (
    Quantity("value", attrs={"long_name": "a number"}),
    Quantity("series", ("time",), (5,), attrs={"long_name": "some numbers"}),
    Quantity("count", dtype="int64", attrs={"long_name": "a whole number"}),
)


def act(settings, seed, quantities, threads=None, stop=None):
    """Numbers that follow from settings and seed alone, and whatever else the settings ask for."""
    if "sleep" in settings:
        time.sleep(settings["sleep"])
    if "work" in settings:
        begun = time.perf_counter()
        while time.perf_counter() - begun < settings["work"]:
            pass
    if settings.get("raises"):
        raise ValueError("this cell raises\nand says more below")
    if settings.get("diverges"):
        return CellResult("", "failed", "diverged at t=3", {}, 0.0)
    if "dies" in settings:
        # So many times, counted by files: what a process remembers dies with it.
        folder = Path(settings["folder"])
        deaths = len(list(folder.glob("death-*")))
        if deaths < settings["dies"]:
            (folder / f"death-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    generator = np.random.default_rng([seed, settings["place"]])
    values = {
        "value": np.asarray(generator.normal()),
        "series": generator.normal(size=5),
        "count": np.asarray(settings["place"], dtype=np.int64),
    }
    assert list(values) == [each.name for each in quantities]
    return CellResult("", "done", "", values, 0.0)


def make_cell(place, seed=0, index=None, **settings):
    everything = {"place": place, **settings}
    text = json.dumps([seed, everything], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Cell((place,) if index is None else index, key, everything, int(key[:8], 16))


@dataclass(frozen=True)
class ActingStudy:
    """A line of cells; `special` gives the settings of some of them."""

    length: int
    seed: int = 0
    name: str = "acting"
    settings: dict = field(default_factory=dict)
    special: dict = field(default_factory=dict)

    @property
    def dims(self):
        return {"place": self.length}

    @property
    def coords(self):
        return {"place": ("place", list(range(self.length)))}

    @property
    def n_cells(self):
        return self.length

    def cells(self):
        for place in range(self.length):
            yield make_cell(place, self.seed, **{**self.settings, **self.special.get(place, {})})

    def quantities(self):
        return list(QUANTITIES)

    def to_mapping(self):
        return {
            "name": self.name,
            "seed": self.seed,
            "settings": self.settings,
            "special": {str(place): each for place, each in self.special.items()},
            "axes": {"place": list(range(self.length))},
        }

    @classmethod
    def from_mapping(cls, mapping):
        special = {int(place): each for place, each in mapping["special"].items()}
        length = len(mapping["axes"]["place"])
        return cls(length, mapping["seed"], mapping["name"], mapping["settings"], special)

    def differences(self, other):
        ours, theirs = self.to_mapping(), other.to_mapping()
        return [f"{name}: {ours[name]} here, {theirs[name]} there" for name in ours if ours[name] != theirs[name]]

    def extends(self, other):
        return self.settings == other.settings and self.seed == other.seed and self.length >= other.length


def expected(cell):
    """What `act` gives for a cell that does nothing special."""
    return act({"place": cell.settings["place"]}, cell.seed, QUANTITIES).values


def same(result, cell):
    """Whether the values of a result are those of the cell, bit for bit."""
    wanted = expected(cell)
    return set(result.values) == set(wanted) and all(
        np.array_equal(result.values[name], wanted[name]) for name in wanted
    )


def contents(path):
    """Every file of a store by name, but wall times: what must not depend on how it came about."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(Path(path).rglob("*"))
        if file.is_file() and file.parent.name != "wall_time" and "/wall_time/" not in str(file)
    }


def alive(pid):
    """Whether a process still runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
