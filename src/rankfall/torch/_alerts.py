"""What is worth a word while a model trains; each alert says how it is defined."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankfall._checks import real_number, whole_number
from rankfall.errors import InvalidInput

__all__ = ["RULES", "Alert", "Rule", "make_rule"]


@dataclass(frozen=True)
class Alert:
    """Something happened to the rank of a layer.

    Attributes:
        name: "dead_layer", "rank_drop" or "spike".
        step: Step of the measurement.
        thing: "weights", "activations", "gradients" or "updates".
        layer: Name of the layer.
        value: The value now.
        reference: What it is compared with.
        message: What happened, in a sentence.
        definition: When this alert is given.
    """

    name: str
    step: int
    thing: str
    layer: str
    value: float
    reference: float
    message: str
    definition: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.message} ({self.definition})"


@dataclass(frozen=True)
class Rule:
    """When an alert is given.

    Attributes:
        name: Of the alert.
        measure: Which variable of a thing it looks at.
        things: What it looks at unless told otherwise.
        definition: The condition in words.
        judge: From all values so far, the last one finite, to the reference if the condition has become true, or None.
        sentence: What happened, with {thing}, {layer}, {value} and {reference}.
    """

    name: str
    measure: str
    things: tuple[str, ...]
    definition: str
    judge: Callable[[np.ndarray], float | None]
    sentence: str

    def check(self, step: int, thing: str, layer: str, values: np.ndarray) -> Alert | None:
        """Return the alert that the last of the values gives, if any."""
        if not len(values) or not math.isfinite(values[-1]):
            return None
        reference = self.judge(values)
        if reference is None:
            return None
        numbers = {"value": float(values[-1]), "reference": reference}
        message = self.sentence.format(thing=thing, layer=layer, **numbers)
        return Alert(self.name, step, thing, layer, **numbers, message=message, definition=self.definition)


def dead_layer() -> Rule:
    """Everything is zero: a layer that no gradient reaches, or that sends nothing on."""
    return Rule(
        name="dead_layer",
        measure="norm",
        things=("weights", "activations", "gradients", "updates"),
        definition="every entry is exactly zero, and was not at the measurement before",
        judge=_entered(lambda norm: norm == 0.0, 0.0),
        sentence="the {thing} of {layer} are all zero",
    )


def rank_drop(*, measure: str = "effective_rank", drop: float = 0.5, window: int = 5) -> Rule:
    """A sudden fall of a rank."""
    share = real_number(drop, "drop", above=0.0)
    if share >= 1.0:
        raise InvalidInput(f"drop must be less than 1 (1 would be a fall to nothing), got {share:g}.")
    number = whole_number(window, "window")

    def judge(values: np.ndarray) -> float | None:
        earlier = values[:-1][np.isfinite(values[:-1])][-number:]
        if len(earlier) < min(3, number):
            return None
        usual = float(np.median(earlier))
        return usual if values[-1] < (1.0 - share) * usual else None

    return Rule(
        name="rank_drop",
        measure=measure,
        things=("weights", "activations"),
        definition=f"the {measure} is more than {share:.0%} below the median of the last {number} measurements",
        judge=judge,
        sentence=f"the {measure} of the {{thing}} of {{layer}} fell to {{value:.4g}} from about {{reference:.4g}}",
    )


def spike(*, share: float = 0.9) -> Rule:
    """One singular value dominates."""
    limit = real_number(share, "share", above=0.0)
    if limit >= 1.0:
        raise InvalidInput(f"share must be less than 1, got {limit:g}.")
    return Rule(
        name="spike",
        measure="stable_rank",
        things=("weights",),
        definition=f"the largest singular value carries more than {limit:.0%} of ‖M‖_F², that is, the stable rank is "
        f"below {1 / limit:.4g}, and was not at the measurement before",
        judge=_entered(lambda rank: 0.0 < rank < 1.0 / limit, 1.0 / limit),
        sentence="one singular value dominates the {thing} of {layer}: their stable rank is {value:.4g}",
    )


RULES: Mapping[str, Callable[..., Rule]] = {"dead_layer": dead_layer, "rank_drop": rank_drop, "spike": spike}


def make_rule(name: str, settings: Mapping[str, Any]) -> Rule:
    """Return the rule of a known alert.

    Raises:
        InvalidInput: A setting that the alert does not have, or a bad value.
    """
    make = RULES[name]
    known = tuple(make.__kwdefaults__ or ())
    for setting in settings:
        if setting not in known:
            raise InvalidInput(
                f"The alert {name} has no setting {setting!r}. It has: {', '.join(known) or 'none'}, and watch."
            )
    return make(**settings)


def _entered(condition: Callable[[float], bool], reference: float) -> Callable[[np.ndarray], float | None]:
    """The condition holds now and did not hold the last time something was measured."""

    def judge(values: np.ndarray) -> float | None:
        earlier = values[:-1][np.isfinite(values[:-1])]
        already = bool(len(earlier)) and condition(float(earlier[-1]))
        return reference if condition(float(values[-1])) and not already else None

    return judge
