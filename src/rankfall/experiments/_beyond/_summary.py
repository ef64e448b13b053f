"""The findings of all experiments in a few sentences, the negatives by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rankfall.experiments._beyond._claims import THINGS, Outcome, find
from rankfall.experiments._beyond._experiment import Experiment
from rankfall.experiments._target import Results

__all__ = ["general_notes", "verdict_sentences"]

_SENTENCES: dict[Outcome, str] = {
    "falls without noise": "The rank falls without label noise, too (“both fall”):",
    "stays with noise": "It stays with label noise as well (“both stay”):",
    "neither": "It falls without label noise and stays with it (“reversed”):",
    "open": "Open, because the seeds disagree or are too few:",
}


def _findings(experiments: Sequence[Experiment], results: Mapping[str, Results]) -> dict[tuple[str, str], Outcome]:
    """The outcome by title of the experiment and thing."""
    found = {}
    for each in experiments:
        for thing in THINGS:
            finding = find(results[each.name], thing)
            if finding is not None:
                found[each.title, thing] = finding.outcome
    return found


def verdict_sentences(experiments: Sequence[Experiment], results: Mapping[str, Results]) -> list[str]:
    """In how many panels the claim holds, and where not."""
    found = _findings(experiments, results)
    if not found:
        return []
    holds = sum(outcome == "holds" for outcome in found.values())
    sentences = [f"“With label noise the rank falls, without it stays” holds in {holds} of {len(found)} panels (✓)."]
    for outcome, words in _SENTENCES.items():
        things: dict[str, list[str]] = {}
        for (title, thing), each in found.items():
            if each == outcome:
                things.setdefault(title, []).append(thing)
        if things:
            places = "; ".join(f"{title} ({', '.join(which)})" for title, which in things.items())
            sentences.append(f"{words} {places}.")
    return sentences


def general_notes(experiments: Sequence[Experiment], results: Mapping[str, Results]) -> list[str]:
    """How to read the verdicts, and the seeds that diverged."""
    notes = [
        "The claim is a theorem for two-layer linear networks and a question here. Where it does not hold, its verdict "
        "is undecided and says “does not hold here”: that is a result, not a failure; only exact laws can fail.",
    ]
    lost = [
        f"{each.title}, {arm}: {', '.join(gone)}"
        for each in experiments
        for arm, run in results[each.name].items()
        if (gone := [f"seed {int(s)} {o}" for s, o in zip(run["seed"], run["outcome"].values, strict=True) if _lost(o)])
    ]
    if lost:
        notes.append(f"Left out, because they diverged: {'; '.join(lost)}.")
    return notes


def _lost(outcome: object) -> bool:
    return str(outcome).startswith("diverged")
