"""Compiling before anybody waits: a second process fills the kernel cache, this one then only loads.

The compiler holds Python's lock, so that compiling in the server would stop every visitor's page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

from rankfall.explorer._settings import Settings

__all__ = ["Warmth"]

_FLOWS = ("gradient-flow", "stochastic-gradient-flow")


def kernel_of(settings: Settings) -> str:
    """Which kernel a run needs; sizes and numbers do not matter."""
    method = settings.method
    if method in ("gradient-flow", "stochastic-gradient-descent"):
        return method
    noise = "noise" if method != "gradient-descent" and settings.label_noise > 0.0 else "quiet"
    geometric = method == "stochastic-gradient-flow" and settings.integrator == "geometric"
    return f"{'geometric' if geometric else 'step'}, {noise}"


# The kernels of the page, each by a run that takes no time.
RUNS = tuple(
    Settings(method=method, label_noise=noise, step_size=0.01, duration=1.0, replicates=8)
    for method, noise in (
        ("stochastic-gradient-flow", 1.0),
        ("gradient-flow", 0.0),
        ("gradient-descent", 0.0),
        ("label-noise-descent", 1.0),
        ("stochastic-gradient-descent", 1.0),
        ("stochastic-gradient-flow", 0.0),
    )
)


def warm() -> Iterator[str]:
    """Compile or load the kernels one after the other; yields the name of each."""
    for settings in RUNS:
        run, _ = settings.begin()
        run.advance(2)
        yield kernel_of(settings)


class Warmth:
    """Which kernels are there."""

    def __init__(self) -> None:
        self._loaded = {kernel_of(settings): threading.Event() for settings in RUNS}
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="rankfall-warm", daemon=True)

    def start(self) -> None:
        """Begin compiling, in another process, at low priority."""
        command = [sys.executable, "-m", "rankfall.explorer._warm"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._thread.start()

    def is_ready(self, settings: Settings) -> bool:
        """Whether a run with these settings can begin without a compiler."""
        return self._loaded[kernel_of(settings)].is_set()

    def close(self) -> None:
        """End the other process."""
        self._closed = True
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._thread.join(timeout=10)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()

    def _follow(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        here = warm()
        for _ in self._process.stdout:
            self._load_next(here)
        # However the other process ended: what is missing is compiled here, rather than never.
        while not self._closed and not all(event.is_set() for event in self._loaded.values()):
            self._load_next(here)

    def _load_next(self, kernels: Iterator[str]) -> None:
        name = "" if self._closed else next(kernels, "")
        if name:
            self._loaded[name].set()


def main() -> None:
    """Compile everything, and say after each kernel that it is there."""
    if hasattr(os, "nice"):
        os.nice(5)
    parent = os.getppid()
    for name in warm():
        print(name, flush=True)
        if os.getppid() != parent:
            return


if __name__ == "__main__":
    main()
