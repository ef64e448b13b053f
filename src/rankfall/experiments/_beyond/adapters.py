"""Low-rank adapters on a small pre-trained transformer, fine-tuned by descent, SGD, AdamW, with label noise or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from rankfall.experiments._beyond import _adapter_claims
from rankfall.experiments._beyond._adapter_protocol import ARMS, Protocol
from rankfall.experiments._beyond._adapter_training import tune
from rankfall.experiments._beyond._experiment import Arm, Experiment

if TYPE_CHECKING:
    from rankfall.experiments.beyond import Settings

__all__ = ["experiments"]

_STEPS, _QUICK_STEPS, _QUICK_SAVES = 2_500, 300, 7
_FOUR = ("gd", "sgd", "label-noise", "adamw")
# Name, heading, rank, whether both factors start at random, arms.
_WIDE = ("adapters", "Adapters, r = 16 (A)", 16, False, tuple(ARMS))
_KINDS = (
    _WIDE,
    ("adapters-narrow", "Adapters, r = 4 (A)", 4, False, _FOUR),
    ("adapters-both", "Both at random, r = 16 (BA)", 16, True, _FOUR),
)


def experiments(settings: Settings) -> list[Experiment]:
    """LoRA as usual with many and with few directions, and with both factors at random; if quick, the first alone."""
    found = []
    for name, title, rank, both, arms in _KINDS:
        protocol = Protocol(rank=rank, both=both, seeds=tuple(settings.seeds), steps=_STEPS)
        if settings.quick:
            protocol = replace(protocol, steps=_QUICK_STEPS, save_points=_QUICK_SAVES)
        found.append(_experiment(name, title, protocol, arms if not settings.quick else _FOUR))
    return found[:1] if settings.quick else found


def _experiment(name: str, title: str, protocol: Protocol, arms: Sequence[str]) -> Experiment:
    start = (
        "Both factors start at random, and the frozen weights without their product, so that the rank of BA can fall; "
        "it is what counts as the weights."
        if protocol.both
        else f"A starts at random, B and with it the product BA at zero, r = {protocol.rank}: BA can only rise at "
        "first, so that it is the rank of A that counts as the weights, and BA is compared between the arms."
    )
    model = (
        f"A small transformer that was trained on the digits 0–4 learns {protocol.samples} images of the digits 5–9 by "
        "adapters x ↦ B A x on its queries and values alone, its other weights and its head frozen; the Jacobian is "
        f"that with respect to the adapters. η = {protocol.step_size:g}, AdamW {protocol.adam_rate:g}; label noise "
        f"flips {protocol.flips:.0%} of a batch's labels. "
    )
    return Experiment(
        name=name,
        title=title,
        lead=model + start if name == _WIDE[0] else start,
        arms=[Arm(arm, ARMS[arm].title, ARMS[arm].flips, partial(tune, protocol, arm)) for arm in arms],
        notes=partial(_adapter_claims.notes, protocol.rank),
        extra_claims=partial(_adapter_claims.claims, title),
        settings={key: value for key, value in asdict(protocol).items() if key != "seeds"},
    )
