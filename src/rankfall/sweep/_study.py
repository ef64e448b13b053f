"""A study: a grid of ensembles as one value, checked as a whole before anything runs."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rankfall import _checks
from rankfall.errors import InvalidInput
from rankfall.methods import Method
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.sweep._axes import Axis, read_axes
from rankfall.sweep._cell import Cell, Quantity
from rankfall.sweep._check import check_cells
from rankfall.sweep._compare import added_values, compare
from rankfall.sweep._estimate import Estimate, estimate
from rankfall.sweep._keep import read_keep
from rankfall.sweep._objects import as_settings
from rankfall.sweep._quantities import RESERVED, measures_of
from rankfall.sweep._resolve import resolve
from rankfall.sweep._seeds import digest_of, key_of, seed_of
from rankfall.sweep._settings import FIELDS, FILES, check_keys, section_values, table
from rankfall.sweep._stop import read_stop
from rankfall.sweep._toml import read_toml

__all__ = ["Study"]

_SECTIONS = tuple(FIELDS)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Study:
    r"""A grid of ensembles: base settings, axes, what is kept, when a cell has replicates enough.

    Every argument is a table as in the TOML file (`Study.from_toml`; `rankfall sweep --example` prints one with
    comments); a `Problem` of the squared loss (by its statistics), a `LinearNetwork` and a method may be given as such.
    A cell is the base settings with one value of every axis; its seed is a hash of its own settings and the study's
    seed, so that adding a value to an axis changes no other cell.

    Attributes:
        name: For the reader; decides nothing.
        seed: Whole number in [0, 2^64). Also draws the problem (the same one in all cells) unless that names a seed.
        problem: `kind` "gaussian" (the default; `n_samples`, `n_inputs`, `n_outputs`, `teacher_rank`, `teacher_noise`,
            `seed`), "classification" (`temperature` in place of the noise), "whitened" (Σ = I and a teacher whose
            `teacher_rank` singular values are `teacher_scale`), a bundled set (`data` = "digits", …; `loss`), files
            (`inputs`, `labels`, `loss`), or "statistics" (`covariance`, `cross_covariance`).
        network: `width` (a list for more than two layers) or `excess` = width − (inputs + outputs), 3 when neither is
            given; `start` "gaussian" or "balanced" and its `scale`, or the files `W1` and `W2`.
        method: `name`, e.g. "stochastic-gradient-flow", and that method's settings.
        run: `duration`, or `noise_time` (the duration in units of 1/σ², σ² = step_size · label_noise / batch_size), or
            `steps`; `replicates`, `save_points`, `dt`, `start`, `noise_precision` as in `simulate`.
        axes: Setting → list of values, or a table: `from`, `to` and `step` or `count`; `log` = [from, to] or `linear`,
            and `count`; `values`; and `name`, if the dimension shall not be called like the setting. Crossed.
        zipped: Tables like `axes`, whose settings move together along one dimension; `name` and `labels` of that.
        keep: `quantities`, `time_series`: names of `MEASURES` (see `_quantities`); `alive`, the share of its start
            above which a mode counts (0.001); `burn_in` and `batches` of Lyapunov exponents.
        stop: `quantity`, `standard_error`, `at_most`: double the replicates until the standard error of the quantity
            is at most so large, or there are so many. Begin with enough of them (16): equal ranks of a few networks
            have no spread, and would stop at once.

    Raises:
        InvalidInput: A setting that is unknown (with the nearest known one), of the wrong kind or out of range, also
            if for one cell only, which is then named; an axis twice, an empty one, more than a million cells.

    Example:
        >>> import rankfall as rf
        >>> study = rf.sweep.Study(
        ...     problem={"n_inputs": 5, "n_outputs": 3},
        ...     method={"name": "stochastic-gradient-flow", "step_size": 0.01},
        ...     run={"duration": 50.0, "replicates": 8},
        ...     axes={"teacher_rank": [1, 2, 3], "label_noise": {"log": [0.1, 10.0], "count": 5}},
        ... )
        >>> study.n_cells, study.dims
        (15, {'teacher_rank': 3, 'label_noise': 5})
        >>> study.coords["label_noise"]
        ('label_noise', [0.1, 0.316227766017, 1.0, 3.16227766017, 10.0])
    """

    name: str = "study"
    seed: int = 0
    problem: Mapping[str, Any] | Problem = field(default_factory=dict)
    network: Mapping[str, Any] | LinearNetwork = field(default_factory=dict)
    method: Mapping[str, Any] | Method = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    zipped: Sequence[Mapping[str, Any]] = ()
    keep: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] | None = None
    _files: Mapping[str, str] | None = field(default=None)
    _axes: tuple[Axis, ...] = field(default=(), init=False)
    _quantities: tuple[Quantity, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if not isinstance(self.name, str):
            raise InvalidInput(f"name must be a text in quotes, got {self.name!r}.")
        settle("seed", _checks.seed_number(self.seed))
        for section in _SECTIONS:
            settle(section, section_values(as_settings(getattr(self, section), section), section))
        settle("_axes", read_axes(self.axes, self.zipped, RESERVED))
        settle("axes", {axis.settings[0]: axis.to_mapping() for axis in self._axes if not axis.together})
        settle("zipped", [axis.to_mapping() for axis in self._axes if axis.together])
        settle("keep", read_keep(self.keep))
        settle("stop", read_stop(self.stop))
        self._check_base()
        if (
            self._files is not None
        ):  # read from a store: its files need not be here, and their cells are known to be good
            settle("_files", dict(self._files))
            return
        settle("_files", {path: digest_of(path) for path in self._paths()})
        settle("_quantities", check_cells(self, self._measures(), self._describe))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Study:
        """A study from a table as in the TOML file, or from `to_mapping`.

        A mapping of `to_mapping` holds the digests of the study's files; they are believed, and the cells are not
        checked again, so that the study of a store can be read where its files are not.

        Raises:
            InvalidInput: As of `Study`.

        Example:
            >>> import rankfall as rf
            >>> study = rf.sweep.Study.from_mapping({"method": {"name": "gradient-flow"}, "run": {"duration": 1.0}})
            >>> rf.sweep.Study.from_mapping(study.to_mapping()).to_mapping() == study.to_mapping()
            True
        """
        given = table(mapping, "the study")
        known = [each.name for each in fields(cls) if not each.name.startswith("_")]
        files = given.pop("files", None)
        check_keys(given, known, "the study")
        if files is None:
            return cls(**given)
        digests = table(files, "files")
        return cls(**given, _files={path: str(digest) for path, digest in digests.items()})

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Study:
        """Read and check a study's TOML file; the files that it names lie beside it.

        Raises:
            InvalidInput: As of `Study`; or the file cannot be read, is larger than a megabyte, or not TOML.
        """
        given = read_toml(path)
        if "files" in given:
            raise InvalidInput(f"{os.fspath(path)}: the study has no setting 'files'.")
        try:
            return cls.from_mapping(_with_folder(given, Path(path).absolute().parent))
        except InvalidInput as error:
            raise InvalidInput(f"{os.fspath(path)}: {error}") from None

    def to_mapping(self) -> dict[str, Any]:
        """Everything in one JSON-ready table, ranges as lists of values, with the digests of the files."""
        found: dict[str, Any] = {"name": self.name, "seed": self.seed}
        found |= {section: dict(getattr(self, section)) for section in _SECTIONS}
        found |= {"axes": dict(self.axes), "zipped": list(self.zipped)}
        found["keep"] = {name: value for name, value in self.keep.items() if value is not None}
        if self.stop is not None:
            found["stop"] = dict(self.stop)
        return {**found, "files": dict(self._files or {})}

    @property
    def dims(self) -> dict[str, int]:
        """Dimensions of the grid and their lengths, the last one running fastest."""
        return {axis.name: len(axis.rows) for axis in self._axes}

    @property
    def coords(self) -> dict[str, tuple[str, list[Any]]]:
        """Coordinate name → dimension and values, all numbers or all text."""
        return {name: (axis.name, values) for axis in self._axes for name, values in axis.coordinates().items()}

    @property
    def n_cells(self) -> int:
        """How many ensembles there are."""
        return math.prod(self.dims.values())

    def cells(self) -> Iterator[Cell]:
        """All cells, the last dimension running fastest; tens of microseconds each."""
        return map(self.cell, self.places())

    def places(self) -> Iterator[tuple[int, ...]]:
        """The indices of all cells, the last dimension running fastest."""
        return itertools.product(*(range(len(axis.rows)) for axis in self._axes))

    def cell(self, index: Sequence[int]) -> Cell:
        """The cell at these indices, one per dimension."""
        settings = self._settings(index)
        key = key_of(settings, self.seed)
        return Cell(tuple(index), key, settings, seed_of(key))

    def quantities(self) -> list[Quantity]:
        """What is kept of every cell, in the shape that the largest cell needs."""
        if not self._quantities:  # of a store's study, whose cells were not looked at yet
            object.__setattr__(self, "_quantities", check_cells(self, self._measures(), self._describe))
        return list(self._quantities)

    def estimate(self, *, trial: bool = True) -> Estimate:
        """What the study will take on this machine: trajectories, steps, time, bytes; `print` it.

        Args:
            trial: Run a few cells for a moment to see how fast this machine is; else take that of another.
        """
        return estimate(self, trial=trial)

    def differences(self, other: Study) -> list[str]:
        """What sets this study apart from another, one sentence each; nothing if their cells are the same.

        Names are not compared, nor paths of files whose content is the same.
        """
        return compare(self.to_mapping(), other.to_mapping())

    def extends(self, other: Study) -> bool:
        """Whether this is the other study with values added to its axes, and nothing else."""
        return added_values(self.to_mapping(), other.to_mapping())

    def __repr__(self) -> str:
        axes = " × ".join(f"{length} {name}" for name, length in self.dims.items())
        return f"Study({self.name!r}, {self.n_cells:,} cell{'s' if self.n_cells > 1 else ''}{axes and ': '}{axes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Study) and self.to_mapping() == other.to_mapping()

    def __hash__(self) -> int:
        return hash((self.name, self.seed, self.n_cells))

    def _measures(self) -> list[str]:
        names = measures_of(self.keep)
        wanted = None if self.stop is None else self.stop["quantity"]
        return names if wanted is None or wanted in names else [wanted, *names]

    def _extra(self) -> dict[str, Any]:
        """What besides the four sections decides the numbers of a cell."""
        found: dict[str, Any] = {"summary": {"alive": self.keep["alive"]}}
        if any(name.startswith("lyapunov") for name in self._measures()):
            found["lyapunov"] = {"burn_in": self.keep["burn_in"], "batches": self.keep["batches"]}
        return found if self.stop is None else {**found, "stop": dict(self.stop)}

    def _settings(self, index: Sequence[int]) -> dict[str, Any]:
        sections = {section: dict(getattr(self, section)) for section in _SECTIONS}
        for axis, place in zip(self._axes, index, strict=True):
            for name, value in zip(axis.settings, axis.rows[place], strict=True):
                section, field_name = name.split(".")
                sections[section][field_name] = value
        return resolve(sections, self.seed, self._files or {}, self._extra())

    def _check_base(self) -> None:
        """A setting that is an axis and has a base value was meant in one way or the other."""
        for axis in self._axes:
            for name in axis.settings:
                section, field_name = name.split(".")
                if field_name in getattr(self, section):
                    raise InvalidInput(f"{name} is an axis and has one value under [{section}]; take one of them out.")

    def _paths(self) -> list[str]:
        """Every file that a cell is made from."""
        found = [getattr(self, section)[name] for section, name in FILES if name in getattr(self, section)]
        for axis in self._axes:
            for place, name in enumerate(axis.settings):
                if tuple(name.split(".")) in FILES:
                    found.extend(row[place] for row in axis.rows)
        return list(dict.fromkeys(found))

    def _describe(self, index: Sequence[int]) -> str:
        """A cell in words."""
        return ", ".join(axis.describe(place) for axis, place in zip(self._axes, index, strict=True))


def _with_folder(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The table with every file's path taken from this folder."""

    def beside(value: Any) -> Any:
        if isinstance(value, list):
            return [beside(each) for each in value]
        return str(folder / value) if isinstance(value, str) else value

    def walk(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: beside(each) if key.split(".")[-1] in names else walk(each) for key, each in value.items()}

    names = {name for _, name in FILES}
    found = dict(given)
    for part in (*_SECTIONS, "axes"):
        if part in found:
            found[part] = walk(found[part])
    if isinstance(found.get("zipped"), list):
        found["zipped"] = [walk(each) for each in found["zipped"]]
    return found
