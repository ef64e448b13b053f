"""The one entrance to the simulators."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rankfall import _checks
from rankfall._deep_recording import spectra_sizes
from rankfall._files import check_folder
from rankfall._plan import LedgerChoice, NoisePrecision, Plan, make_plan, method_for
from rankfall._progress import Progress, ProgressCallback, make_callback
from rankfall._start import reduce_start
from rankfall._threads import thread_count
from rankfall._version import __version__
from rankfall.errors import InvalidInput, OutputError, SimulationInterrupted
from rankfall.methods import GradientFlow, Method
from rankfall.network import LinearNetwork
from rankfall.problem import Problem
from rankfall.recording import Recording, observed_numbers

if TYPE_CHECKING:
    import xarray as xr

    from rankfall._deep_recording import DeepRecording
    from rankfall._engine.checkpoint import Checkpoint
    from rankfall._engine.deep import DeepEngine
    from rankfall._engine.deep_flow import DeepFlowEngine
    from rankfall._engine.flow import FlowEngine
    from rankfall._engine.fused import FusedEngine
    from rankfall._engine.rounds import Position

__all__ = ["Progress", "Run", "check_memory", "prepare", "simulate"]

# A checkpoint is written every so many seconds, or after twenty times what the last one took to write.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_CHECKPOINT_SHARE = 20.0


def simulate(
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
    progress: bool | ProgressCallback = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    r"""Train an ensemble of linear networks and record how their rank moves.

    The state is Z = [W1; W2ᵀ]; all methods move it by Z ← ((1 − ηλ) I + Ĥ) Z or by its continuous limit, with
    Ĥ = [[0, H], [Hᵀ, 0]] and H = η (C − Σ W1 W2) plus noise (Varre, Sagitova & Flammarion, NeurIPS 2024). The same
    seed gives the same numbers, whatever the threads, the replicates beside it and the interruptions.

    Losses that are not squared (`Problem.from_data`) move by the same step with H = η Xᵀ(Y − link(X W1 W2))/n from the
    data, and label noise is flipped labels there (see the methods).

    A network of L > 2 layers moves by W_i ← (1 − ηλ) W_i + A_iᵀ H B_iᵀ, A_i = W_1 … W_{i−1}, B_i = W_{i+1} … W_L, all
    layers at once. Every two neighbours are then two such layers with the increment A_iᵀ H B_{i+1}ᵀ. Its stochastic
    flow is followed by Euler–Maruyama whatever the method's `integrator`, and its gradient flow by DOP853.

    Args:
        problem: What is learned.
        network: Widths and start. Each replicate draws its own unless the weights were given.
        method: How the weights move, e.g. `StochasticGradientFlow`.
        duration: Length of the run in flow time (a descent's step takes step_size of it).
        steps: Length in steps, for descents, in place of the duration.
        dt: Time step of a flow. By default the stochastic flow takes an eighth of the stability limit, estimated from
            the sharpness at the start (see the run's `step_length`), and gradient flow controls its step.
        replicates: Independent trajectories.
        seed: Whole number in [0, 2^64) for starts and noise.
        save_points: How many evenly spaced times to keep, start and end included, or the times themselves.
        start: "independent" draws, or one "shared" by all replicates.
        weights: Keep W1 and W2 at the save points, in the original basis.
        observables: What to keep besides, by name: "eigenvalues" (of M); "eigenvalue_forces" (gradient, noise and
            repulsion that move log λ_i, see `laws.eigenvalues`; for a descent those of its limit of small steps);
            "log_singular_values_Z", "_W1", right also where a float64 cannot hold them; "log_growth", of an orthonormal
            frame (see `lyapunov_spectrum`). Classifications keep "accuracy" unasked.
        ledger: Exact account kept at every step of a descent or of Euler–Maruyama: the "determinant"'s, the
            "balance"'s, "both" or "none". "auto" keeps the determinant's where det M ≠ 0, the balance's elsewhere; of
            more than two layers the balance's of all pairs and the determinant's of the wide ones.
        noise_precision: Precision of the normals' logarithm, sine and cosine: "single" (relative error 1e-7 of a
            random number; all else is double) or "double".
        threads: Processor threads; all that this process may use when None.
        progress: True for a bar, or a function that takes a `Progress`.
        checkpoint: File from which the same call continues after an interruption; removed when the run is complete.

    Returns:
        Dataset with, over (replicate, time): `loss`, `log_det`, `balance` = ‖W1ᵀW1 − W2W2ᵀ‖_F, `balance_drift`, the
        ledgers, and over (replicate, time, mode) `singular_values_W1`, `_W2`, `_Z`, descending; per replicate
        `outcome` ("completed" or "diverged at t=…": then NaN from there on); settings, seed and version in `attrs`.
        Of L > 2 layers: `singular_values_W1` … `_WL`, `_product`, `_Z1` …, and log det, balances and ledgers over
        (replicate, time, pair), pair i being layers i and i + 1.

    Raises:
        InvalidInput: An argument is unusable; nothing was computed.
        OutputError: The checkpoint's folder cannot be written.
        SimulationInterrupted: Ctrl-C; carries the partial run and the checkpoint.

    Warns:
        StepSizeWarning: The step is above 2/sharpness at the start.

    Example:
        >>> import rankfall as rf
        >>> problem = rf.Problem.gaussian(n_samples=1000, n_inputs=5, n_outputs=2, seed=0)
        >>> network = rf.LinearNetwork.gaussian(n_inputs=5, width=10, n_outputs=2)
        >>> method = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)
        >>> run = rf.simulate(problem, network, method, duration=10.0, replicates=8, seed=1, save_points=11)
        >>> run.singular_values_W1.dims, run.singular_values_W1.shape
        (('replicate', 'time', 'mode_W1'), (8, 11, 5))
        >>> bool((run.log_det[:, -1] < run.log_det[:, 0]).all())
        True
    """
    workers = thread_count(threads)
    report, close = make_callback(progress)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_folder(path.parent)
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
    try:
        run.execute(workers, report, path)
    finally:
        close()
    result = run.dataset()
    if path is not None:
        path.unlink(missing_ok=True)
    return result


def prepare(
    problem: Problem,
    network: LinearNetwork,
    method: Method,
    *,
    duration: float | None,
    steps: int | None,
    dt: float | None,
    replicates: int,
    seed: int,
    save_points: int | Sequence[float],
    start: Literal["independent", "shared"],
    weights: bool,
    observables: Sequence[str],
    ledger: LedgerChoice,
    noise_precision: NoisePrecision,
) -> Run:
    """Check the arguments of `simulate` and lay the run out; nothing is computed yet."""
    method = method_for(network, method)
    plan = make_plan(
        problem,
        network,
        method,
        duration=duration,
        steps=steps,
        dt=dt,
        save_points=save_points,
        ledger=ledger,
        noise_precision=noise_precision,
        observables=observables,
    )
    count = _checks.whole_number(replicates, "replicates")
    seed = _checks.seed_number(seed)
    if start not in ("independent", "shared"):
        raise InvalidInput(f"start must be 'independent' or 'shared', got {start!r}.")
    if network.starts_given is not None:
        if start == "shared":
            raise InvalidInput(
                f"start='shared' needs one start, but the network holds {network.starts_given}; give one W1 and W2."
            )
        network.check_replicates(count)
    if not isinstance(weights, bool | np.bool_):
        raise InvalidInput(f"weights must be True or False, got {weights!r}.")
    check_memory(network, len(plan.times), plan.observables, count, bool(weights))
    arguments = {
        "duration": None if duration is None else float(duration),
        "steps": None if steps is None else int(steps),
        "dt": None if dt is None else float(dt),
        "replicates": count,
        "seed": seed,
        "save_points": int(save_points) if np.ndim(save_points) == 0 else np.asarray(save_points, float).tolist(),  # type: ignore[arg-type]
        "start": start,
        "weights": bool(weights),
        "observables": list(plan.observables),
        "ledger": ledger,
        "noise_precision": noise_precision,
    }
    return Run(problem, network, method, plan, arguments)


class Run:
    """One call of `simulate` or `stream`, after the checks."""

    def __init__(
        self,
        problem: Problem,
        network: LinearNetwork,
        method: Method,
        plan: Plan,
        arguments: dict[str, Any],
    ) -> None:
        from rankfall._dataset import describe
        from rankfall._engine.rounds import Position

        self.problem, self.network, self.method, self.plan = problem, network, method, plan
        self.count, self.seed = int(arguments["replicates"]), int(arguments["seed"])
        self.settings = describe(problem, network, method, plan, arguments)
        self.recording = self._make_recording(arguments["weights"])
        self.shared = arguments["start"] == "shared"
        self.any_size = False
        self.position: Position = Position()
        self.engine: FusedEngine | FlowEngine | DeepEngine | DeepFlowEngine | None = None

    def _make_recording(self, weights: bool) -> Recording | DeepRecording:
        network, plan = self.network, self.plan
        if network.depth > 2:
            from rankfall._deep_recording import DeepRecording

            flow = isinstance(self.method, GradientFlow)
            return DeepRecording.empty(
                self.count,
                len(plan.times),
                network.widths,
                weights=weights,
                determinant=plan.determinant,
                flow=flow,
                accuracy=self.problem.loss != "squared",
            )
        return Recording.empty(
            self.count,
            len(plan.times),
            network.n_inputs,
            network.width,
            network.n_outputs,
            weights,
            plan.determinant,
            plan.observables,
        )

    def execute(self, workers: int, report: ProgressCallback, path: Path | None) -> None:
        """Run to the end, or raise `SimulationInterrupted` with what there is."""
        from rankfall._engine.base import split_blocks
        from rankfall._engine.rounds import run_rounds

        engine = self.begin()
        kept = None if path is None else self._checkpoint(path)
        if kept is not None:
            self._continue_from(kept)
        if not engine.is_compiled:
            p, k = self.problem.n_inputs, self.problem.n_outputs
            report(Progress("compiling", 0, 0, f"preparing the kernels for p={p}, k={k} (compiled once, then cached)"))
            engine.compile()
        ticks = self.plan.ticks
        total = int(ticks[-1]) * self.count
        words = f"{type(self.method).__name__}, {self.count} replicate{'s' if self.count > 1 else ''}"
        keeper = _Keeper(kept, self)

        def tell() -> None:
            unit: Any = "save intervals" if self.plan.adaptive else "steps"
            report(Progress("running", self.position.tick * self.count, total, words, unit))

        def after_round() -> None:
            tell()
            keeper.keep()

        try:
            tell()
            run_rounds(engine, split_blocks(engine.layout.blocks, workers), ticks, self.position, after_round)
        except KeyboardInterrupt:
            if self.position.saved == 0:
                raise
            raise self._interrupted(keeper) from None

    def begin(self) -> FusedEngine | FlowEngine | DeepEngine | DeepFlowEngine:
        """Draw the start and set the engine up."""
        self.engine = self._make_engine()
        return self.engine

    def _make_engine(self) -> FusedEngine | FlowEngine | DeepEngine | DeepFlowEngine:
        from rankfall._engine.flow import FlowEngine
        from rankfall._engine.fused import FusedEngine
        from rankfall._kernels.host import host_lanes

        lanes = host_lanes()
        while lanes > 1 and lanes // 2 >= self.count:
            lanes //= 2
        if not isinstance(self.recording, Recording):
            return self._make_deep_engine(self.recording, lanes)
        W1, W2 = self._draw()
        begin = reduce_start(W1, W2, self.plan.eigenvectors, keep_basis=self.recording.weights1 is not None)
        del W1, W2
        if isinstance(self.method, GradientFlow):
            return FlowEngine(self.problem, self.method, self.plan, begin.reduced, begin.basis, lanes, self.recording)
        return FusedEngine(
            self.problem,
            self.method,
            self.plan,
            begin.reduced,
            begin.basis,
            self.seed,
            lanes,
            self.recording,
            self.any_size,
        )

    def _make_deep_engine(self, recording: DeepRecording, lanes: int) -> DeepEngine | DeepFlowEngine:
        from rankfall._deep_start import reduce_layers
        from rankfall._engine.deep import DeepEngine
        from rankfall._engine.deep_flow import DeepFlowEngine

        start = reduce_layers(self._draw(), self.plan.eigenvectors)
        if isinstance(self.method, GradientFlow):
            return DeepFlowEngine(self.problem, self.method, self.plan, start, lanes, recording)
        return DeepEngine(self.problem, self.method, self.plan, start, self.seed, lanes, recording)

    def _draw(self) -> tuple[np.ndarray, ...]:
        if not self.shared:
            return self.network.draw(self.count, self.seed)
        return tuple(np.repeat(layer, self.count, axis=0) for layer in self.network.draw(1, self.seed))

    def _checkpoint(self, path: Path) -> Checkpoint:
        from rankfall._engine.checkpoint import Checkpoint, digest

        problem, network = self.problem, self.network
        return Checkpoint(
            path,
            {
                **self.settings,
                "version": __version__,
                "data": digest(problem.covariance, problem.cross_covariance, problem.inputs, problem.labels),
                "weights given": digest(*(network.layers or (network.W1, network.W2))),
            },
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All that a checkpoint keeps."""
        assert self.engine is not None
        saved = self.position.saved
        recorded = {}
        for name, values in self.recording.arrays().items():
            recorded[f"recorded_{name}"] = values[:saved]
        return {**self.engine.export(), **recorded}

    def _continue_from(self, kept: Checkpoint) -> None:
        assert self.engine is not None
        found = kept.read_position()
        if found is None:
            return
        if not 0 <= found.saved <= len(self.plan.times) or found.tick < 0:
            raise kept.damaged()
        self.position.tick, self.position.saved = found.tick, found.saved
        arrays = kept.read_arrays(self.arrays())
        self.engine.restore(arrays)
        for name, values in self.recording.arrays().items():
            values[: found.saved] = arrays[f"recorded_{name}"]

    def _interrupted(self, keeper: _Keeper) -> SimulationInterrupted:
        where = f"stopped at t={self.plan.times[self.position.saved - 1]:g} of {self.plan.times[-1]:g}"
        path = None
        try:
            path = keeper.keep_now()
        except OutputError as error:
            where += f"; the checkpoint could not be written ({error.strerror})"
        if path is not None:
            where += f"; the same call continues from {path}"
        return SimulationInterrupted(where, self.dataset(interrupted=True), None if path is None else str(path))

    def dataset(self, interrupted: bool = False) -> xr.Dataset:
        """The run so far."""
        from rankfall._dataset import build_dataset
        from rankfall._deep_dataset import build_deep_dataset

        assert self.engine is not None
        build: Any = build_dataset if isinstance(self.recording, Recording) else build_deep_dataset
        run: xr.Dataset = build(
            self.problem,
            self.network,
            self.method,
            self.plan,
            self.recording,
            self.position.saved,
            settings=self.settings,
            seed=self.seed,
            diverged=self.engine.diverged(),
            interrupted=interrupted,
            per_replicate=self.engine.per_replicate(),
        )
        return run


class _Keeper:
    """Writes the checkpoint now and then; a disk that fills up costs the checkpoint, not the run."""

    def __init__(self, kept: Checkpoint | None, run: Run) -> None:
        self._kept, self._run = kept, run
        self._next = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS

    def keep(self) -> None:
        """Write if it is time to."""
        if self._kept is None or time.monotonic() < self._next:
            return
        begun = time.monotonic()
        try:
            self.keep_now()
        except OutputError as error:
            warnings.warn(f"{error.strerror}; the simulation goes on without it.", RuntimeWarning, stacklevel=2)
        took = time.monotonic() - begun
        self._next = time.monotonic() + max(_SECONDS_BETWEEN_CHECKPOINTS, _CHECKPOINT_SHARE * took)

    def keep_now(self) -> Path | None:
        """Write; returns the path, None if no checkpoint was asked for."""
        if self._kept is None:
            return None
        self._kept.write(self._run.position, self._run.arrays())
        return self._kept.path


def check_memory(
    network: LinearNetwork, times: int, observables: tuple[str, ...], replicates: int, weights: bool
) -> None:
    """Refuse what this machine's memory cannot hold, before hours of work."""
    p, l, k = network.n_inputs, network.width, network.n_outputs
    r, modes = min(p + k, l), min(p, l) + min(k, l) + min(p + k, l)
    per_time = 7 + modes + (l * (p + k) if weights else 0) + observed_numbers(observables, p, l, k)
    per_replicate = 3 * r * (p + k) + 3 * l * (p + k) + 2 * r * r
    if network.depth > 2:
        total = sum(a * b for a, b in itertools.pairwise(network.widths))
        squares = sum(width * width for width in network.widths[1:-1])
        per_time = 1 + 6 * (network.depth - 1) + sum(spectra_sizes(network.widths).values()) + (total if weights else 0)
        per_replicate = 6 * total + 4 * squares
    needed = 8.0 * replicates * (times * per_time + per_replicate)
    try:
        memory = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if needed > memory:
        raise InvalidInput(
            f"this run needs about {needed / 2**30:.3g} GiB of memory, the machine has {memory / 2**30:.3g} GiB: ask "
            f"for fewer replicates ({replicates}) or save points ({times})"
            + (", or leave out the weights." if weights else ".")
        )
