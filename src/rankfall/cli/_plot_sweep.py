"""The figure of a sweep for `rankfall plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_sweep"]


def draw_sweep(
    store: Path,
    *,
    x: str | None,
    y: str | None,
    color: str | None,
    panels: Sequence[str],
    at: Sequence[str],
    columns: Literal[1, 2],
) -> Figure:
    """Draw the results of a sweep.

    Raises:
        InvalidInput: A name or combination that is no figure.
        NotARun: The folder is no store of a sweep, or damaged.
    """
    import rankfall as rf
    from rankfall.report.sweep_figure import sweep_figure

    results = rf.sweep.open_results(store)
    fixed = {}
    for text in at:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise rf.InvalidInput(f"--at takes AXIS=VALUE, e.g. --at width=8, got {text!r}.")
        if name in fixed:
            raise rf.InvalidInput(f"--at names {name} twice.")
        fixed[name] = value
    try:
        return sweep_figure(results, x=x, y=y, color=color, panels=panels, at=fixed, columns=columns)
    except rf.RankfallError:
        raise
    except (OSError, ValueError) as error:  # Zarr, of a chunk whose checksum is wrong
        if "checksum" not in str(error).lower() and not isinstance(error, OSError):
            raise
        what = error if isinstance(error, OSError) else "a file does not match its checksum"
        raise rf.NotARun(f"{store} is damaged ({what}); run the sweep again: it mends what is damaged.") from None
