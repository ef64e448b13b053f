"""The page of a target, from what it says of itself and what its parts gave."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rankfall.report import Page, VerdictTable

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.experiments._runner import Outcome
    from rankfall.experiments._target import Target

__all__ = ["make_page", "short"]


def short(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def make_page(
    outcome: Outcome,
    results: Mapping[str, xr.Dataset],
    figures: tuple[bytes | None, bytes | None],
    environment: Mapping[str, str],
) -> Page:
    """Lay out the report; `figures` are the wide and the narrow one as SVG."""
    target = outcome.target
    partial = ""
    if outcome.status == "partial":
        partial = "; ".join(_unfinished(target, results)) + ". The same command continues it."
    by_title = {part.title: results[part.name] for part in target.parts if part.name in results}
    drawn = [
        ("figure.pdf", "the figure, for papers: two columns wide, fonts embedded"),
        ("figure.svg", "the figure, for pages and slides"),
        ("figure.png", "the figure, 220 dots per inch"),
    ]
    return Page(
        title=target.title,
        lead=target.lead,
        claims=outcome.claims,
        figure=figures[0],
        narrow_figure=figures[1],
        caption=target.caption(results) if results else "",
        tables=[VerdictTable(title, verdicts, _summary(by_title[title])) for title, verdicts in outcome.laws.items()],
        settings=target.shown(results) if target.shown else _readable(target.settings),
        environment=environment,
        command=shlex.join(["rankfall", "reproduce", target.name, *target.options, "--out", str(outcome.folder)]),
        files=[
            *(drawn if figures[0] is not None else []),
            *((f"{part.name}.nc", f"data of {part.title}, NetCDF") for part in target.parts if part.name in results),
            ("verdicts.json", "every verdict, replicate by replicate"),
            ("settings.json", "settings and versions"),
        ],
        partial=partial,
        notes=target.notes(results) if results else [],
    )


def _unfinished(target: Target, results: Mapping[str, xr.Dataset]) -> list[str]:
    lines = []
    for part in target.parts:
        if part.name not in results:
            lines.append(f"{part.title} has not begun")
            continue
        result = results[part.name]
        if any(str(outcome).startswith("interrupted") for outcome in _outcomes(result)):
            axis, sign = ("time", "t =") if "time" in result.coords else ("step", "step")
            lines.append(f"{part.title} was interrupted at {sign} {float(result[axis].values[-1]):.4g}")
    return lines


def _outcomes(result: xr.Dataset) -> list[str]:
    return [str(outcome) for outcome in result["outcome"].values] if "outcome" in result else []


def _summary(result: xr.Dataset) -> str:
    """How far the replicates of a run got, and with which step; empty for what is no run."""
    outcomes = _outcomes(result)
    if not outcomes or "time" not in result.coords:
        return ""
    done = outcomes.count("completed")
    step = float(result.attrs.get("step_length", 0.0))
    how = f"time step {step:.4g}" if step > 0 else "adaptive time steps"
    end = float(result["time"].values[-1])
    return f"{done} of {len(outcomes)} replicates completed, until t = {end:.4g}, {how}."


def _readable(settings: Mapping[str, Any]) -> dict[str, str]:
    shown = {}
    for name, value in settings.items():
        if value is None:
            continue
        values = value if isinstance(value, tuple | list) else (value,)
        shown[name.replace("_", " ")] = ", ".join(short(v) if isinstance(v, float) else str(v) for v in values)
    return shown
