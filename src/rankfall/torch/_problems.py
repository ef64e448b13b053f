"""What goes wrong inside the monitor: said once, kept, never raised."""

from __future__ import annotations

import logging

__all__ = ["Problems", "log"]

log = logging.getLogger("rankfall.torch")


class Problems:
    """Texts of what went wrong, each kind once.

    They go to the log and not to `warnings`, whose filters could turn them into exceptions inside the user's training.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._told: set[str] = set()

    def tell(self, kind: str, text: str) -> None:
        """Log and keep a text, unless one of its kind was there."""
        if kind not in self._told:
            self._told.add(kind)
            self.texts.append(text)
            log.warning("%s", text)

    def failed(self, where: str, error: Exception) -> None:
        """Log and keep an exception."""
        self.tell(
            f"{where}: {type(error).__name__}",
            f"The monitor failed at {where}: {type(error).__name__}: {error}. The training goes on; what could not be "
            "measured is NaN. This is said once.",
        )
