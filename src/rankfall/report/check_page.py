"""The page of `rankfall check`: what each law says of one run, with the run's figure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankfall.report.page import Page, VerdictTable, render_page
from rankfall.report.style import render_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from rankfall.laws import Verdict

__all__ = ["render_check_page"]


def render_check_page(
    run: xr.Dataset,
    verdicts: Sequence[Verdict],
    figures: tuple[Figure | None, Figure | None],
    *,
    name: str,
    command: Sequence[str],
    environment: dict[str, str],
    address: str | None = None,
) -> str:
    """Return the page as one HTML document that refers to nothing outside it.

    Args:
        run: The run.
        verdicts: Of the laws that apply to it.
        figures: Of the run, wide and narrow.
        name: What the file is called.
        command: Words that make the page again.
        environment: Name → value, versions and machine.
        address: Where the file lies, seen from the page; by default beside it.
    """
    wide, narrow = (None if each is None else render_figure(each, "svg") for each in figures)
    outcomes = [str(outcome) for outcome in run["outcome"].values]
    done = outcomes.count("completed")
    return render_page(
        Page(
            title=f"Laws of {name}",
            lead=f"A run of {run.attrs['method']} with {len(outcomes)} replicate{'s' if len(outcomes) > 1 else ''}, "
            f"{done} of them completed, until t = {float(run['time'].values[-1]):.4g}: every law that applies to it, "
            "compared with what was recorded at every save point.",
            claims=(),
            figure=wide,
            narrow_figure=narrow,
            caption="Determinant of M = ZZᵀ, singular values, loss and balance of the run. Thick lines are medians, "
            "thin lines and bands (the middle 80 %) show how they spread, dashes what a law or its "
            "ledger says.",
            tables=[VerdictTable("Laws", verdicts)] if verdicts else [],
            settings=_settings(json.loads(run.attrs["settings"])),
            environment=environment,
            command=shlex.join(command),
            files=[(address or name, "the run, NetCDF")],
            notes=[] if verdicts else ["No law applies to this run."],
        )
    )


def _settings(settings: dict[str, Any]) -> dict[str, str]:
    """Nested settings, flat: "method step size" and so on; long lists by their length."""
    flat: dict[str, str] = {}

    def add(name: str, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, dict):
            for key, each in value.items():
                add(f"{name} {key}".strip(), each)
        elif isinstance(value, list) and len(value) > 8:
            flat[name.replace("_", " ")] = f"{len(value)} values"
        else:
            flat[name.replace("_", " ")] = str(value)

    add("", settings)
    return flat
