"""Makes the report of a target, or continues one that was interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rankfall as rf
from rankfall._files import forget_encoding, write_atomically, write_netcdf
from rankfall.experiments._environment import environment
from rankfall.experiments._folder import ReportFolder, Status
from rankfall.experiments._page import make_page
from rankfall.experiments._target import Part, Target, Work
from rankfall.report import render_figure, render_page

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws import Verdict

__all__ = ["Outcome", "run_target"]

# Attribute of a part's file: whether all of it is there.
_STATUS = "report_part"


@dataclass(frozen=True)
class Outcome:
    """What `run_target` leaves.

    Attributes:
        folder: The report folder.
        status: "complete", or "partial" after an interruption.
        claims: The target's claims.
        laws: Verdicts of every law, by the title of the part.
        was_complete: The report had been there before, nothing was run.
        target: What was run.
        seconds: Time taken in this session.
    """

    folder: Path
    status: Status
    claims: list[Verdict]
    laws: dict[str, list[Verdict]]
    was_complete: bool
    target: Target
    seconds: float

    @property
    def verdicts(self) -> list[Verdict]:
        """Claims and laws together."""
        return [*self.claims, *(verdict for each in self.laws.values() for verdict in each)]

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(verdict.passed is False for verdict in self.verdicts)


def run_target(
    target: Target,
    folder: str | Path,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[str, Any], None] | None = None,
) -> Outcome:
    """Compute the parts that are not there yet, judge and draw them; Ctrl-C leaves a valid partial report.

    Args:
        target: What to run.
        folder: Where; made if it is not there.
        overwrite: Replace a report that is there already.
        threads: Passed on to the simulations; the numbers do not depend on it.
        progress: Called with the title of a part and an `rf.Progress`.

    Returns:
        The outcome; its status is "partial" if Ctrl-C was pressed.

    Raises:
        InvalidInput: The folder holds something else, or a report with other settings.
        OutputError: The folder cannot be written.
    """
    with ReportFolder.prepare(
        folder,
        target.name,
        target.settings,
        version=rf.__version__,
        overwrite=overwrite,
        parts=[part.name for part in target.parts],
    ) as report:
        was_complete = report.status == "complete"
        begun = time.monotonic()
        results: dict[str, xr.Dataset] = {}
        interrupted = False
        try:
            for part in target.parts:
                found = _finished(report.path, part)
                if found is None:
                    was_complete = False
                    found = _compute(part, report.path, threads, progress)
                results[part.name] = found
        except rf.SimulationInterrupted as stop:
            interrupted = True
            results[part.name] = stop.run
            _save(stop.run, report.path, part, "partial")
        except KeyboardInterrupt:
            interrupted = True
        status: Status = "partial" if interrupted else "complete"
        laws = {part.title: part.laws(results[part.name]) for part in target.parts if part.name in results}
        laws = {title: verdicts for title, verdicts in laws.items() if verdicts}
        outcome = Outcome(
            report.path, status, target.claims(results), laws, was_complete, target, time.monotonic() - begun
        )
        if not was_complete:
            _write(report, outcome, results)
    return outcome


def _compute(part: Part, folder: Path, threads: int | None, progress: Callable[[str, Any], None] | None) -> xr.Dataset:
    checkpoint = folder / f"{part.name}.checkpoint"
    result = part.compute(
        Work(threads, False if progress is None else lambda state: progress(part.title, state), checkpoint)
    )
    _save(result, folder, part, "complete")
    checkpoint.unlink(missing_ok=True)
    return result


def _save(result: xr.Dataset, folder: Path, part: Part, status: Status) -> None:
    write_netcdf(folder / f"{part.name}.nc", result.assign_attrs({_STATUS: status}))


def _finished(folder: Path, part: Part) -> xr.Dataset | None:
    """The dataset of a part, None if it is not there, damaged or unfinished."""
    import xarray as xr

    try:
        found = xr.load_dataset(folder / f"{part.name}.nc", engine="h5netcdf", decode_times=False)
    except Exception:  # h5py and xarray raise nearly anything on damaged files
        return None
    if found.attrs.pop(_STATUS, "partial") != "complete":
        return None
    for name, variable in found.variables.items():
        if variable.dtype.kind == "O":
            found[name] = found[name].astype(str)
    forget_encoding(found)
    return found


def _write(report: ReportFolder, outcome: Outcome, results: Mapping[str, xr.Dataset]) -> None:
    folder, target = report.path, outcome.target
    report.update(status="running")
    svg = narrow = None
    figure = target.figure(results, 2) if results else None
    if figure is not None:
        svg = render_figure(figure, "svg")
        write_atomically(folder / "figure.svg", svg)
        write_atomically(folder / "figure.png", render_figure(figure, "png"))
        write_atomically(folder / "figure.pdf", render_figure(figure, "pdf"))
        slim = target.figure(results, 1)
        narrow = None if slim is None else render_figure(slim, "svg")
    record = {
        "status": outcome.status,
        "failed": outcome.failed,
        "claims": [verdict.to_dict() for verdict in outcome.claims],
        "laws": {name: [verdict.to_dict() for verdict in each] for name, each in outcome.laws.items()},
    }
    write_atomically(folder / "verdicts.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    made_with = environment() | {"seconds in this session": f"{outcome.seconds:.1f}"}
    page = make_page(outcome, results, (svg, narrow), made_with)
    write_atomically(folder / "index.html", render_page(page))
    report.update(status=outcome.status, command=page.command, environment=made_with)
