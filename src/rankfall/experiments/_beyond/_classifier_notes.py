"""What a reader must know of the networks that learn images."""

from __future__ import annotations

import numpy as np

from rankfall.experiments._beyond._claims import THINGS, ratios
from rankfall.experiments._beyond._classifier import SMOOTHED
from rankfall.experiments._beyond._experiment import LABEL_NOISE
from rankfall.experiments._target import Results

__all__ = ["accuracy_notes", "loss_notes"]

_WORTH_SAYING = 0.05


def accuracy_notes(results: Results) -> list[str]:
    """One sentence on what the arms have learned."""
    words = []
    for arm, run in results.items():
        seen, unseen = (run[name].values[:, -1] for name in ("accuracy", "test_accuracy"))
        if np.isfinite(seen).any():
            silent = float(np.nanmedian(run["silent_units"].mean("layer").values[:, -1]))
            quiet = f" ({silent:.0%} of the hidden units silent)" if silent >= _WORTH_SAYING else ""
            words.append(f"{arm} {np.nanmedian(seen):.1%} and {np.nanmedian(unseen):.1%}{quiet}")
    return [f"Accuracy on the samples and on other images at the end, medians: {'; '.join(words)}."] if words else []


def loss_notes(results: Results) -> list[str]:
    """How much of what label noise does is done by its loss: gradient descent on smoothed labels beside it."""
    if any(arm not in results or results[arm].sizes["step"] < 2 for arm in (SMOOTHED, LABEL_NOISE)):
        return []
    parts = []
    for thing in THINGS:
        ends = [ratios(results[arm], thing)[:, -1] for arm in (SMOOTHED, LABEL_NOISE)]
        both = np.isfinite(ends[0]) & np.isfinite(ends[1])
        if not both.any():
            return []
        smooth, noisy = (float(np.median(each[both])) for each in ends)
        below = int(np.sum((ends[1] < ends[0])[both]))
        parts.append(f"{thing} {smooth:.2f} and {noisy:.2f} (noise leaves less in {below} of {both.sum()} seeds)")
    return [
        "The loss of flipped labels, on average that of smoothed ones, acts beside their noise. What gradient descent "
        f"on smoothed labels leaves of a rank, and what label noise does, medians: {'; '.join(parts)}."
    ]
