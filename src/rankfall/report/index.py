"""The page that leads to the reports of several targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankfall.report.page import tally, template_named

if TYPE_CHECKING:
    from rankfall.laws import Verdict

__all__ = ["Entry", "render_index"]


@dataclass(frozen=True)
class Entry:
    """One target on the index.

    Attributes:
        name: Its folder beside the page.
        title: Its claim.
        status: "complete", "partial", or "waiting".
        claims: Shown one by one.
        verdicts: All verdicts, claims and laws, for the counts.
        picture: Path of its figure from the page, empty where there is none.
    """

    name: str
    title: str
    status: str
    claims: Sequence[Verdict] = ()
    verdicts: Sequence[Verdict] = ()
    picture: str = ""


def render_index(title: str, lead: str, entries: Sequence[Entry], command: str) -> str:
    """Return the page as HTML; it refers to nothing but the folders beside it."""
    counts = tally(verdict for entry in entries for verdict in entry.verdicts)
    shown = []
    for entry in entries:
        each = tally(entry.verdicts)
        parts = [f"{each['passed']} of {len(entry.verdicts)} checks passed"]
        words = {"failed": "failed", "negative": "not holding, which is no failure", "undecided": "undecided"}
        parts += [f"{each[name]} {word}" for name, word in words.items() if each[name]]
        shown.append({**vars(entry), "counts": ", ".join(parts), "verdicts": entry.claims})
    return template_named("index.html.j2").render(
        title=title,
        lead=lead,
        entries=shown,
        command=command,
        unfinished=[entry.name for entry in entries if entry.status != "complete"],
        **counts,
    )
