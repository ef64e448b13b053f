"""What one experiment of `rankfall reproduce beyond` is made of: arms that share everything but their noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rankfall.experiments._target import Results, Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws import Verdict

__all__ = ["GD", "LABEL_NOISE", "SGD", "Arm", "Experiment", "three_arms"]

GD, SGD, LABEL_NOISE = "gd", "sgd", "label-noise"


@dataclass(frozen=True)
class Arm:
    """One way of training: all its seeds in one dataset.

    Attributes:
        name: "gd", "sgd", "label-noise", "adamw" …; with the experiment's name it names the part.
        title: For legends and headings; the same in all experiments.
        noise: Whether its gradients carry noise that does not die when the samples are fitted.
        compute: Trains all seeds; see `follow` for the dataset.
    """

    name: str
    title: str
    noise: bool
    compute: Callable[[Work], xr.Dataset]


@dataclass(frozen=True)
class Experiment:
    """Arms with the same start, data, step size and number of steps for every seed.

    Attributes:
        name: Letters, digits and hyphens, e.g. "relu" or "digits-small-step".
        title: A few words, heading of its row in the figure.
        lead: One to three sentences: what is trained; its note on the page begins with them.
        arms: The one named "gd" is the claims' run without noise, "label-noise" the one with.
        notes: Sentences that follow them, from the datasets by arm name; some arms may be missing or partial.
        extra_claims: Verdicts besides the generic ones, likewise.
        settings: What decides its numbers, JSON-ready.
    """

    name: str
    title: str
    lead: str
    arms: Sequence[Arm]
    notes: Callable[[Results], list[str]] = lambda results: []
    extra_claims: Callable[[Results], list[Verdict]] = lambda results: []
    settings: Mapping[str, Any] = field(default_factory=dict)


def three_arms(train: Callable[[str, Work], xr.Dataset]) -> list[Arm]:
    """Gradient descent, mini-batches, and mini-batches with label noise; `train` gets the name of the arm."""
    return [
        Arm(GD, "gradient descent", False, partial(train, GD)),
        Arm(SGD, "mini-batches (SGD)", False, partial(train, SGD)),
        Arm(LABEL_NOISE, "SGD with label noise", True, partial(train, LABEL_NOISE)),
    ]
