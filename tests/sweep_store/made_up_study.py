"""A study without simulations: what the store asks of one, and numbers that follow from the key alone."""

import hashlib
import itertools
import json
import math

import numpy as np

from rankfall.sweep._cell import Cell, CellResult, Quantity

QUANTITIES = [
    Quantity("final_rank", attrs={"long_name": "rank at the end"}),
    Quantity("singular_values", ("mode",), (3,), attrs={"units": "1"}),
    Quantity("replicates_used", dtype="int64"),
]


class MadeUpStudy:
    def __init__(self, axes, *, seed=0, quantities=QUANTITIES):
        self.axes = {name: list(values) for name, values in axes.items()}
        self.seed = seed
        self._quantities = list(quantities)

    @property
    def dims(self):
        return {name: len(values) for name, values in self.axes.items()}

    @property
    def coords(self):
        return {name: (name, values) for name, values in self.axes.items()}

    def cells(self):
        for index in itertools.product(*(range(n) for n in self.dims.values())):
            settings = {name: values[i] for (name, values), i in zip(self.axes.items(), index, strict=True)}
            text = json.dumps([self.seed, settings], sort_keys=True)
            digest = hashlib.blake2b(text.encode(), digest_size=16)
            yield Cell(index, digest.hexdigest(), settings, int.from_bytes(digest.digest()[:8], "little"))

    def quantities(self):
        return self._quantities

    def to_mapping(self):
        return {"seed": self.seed, "axes": self.axes, "kept": [q.name for q in self._quantities]}

    @classmethod
    def from_mapping(cls, mapping):
        return cls(mapping["axes"], seed=mapping["seed"])

    def differences(self, other):
        lines = [] if self.seed == other.seed else [f"seed: {other.seed} there, {self.seed} here"]
        for name in self.axes.keys() | other.axes.keys():
            mine, theirs = self.axes.get(name), other.axes.get(name)
            if mine != theirs:
                lines.append(f"axis {name}: {theirs} there, {mine} here")
        return lines

    def extends(self, other):
        return self.seed == other.seed and all(
            name in self.axes and set(values) <= set(self.axes[name]) for name, values in other.axes.items()
        )


def computed(cell, *, wall_time=0.5, quantities=QUANTITIES):
    """The result of a cell: everything from its seed, every seventh one failed."""
    if cell.seed % 7 == 0:
        return CellResult(cell.key, "failed", f"diverged at step {cell.seed % 1000}", {}, wall_time)
    generator = np.random.default_rng(cell.seed)
    values = {}
    for q in quantities:
        drawn = generator.standard_normal(q.shape)
        values[q.name] = np.asarray(drawn if q.dtype == "float64" else np.floor(1e3 * drawn), dtype=q.dtype)
    return CellResult(cell.key, "done", "", values, wall_time)


def run(study, path, *, quantities=QUANTITIES, wall_time=0.5, **options):
    """Compute what is left; the number of cells that were computed."""
    from rankfall.sweep._store import Store

    with Store.open(path, study, **options) as store:
        left = [cell for cell in study.cells() if cell.key not in store.finished and cell.key not in store.failed]
        for start in range(0, len(left), 50):
            some = left[start : start + 50]
            store.commit_many([computed(cell, wall_time=wall_time, quantities=quantities) for cell in some])
    return len(left)


def contents(path):
    """Every file of a store but the wall times' chunks, by name."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.parent.name != "wall_time"
    }


def small_study(**options):
    return MadeUpStudy({"noise": [0.0, 0.5, 1.0], "width": [4, 8, 16, 32]}, **options)


def n_cells(study):
    return math.prod(study.dims.values())
