"""A simulation that is watched while it runs: save point by save point, as fast as the reader asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from rankfall import _checks
from rankfall._plan import LedgerChoice, NoisePrecision
from rankfall._simulate import Run, prepare
from rankfall._threads import thread_count
from rankfall.methods import Method
from rankfall.network import LinearNetwork
from rankfall.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

    from rankfall._engine.base import Unit

__all__ = ["Stream", "stream"]


class Stream:
    """A simulation under way; `stream` makes it.

    One thread at a time may use it.
    """

    def __init__(self, run: Run, threads: int) -> None:
        self._run, self._threads = run, threads
        self._units: list[Unit] | None = None

    @property
    def times(self) -> np.ndarray:
        """All save points, reached or not."""
        return self._run.plan.times

    @property
    def saved(self) -> int:
        """How many save points are reached."""
        return self._run.position.saved

    @property
    def finished(self) -> bool:
        """Whether all are."""
        return self.saved == len(self.times)

    def advance(self, save_points: int = 1) -> bool:
        """Simulate up to so many save points further; returns whether the run is finished.

        Raises:
            InvalidInput: Not a positive whole number.

        The first call compiles the kernels or loads them. Ctrl-C is heard at the end of a short round; what was saved
        until then is kept, and the stream goes on with the next call.
        """
        from rankfall._engine.base import split_blocks
        from rankfall._engine.rounds import run_rounds

        further = _checks.whole_number(save_points, "save_points")
        run = self._run
        if run.engine is None:
            run.begin()
        assert run.engine is not None
        if self._units is None:
            self._units = split_blocks(run.engine.layout.blocks, self._threads)
        if not self.finished:
            ticks = run.plan.ticks[: self.saved + further]
            run_rounds(run.engine, self._units, ticks, run.position, lambda: None)
        return self.finished

    def dataset(self) -> xr.Dataset:
        """The run so far, as `simulate` returns it; `outcome` says "unfinished" where it is.

        Raises:
            RuntimeError: Nothing was simulated yet.
        """
        if self.saved == 0:
            raise RuntimeError("nothing was simulated yet; call advance() first.")
        return self._run.dataset(interrupted=not self.finished)


def stream(
    problem: Problem,
    network: LinearNetwork,
    method: Method,
    *,
    duration: float | None = None,
    steps: int | None = None,
    dt: float | None = None,
    replicates: int = 1,
    seed: int = 0,
    save_points: int | Sequence[float] = 200,
    start: Literal["independent", "shared"] = "independent",
    weights: bool = False,
    observables: Sequence[str] = (),
    ledger: LedgerChoice = "auto",
    noise_precision: NoisePrecision = "single",
    threads: int | None = None,
    any_size: bool = False,
) -> Stream:
    """Begin a simulation that moves only when asked to: for live plots, early stopping, control from outside.

    The arguments are those of `simulate`, and the numbers are the same bit for bit, however the run is cut.

    Args:
        problem: As for `simulate`, like all that are not named here.
        network: Likewise.
        method: Likewise.
        duration: Likewise.
        steps: Likewise.
        dt: Likewise.
        replicates: Likewise.
        seed: Likewise.
        save_points: Likewise.
        start: Likewise.
        weights: Likewise.
        observables: Likewise.
        ledger: Likewise.
        noise_precision: Likewise.
        threads: Likewise.
        any_size: Use the kernels that serve networks of two layers of any size, so that a new size needs no compiler;
            up to twice as slow, and different from `simulate` by rounding.

    Returns:
        A `Stream`: `advance(n)` simulates n save points further, `dataset()` is the run so far.

    Raises:
        InvalidInput: An argument is unusable; nothing was computed.

    Warns:
        StepSizeWarning: The step is above 2/sharpness at the start.

    Example:
        Until the smallest singular value of W1 is a thousandth of what it was:

        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=1000, n_inputs=5, n_outputs=2, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=5, width=10, n_outputs=2)
        >>> method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)
        >>> live = rf.stream(problem, network, method, duration=1000.0, seed=1, save_points=1001)
        >>> while not live.advance(10):
        ...     smallest = live.dataset().singular_values_W1[0, :, -1]
        ...     if smallest[-1] < 1e-3 * smallest[0]:
        ...         break
        >>> live.finished, bool(100 < live.dataset().time[-1] < 900)
        (False, True)
    """
    workers = thread_count(threads)
    run = prepare(
        problem,
        network,
        method,
        duration=duration,
        steps=steps,
        dt=dt,
        replicates=replicates,
        seed=seed,
        save_points=save_points,
        start=start,
        weights=weights,
        observables=observables,
        ledger=ledger,
        noise_precision=noise_precision,
    )
    run.any_size = bool(any_size)
    return Stream(run, workers)
