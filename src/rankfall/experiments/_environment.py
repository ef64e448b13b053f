"""Versions and machine, for the reader of a report."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from rankfall._version import __version__

__all__ = ["environment"]


def environment() -> dict[str, str]:
    """Name → value."""
    versions = {name: metadata.version(name) for name in ("numpy", "scipy", "numba", "xarray", "matplotlib")}
    return {
        "rankfall": __version__,
        "Python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
    }
