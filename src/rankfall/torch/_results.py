"""What happens with a measurement: history, file, loggers, alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rankfall._files import write_netcdf
from rankfall._version import __version__
from rankfall.errors import InvalidInput
from rankfall.torch._alerts import RULES, Alert, Rule, make_rule
from rankfall.torch._description import ERRORS, variable_attributes, variables
from rankfall.torch._history import History, Values, checked_path
from rankfall.torch._loggers import Logger
from rankfall.torch._measuring import Settings
from rankfall.torch._problems import Problems, log
from rankfall.torch._selection import chosen_names
from rankfall.torch._watched import Watched

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Results"]

Attributes = Mapping[str, Any]


class Results:
    """Takes finished measurements.

    Args:
        watched: What is watched.
        watch: Things that are measured.
        settings: What is measured of each.
        loggers: Functions of step and values.
        path: File of the history, or None.
        overwrite: Whether it may exist.
        problems: Where failures of loggers, files and callbacks are told.

    Raises:
        InvalidInput: Bad path or logger.
        OutputError: The folder of the path cannot be written to.
    """

    def __init__(
        self,
        watched: Watched,
        watch: tuple[str, ...],
        settings: Settings,
        loggers: Iterable[Logger],
        path: Any,
        *,
        overwrite: bool,
        problems: Problems,
    ) -> None:
        self._watched, self._watch, self._settings, self._problems = watched, watch, settings, problems
        self._loggers = list(loggers)
        for logger in self._loggers:
            if not callable(logger):
                raise InvalidInput(f"A logger must be a function of (step, values), got {type(logger).__name__}.")
        self._path = None if path is None else checked_path(path, overwrite=overwrite)
        self.history = History(
            watched.layers, variables(watch, settings, watched.modes), variable_attributes(watch, settings)
        )
        self.alerts: list[Alert] = []
        self._rules: list[tuple[Rule, tuple[str, ...], Callable[[Alert], Any] | None]] = []

    def on(
        self, name: str, call: Callable[[Alert], Any] | None, watch: Iterable[str] | None, settings: Mapping[str, Any]
    ) -> None:
        """Give an alert from now on; see `RankMonitor.on`."""
        (known,) = chosen_names(name, tuple(RULES), "on()")
        rule = make_rule(known, settings)
        if rule.measure != "norm" and rule.measure not in self._settings.measures:
            raise InvalidInput(
                f"The alert {known} looks at {rule.measure}, which is not measured. Add it to measures, now "
                f"{', '.join(self._settings.measures)}."
            )
        things = chosen_names(watch, self._watch, "watch") if watch is not None else rule.things
        if not any(thing in self._watch for thing in things):
            raise InvalidInput(f"The alert {known} looks at {', '.join(things)}, none of which is watched.")
        if call is not None and not callable(call):
            raise InvalidInput(f"The alert {known} calls a function with each Alert, got {type(call).__name__}.")
        self._rules.append((rule, tuple(thing for thing in things if thing in self._watch), call))

    def add(self, step: int, seconds: float, cost: float, found: Values, attributes: Callable[[], Attributes]) -> None:
        """Keep, write and hand on one measurement."""
        self.history.add(step, seconds, cost, found)
        for alert, call in self._new_alerts(step):
            self.alerts.append(alert)
            self._careful("an alert", call or _log_alert, alert)
        scalars = self._scalars(found)
        for logger in self._loggers:
            self._careful("a logger", logger, step, dict(scalars))
        self.write(attributes())

    def write(self, attributes: Attributes) -> None:
        """Write the history, if it has a file and anything to say."""
        if self._path is not None and self.history.steps:
            self._careful("writing the history", self._write, self._path, attributes)

    def dataset(self, attributes: Attributes) -> xr.Dataset:
        """Return the history with labels and settings."""
        settings, sides = self._settings, self._watched.sides
        return self.history.dataset(
            {
                "rows": [sides[layer][0] for layer in self._watched.layers],
                "columns": [sides[layer][1] for layer in self._watched.layers],
            },
            {
                "title": "ranks during training",
                "rankfall_version": __version__,
                "torch_version": str(torch.__version__),
                "method": settings.method,
                "error": ERRORS["iterated" if settings.iterates else settings.method],
                **attributes,
            },
        )

    def _write(self, path: Path, attributes: Attributes) -> None:
        write_netcdf(path, self.dataset(attributes))

    def _new_alerts(self, step: int) -> list[tuple[Alert, Callable[[Alert], Any] | None]]:
        found = []
        for rule, things, call in self._rules:
            for thing in things:
                for column, layer in enumerate(self._watched.layers):
                    values = self.history.series(f"{thing}_{rule.measure}", column)
                    alert = rule.check(step, thing, layer, values)
                    if alert is not None:
                        found.append((alert, call))
        return found

    def _scalars(self, found: Values) -> dict[str, float]:
        scalars = {}
        for variable, columns in found.items():
            thing, _, measure = variable.partition("_")
            if measure != "spectrum":
                for column, values in columns.items():
                    scalars[f"{thing}/{measure}/{self._watched.layers[column]}"] = float(values[0])
        return scalars

    def _careful(self, where: str, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:
            self._problems.failed(where, error)


def _log_alert(alert: Alert) -> None:
    log.warning("%s", alert)
