"""What one experiment of `rankfall reproduce beyond` is made of: arms that share everything but their noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankfall.experiments._target import Results, Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws import Verdict

__all__ = ["Arm", "Experiment"]


@dataclass(frozen=True)
class Arm:
    """One way of training: all its seeds in one dataset.

    Attributes:
        name: "gd", "sgd", "label-noise", "adamw" …; with the experiment's name it names the part.
        title: For legends and headings.
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
        lead: Two or three sentences: what is trained, what to see.
        arms: The one named "gd" is the claims' run without noise, "label-noise" the one with.
        notes: Sentences a reader must know, from the datasets by arm name; some arms may be missing or partial.
        extra_claims: Verdicts besides the generic ones, likewise.
    """

    name: str
    title: str
    lead: str
    arms: Sequence[Arm]
    notes: Callable[[Results], list[str]] = lambda results: []
    extra_claims: Callable[[Results], list[Verdict]] = lambda results: []
