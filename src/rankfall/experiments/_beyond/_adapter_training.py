"""Fine-tunes the adapters of all seeds at once, with a ledger for every pair of every seed."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

import rankfall as rf
from rankfall import ranks
from rankfall.experiments._beyond._adapted import (
    ADAPTED,
    CLASSES,
    TOKENS,
    WIDTH,
    forward,
    frozen_part,
    pretrained,
)
from rankfall.experiments._beyond._adapter_protocol import ARMS, Protocol
from rankfall.experiments._beyond._draws import Draws
from rankfall.experiments._beyond._ranks import (
    ALIVE,
    DEFINITIONS,
    feature_ranks,
    jacobian_ranks,
    weight_ranks,
)
from rankfall.experiments._beyond._training import Measured, follow, generator, single_threaded
from rankfall.experiments._target import Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.torch import Ledger

__all__ = ["tune"]

# Images of the new digits that nothing is trained on; features and Jacobian are taken on the first of them.
_TEST, _PROBE, _JACOBIAN_PROBE = 200, 100, 32


def tune(protocol: Protocol, arm: str, work: Work) -> xr.Dataset:
    """Train one arm; the dataset of `follow`, with the balance of every pair.

    Raises:
        SimulationInterrupted: Ctrl-C was pressed.
    """
    from rankfall.torch import LedgerWarning

    with single_threaded(), warnings.catch_warnings():
        # a seed that diverges takes its ledger with it, and the dataset says so
        warnings.simplefilter("ignore", LedgerWarning)
        tuning = _Tuning(protocol, arm)
        try:
            found = follow(
                tuning,
                _Tuning.step,
                _Tuning.measure,
                protocol.steps,
                protocol.saved_steps,
                work,
                ARMS[arm].title,
                seeds=protocol.seeds,
                coords={
                    "matrix": list(tuning.matrices()),
                    "layer": ["attention", "pooled"],
                    "pair": list(ADAPTED),
                    "mode": range(1, protocol.rank + 1),
                },
                attrs=_attributes(protocol, arm),
            )
        except rf.SimulationInterrupted as stop:
            stop.run.attrs["ledger"] = tuning.judged()
            raise
        return found.assign_attrs(ledger=tuning.judged())


class _Tuning:
    """The networks under way.

    The factors of all seeds lie below each other in one parameter, A as (seed·rank, WIDTH) and B transposed alike, so
    that an optimizer has four tensors to move and a ledger still finds the pair of each seed.
    """

    def __init__(self, protocol: Protocol, arm: str) -> None:
        self.protocol, self.way = protocol, ARMS[arm]
        network = pretrained()
        self.weights = network.weights
        frozen = frozen_part(network.weights, network.tokens)
        seeds = len(protocol.seeds)
        chosen = torch.stack(
            [
                torch.randperm(len(frozen) - _TEST, generator=generator(seed, "samples"))[: protocol.samples] + _TEST
                for seed in protocol.seeds
            ]
        )
        starts = {f"{name}.{factor}": self._start(name, factor) for name in ADAPTED for factor in ("lora_A", "lora_B")}
        self.inputs = self._without(frozen[chosen], starts)
        self.labels = network.labels[chosen]
        self.test = self._without(frozen[:_TEST].expand(seeds, -1, -1, -1), starts)
        self.test_labels = network.labels[:_TEST].expand(seeds, -1)
        self.model = torch.nn.ParameterDict(
            {name.replace(".", "_"): torch.nn.Parameter(start.flatten(0, 1)) for name, start in starts.items()}
        )
        self.parameters = dict(zip(starts, self.model.values(), strict=True))
        # torch spreads its share over all classes, the right one included
        self.smoothing = protocol.flips * CLASSES / (CLASSES - 1) if self.way.smoothed else 0.0
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(self.parameters.values(), lr=protocol.adam_rate)
            if self.way.adam
            else torch.optim.SGD(self.parameters.values(), lr=protocol.step_size)
        )
        self.places = torch.arange(seeds)[:, None]
        size = protocol.batch_size
        self.batches = Draws(
            protocol.seeds, "batches", lambda of, n: torch.randint(protocol.samples, (n, size), generator=of)
        )
        self.flips = Draws(protocol.seeds, "flips", partial(_flips, protocol.flips, size))
        self.ledger = self._ledger()

    def step(self, number: int) -> _Tuning:
        """One step of the optimizer on every seed's own batch."""
        inputs, labels = self._batch(number)
        outputs, _ = forward(self.weights, inputs, self.adapters())
        loss = functional.cross_entropy(
            outputs.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=self.smoothing
        )
        loss = loss / labels.shape[1]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return self

    def adapters(self) -> dict[str, torch.Tensor]:
        """The factors, seed first."""
        shape = (len(self.protocol.seeds), self.protocol.rank, WIDTH)
        return {name: parameter.view(shape) for name, parameter in self.parameters.items()}

    def matrices(self) -> dict[str, torch.Tensor]:
        """What counts as the weights: A where B and with it the product start at zero, else the product."""
        which = "product" if self.protocol.both else "A"
        return {f"{name}.{which}": matrix for name, matrix in zip(ADAPTED, self.factors()[which], strict=True)}

    def factors(self) -> dict[str, list[torch.Tensor]]:
        """A, B and the product B A of every adapter, seed first."""
        adapters = {name: values.detach() for name, values in self.adapters().items()}
        a, b = ([adapters[f"{name}.{factor}"] for name in ADAPTED] for factor in ("lora_A", "lora_B"))
        b = [turned.mT for turned in b]
        return {"A": a, "B": b, "product": [left @ right for left, right in zip(b, a, strict=True)]}

    @torch.no_grad()
    def measure(self) -> Measured:
        """Everything that is kept of one moment."""
        adapters = self.adapters()
        outputs, _ = forward(self.weights, self.inputs, adapters)
        test, features = forward(self.weights, self.test, adapters)
        losses = functional.cross_entropy(outputs.mT, self.labels, reduction="none").mean(dim=1)
        return {
            "loss": (("seed",), losses),
            "accuracy": (("seed",), _accuracy(outputs, self.labels)),
            "test_accuracy": (("seed",), _accuracy(test, self.test_labels)),
            **weight_ranks(self.matrices()),
            **self._factor_ranks(),
            **feature_ranks({layer: values[:, :_PROBE] for layer, values in features.items()}),
            **jacobian_ranks(self._outputs, adapters, list(self.test[:, :_JACOBIAN_PROBE])),
            **self._balance(),
        }

    def judged(self) -> str:
        """The verdicts of the ledgers as JSON; of AdamW there are none."""
        if self.way.adam:
            return "[]"
        terms = TOKENS * self.labels.shape[1] if not self.way.batches else TOKENS * self.protocol.batch_size
        return json.dumps([verdict.to_dict() for verdict in self.ledger.verdicts(terms=terms)])

    def _outputs(self, parameters: dict[str, torch.Tensor], samples: torch.Tensor) -> torch.Tensor:
        """Of one seed, for the Jacobian."""
        return forward(self.weights, samples[None], {name: value[None] for name, value in parameters.items()})[0][0]

    def _factor_ranks(self) -> Measured:
        found: dict[str, tuple[tuple[str, ...], torch.Tensor]] = {}
        for which, matrices in self.factors().items():
            spectra = torch.stack([ranks.singular_values(each) for each in matrices], dim=1)
            found |= {
                f"singular_values_{which}": (("seed", "pair", "mode"), spectra[..., : self.protocol.rank]),
                f"effective_rank_{which}": (("seed", "pair"), ranks.effective_rank(spectra)),
                f"stable_rank_{which}": (("seed", "pair"), ranks.stable_rank(spectra)),
                f"alive_{which}": (("seed", "pair"), ranks.numerical_rank(spectra, rtol=ALIVE)),
            }
        return found

    def _balance(self) -> Measured:
        record = self.ledger.history().isel(step=-1)
        shape = (len(self.protocol.seeds), len(ADAPTED))
        names = ("balance", "balance_drift", "balance_error")
        return {name: (("seed", "pair"), record[name].values.reshape(shape)) for name in names}

    def _start(self, name: str, factor: str) -> torch.Tensor:
        """Shape (seed, rank, WIDTH). A is uniform within 1/√inputs, as PEFT draws it, and B where it is not zero."""
        shape = (self.protocol.rank, WIDTH)
        if factor == "lora_B" and not self.protocol.both:
            return torch.zeros(len(self.protocol.seeds), *shape)
        draws = [torch.rand(shape, generator=generator(seed, f"{name}.{factor}")) for seed in self.protocol.seeds]
        return (2.0 * torch.stack(draws) - 1.0) / WIDTH**0.5

    def _without(self, frozen: torch.Tensor, starts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The frozen numbers less what the adapters add at their start: the pre-trained network is where all begin."""
        if not self.protocol.both:
            return frozen
        parts = list(frozen.split(WIDTH, dim=-1))
        for name, place in ADAPTED.items():
            a, b = starts[f"{name}.lora_A"], starts[f"{name}.lora_B"]
            added = (parts[1].flatten(1, 2) @ a.mT) @ b
            parts[place] = parts[place] - added.view(parts[place].shape)
        return torch.cat(parts, dim=-1)

    def _batch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What this step is taken on, seed first; the labels as they are taught."""
        if not self.way.batches:
            return self.inputs, self.labels
        chosen = self.batches.at(number)
        labels = self.labels[self.places, chosen]
        if self.way.flips:
            labels = (labels + self.flips.at(number)) % CLASSES
        return self.inputs[self.places, chosen], labels

    def _ledger(self) -> Ledger:
        """Of the pairs of all seeds, seed by seed in the order of `ADAPTED`."""
        from rankfall.torch import Ledger, LinearPair, Piece

        rank, pairs = self.protocol.rank, []
        for i, seed in enumerate(self.protocol.seeds):
            for name in ADAPTED:
                a, b = (
                    Piece(key, self.parameters[key], axis=0, start=i * rank, stop=(i + 1) * rank)
                    for key in (f"{name}.lora_A", f"{name}.lora_B")
                )
                pairs.append(LinearPair(f"{name}, seed {seed}", "adapter", (a,), (b,)))
        return Ledger(self.model, self.optimizer, pairs, every=self.protocol.every, determinant=False)


def _accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(dim=-1) == labels).double().mean(dim=1)


def _flips(probability: float, batch_size: int, source: torch.Generator, steps: int) -> torch.Tensor:
    """What is added to the classes, modulo their number: 0, or with the probability 1 … CLASSES − 1."""
    flipped = torch.rand(steps, batch_size, generator=source) < probability
    return flipped * torch.randint(1, CLASSES, (steps, batch_size), generator=source)


def _attributes(protocol: Protocol, arm: str) -> dict[str, object]:
    return {
        "settings": {**asdict(protocol), "arm": arm, "seeds": list(protocol.seeds)},
        "pretrained_accuracy": pretrained().accuracy,
        "sizes": f"r = {protocol.rank} adapters of {WIDTH} × {WIDTH} matrices, {CLASSES} classes, {TOKENS} tokens",
        "definitions": DEFINITIONS
        | {
            "probe": f"features on {_PROBE}, Jacobian on {_JACOBIAN_PROBE} of the {_TEST} test images",
            "modes": f"alive: above {ALIVE:g} of the largest",
            "balance": "‖Q‖_F of Q = AAᵀ − BᵀB; balance_error: its distance from the ledger of plain SGD",
        },
    }
