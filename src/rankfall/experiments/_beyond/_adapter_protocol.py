"""How adapters are fine-tuned: the arms, and the numbers that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rankfall.experiments._beyond._training import save_steps

__all__ = ["ARMS", "Protocol", "Way"]

# At most so many steps lie between two records of a ledger; save points are multiples of that.
_EVERY = 20


@dataclass(frozen=True)
class Way:
    """Of training: on batches or on all samples, with flipped labels or not, by AdamW or by plain descent.

    `smoothed` labels are what flipped ones are on average: each the probability with which it would be taught. The loss
    is that of label noise, the noise is not there.
    """

    title: str
    batches: bool = False
    flips: bool = False
    adam: bool = False
    smoothed: bool = False


ARMS = {
    "gd": Way("gradient descent"),
    "gd-smoothed": Way("GD, smoothed labels", smoothed=True),
    "sgd": Way("mini-batches (SGD)", batches=True),
    "label-noise": Way("SGD with label noise", batches=True, flips=True),
    "adamw": Way("AdamW", batches=True, adam=True),
    "adamw-label-noise": Way("AdamW, label noise", batches=True, flips=True, adam=True),
}


@dataclass(frozen=True)
class Protocol:
    """Everything that decides the numbers of an experiment.

    Attributes:
        rank: r of the adapters.
        both: Start both factors at random and take B₀A₀ off the frozen weights; else B₀ = 0, as is usual.
        seeds: Each draws its own start, samples, batches and flips, and has the same in all arms.
        steps: Of every arm.
        samples: How many images of the new digits a seed is trained on.
        batch_size: Of all arms but gradient descent.
        flips: Probability with which a label of a batch is replaced by another class, where labels are flipped.
        step_size: η of gradient descent and of SGD.
        adam_rate: Of AdamW, whose weight decay is torch's default.
        save_points: About how many moments are kept.
    """

    rank: int
    both: bool = False
    seeds: tuple[int, ...] = (0,)
    steps: int = 2_500
    samples: int = 64
    batch_size: int = 16
    flips: float = 0.3
    step_size: float = 1.0
    adam_rate: float = 2e-3
    save_points: int = 21

    @property
    def every(self) -> int:
        """Steps between two records of a ledger."""
        return math.gcd(self.steps, _EVERY)

    @property
    def saved_steps(self) -> list[int]:
        """Dense at the beginning, and multiples of `every`."""
        return sorted({round(step / self.every) * self.every for step in save_steps(self.steps, self.save_points)})
