"""One visitor: a run under way, its curves, verdicts and files. Knows nothing of browsers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import xarray as xr

from rankfall import laws
from rankfall.explorer._frames import Film, Moment
from rankfall.explorer._settings import Settings
from rankfall.report import figures, style
from rankfall.runs import save_run

__all__ = ["FILES", "Visit"]

# Name → kind of what can be downloaded.
FILES = {
    "rankfall-run.nc": "application/x-netcdf",
    "rankfall-figure.svg": "image/svg+xml",
    "rankfall-figure.png": "image/png",
    "rankfall-run.py": "text/x-python; charset=utf-8",
}


class Visit:
    """A run that moves when asked to. One thread at a time may use it."""

    def __init__(self, settings: Settings) -> None:
        self.begin(settings)

    def begin(self, settings: Settings) -> None:
        """Start anew; nothing is computed before `move`.

        Raises:
            InvalidInput: The run would take too long; the old one is kept.
        """
        self._stream, self.warning = settings.begin()
        self.settings = settings
        self.film = Film(settings, self._stream)
        self.moment: Moment | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is at its end."""
        return self._stream.finished

    @property
    def progress(self) -> float:
        """Share of the save points that are reached."""
        return self._stream.saved / len(self._stream.times)

    def move(self, save_points: int) -> Moment:
        """Simulate so many save points further and return the present moment."""
        self._stream.advance(save_points)
        self.moment = self.film.take()
        return self.moment

    def run(self) -> xr.Dataset:
        """The run so far."""
        return self._stream.dataset()

    def verdicts(self) -> list[dict[str, Any]]:
        """What the laws say of the run so far."""
        return [verdict.to_dict() for verdict in laws.check(self.run())]

    def file(self, name: str) -> bytes:
        """Contents of one of FILES.

        Raises:
            KeyError: Another name.
        """
        if name not in FILES:
            raise KeyError(name)
        if name.endswith(".py"):
            return self.settings.script().encode()
        if name.endswith(".nc"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                save_run(self.run(), path)
                return path.read_bytes()
        return style.render_figure(figures.overview(self.run()), name.rpartition(".")[2])
