"""Every target, each in its own folder, and the page that leads to them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankfall._files import write_atomically
from rankfall.errors import InvalidInput, OutputError
from rankfall.experiments._catalogue import TARGETS, choose_target
from rankfall.experiments._runner import Outcome, run_target
from rankfall.experiments._target import Target
from rankfall.report.index import Entry, render_index

__all__ = ["Everything", "run_all"]

_TITLE = "Rank dynamics of gradient methods"
_LEAD = (
    "Every result of rankfall, computed on this machine: what is claimed, the figure, and the verdict of every claim "
    "and law behind it. Each heading leads to the full report."
)


@dataclass(frozen=True)
class Everything:
    """What `run_all` leaves.

    Attributes:
        outcomes: By target, those that ran.
        interrupted: Whether Ctrl-C was pressed.
    """

    outcomes: dict[str, Outcome]
    interrupted: bool


def run_all(
    folder: str | Path,
    *,
    quick: bool = False,
    seed: int | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[str, Any], None] | None = None,
    begin: Callable[[str, int, int], None] | None = None,
    options: Sequence[str] = (),
) -> Everything:
    """Run every target; a target that is complete is not run again, and the index is renewed after each.

    Args:
        folder: Gets one folder per target and index.html.
        quick: Small versions.
        seed: Of every target; each one's own when None.
        overwrite: Replace reports with other settings.
        threads: Passed on to the simulations.
        progress: Called with the title of a part and an `rf.Progress`.
        begin: Called with name, number and count of the targets when one begins.
        options: Words of the command line, for the page.

    Raises:
        InvalidInput: The folder holds something else, or a report with other settings.
        OutputError: The folder cannot be written.
    """
    targets = {name: choose_target(name, quick=quick, seed=seed) for name in TARGETS}
    targets = {name: each if each.options else replace(each, options=options) for name, each in targets.items()}
    place = _prepare(Path(folder))
    command = shlex.join(["rankfall", "reproduce", "--all", *options, "--out", str(place)])
    outcomes: dict[str, Outcome] = {}
    for number, (name, target) in enumerate(targets.items(), 1):
        if begin is not None:
            begin(name, number, len(targets))
        outcomes[name] = run_target(target, place / name, overwrite=overwrite, threads=threads, progress=progress)
        write_atomically(place / "index.html", _index(place, targets, outcomes, command))
        if outcomes[name].status == "partial":
            return Everything(outcomes, True)
    return Everything(outcomes, False)


def _prepare(folder: Path) -> Path:
    """Make the folder, or see that it is one of ours: it holds nothing but our targets and the index."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file, not a folder; choose another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = sorted(each.name for each in folder.iterdir() if each.name not in {*TARGETS, "index.html"})
    except OSError as error:
        raise OutputError(error.errno, f"cannot make the folder {folder}: {error.strerror or error}") from None
    if foreign:
        raise InvalidInput(
            f"{folder} holds something else ({', '.join(foreign[:3])}), so nothing is written there; "
            "choose a new or an empty folder with --out."
        )
    return folder


def _index(folder: Path, targets: dict[str, Target], outcomes: dict[str, Outcome], command: str) -> str:
    entries = []
    for name, target in targets.items():
        outcome = outcomes.get(name)
        if outcome is None:
            entries.append(Entry(name, target.title, "waiting"))
            continue
        picture = f"{name}/figure.png" if (folder / name / "figure.png").exists() else ""
        entries.append(Entry(name, target.title, outcome.status, outcome.claims, outcome.verdicts, picture))
    return render_index(_TITLE, _LEAD, entries, command)
