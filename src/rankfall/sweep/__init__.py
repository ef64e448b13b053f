"""Sweeps: many ensembles over a grid of settings, in one store that survives anything."""

from rankfall.sweep._cell import Cell, CellResult, Quantity
from rankfall.sweep._opening import open_results
from rankfall.sweep._progress import SweepProgress
from rankfall.sweep._run import run
from rankfall.sweep._run_cell import run_cell
from rankfall.sweep._status import Status
from rankfall.sweep._status import read_status as status
from rankfall.sweep._study import Study
from rankfall.sweep._summary import Summary

__all__ = [
    "Cell",
    "CellResult",
    "Quantity",
    "Status",
    "Study",
    "Summary",
    "SweepProgress",
    "open_results",
    "run",
    "run_cell",
    "status",
]
