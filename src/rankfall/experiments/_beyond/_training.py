"""Training followed from save point to save point: the loop that all experiments share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

import rankfall as rf
from rankfall.experiments._target import Work

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Measured", "follow", "generator", "save_steps", "single_threaded"]

State = TypeVar("State")
# What is measured at a save point: by name, the dimensions without "step" and the values.
Measured = Mapping[str, tuple[tuple[str, ...], Any]]
# Reports are cheap but not free: one in so many steps.
_REPORT_EVERY = 20


def generator(seed: int, purpose: str) -> torch.Generator:
    """The random numbers of one seed for one purpose, e.g. "start" or "batches": the same whatever runs beside it.

    Example:
        >>> import torch
        >>> from rankfall.experiments._beyond._training import generator
        >>> first, again, other = (torch.rand(2, generator=generator(3, name)) for name in ("start", "start", "noise"))
        >>> torch.equal(first, again), torch.equal(first, other)
        (True, False)
    """
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def save_steps(steps: int, count: int) -> list[int]:
    """About `count` save points from 0 to `steps`, dense at the beginning, where a network changes fastest.

    They are at steps·(i/m)²: the start and the end are among them, and each is there once.

    Example:
        >>> from rankfall.experiments._beyond._training import save_steps
        >>> save_steps(100, 6)
        [0, 4, 16, 36, 64, 100]
    """
    shares = (np.arange(count) / max(count - 1, 1)) ** 2
    return sorted({0, steps, *(int(step) for step in np.rint(steps * shares))})


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch use one thread meanwhile.

    Sums that are split among threads differ in their last bits, which training then amplifies, and networks of a few
    thousand weights have little to share out (64-64-64-64-10 on two busy cores: four times slower with two threads).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def follow(
    state: State,
    update: Callable[[State, int], State],
    measure: Callable[[State], Measured],
    steps: int,
    saved_steps: Sequence[int],
    work: Work,
    title: str,
    *,
    seeds: Sequence[int],
    coords: Mapping[str, Sequence[Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Train all seeds beside each other and measure them at the save points.

    A seed whose loss or anything else that is measured is no longer finite has diverged: from that save point on all
    its values are NaN, and `outcome` says so; it stays in the state, whose seeds must not touch each other. Training
    ends early when every seed has diverged.

    Args:
        state: The start; whatever `update` and `measure` understand.
        update: Gets the state and the number of the step (0 for the first), returns the next state.
        measure: Gets the state; by name, dimensions and values; all values have the dimension "seed", first. Whole
            numbers are kept as floats, so that a diverged seed can be NaN.
        steps: How many steps are taken.
        saved_steps: After how many steps the state is measured; among 0 … steps, ascending.
        work: Its `progress` is told; its `threads` is not used, see `single_threaded`.
        title: For the progress.
        seeds: The numbers of the seeds, coordinate "seed".
        coords: Other coordinates, e.g. the names of matrices.
        attrs: Attributes of the dataset; those that are not strings or numbers become JSON.

    Returns:
        Variables with dimensions (seed, step, …), coordinates `seed` and `step`, `outcome(seed)`: "completed",
        "diverged at step N" or "interrupted at step N". Attribute `steps`: how many were to be taken.

    Raises:
        SimulationInterrupted: Ctrl-C was pressed; its dataset ends at the last save point. (KeyboardInterrupt if there
            is none yet.)
    """
    saved = [int(step) for step in saved_steps]
    if not saved or saved != sorted(set(saved)) or saved[0] < 0 or saved[-1] > steps:
        raise rf.InvalidInput(f"saved_steps must be ascending and within 0 … {steps}, got {list(saved_steps)}.")
    tell = work.progress if callable(work.progress) else (lambda progress: None)
    rows: list[dict[str, tuple[tuple[str, ...], np.ndarray]]] = []
    done = 0
    diverged: dict[int, int] = {}

    def dataset(interrupted: bool) -> xr.Dataset:
        words = {"steps": int(steps), **(attrs or {})}
        return _assemble(rows, saved[: len(rows)], seeds, diverged, done if interrupted else None, coords, words)

    try:
        with single_threaded():
            for done in range(saved[-1] + 1):
                if done == saved[len(rows)]:
                    rows.append(_row(measure(state), seeds, done, diverged))
                    if len(diverged) == len(seeds) or len(rows) == len(saved):
                        break
                if done % _REPORT_EVERY == 0:
                    tell(rf.Progress("running", done * len(seeds), steps * len(seeds), title))
                state = update(state, done)
    except KeyboardInterrupt:
        if not rows:
            raise
        raise rf.SimulationInterrupted(f"{title}: stopped at step {done} of {steps}", dataset(True)) from None
    tell(rf.Progress("running", steps * len(seeds), steps * len(seeds), title))
    while len(rows) < len(saved):  # every seed has diverged: nothing but NaN is left
        rows.append({name: (dims, np.full_like(values, np.nan)) for name, (dims, values) in rows[-1].items()})
    return dataset(False)


def _row(
    measured: Measured, seeds: Sequence[int], step: int, diverged: dict[int, int]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The values of one save point as floats; enters seeds that are not finite into `diverged`, blanks their values."""
    row = {}
    for name, (dims, values) in measured.items():
        array = np.array(values.detach().numpy() if isinstance(values, torch.Tensor) else values)
        array = array if array.dtype.kind == "f" else array.astype(np.float64)
        if not dims or dims[0] != "seed" or len(dims) != array.ndim or len(array) != len(seeds):
            raise ValueError(f"{name}: dimensions {dims} do not fit values of shape {array.shape}; seed comes first.")
        row[name] = (tuple(dims), array)
    for i in range(len(seeds)):
        if i not in diverged and not all(np.isfinite(array[i]).all() for _, array in row.values()):
            diverged[i] = step
    for _, array in row.values():
        array[list(diverged)] = np.nan
    return row


def _assemble(
    rows: Sequence[Mapping[str, tuple[tuple[str, ...], np.ndarray]]],
    saved: Sequence[int],
    seeds: Sequence[int],
    diverged: Mapping[int, int],
    interrupted: int | None,
    coords: Mapping[str, Sequence[Any]] | None,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    import json

    import xarray as xr

    ends = "completed" if interrupted is None else f"interrupted at step {interrupted}"
    outcomes = [f"diverged at step {diverged[i]}" if i in diverged else ends for i in range(len(seeds))]
    variables: dict[str, Any] = {
        name: (("seed", "step", *dims[1:]), np.stack([row[name][1] for row in rows], axis=1))
        for name, (dims, _) in rows[0].items()
    }
    variables["outcome"] = ("seed", np.array(outcomes, dtype=str))
    words = {
        name: value if isinstance(value, str | int | float) else json.dumps(value) for name, value in attrs.items()
    }
    places = {"seed": list(seeds), "step": list(saved), **{k: list(v) for k, v in (coords or {}).items()}}
    return xr.Dataset(variables, coords=places, attrs=words)
