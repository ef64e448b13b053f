"""What `rankfall doctor` looks at: each check is a function that returns findings and never raises."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rankfall._version import __version__

__all__ = ["Finding", "examine"]

Level = Literal["ok", "note", "problem"]

# What each extra is for, and the module whose presence shows it.
_EXTRAS = {
    "data": ("sklearn", "bundled data sets"),
    "explore": ("bokeh", "the page of rankfall explore"),
    "torch": ("torch", "RankMonitor, ledgers, reproduce beyond, .pt checkpoints"),
    "dask": ("distributed", "sweeps on a cluster"),
}
_LIBRARIES = ("numpy", "scipy", "numba", "llvmlite", "xarray", "zarr", "matplotlib")
_THREAD_CAPS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Less than this free where results and kernels go is soon too little.
_LITTLE_DISK = 500e6


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        topic: What was looked at.
        value: What was found.
        level: "problem" makes the command fail; a "note" is worth knowing.
        advice: What to do; empty where all is well.
    """

    topic: str
    value: str
    level: Level = "ok"
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, the quick things first."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("processor", _processor),
        ("cache", _cache),
        ("disk", _disk),
        ("extras", _extras),
        ("self-check", _self_check),
    ]
    for topic, check in checks:
        try:
            yield from check()
        except Exception as error:  # a broken installation breaks in ways that nobody foresees
            yield Finding(topic, f"{type(error).__name__}: {error}", "problem", "reinstall rankfall, or report this")


def _versions() -> Iterator[Finding]:
    yield Finding("rankfall", __version__)
    yield Finding("Python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    for name in _LIBRARIES:
        try:
            yield Finding(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "missing", "problem", f"rankfall needs it: pip install {name}")


def _processor() -> Iterator[Finding]:
    from rankfall._kernels.host import host_lanes
    from rankfall._threads import default_threads

    threads, present = default_threads(), os.cpu_count() or 1
    yield Finding("threads", f"{threads} of {present} processors" if threads < present else str(threads))
    lanes = host_lanes()
    yield Finding("vector width", f"{lanes} doubles ({lanes * 64} bits)")
    caps = {name: os.environ[name] for name in _THREAD_CAPS if os.environ.get(name)}
    if caps:
        words = ", ".join(f"{name}={value}" for name, value in caps.items())
        yield Finding("thread settings", words, "note", "they bind NumPy and PyTorch, not rankfall's kernels")


def _cache() -> Iterator[Finding]:
    from rankfall._kernels.loader import cache_folder
    from rankfall.errors import OutputError

    try:
        folder = cache_folder()
    except OutputError as error:
        yield Finding("kernel cache", "unusable", "problem", error.strerror or str(error))
        return
    kernels = len(list(folder.glob("*.py")))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    text = f"{folder} ({kernels} kernels, {size / 1e6:.0f} MB)"
    if folder.parent == Path(os.environ.get("TMPDIR", "/tmp")):
        yield Finding(
            "kernel cache",
            text,
            "note",
            "a temporary folder: kernels compile anew in every process; set RANKFALL_CACHE_DIR",
        )
        return
    yield Finding("kernel cache", text)


def _disk() -> Iterator[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    text = f"{free / 1e9:.1f} GB free in {here}"
    if free < _LITTLE_DISK:
        yield Finding("disk", text, "note", "results may not fit; runs that meet a full disk keep what was finished")
    else:
        yield Finding("disk", text)


def _extras() -> Iterator[Finding]:
    for extra, (module, purpose) in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding(
                f"extra {extra}",
                f"not installed ({purpose})",
                "note",
                f"pip install 'rankfall[{extra}]' if you want it",
            )
        else:
            name = {"sklearn": "scikit-learn"}.get(module, module)
            yield Finding(f"extra {extra}", f"{name} {metadata.version(name)}")
    if importlib.util.find_spec("torch") is not None:
        yield _graphics()


def _graphics() -> Finding:
    try:
        import torch

        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
            return Finding("GPU", ", ".join(names))
        if torch.backends.mps.is_available():
            return Finding("GPU", "Apple MPS")
    except Exception as error:  # PyTorch is there and broken: rankfall without it still works
        return Finding("GPU", f"PyTorch does not work: {error}", "note", "reinstall torch if you want rankfall.torch")
    return Finding("GPU", "none that PyTorch sees; nothing in rankfall needs one")


def _self_check() -> Iterator[Finding]:
    """One law on a small run, from compilation to verdict."""
    import rankfall as rf
    from rankfall import laws

    begun = time.monotonic()
    run = rf.simulate(
        rf.Problem.gaussian(n_samples=200, n_inputs=3, n_outputs=2, seed=0),
        rf.LinearNetwork.gaussian(n_inputs=3, width=6, n_outputs=2),
        rf.LabelNoiseDescent(label_noise=1.0, step_size=0.01),
        steps=2000,
        replicates=16,
        save_points=21,
        ledger="determinant",
    )
    verdicts = laws.check(run)
    seconds = time.monotonic() - begun
    for verdict in verdicts:
        text = f"{verdict.status}, error {verdict.error:.2g}, tolerance {verdict.tolerance:.2g} ({seconds:.1f} s)"
        if verdict.passed:
            yield Finding(f"self-check: {verdict.law}", text)
        else:
            yield Finding(f"self-check: {verdict.law}", text, "problem", "please report this with all lines above")
    if not verdicts:
        yield Finding("self-check", "no law applied", "problem", "please report this with all lines above")
