"""Drives an ensemble through its save points in short rounds, so that it can be watched, stopped and continued."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from rankfall._engine.base import Moving, Unit

__all__ = ["Position", "run_rounds"]

# Long enough to hide what a round costs, short enough for a lively display and a quick Ctrl-C.
_SECONDS_PER_ROUND = 0.2
_FIRST_ROUND = 64


@dataclass
class Position:
    """How far all replicates have come.

    Attributes:
        tick: Ticks done.
        saved: Save points written.
    """

    tick: int = 0
    saved: int = 0


def run_rounds(
    engine: Moving,
    units: list[Unit],
    ticks: np.ndarray,
    position: Position,
    after_round: Callable[[], None],
) -> None:
    """Advance until the last save point is written; `position` is true after every round, and after an exception.

    A KeyboardInterrupt, wherever it falls, lets the round under way end in all units and is raised then.
    """
    length = _FIRST_ROUND
    with ThreadPoolExecutor(max_workers=len(units), thread_name_prefix="rankfall") as pool:
        while position.saved < len(ticks):
            end = _end_of_round(ticks, position, length, engine.grain)
            begun = time.perf_counter()
            interrupted = _one_round(pool, engine, units, ticks, position, end)
            taken = max(time.perf_counter() - begun, 1e-6)
            # No more than fourfold at once: the first round may have been slow for other reasons.
            length = max(1, int((end - position.tick or length) * min(4.0, _SECONDS_PER_ROUND / taken)))
            position.tick, position.saved = end, int(np.searchsorted(ticks, end, side="right"))
            if interrupted:
                raise KeyboardInterrupt
            after_round()


def _end_of_round(ticks: np.ndarray, position: Position, length: int, grain: int) -> int:
    """The tick at which the next round ends: a save point, or a multiple of the grain on the way to one."""
    target = position.tick + length
    reached = int(np.searchsorted(ticks, target, side="right"))
    if reached > position.saved:
        return int(ticks[reached - 1])
    return min(int(ticks[position.saved]), max(target // grain, position.tick // grain + 1) * grain)


def _one_round(
    pool: ThreadPoolExecutor, engine: Moving, units: list[Unit], ticks: np.ndarray, position: Position, end: int
) -> bool:
    """Run a round in all units; returns whether Ctrl-C was pressed meanwhile."""
    number = min(unit.rounds for unit in units) + 1
    saves = range(position.saved, int(np.searchsorted(ticks, end, side="right")))
    begin = position.tick

    def task(unit: Unit) -> None:
        with unit.lock:
            if unit.rounds >= number:
                return
            now = begin
            for index in saves:
                if ticks[index] > now:
                    engine.advance(unit, now, int(ticks[index]))
                    now = int(ticks[index])
                engine.record(unit, index)
            if end > now:
                engine.advance(unit, now, end)
            unit.rounds = number

    interrupted = False
    futures: dict[int, Future[None]] = {}
    while True:
        try:
            for i, unit in enumerate(units):
                if i not in futures:
                    futures[i] = pool.submit(task, unit)
            wait(futures.values())
            break
        except KeyboardInterrupt:
            interrupted = True
    for future in futures.values():
        future.result()
    return interrupted
