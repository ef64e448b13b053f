"""Sweeps: many ensembles over a grid of settings, in one store that survives anything."""

from rankfall.sweep._cell import Cell, CellResult, Quantity
from rankfall.sweep._run_cell import run_cell
from rankfall.sweep._study import Study

__all__ = ["Cell", "CellResult", "Quantity", "Study", "run_cell"]
