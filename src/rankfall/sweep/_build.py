"""From the settings of a cell to its problem, network and method; equal ones are made once and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from rankfall import datasets
from rankfall.errors import InvalidInput
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
from rankfall.sweep._seeds import digest_of

__all__ = ["METHODS", "make_method", "make_network", "make_problem", "sizes"]

METHODS: dict[str, type] = {
    "gradient-flow": GradientFlow,
    "stochastic-gradient-flow": StochasticGradientFlow,
    "gradient-descent": GradientDescent,
    "label-noise-descent": LabelNoiseDescent,
    "stochastic-gradient-descent": StochasticGradientDescent,
}


def sizes(problem: Mapping[str, Any]) -> tuple[int, int]:
    """Inputs p and outputs k of a problem, without drawing one.

    Raises:
        InvalidInput: There is no such problem.
    """
    if problem["kind"] in ("gaussian", "classification", "whitened"):
        p, k = problem["n_inputs"], problem["n_outputs"]
        for value, name in ((p, "n_inputs"), (k, "n_outputs")):
            if value < 1:
                raise InvalidInput(f"{name} must be at least 1, got {value}.")
        return p, k
    made = make_problem(problem)
    return made.n_inputs, made.n_outputs


def make_problem(settings: Mapping[str, Any]) -> Problem:
    """The problem of these settings.

    Raises:
        InvalidInput: There is none, or a file is not what it was when the study was read.
    """
    return _problem(json.dumps(settings, sort_keys=True))


@lru_cache(maxsize=64)
def _problem(text: str) -> Problem:
    settings = json.loads(text)
    kind, seed = settings.pop("kind"), settings.get("seed")
    if kind in ("gaussian", "classification"):
        n, p, k = settings["n_samples"], settings["n_inputs"], settings["n_outputs"]
        _check_memory(n, p + k)
        rank = settings.get("teacher_rank")
        if kind == "gaussian":
            return Problem.gaussian(n, p, k, seed=seed, rank=rank, noise=settings["teacher_noise"])
        return Problem.classification(n, p, k, seed=seed, rank=rank, temperature=settings["temperature"])
    if kind == "whitened":
        return _whitened(**settings)
    if kind == "data":
        return datasets.load(settings["data"], constant=settings["constant"], loss=settings["loss"])
    if kind == "files":
        inputs, labels = (_read(settings, name) for name in ("inputs", "labels"))
        return Problem.from_data(inputs, labels, loss=settings["loss"])
    return Problem.from_statistics(**settings)


def _whitened(n_inputs: int, n_outputs: int, teacher_scale: float, teacher_rank: int | None = None) -> Problem:
    """Σ = I and a teacher with `teacher_rank` singular values of size `teacher_scale`: C = diag(s, …, s, 0, …)."""
    most = min(n_inputs, n_outputs)
    rank = most if teacher_rank is None else teacher_rank
    if not 0 <= rank <= most:
        raise InvalidInput(f"teacher_rank must lie between 0 and min(n_inputs, n_outputs) = {most}, got {rank}.")
    if not teacher_scale > 0.0:
        raise InvalidInput(f"teacher_scale must be greater than 0, got {teacher_scale:g}.")
    _check_memory(n_inputs, n_inputs + n_outputs)
    teacher = np.zeros((n_inputs, n_outputs))
    np.fill_diagonal(teacher[:rank, :rank], teacher_scale)
    return Problem.from_statistics(np.eye(n_inputs), teacher, label_second_moment=rank * teacher_scale**2)


def _check_memory(rows: int, columns: int) -> None:
    """Refuse before the machine does."""
    try:
        memory = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if 8.0 * rows * columns > memory:
        raise InvalidInput(
            f"a problem of {rows} × {columns} numbers needs {8.0 * rows * columns / 2**30:.3g} GiB, the machine has "
            f"{memory / 2**30:.3g} GiB: ask for fewer samples or inputs."
        )


def _read(settings: Mapping[str, Any], name: str) -> np.ndarray:
    path, digest = settings[name], settings[f"{name}_digest"]
    if digest_of(path) != digest:
        raise InvalidInput(f"{path} is not what it was when the study was read; start the study anew.")
    return datasets.read_matrix(path, name)


def make_network(settings: Mapping[str, Any], n_inputs: int, n_outputs: int) -> LinearNetwork:
    """The network of these settings for a problem of this size.

    Raises:
        InvalidInput: There is none, or a file is not what it was when the study was read.
    """
    return _network(json.dumps(settings, sort_keys=True), n_inputs, n_outputs)


@lru_cache(maxsize=1024)
def _network(text: str, p: int, k: int) -> LinearNetwork:
    settings = json.loads(text)
    if settings["start"] == "given":
        return LinearNetwork.from_weights(_read(settings, "W1"), _read(settings, "W2"))
    make = LinearNetwork.balanced if settings["start"] == "balanced" else LinearNetwork.gaussian
    return make(p, settings["width"], k, settings["scale"])


def make_method(settings: Mapping[str, Any]) -> Method:
    """The method of these settings.

    Raises:
        InvalidInput: A number is out of range.
    """
    method: Method = METHODS[settings["name"]](**{name: value for name, value in settings.items() if name != "name"})
    return method
