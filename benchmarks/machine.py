"""What the numbers were measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import llvmlite.binding as llvm

PACKAGES = (
    "rankfall",
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "xarray",
    "zarr",
    "distributed",
    "jax",
    "jaxlib",
    "diffrax",
    "torch",
    "torchsde",
    "torch-module-monitor",
)
_SIMD = ("avx512f", "avx2", "fma", "sve", "neon")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """Load average of the last minute, or None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def simd() -> list[str]:
    features = llvm.get_host_cpu_features()
    return [name for name in _SIMD if features.get(name)]


def vector_lanes() -> int:
    """Doubles in the machine's widest vector register that this project uses."""
    names = simd()
    return 8 if "avx512f" in names else 4 if "avx2" in names else 2


def describe() -> dict[str, object]:
    """Processor, versions, date and load, ready for JSON."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "llvm_target": llvm.get_host_cpu_name(),
        "simd": simd(),
        "cores": cores(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "load_before": load(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
