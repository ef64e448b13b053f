"""Where a command may write, and what it leaves when it is stopped."""

from __future__ import annotations

from pathlib import Path

from rankfall._files import check_folder
from rankfall.cli._errors import say
from rankfall.errors import InvalidInput, SimulationInterrupted

__all__ = ["check_output", "keep_partial"]


def check_output(out: Path, overwrite: bool, *, option: str = "--out", endings: tuple[str, ...] = (".nc",)) -> None:
    """Make sure, before any work, that the file of this option can be written and replaces nothing unasked.

    Raises:
        InvalidInput: Another ending, no such folder, or a file that is there already.
        OutputError: The folder cannot be written.
    """
    if out.suffix.lower() not in endings:
        raise InvalidInput(f"{option} must end in {endings[0]}, got {out}.")
    if not out.parent.is_dir():
        raise InvalidInput(f"{option}: there is no folder {out.parent}.")
    if out.is_dir() or (out.exists() and not overwrite):
        raise InvalidInput(
            f"{out} is there already; choose another {option}" + ("." if out.is_dir() else ", or --overwrite.")
        )
    check_folder(out.parent)


def keep_partial(stop: SimulationInterrupted, partial: Path) -> None:
    """Write what a stopped simulation had finished, and say how to go on."""
    from rankfall import runs

    runs.save_run(stop.run, partial)
    further = "The same command continues it." if stop.checkpoint else "It cannot be continued: no checkpoint."
    say(f"rankfall: stopped; what was finished is in {partial}. {further}")
