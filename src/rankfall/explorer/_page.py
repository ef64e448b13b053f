"""One visitor's page: messages from the browser in, frames out. Everything here belongs to one Bokeh document."""

from __future__ import annotations

import asyncio
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bokeh.document import Document
from bokeh.models import ColumnDataSource

from rankfall.errors import InvalidInput
from rankfall.explorer import _words
from rankfall.explorer._frames import Moment
from rankfall.explorer._plots import Plots
from rankfall.explorer._presets import PRESETS
from rankfall.explorer._settings import Settings
from rankfall.explorer._visit import Visit
from rankfall.explorer._warm import Warmth

__all__ = ["Page"]

# Milliseconds between two frames at most often; a run of few save points is slowed down so that it can be followed.
_PERIOD = 30
_SHORTEST_RUN = 6.0
# Frames that may be on their way to the browser: more would make a slow browser lag behind its own sliders.
_IN_FLIGHT = 4
_SECONDS_BETWEEN_VERDICTS = 0.7


class Page:
    """Run, plots and state of the buttons of one visitor."""

    def __init__(self, document: Document, token: str, settings: Settings, preset: str | None, warmth: Warmth) -> None:
        self.token, self._document, self._warmth = token, document, warmth
        self.visit, self.plots = Visit(settings), Plots()
        self.preset, self.problem = preset, ""
        # Held: the visitor stopped it, so that a slider does not set it going again.
        self.running, self._held, self._begun = True, False, False
        self._pending: Settings | None = settings
        self._save_points, self._steps_asked = 1, 0
        self._frame = self._acknowledged = self._generation = 0
        self._verdicts: list[dict[str, str]] = []
        self._next_frame = self._next_verdicts = 0.0
        self._closed, self._told = False, ""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=f"rankfall-visit-{token[:8]}")
        self.request = ColumnDataSource({"json": [""]}, name="request")
        self.status = ColumnDataSource({"json": [json.dumps(self._nothing_yet())]}, name="status")
        self.plots.figures["log_det"].tags = [self.request, self.status]
        for plot in self.plots.figures.values():
            document.add_root(plot)
        self.request.on_change("data", self._hear)
        document.add_periodic_callback(self._tick, _PERIOD)

    def close(self) -> None:
        """Let go of the thread and the run."""
        self._closed = True
        self.running = False
        self.pool.shutdown(wait=False, cancel_futures=True)

    # ---- from the browser

    def _hear(self, attribute: str, old: Any, new: Any) -> None:
        """Act on a message; what is not one of ours, or out of bounds, is told to the visitor."""
        try:
            message = json.loads(new["json"][0])
            act = getattr(self, "_on_" + str(message["do"]).replace("-", "_"))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return
        try:
            act(message)
        except InvalidInput as error:
            self.problem = str(error)
            self._tell()
        except (KeyError, TypeError, ValueError):
            return

    def _on_hello(self, message: dict[str, Any]) -> None:
        self._begun = True

    def _on_theme(self, message: dict[str, Any]) -> None:
        self.plots.set_dark(message["dark"] is True)

    def _on_settings(self, message: dict[str, Any]) -> None:
        self._restart(Settings.from_values(message["values"]), None)
        self.running = not self._held

    def _on_preset(self, message: dict[str, Any]) -> None:
        self._restart(PRESETS[message["name"]].settings, message["name"])
        self.running, self._held = True, False

    def _on_run(self, message: dict[str, Any]) -> None:
        if self.visit.finished:
            self._restart(self.visit.settings, self.preset)
        self.running, self._held = True, False
        self._soon()

    def _on_pause(self, message: dict[str, Any]) -> None:
        self.running, self._held = False, True
        self._tell()

    def _on_step(self, message: dict[str, Any]) -> None:
        self.running, self._held = False, True
        self._steps_asked = min(self._steps_asked + 1, 100)
        self._soon()

    def _on_reset(self, message: dict[str, Any]) -> None:
        self.running, self._held = False, True
        self._restart(self.visit.settings, self.preset)

    def _on_speed(self, message: dict[str, Any]) -> None:
        self._save_points = max(1, min(20, int(message["save_points"])))

    def _on_scale(self, message: dict[str, Any]) -> None:
        self.plots.set_linear(message["linear"] is True)
        self._tell()

    def _on_drawn(self, message: dict[str, Any]) -> None:
        self._acknowledged = max(self._acknowledged, min(int(message["frame"]), self._frame))

    def _restart(self, settings: Settings, preset: str | None) -> None:
        self._pending, self.preset, self.problem, self._steps_asked = settings, preset, "", 0
        self._soon()

    def _soon(self) -> None:
        self._document.add_next_tick_callback(self._tick)

    # ---- to the browser

    async def _tick(self) -> None:
        if not self._begun or self._closed:
            return
        if self._pending is not None:
            await self._start_anew(self._pending)
            return
        now = time.monotonic()
        wanted = self._steps_asked > 0 or (self.running and not self.visit.finished and now >= self._next_frame)
        if not wanted or self._frame - self._acknowledged > _IN_FLIGHT:
            return
        self._next_frame = now + min(0.12, _SHORTEST_RUN / len(self.visit.film.times)) - 0.4e-3 * _PERIOD
        count = self._save_points if self._steps_asked == 0 else 1
        self._steps_asked = max(0, self._steps_asked - 1)
        begin = self.visit.film.filled
        moment = await self._in_thread(self._work, count)
        if self._pending is not None or self._closed:
            return
        if self.visit.finished:
            self.running = False
        self._tell(draw=self.plots.frame(self.visit.film, begin, moment))

    async def _start_anew(self, settings: Settings) -> None:
        if not self._warmth.is_ready(settings):
            if self._told != "compiling":
                self._tell("compiling")
            return
        self._pending = None
        try:
            moment = await self._in_thread(self._first, settings)
        except InvalidInput as error:
            self.problem = str(error)
            self._tell()
            return
        if self._closed:
            return
        self._generation += 1
        self._acknowledged = self._frame
        self.plots.begin(settings, self.visit.film, moment)
        self._tell(draw=self.plots.frame(self.visit.film, 0, moment))

    async def _in_thread(self, work: Any, argument: Any) -> Moment:
        moment: Moment = await asyncio.get_running_loop().run_in_executor(self.pool, work, argument)
        return moment

    def _first(self, settings: Settings) -> Moment:
        self.visit.begin(settings)
        self._verdicts, self._next_verdicts = [], time.monotonic() + 0.3
        return self.visit.move(1)

    def _work(self, save_points: int) -> Moment:
        moment = self.visit.move(save_points)
        if time.monotonic() > self._next_verdicts or self.visit.finished:
            self._verdicts = [_words.short_verdict(verdict) for verdict in self.visit.verdicts()]
            self._next_verdicts = time.monotonic() + _SECONDS_BETWEEN_VERDICTS
        return moment

    def _tell(self, state: str = "", draw: dict[str, Any] | None = None) -> None:
        """Send state and words, and a frame to draw, in one message."""
        self._frame += 1
        self._told = state
        described = self._describe(state) | ({} if draw is None else {"draw": draw})
        if state == "compiling":
            described["warning"] = "The kernels are being compiled, once: a minute or two, then never again."
        self.status.data = {"json": [json.dumps(described, allow_nan=False, ensure_ascii=False)]}

    def _describe(self, state: str) -> dict[str, Any]:
        visit, moment = self.visit, self.visit.moment
        if moment is None:
            return self._nothing_yet() | {"state": state or "ready", "frame": self._frame, "problem": self.problem}
        settings, film = visit.settings, visit.film
        return self._nothing_yet() | {
            "state": state or ("finished" if visit.finished else "running" if self.running else "paused"),
            "frame": self._frame,
            "generation": self._generation,
            "running": self.running,
            "finished": visit.finished,
            "progress": visit.progress,
            "time": f"{moment.time:.4g}",
            "end": f"{film.times[-1]:.4g}" + ("" if "flow" in settings.method else ", steps × η"),
            "warning": visit.warning,
            "problem": self.problem,
            "verdicts": self._verdicts,
            "captions": _words.captions(settings, film, moment, self.plots.horizon),
            "silent": _words.silent(film, settings),
            "headline": _words.headline(settings, moment),
            "law": _number(film.flow_rate),
            "saved": film.filled,
        }

    def _nothing_yet(self) -> dict[str, Any]:
        settings = self.visit.settings
        return {
            "state": "loading", "frame": 0, "generation": 0, "running": self.running, "finished": False,
            "progress": 0.0, "time": "0", "end": f"{settings.duration:.4g}", "warning": "", "problem": self.problem,
            "verdicts": [], "captions": {}, "silent": {}, "headline": "", "linear": self.plots.linear,
            "values": settings.to_values(),
            "query": f"preset={self.preset}" if self.preset else settings.to_query(), "preset": self.preset,
            "acting": sorted(settings.acting), "token": self.token,
        }  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
