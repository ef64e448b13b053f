"""The measurements so far: as a dataset, as a state, as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rankfall._files import check_folder
from rankfall.errors import InvalidInput

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["History", "Values", "checked_path"]

# Name of a variable → column of a layer → its values: one, or the leading singular values.
Values = Mapping[str, Mapping[int, Sequence[float]]]


class History:
    """A growing table (step, layer) for each variable; NaN where nothing was measured.

    Args:
        layers: Names of the columns.
        variables: Name → number of values per layer (0: one value without an axis for it).
        attributes: Of each variable.
    """

    def __init__(self, layers: Sequence[str], variables: Mapping[str, int], attributes: Mapping[str, dict[str, Any]]):
        self.layers = tuple(layers)
        self.steps: list[int] = []
        self.seconds: list[float] = []
        self.costs: list[float] = []
        self._tables: dict[str, list[np.ndarray]] = {name: [] for name in variables}
        self._widths = dict(variables)
        self._attributes = dict(attributes)

    def add(self, step: int, seconds: float, cost: float, values: Values) -> None:
        """Append one measurement."""
        rows = {}
        for name, width in self._widths.items():
            row = np.full((len(self.layers), max(width, 1)), np.nan)
            for column, found in values.get(name, {}).items():
                row[column, : len(found)] = found
            rows[name] = row if width else row[:, 0]
        # Only when every row is there: a failure above leaves the tables of equal length.
        for name, row in rows.items():
            self._tables[name].append(row)
        self.steps.append(step)
        self.seconds.append(seconds)
        self.costs.append(cost)

    def series(self, variable: str, column: int) -> np.ndarray:
        """All values of one layer, oldest first."""
        return np.array([row[column] for row in self._tables[variable]])

    def latest(self) -> dict[str, np.ndarray]:
        """The last measurement, name → values of all layers; without spectra."""
        return {name: table[-1] for name, table in self._tables.items() if table and not self._widths[name]}

    def dataset(self, coordinates: Mapping[str, Sequence[int]], attributes: Mapping[str, Any]) -> xr.Dataset:
        """Return everything with labels.

        Args:
            coordinates: Further coordinates along the layers.
            attributes: Of the dataset.
        """
        import xarray as xr

        variables = {
            name: (self._dimensions(name), self._table(name), self._attributes.get(name, {})) for name in self._tables
        }
        variables["training_seconds"] = (("step",), np.array(self.seconds, dtype=float), {"units": "s"})
        variables["monitor_seconds"] = (("step",), np.array(self.costs, dtype=float), {"units": "s"})
        return xr.Dataset(
            variables,
            coords={
                "step": np.array(self.steps, dtype=np.int64),
                "layer": np.array(self.layers, dtype=np.str_),
                **{name: ("layer", np.array(values, dtype=np.int64)) for name, values in coordinates.items()},
            },
            attrs=dict(attributes),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return lists and tensors, which `torch.load` reads with `weights_only=True`."""
        return {
            "layers": list(self.layers),
            "steps": list(self.steps),
            "seconds": list(self.seconds),
            "costs": list(self.costs),
            "tables": {name: torch.from_numpy(self._table(name)) for name in self._tables},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the measurements.

        Raises:
            InvalidInput: The state comes from a monitor of other layers, things, measures or spectra.
        """
        tables = state["tables"]
        if list(state["layers"]) != list(self.layers) or any(
            name not in tables or tuple(tables[name].shape[1:]) != self._table(name).shape[1:] for name in self._tables
        ):
            raise InvalidInput(
                "The state comes from a monitor that watched something else: "
                f"{len(state['layers'])} layers with {', '.join(tables)}; this one watches {len(self.layers)} layers "
                f"with {', '.join(self._tables)}. Make the monitor with the same model, select, watch and measures."
            )
        self.steps, self.seconds, self.costs = list(state["steps"]), list(state["seconds"]), list(state["costs"])
        self._tables = {name: list(tables[name].cpu().numpy()) for name in self._tables}

    def _dimensions(self, name: str) -> tuple[str, ...]:
        return ("step", "layer", "mode") if self._widths[name] else ("step", "layer")

    def _table(self, name: str) -> np.ndarray:
        width = self._widths[name]
        shape = (len(self._tables[name]), len(self.layers), *((width,) if width else ()))
        return np.array(self._tables[name], dtype=float).reshape(shape)


def checked_path(path: Any, *, overwrite: bool) -> Path:
    """Return the path of the history, or say why it cannot be written there.

    Raises:
        InvalidInput: Not ending in .nc, or there already.
        OutputError: The folder is missing or cannot be written.
    """
    target = Path(path)
    if target.suffix != ".nc":
        raise InvalidInput(f"path must end in .nc (NetCDF), got {str(path)!r}. For CSV give loggers=[CsvLogger(...)].")
    if target.exists() and not overwrite:
        raise InvalidInput(
            f"{target} exists already. Choose another path, or give overwrite=True; load_state_dict brings back the "
            "history up to a checkpoint."
        )
    check_folder(target.parent)
    return target
