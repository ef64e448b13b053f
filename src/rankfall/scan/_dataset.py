"""A scan as a labelled dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall._version import __version__

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.scan._result import Scan

__all__ = ["to_dataset"]


def to_dataset(scan: Scan) -> xr.Dataset:
    """Return the dataset of `Scan.to_dataset`; where a layer is not in a checkpoint, NaN."""
    import xarray as xr

    places = {name: i for i, name in enumerate(dict.fromkeys(layer.name for layer in scan))}
    # A name may stand in the file for two matrices only over steps, so the last report of a name describes it.
    described = {layer.name: layer for layer in scan}
    steps = scan.steps or (None,)
    rows = {step: i for i, step in enumerate(steps)}
    modes = max((len(layer.singular_values) for layer in scan), default=0)
    shape = (len(steps), len(places))
    others = ("spectral_norm", "frobenius_norm", *(("share", "saved") if scan.spectra else ()))
    numbers = {name: np.full(shape, np.nan) for name in (*scan.measures, *others)}
    spectra = np.full((*shape, modes), np.nan)
    problems = np.full(shape, "", dtype=object)
    for layer in scan:
        at = rows[layer.step], places[layer.name]
        for name in scan.measures:
            numbers[name][at] = layer.values[name]
        for name in others:
            numbers[name][at] = getattr(layer, name)
        spectra[at][: len(layer.singular_values)] = layer.singular_values
        problems[at] = layer.problem
    over_time = bool(scan.steps)
    axes = ("step", "layer") if over_time else ("layer",)
    variables = {name: (axes, values if over_time else values[0]) for name, values in numbers.items()}
    if scan.spectra:
        variables["singular_values"] = ((*axes, "mode"), spectra if over_time else spectra[0])
    variables["problem"] = (axes, (problems if over_time else problems[0]).astype(str))
    coordinates: dict[str, Any] = {
        "layer": list(places),
        "kind": ("layer", [described[name].kind for name in places]),
        "rows": ("layer", [described[name].matrix_shape[0] for name in places]),
        "columns": ("layer", [described[name].matrix_shape[1] for name in places]),
        "parameters": ("layer", [described[name].parameters for name in places]),
        "dtype": ("layer", [described[name].dtype for name in places]),
    }
    if over_time:
        coordinates["step"] = list(scan.steps)
    attributes = {
        "path": scan.path,
        "energy": scan.energy,
        "method": scan.method,
        "parameters_of_the_checkpoint": scan.parameters,
        "rankfall_version": __version__,
    }
    return xr.Dataset(variables, coordinates, attributes)
