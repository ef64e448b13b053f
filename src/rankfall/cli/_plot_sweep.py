"""The figure of a sweep for `rankfall plot`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["draw_sweep", "sweep_page"]


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

    chosen = {"x": x, "y": y, "color": color, "panels": panels, "at": at}
    return _draw(rf.sweep.open_results(store), store, chosen, columns)


def _draw(results: xr.Dataset, store: Path, chosen: Mapping[str, Any], columns: Literal[1, 2]) -> Figure:
    import rankfall as rf
    from rankfall.report.sweep_figure import sweep_figure

    fixed = {}
    for text in chosen["at"]:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise rf.InvalidInput(f"--at takes AXIS=VALUE, e.g. --at width=8, got {text!r}.")
        if name in fixed:
            raise rf.InvalidInput(f"--at names {name} twice.")
        fixed[name] = value
    with _damage_told(store):
        return sweep_figure(results, **{**chosen, "at": fixed}, columns=columns)


# So many results are drawn on a page of which none was named.
_FIGURES = 3


def sweep_page(store: Path, out: Path, chosen: Mapping[str, Any]) -> str:
    """The page of a sweep; of what was chosen, or of its first results.

    Raises:
        InvalidInput: A name or combination that is no figure.
        NotARun: The folder is no store of a sweep, or damaged.
    """
    import rankfall as rf
    from rankfall.experiments._environment import environment
    from rankfall.report.sweep_page import main_quantities, render_sweep_page

    results, status = rf.sweep.open_results(store), rf.sweep.status(store)
    words = ["rankfall", "plot", str(store)]
    for name, value in chosen.items():
        for each in (value,) if isinstance(value, str) else value or ():
            words += [f"--{name}", each]
    drawn: list[Any] = [chosen]
    if not any(chosen.values()) and status.done:
        drawn = [{**chosen, "color": name} for name in main_quantities(results)[:_FIGURES]]
    figures = []
    for each in drawn if status.done else ():
        name = each["color"] or each["y"] or ""
        caption = "Cells that failed or are missing are hatched in maps, and marked at the foot of lines."
        if name in results:
            caption = f"{results[name].attrs.get('formula') or name.replace('_', ' ')}. {caption}"
        try:
            figures.append((_draw(results, store, each, 2), caption))
        except rf.InvalidInput:
            # What was asked for must be possible; of what was not, a page shows what can be drawn.
            if any(chosen.values()):
                raise
    with _damage_told(store):
        return render_sweep_page(
            results,
            status,
            figures,
            store=str(store),
            command=shlex.join([*words, "--out", str(out)]),
            environment=environment(),
        )


@contextmanager
def _damage_told(store: Path) -> Iterator[None]:
    """What Zarr says of a chunk whose checksum is wrong, in words that help."""
    import rankfall as rf

    try:
        yield
    except rf.RankfallError:
        raise
    except (OSError, ValueError) as error:  # Zarr, of a chunk whose checksum is wrong
        if "checksum" not in str(error).lower() and not isinstance(error, OSError):
            raise
        what = error if isinstance(error, OSError) else "a file does not match its checksum"
        raise rf.NotARun(f"{store} is damaged ({what}); run the sweep again: it mends what is damaged.") from None
