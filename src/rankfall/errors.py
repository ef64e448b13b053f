"""Everything that rankfall raises or warns about on purpose, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.scan import Scan
    from rankfall.sweep._summary import Summary

__all__ = [
    "ExecutionError",
    "InvalidInput",
    "LawNotApplicable",
    "NotARun",
    "OutputError",
    "RankfallError",
    "ScanInterrupted",
    "SimulationInterrupted",
    "StepSizeWarning",
    "SweepInterrupted",
]


class RankfallError(Exception):
    """Base class of the errors that rankfall raises on purpose."""


class InvalidInput(RankfallError, ValueError):
    """An argument is unusable; the message says what was wrong, what was given and what to do."""


class NotARun(RankfallError, ValueError):
    """A file or dataset is not a rankfall run, is damaged, or was written by a newer version."""


class OutputError(RankfallError, OSError):
    """A result could not be written; nothing half-written is left behind."""


class ExecutionError(RankfallError, OSError):
    """Worker processes or a cluster cannot be used or were lost; the cells that a sweep had finished are kept."""


class LawNotApplicable(RankfallError, ValueError):
    """A law makes no statement about the given problem, network or method."""


class StepSizeWarning(UserWarning):
    """The step is so large against the sharpness that the run will probably diverge."""


class SimulationInterrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C; all that had been computed is in `run`.

    Attributes:
        run: Dataset of the finished save points; `outcome` says where each replicate stands.
        checkpoint: Path from which the same call continues, or None when no checkpoint was asked for.
    """

    def __init__(self, message: str, run: xr.Dataset, checkpoint: str | None = None) -> None:
        super().__init__(message)
        self.run = run
        self.checkpoint = checkpoint


class ScanInterrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C; the matrices that had been measured are in `scan`."""

    def __init__(self, message: str, scan: Scan) -> None:
        super().__init__(message)
        self.scan = scan


class SweepInterrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C; all cells that were finished are in the store, the same call continues.

    Attributes:
        summary: How far the sweep came.
    """

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary
