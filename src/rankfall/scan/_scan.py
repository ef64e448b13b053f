"""`scan_checkpoint`: reads a checkpoint tensor by tensor and measures every matrix in it."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from threadpoolctl import threadpool_limits

from rankfall._checks import whole_number
from rankfall._progress import Progress, ProgressCallback, make_callback
from rankfall._threads import default_threads
from rankfall.errors import InvalidInput, ScanInterrupted
from rankfall.scan._gram import block_length
from rankfall.scan._layers import HeadsOption, Job, Part, Plan, make_plan
from rankfall.scan._measuring import check_energy, check_measures, measure, nothing_measured
from rankfall.scan._result import LayerReport, Scan
from rankfall.scan._sources import Source, find_sources, open_source
from rankfall.scan._spectrum import (
    METHODS,
    Ends,
    Method,
    Spectrum,
    ends,
    ends_of,
    ends_of_rows,
    product_spectrum,
    spectrum,
    spectrum_of_rows,
)
from rankfall.scan._tensors import Tensor

__all__ = ["scan_checkpoint"]

# So much of its own is every matrix allowed to take, whatever the largest one is.
_SMALL = 64 * 2**20


def scan_checkpoint(
    path: str | Path,
    *,
    measures: Iterable[str] | str | None = None,
    select: str | None = None,
    energy: float = 0.99,
    heads: HeadsOption = None,
    over_time: bool | None = None,
    method: Method = "auto",
    spectra: bool = True,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
) -> Scan:
    """Measure the rank of every weight matrix in a checkpoint.

    Reads one tensor at a time, so that memory stays at about twice the largest matrix in float32, whatever the size of
    the checkpoint. Weights of four dimensions, (out, in, height, width), are measured as out × (in·height·width);
    float16, bfloat16 and float8 as the float32 numbers that they are. Of LoRA pairs the product B·A is measured,
    without being formed and without alpha/r in front, which changes no rank. Vectors and whole numbers are left out
    and counted. A matrix that is not finite is reported as a problem, and the rest goes on.

    Args:
        path: A .safetensors file; a .pt, .pth, .bin or .ckpt file (needs PyTorch; read with weights_only, so that no
            code in it is run); a folder with model.safetensors, an index of shards or a PEFT adapter; or a folder of
            such files or folders whose names differ in a step number alone.
        measures: Names from `rankfall.ranks.MEASURES`, or "all"; by default stable, effective, energy and numerical
            rank.
        select: Regular expression, searched for in the names of the rows.
        energy: Fraction of ‖W‖_F² that a factorisation is to keep, for `saved` and for `energy_rank`.
        heads: Number of attention heads into which projections are split too, or "config" for what config.json says.
        over_time: Whether to follow the steps in a folder; by default where it holds no model of its own.
        method: "svd" is LAPACK's, in the precision of the weights. "gram" goes through the Gram matrix in float64,
            which is faster and cannot see singular values of less than about 1e-7 of the largest. "auto" takes "gram"
            for float32 and shorter numbers, where its error is the smaller one, except that a matrix with a singular
            value too close to the threshold of the numerical rank is decomposed in float64; and "svd" for float64.
            `LayerReport.route` says which, `error` is the bound.
        spectra: Whether all singular values are wanted. Without them there are stable and numerical rank, σ₁ and ‖W‖_F
            alone, and of float32 and shorter numbers these need no decomposition: σ₁ by Lanczos's method, shown to be
            the largest within 1e-9 by a Cholesky factorisation; another shows that the rank is full. A matrix where
            one of these fails is treated as with spectra.
        threads: Matrices that are worked on at a time (only as many as together are no larger than the largest or,
            if that is more, 64 MB each), one processor each; by default all processors. The numbers do not depend on
            it.
        progress: True for a bar, or a function of one `Progress`.

    Returns:
        A sequence of `LayerReport`, in the order of the file.

    Raises:
        InvalidInput: Nothing there to read, a damaged or refused file, no matrix in it, or an unusable argument.
        ScanInterrupted: Ctrl-C; what is finished is in its `scan`.

    Example:
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> import rankfall as rf
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_file({"layer.weight": np.diag([3.0, 1.0, 0.1, 0.01]), "layer.bias": np.ones(4)}, file)
        >>> scan = rf.scan.scan_checkpoint(file)
        >>> [(layer.name, round(layer["stable_rank"], 4), layer["energy_rank"]) for layer in scan]
        [('layer.weight', 1.1122, 2)]
        >>> dict(scan.skipped)
        {'with one dimension, or one row or column': 1}
    """
    names = check_measures(measures, spectra)
    fraction = check_energy(energy)
    workers = default_threads() if threads is None else whole_number(threads, "threads")
    if method not in METHODS:
        raise InvalidInput(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    wanted = _selector(select)
    sources = find_sources(Path(path), over_time)
    # Every checkpoint is opened before any is measured: a damaged one should not be found after an hour.
    plans = [make_plan(open_source(source), wanted, heads) for source in sources]
    last = plans[-1]
    _refuse_nothing(path, plans, select)
    work = [
        _Work(source, job, names, fraction, method, spectra)
        for source, plan in zip(sources, plans, strict=True)
        for job in plan.jobs
    ]
    empty = Scan(
        path=str(path),
        layers=(),
        measures=names,
        energy=fraction,
        method=method,
        spectra=spectra,
        parameters=last.parameters,
        skipped=MappingProxyType(last.skipped),
        tied=MappingProxyType(last.tied),
        steps=tuple(source.step for source in sources if source.step is not None),
    )
    report, finish = make_callback(progress)
    found: list[tuple[int, list[LayerReport]]] = []
    try:
        for done in _run(work, workers, report):
            found.append(done)
    except KeyboardInterrupt:
        partial = replace(empty, layers=_in_order(found), complete=False)
        raise ScanInterrupted(f"stopped after {len(partial)} matrices", partial) from None
    finally:
        finish()
    return replace(empty, layers=_in_order(found))


class _Work:
    """One job of one checkpoint, to be done in any thread."""

    def __init__(
        self, source: Source, job: Job, names: tuple[str, ...], energy: float, method: Method, spectra: bool
    ) -> None:
        self.job = job
        self._source, self._names, self._energy, self._method, self._spectra = source, names, energy, method, spectra

    @property
    def memory(self) -> int:
        """Bytes that it takes at a time, about; more where a matrix has to be decomposed after all."""
        if self.job.is_pair:
            return 16 * self.job.entries  # in float64, and its QR
        double = self.job.tensors[0].dtype == "float64"
        if self._method == "svd" or (self._method == "auto" and double):
            return (8 if double else 4) * self.job.entries
        copies = 1 if self._spectra else 2
        gram = 8 * max(min(part.matrix_shape) * (copies * min(part.matrix_shape) + 512) for part in self.job.parts)
        return gram if self._streamed is not None else gram + (8 if double else 4) * self.job.entries

    @property
    def _streamed(self) -> Tensor | None:
        """The tensor, if it need not be in memory: the Gram matrix of the rows is added up as they are read."""
        tensor, part = self.job.tensors[0], self.job.parts[0]
        whole = len(self.job.parts) == 1 and not self.job.is_pair and part.matrix_shape == self.job.matrix_shape
        tall = part.matrix_shape[0] >= part.matrix_shape[1]
        return tensor if self._method != "svd" and whole and tall and tensor.read_parts is not None else None

    def __call__(self) -> list[LayerReport]:
        try:
            return self._measured()
        except MemoryError:
            size = f"{4 * self.job.entries / 1e9:.3g} GB in float32"
            problem = f"too large for the memory of this machine ({size})"
            return [
                self._report(part, None, problem, math.prod(part.matrix_shape), min(part.matrix_shape))
                for part in self.job.parts
            ]

    def _measured(self) -> list[LayerReport]:
        found: Spectrum | Ends | None
        if self._streamed is not None:
            found = self._without_memory(self._streamed)
            if found is not None:
                return [self._report(self.job.parts[0], found, "", self.job.entries, min(self.job.matrix_shape))]
        read = [tensor.read() for tensor in self.job.tensors if tensor.read is not None]
        if self.job.is_pair:
            down, up = (_as_matrix(array) for array in read)
            (part,) = self.job.parts
            problem = _problem(down, up)
            found = None if problem else product_spectrum(up, down)
            if found is not None and not self._spectra:
                found = ends_of(found, part.matrix_shape)
            return [self._report(part, found, problem, down.size + up.size, min(down.shape[0], *part.matrix_shape))]
        matrix = read.pop().reshape(self.job.matrix_shape)
        alone = len(self.job.parts) == 1
        return [self._measure(part, part.take(matrix), overwrite=alone) for part in self.job.parts]

    def _without_memory(self, tensor: Tensor) -> Spectrum | Ends | None:
        """The spectrum of a tensor that is read a block of rows at a time, None where it must be read as a whole."""
        assert tensor.read_parts is not None
        rows, columns = self.job.matrix_shape
        parts = tensor.read_parts(block_length(columns) * columns)
        find = spectrum_of_rows if self._spectra else ends_of_rows
        try:
            return find((part.reshape(-1, columns) for part in parts), (rows, columns), self._method)
        except np.linalg.LinAlgError:
            return None

    def _measure(self, part: Part, matrix: np.ndarray, *, overwrite: bool) -> LayerReport:
        problem, found = "", None
        find = spectrum if self._spectra else ends
        try:
            found = find(matrix, self._method, overwrite=overwrite)
        except np.linalg.LinAlgError:
            problem = "the singular value decomposition did not converge"
        if found is None:
            problem = problem or _problem(matrix)
        return self._report(part, found, problem, matrix.size, min(matrix.shape))

    def _report(
        self, part: Part, found: Spectrum | Ends | None, problem: str, parameters: int, rank: int
    ) -> LayerReport:
        rows, columns = part.matrix_shape
        if found is None:
            measured, route = nothing_measured(self._names), ""
            found = Spectrum(np.full(rank if self._spectra else 0, np.nan), float("nan"), float("nan"), "svd")
            largest = norm = float("nan")
        else:
            measured, route = measure(found, part.matrix_shape, self._names, self._energy), found.route
            largest, norm = found.largest, found.norm
        found.values.setflags(write=False)
        factored = 0 if measured.rank is None else measured.rank * (rows + columns)
        whole = len(self.job.parts) == 1 and not self.job.is_pair
        zero = not problem and largest == 0
        return LayerReport(
            name=part.name,
            kind=part.kind,
            shape=self.job.tensors[0].shape if whole else part.matrix_shape,
            matrix_shape=part.matrix_shape,
            dtype=" and ".join(dict.fromkeys(tensor.dtype for tensor in self.job.tensors)),
            computed_dtype=found.values.dtype.name,
            spectral_norm=largest,
            frobenius_norm=norm,
            singular_values=found.values,
            error=found.error,
            values=MappingProxyType(dict(measured.values)),
            share=measured.share,
            parameters=parameters,
            factor_rank=measured.rank,
            saved=0 if measured.rank is None else max(0, parameters - factored),
            note=", ".join(filter(None, (part.note, "zero matrix" if zero else ""))),
            problem=problem,
            step=self._source.step,
            part_of=part.part_of,
            route=route,
        )


def _run(work: list[_Work], workers: int, report: ProgressCallback) -> Iterator[tuple[int, list[LayerReport]]]:
    """Do the work, matrices side by side, those with most of it first; yields as it is done."""
    total = sum(each.job.operations for each in work)
    budget = max(_SMALL * workers, *(max(4 * each.job.entries, each.memory) for each in work))
    done = 0

    def tell(each: _Work) -> None:
        nonlocal done
        done += each.job.operations
        report(Progress("running", done, total, each.job.parts[0].name, "operations"))

    # One processor per matrix: LAPACK's own threads gain little on matrices of this size, and with them the last
    # digits would depend on the number of processors.
    with threadpool_limits(limits=1, user_api="blas"):
        if workers == 1:
            for index, each in enumerate(work):
                yield index, each()
                tell(each)
            return
        running: dict[Future[list[LayerReport]], int] = {}
        # What takes longest must not begin last. Equal ones stay in the order of the file.
        waiting = sorted(enumerate(work), key=lambda each: each[1].job.operations)
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            while waiting or running:
                busy = sum(work[index].memory for index in running.values())
                while waiting and len(running) < workers and (not running or busy + waiting[-1][1].memory <= budget):
                    index, each = waiting.pop()
                    running[pool.submit(each)] = index
                    busy += each.memory
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    index = running.pop(future)
                    yield index, future.result()
                    tell(work[index])


def _in_order(found: list[tuple[int, list[LayerReport]]]) -> tuple[LayerReport, ...]:
    return tuple(layer for _, layers in sorted(found, key=lambda each: each[0]) for layer in layers)


def _as_matrix(array: np.ndarray) -> np.ndarray:
    return array.reshape(array.shape[0], -1)


def _problem(*matrices: np.ndarray) -> str:
    bad = sum(matrix.size - int(np.count_nonzero(np.isfinite(matrix))) for matrix in matrices)
    if not bad:
        return ""
    return f"{bad:,} of {sum(matrix.size for matrix in matrices):,} entries are NaN or infinite"


def _selector(select: str | None) -> Callable[[str], bool]:
    if select is None:
        return lambda name: True
    try:
        pattern = re.compile(select)
    except re.error as error:
        raise InvalidInput(f"select must be a regular expression, got {select!r}: {error}.") from None
    return lambda name: pattern.search(name) is not None


def _refuse_nothing(path: str | Path, plans: list[Plan], select: str | None) -> None:
    if any(plan.jobs for plan in plans):
        return
    tensors = plans[-1].checkpoint.tensors
    if not tensors:
        raise InvalidInput(f"{path} holds no tensors. Is it a checkpoint?")
    if select is not None:
        everything = make_plan(plans[-1].checkpoint, lambda name: True, None)
        shown = [part.name for job in everything.jobs[:3] for part in job.parts[:1]]
        if shown:
            raise InvalidInput(f"select={select!r} fits none of the matrices in {path}, like {', '.join(shown)}.")
    reasons = ", ".join(f"{count} {why}" for why, count in plans[-1].skipped.items())
    raise InvalidInput(f"{path} holds no matrix to measure: of its {len(tensors)} tensors {reasons or 'none is one'}.")
