"""The findings of all experiments in a few sentences, the negatives by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from rankfall.experiments._beyond._claims import STAYS, THINGS, Outcome, find, quiet_arm, ratios
from rankfall.experiments._beyond._experiment import LABEL_NOISE, SGD, Experiment
from rankfall.experiments._beyond._ranks import ALIVE, JACOBIAN_THRESHOLD
from rankfall.experiments._target import Results

__all__ = ["counts", "general_notes", "verdict_sentences"]

_SENTENCES: dict[Outcome, str] = {
    "falls without noise": "The rank falls without label noise, too (“both fall”):",
    "stays with noise": "It stays with label noise as well (“both stay”):",
    "neither": "It falls without label noise and stays with it (“reversed”):",
    "open": "Open, because the seeds disagree or are too few:",
}

_COUNTS = {
    "alive_weights": f"above {ALIVE:.0%} of the largest, weights",
    "alive_features": "features",
    "alive_jacobian": "Jacobian",
    "rank_jacobian": f"above {JACOBIAN_THRESHOLD:g} of it, as Andriushchenko et al. count, Jacobian",
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
    return [*sentences, *_other_arms(experiments, results)]


def _other_arms(experiments: Sequence[Experiment], results: Mapping[str, Results]) -> list[str]:
    """Where SGD without label noise lowers a rank which the claim's arm without noise keeps."""
    places = []
    for each in experiments:
        for arm in each.arms:
            if arm.name != SGD or arm.name == quiet_arm(results[each.name]) or arm.name not in results[each.name]:
                continue
            lowered = [thing for thing in THINGS if _lowers(results[each.name], arm.name, thing)]
            if lowered:
                places.append(f"{each.title}, {arm.title} ({', '.join(lowered)})")
    sentence = "The noise of the batches alone lowers the rank as well, though gradient descent keeps it:"
    return [f"{sentence} {'; '.join(places)}."] if places else []


def _lowers(arms: Results, name: str, thing: str) -> bool:
    finding = find(arms, thing)
    if finding is None or np.median(finding.quiet) < STAYS or THINGS[thing] not in arms[name]:
        return False
    last = ratios(arms[name], thing)[:, -1]
    return bool(np.isfinite(last).any() and np.nanmedian(last) < STAYS)


def counts(results: Results) -> list[str]:
    """How many singular values are left by counting, in the arms of the claim; matrices and layers summed."""
    without = quiet_arm(results)
    arms = {name: results[name] for name in (without, LABEL_NOISE) if name in results}
    arms = {name: run for name, run in arms.items() if run.sizes["step"] > 1}
    found = []
    for variable, words in _COUNTS.items():
        changes = [f"{name} {_change(run[variable])}" for name, run in arms.items() if variable in run]
        if changes:
            found.append(f"{words} {', '.join(changes)}")
    return [f"Singular values by counting, start → end, medians: {'; '.join(found)}."] if found else []


def _change(values: xr.DataArray) -> str:
    """Start → end, the median over the seeds that are left."""
    total = values.sum([d for d in values.dims if d not in ("seed", "step")], skipna=False).transpose("seed", "step")
    ends = total.values[np.isfinite(total.values[:, -1])]
    return f"{np.median(ends[:, 0]):g} → {np.median(ends[:, -1]):g}" if len(ends) else "diverged"


def general_notes(experiments: Sequence[Experiment], results: Mapping[str, Results]) -> list[str]:
    """How to read the verdicts, and the seeds that diverged."""
    notes = [
        "The claim is a theorem for two-layer linear networks and a question here. Where it does not hold, its verdict "
        "says so: that is a result, not a failure; only exact laws can fail.",
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
