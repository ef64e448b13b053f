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

_QUICK_STEPS, _QUICK_SAVES = 300, 7
_THREE = ("gd", "sgd", "label-noise")
_FOUR = (*_THREE, "adamw")
_WIDE = "Adapters, r = 16 (A)"
# By name of the experiment: heading, protocol, arms.
_KINDS: dict[str, tuple[str, Protocol, Sequence[str]]] = {
    "adapters": (_WIDE, Protocol(rank=16), tuple(ARMS)),
    "adapters-small-step": ("Small step, r = 16 (A)", Protocol(rank=16, step_size=0.3), _THREE),
    "adapters-narrow": ("Adapters, r = 4 (A)", Protocol(rank=4), _FOUR),
    "adapters-both": ("Both random, r = 16 (BA)", Protocol(rank=16, both=True), _FOUR),
}


def experiments(settings: Settings) -> list[Experiment]:
    """LoRA as usual, with small steps, with few directions, and with both factors random; if quick, the first alone."""
    found = []
    for name, (title, protocol, arms) in _KINDS.items():
        protocol = replace(protocol, seeds=tuple(settings.seeds))
        if settings.quick:
            protocol, arms = replace(protocol, steps=_QUICK_STEPS, save_points=_QUICK_SAVES), _FOUR
        found.append(_experiment(name, title, protocol, arms))
    return found[:1] if settings.quick else found


def _experiment(name: str, title: str, protocol: Protocol, arms: Sequence[str]) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        lead=_lead(name, protocol),
        arms=[Arm(arm, ARMS[arm].title, ARMS[arm].flips, partial(tune, protocol, arm)) for arm in arms],
        notes=partial(_adapter_claims.notes, protocol.rank),
        extra_claims=partial(_adapter_claims.claims, title),
        settings={key: value for key, value in asdict(protocol).items() if key != "seeds"},
    )


def _lead(name: str, protocol: Protocol) -> str:
    same = f"The fine-tuning of “{_WIDE}” "
    if name == "adapters-small-step":
        share = (protocol.step_size / Protocol(rank=protocol.rank).step_size) ** 2
        return (
            f"{same}with η = {protocol.step_size:g}: descent is nearer to gradient flow, and what noise does in a "
            f"step, which goes with η², is {share:.2g} of what it is there."
        )
    if name == "adapters-narrow":
        return f"{same}with r = {protocol.rank}."
    if name == "adapters-both":
        return (
            f"{same}with both factors random at the start, and their product taken off the frozen weights, so that the "
            "rank of BA can fall; it is what counts as the weights."
        )
    return (
        f"A small transformer that was trained on the digits 0–4 learns {protocol.samples} images of the digits 5–9 by "
        "adapters x ↦ B A x on its queries and values alone, its other weights and its head frozen; the Jacobian is "
        f"that with respect to the adapters. η = {protocol.step_size:g}, AdamW {protocol.adam_rate:g}; label noise "
        f"flips {protocol.flips:.0%} of a batch’s labels. As is usual, A starts at random and B at zero, and with it "
        "the product BA, whose rank can only rise at first: so the rank of A counts as the weights, and that of BA is "
        "compared between the arms."
    )
