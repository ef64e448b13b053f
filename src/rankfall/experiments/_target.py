"""What one `rankfall reproduce` target is made of: parts that compute, claims on what they gave, a figure of it.

The runner (`_runner.py`) does the rest: the folder, what is finished already, Ctrl-C, files, page. A target neither
writes nor prints.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from rankfall.laws import Verdict

__all__ = ["Part", "Results", "Target", "Work"]

Results = Mapping[str, "xr.Dataset"]


@dataclass(frozen=True)
class Work:
    """What a part gets from the runner.

    Attributes:
        threads: For `rf.simulate`; None for all.
        progress: For the argument of that name: a function of one `rf.Progress`, or False.
        checkpoint: File that the part may continue from; removed when the part is done.
    """

    threads: int | None
    progress: Any
    checkpoint: Path


@dataclass(frozen=True)
class Part:
    """One computation, whose dataset is kept in the report folder and not made again.

    Attributes:
        name: Key of its dataset, and its file's name: letters, digits, dots and hyphens.
        title: Heading of its laws, and name of its progress.
        compute: Makes the dataset; may raise `rf.SimulationInterrupted`, whose partial run is kept for the report.
        laws: Verdicts on the dataset, e.g. `laws.check`; it may be partial.
    """

    name: str
    title: str
    compute: Callable[[Work], xr.Dataset]
    laws: Callable[[xr.Dataset], list[Verdict]] = lambda result: []


@dataclass(frozen=True)
class Target:
    """A figure with what it claims.

    The functions are called with the datasets by part name; after an interruption some may be missing or partial, and
    they must then do with what there is (an empty list, None for the figure).

    Attributes:
        name: What `rankfall reproduce NAME` calls it.
        title: The claim as a heading.
        lead: One paragraph: what was done, what to see.
        settings: Everything that decides the numbers, JSON-ready.
        parts: In the order in which they run.
        claims: Verdicts that answer the reader's question.
        figure: Drawn for one or two columns of a paper; None where there is nothing to draw.
        caption: What the figure shows.
        notes: Sentences that a reader must know.
        options: Words of the command line that make the same numbers.
        shown: The settings as the page lists them, if not simply name by name.
    """

    name: str
    title: str
    lead: str
    settings: Mapping[str, Any]
    parts: Sequence[Part]
    claims: Callable[[Results], list[Verdict]]
    figure: Callable[[Results, Literal[1, 2]], Figure | None]
    caption: Callable[[Results], str]
    notes: Callable[[Results], list[str]] = lambda results: []
    options: Sequence[str] = field(default_factory=tuple)
    shown: Callable[[Results], Mapping[str, str]] | None = None

    def compute(self, *, threads: int | None = None, progress: Any = False) -> dict[str, xr.Dataset]:
        """Compute all parts in memory, for `figure`, `caption`, `claims` and `notes`; no report is written.

        Args:
            threads: As of `rankfall.simulate`; the numbers do not depend on it.
            progress: As of `rankfall.simulate`.

        Returns:
            The datasets by part name.

        Example:
            >>> from rankfall.experiments import dichotomy
            >>> settings = dichotomy.Settings.choose(quick=True, duration=2.0, replicates=2)
            >>> list(dichotomy.target(settings).compute())
            ['delta-0', 'delta-2']
        """
        with tempfile.TemporaryDirectory() as folder:
            return {
                part.name: part.compute(Work(threads, progress, Path(folder) / f"{part.name}.checkpoint"))
                for part in self.parts
            }
