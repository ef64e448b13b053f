"""Runs on disk, and what a run was made from."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankfall._dataset import FORMAT_VERSION
from rankfall._deep_dataset import layer_dimensions
from rankfall._files import forget_encoding, write_netcdf
from rankfall._simulate import simulate
from rankfall.errors import InvalidInput, NotARun
from rankfall.methods import (
    GradientDescent,
    GradientFlow,
    LabelNoiseDescent,
    Method,
    StochasticGradientDescent,
    StochasticGradientFlow,
)
from rankfall.network import LinearNetwork
from rankfall.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["method_of", "network_of", "open_run", "problem_of", "rerun", "save_run"]

_METHODS: dict[str, type[Method]] = {
    kind.__name__: kind
    for kind in (
        GradientDescent,
        GradientFlow,
        LabelNoiseDescent,
        StochasticGradientDescent,
        StochasticGradientFlow,
    )
}
_NUMBERS = ("seed", "n_inputs", "width", "n_outputs", "replicates", "start_rank")


def save_run(run: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write a run as NetCDF, under a temporary name that is renamed when all is on disk.

    Args:
        run: Dataset of `simulate`.
        path: File to write; one that is there is replaced.

    Raises:
        NotARun: The dataset is no run.
        OutputError: The file cannot be written (folder missing, disk full); an old one is untouched.

    Example:
        >>> import tempfile, pathlib, rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=50, n_inputs=2, n_outputs=1, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=2, width=3, n_outputs=1)
        >>> run = rf.simulate(problem, network, rf.GradientFlow(), duration=1.0, save_points=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "run.nc"
        ...     rf.save_run(run, path)
        ...     rf.open_run(path).identical(run)
        True
    """
    _check(run)
    write_netcdf(os.fspath(path), run)


def open_run(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a run that `save_run` or `to_netcdf` wrote, and check that it is one.

    Raises:
        NotARun: There is no such file, it is damaged, something else, or written by a newer version.

    Example:
        >>> import rankfall as rf
        >>> rf.open_run("nowhere.nc")
        Traceback (most recent call last):
            ...
        rankfall.errors.NotARun: there is no file nowhere.nc.
    """
    import xarray as xr

    name = os.fspath(path)
    if not os.path.lexists(name):
        raise NotARun(f"there is no file {name}.")
    if not Path(name).is_file():
        raise NotARun(f"{name} is not a file.")
    if not os.access(name, os.R_OK):
        raise NotARun(f"{name} may not be read; change its permissions.")
    try:
        run = xr.load_dataset(name, engine="h5netcdf", decode_times=False)
    except Exception as error:  # h5py and xarray raise nearly anything on damaged files
        raise NotARun(f"{name} is not a rankfall run (NetCDF4), or it is damaged ({type(error).__name__}).") from None
    try:
        _check(run)
    except NotARun as error:
        raise NotARun(f"{name}: {error}") from None
    if run["outcome"].dtype.kind != "U":
        run["outcome"] = run["outcome"].astype(str)
    forget_encoding(run)
    return run


def method_of(run: xr.Dataset) -> Method:
    """Return the method of a run.

    Raises:
        NotARun: The dataset is no run.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=50, n_inputs=2, n_outputs=1, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=2, width=3, n_outputs=1)
        >>> run = rf.simulate(problem, network, rf.GradientDescent(step_size=0.01), steps=10)
        >>> rf.runs.method_of(run)
        GradientDescent(step_size=0.01, weight_decay=0.0)
    """
    fields = dict(_settings(run)["method"])
    name = fields.pop("name", None)
    kind = _METHODS.get(name)
    if kind is None:
        raise NotARun(f"the run's method {name!r} is not one of this version of rankfall.")
    known = {field.name for field in dataclasses.fields(kind)}
    try:
        return kind(**{key: value for key, value in fields.items() if key in known})
    except (TypeError, InvalidInput) as error:
        raise NotARun(f"the run's method {name} is damaged: {error}") from None


def problem_of(run: xr.Dataset) -> Problem:
    """Return the problem of a run: its statistics, and the data where the method or the loss needs them.

    Raises:
        NotARun: The dataset is no run.
    """
    settings = _settings(run)["problem"]
    try:
        loss = settings.get("loss", "squared")
        if loss != "squared" or ("inputs" in run and "labels" in run):
            return Problem.from_data(
                run["inputs"].transpose("sample", "input").values,
                run["labels"].transpose("sample", "output").values,
                loss=loss,
            )
        problem = Problem.from_statistics(
            run["covariance"].transpose("input", "input_other").values,
            run["cross_covariance"].transpose("input", "output").values,
            settings.get("n_samples"),
            settings.get("label_second_moment"),
        )
        least = settings.get("minimum_loss")
        return problem if least is None else dataclasses.replace(problem, _minimum_loss=float(least))
    except (KeyError, ValueError, TypeError) as error:
        raise NotARun(f"the run's problem is damaged: {error}") from None


def network_of(run: xr.Dataset) -> LinearNetwork:
    """Return the network of a run: the way it starts, not where its replicates stand.

    Raises:
        NotARun: The dataset is no run.
    """
    fields = _settings(run)["network"]
    try:
        if fields["start"] == "given" and "hidden" in fields:
            each = ("replicate",) if "replicate" in run["start_W1"].dims else ()
            layers = enumerate(layer_dimensions(len(fields["hidden"]) + 1), start=1)
            return LinearNetwork.from_weights(
                *(run[f"start_W{i}"].transpose(*each, *dims).values for i, dims in layers)
            )
        if fields["start"] == "given":
            each = ("replicate",) if "replicate" in run["start_W1"].dims else ()
            return LinearNetwork.from_weights(
                run["start_W1"].transpose(*each, "input", "hidden").values,
                run["start_W2"].transpose(*each, "hidden", "output").values,
            )
        make = {"gaussian": LinearNetwork.gaussian, "balanced": LinearNetwork.balanced}[fields["start"]]
        width = fields.get("hidden", fields["width"])
        return make(fields["n_inputs"], width, fields["n_outputs"], fields["scale"])
    except (KeyError, ValueError, TypeError) as error:
        raise NotARun(f"the run's network is damaged: {error}") from None


def rerun(run: xr.Dataset, **changes: Any) -> xr.Dataset:
    """Simulate again what a run holds; arguments of `simulate` given here replace those of the run.

    With no changes, and on the same processor, the numbers are the same to the last bit.

    Raises:
        NotARun: The dataset is no run.
        InvalidInput: A change is no argument of `simulate`, or unusable.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=50, n_inputs=2, n_outputs=1, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=2, width=3, n_outputs=1)
        >>> method = rf.LabelNoiseDescent(step_size=0.01, label_noise=1.0)
        >>> run = rf.simulate(problem, network, method, steps=100, seed=3)
        >>> rf.rerun(run).identical(run), float(rf.rerun(run, steps=200).time[-1])
        (True, 2.0)
    """
    arguments = dict(_settings(run)["simulate"])
    known = set(inspect.signature(simulate).parameters) - {"problem", "network", "method"}
    unknown = set(changes) - known
    if unknown:
        raise InvalidInput(f"simulate has no argument {', '.join(sorted(unknown))}.")
    if "steps" in changes or "duration" in changes:  # the one in the run must not contradict the new one
        arguments["steps"] = arguments["duration"] = None
    try:
        return simulate(problem_of(run), network_of(run), method_of(run), **{**arguments, **changes})
    except TypeError as error:
        raise NotARun(f"the run's settings are damaged: {error}") from None


def _settings(run: xr.Dataset) -> dict[str, Any]:
    _check(run)
    found: dict[str, Any] = json.loads(run.attrs["settings"])
    return found


def _check(run: Any) -> None:
    """Raise NotARun unless the attributes, coordinates and variables of a run are there."""
    import xarray as xr

    if not isinstance(run, xr.Dataset):
        raise NotARun(f"a run is the Dataset that simulate() returns, got {type(run).__name__}.")
    version = run.attrs.get("format_version")
    if version is None or "rankfall_version" not in run.attrs:
        raise NotARun("this is not a rankfall run: it lacks the attributes format_version and rankfall_version.")
    if not isinstance(version, int | np.integer) or version < 1:
        raise NotARun(f"the run's format_version is damaged: {version!r}.")
    if version > FORMAT_VERSION:
        raise NotARun(
            f"this run was written by a newer rankfall ({run.attrs['rankfall_version']}, format {version}; this one "
            f"reads up to {FORMAT_VERSION}): upgrade rankfall."
        )
    missing = [name for name in (*_NUMBERS, "settings", "method") if name not in run.attrs]
    spectrum = "singular_values_Z1" if "depth" in run.attrs else "singular_values_Z"
    missing += [name for name in ("loss", "log_det", spectrum, "outcome", "covariance") if name not in run]
    missing += [name for name in ("time", "replicate") if name not in run.coords]
    if missing:
        raise NotARun(f"this is not a whole rankfall run: it lacks {', '.join(missing)}.")
    try:
        settings = json.loads(run.attrs["settings"])
        whole = all(isinstance(settings[part], dict) for part in ("problem", "network", "method", "simulate"))
    except (TypeError, ValueError, KeyError):
        whole = False
    if not whole:
        raise NotARun("the run's settings are damaged.")
