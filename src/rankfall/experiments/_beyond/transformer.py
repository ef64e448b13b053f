"""A small transformer that reads images row by row, and the exact ledgers of its attention heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

import rankfall as rf
from rankfall import ranks
from rankfall.experiments._beyond._attention import ADAMW, MAPS, AdamW, AttentionBooks
from rankfall.experiments._beyond._attention_claims import head_notes, ledger_claims
from rankfall.experiments._beyond._classifier import Schedule, arms, classify
from rankfall.experiments._beyond._classifier_notes import accuracy_notes, loss_notes
from rankfall.experiments._beyond._experiment import Arm, Experiment
from rankfall.experiments._beyond._ranks import ALIVE
from rankfall.experiments._beyond._training import Measured, generator
from rankfall.experiments._beyond._vectorised import Parameters, descend
from rankfall.experiments._beyond.images import SIDE, Images, load, require
from rankfall.experiments._target import Results, Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.experiments.beyond import Settings

__all__ = ["ADAMW", "Transformer", "experiments", "train"]


@dataclass(frozen=True)
class Transformer:
    """Rows of an image as tokens → one block of attention and a GELU layer, both after a layer norm → mean → scores.

    Written for all seeds at once, because that is fastest. Measured (torch 2.13, one thread of a busy Zen 4 core, 5
    seeds, CPU time in ms of a gradient and a step):

        samples   loop over modules   vmap(grad(loss))   gradients()   this
              8                 3.8                3.5           2.8    1.4
            256                  21                 27            29     16

    (The modules attend by `scaled_dot_product_attention`, which has no batching rule on the CPU.)

    Attributes:
        features: d of every token.
        heads: How many.
        head_width: l of each. The value–output pair of a head is a two-layer linear network of d + 1 inputs (the shift
            is one) and d outputs, its query–key pair one of d + 1 and d + 1; with l ≥ 2d + 2 both have a determinant.
        hidden: Units of the GELU layer.
    """

    features: int = 12
    heads: int = 2
    head_width: int = 32
    hidden: int = 24

    def start(self, seed: int, classes: int) -> dict[str, torch.Tensor]:
        """Uniform with variance 1/(3 fan-in), shifts too, as `nn.Linear` does; positions of standard deviation 0.1."""
        source = generator(seed, "start")
        inner = self.heads * self.head_width
        sizes = {
            "embed": (self.features, SIDE),
            **{f"attention.{name}": (inner, self.features) for name in MAPS[:3]},
            "attention.out_proj": (self.features, inner),
            "enter": (self.hidden, self.features),
            "leave": (self.features, self.hidden),
            "scores": (classes, self.features),
        }
        parameters = {"positions": 0.1 * torch.randn(SIDE, self.features, generator=source)}
        for name, (outputs, inputs) in sizes.items():
            for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                uniform = 2.0 * torch.rand(shape, generator=source) - 1.0
                parameters[f"{name}.{part}"] = uniform / inputs**0.5
        for name in ("norm_attention", "norm_hidden", "norm_scores"):
            parameters[f"{name}.weight"] = torch.ones(self.features)
            parameters[f"{name}.bias"] = torch.zeros(self.features)
        return parameters

    def layers(self, parameters: Parameters, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What attention adds to every token, the GELU layer, the tokens' mean, and the scores."""
        seeds, count, tokens, _ = images.shape
        flat = _affine(parameters, "embed", images.flatten(1, 2)).view(seeds, count, tokens, -1)
        flat = (flat + parameters["positions"][:, None]).flatten(1, 2)
        attended = self._attention(parameters, _norm(parameters, "norm_attention", flat), tokens)
        flat = flat + attended
        hidden = torch.nn.functional.gelu(_affine(parameters, "enter", _norm(parameters, "norm_hidden", flat)))
        flat = _norm(parameters, "norm_scores", flat + _affine(parameters, "leave", hidden))
        mean = flat.view(seeds, count, tokens, -1).mean(2)
        return {
            "attention": attended,
            "hidden": hidden,
            "mean": mean,
            "scores": _affine(parameters, "scores", mean),
        }

    def _attention(self, parameters: Parameters, given: torch.Tensor, tokens: int) -> torch.Tensor:
        """Of shape (seed, image · token, feature), like `given`; head by head, so that nothing has to be reordered."""
        seeds, rows, _ = given.shape
        found = parameters["attention.out_proj.bias"][:, None]
        for head in range(self.heads):
            query, key, value = (
                torch.baddbmm(
                    self._of_head(parameters, name, head, "bias")[:, None],
                    given,
                    self._of_head(parameters, name, head).mT,
                ).view(-1, tokens, self.head_width)
                for name in MAPS[:3]
            )
            attention = torch.softmax(torch.bmm(query, key.mT) * self.head_width**-0.5, dim=-1)
            mixed = torch.bmm(attention, value).view(seeds, rows, self.head_width)
            found = torch.baddbmm(found, mixed, self._of_head(parameters, "out_proj", head).mT)
        return found

    def matrices(self, parameters: Parameters) -> Mapping[str, torch.Tensor]:
        """All weights, those of attention head by head."""
        found = {"embed": parameters["embed.weight"]}
        for head in range(self.heads):
            for name, label in zip(MAPS, ("query", "key", "value", "output"), strict=True):
                found[f"{label}[{head}]"] = self._of_head(parameters, name, head)
        return {**found, **{name: parameters[f"{name}.weight"] for name in ("enter", "leave", "scores")}}

    def _of_head(self, parameters: Parameters, name: str, head: int, part: str = "weight") -> torch.Tensor:
        """What belongs to one head: rows of the maps to queries, keys and values, columns of the map back."""
        values = parameters[f"attention.{name}.{part}"]
        cut = slice(head * self.head_width, (head + 1) * self.head_width)
        return values[..., cut] if name == "out_proj" else values[:, cut]

    def product(self, values: torch.Tensor) -> torch.Tensor:
        """W1W2 in float64 from Zᵀ of a pair."""
        split = self.features + 1
        exact = values.detach().double()
        return exact[..., :split].mT @ exact[..., split:]

    def pairs(self, parameters: Parameters) -> dict[str, torch.Tensor]:
        """Zᵀ = [W1ᵀ, W2] of every pair by the names of `rankfall.torch.linear_pairs`, each (seed, l, p + k)."""
        found = {}
        for kind, (first, second) in {
            "value-output": ("v_proj", "out_proj"),
            "query-key": ("q_proj", "k_proj"),
        }.items():
            for head in range(self.heads):
                sides = []
                for name in (first, second):
                    side = self._of_head(parameters, name, head)
                    if name == "out_proj":
                        sides.append(side.mT)
                    else:
                        sides += [side, self._of_head(parameters, name, head, "bias")[..., None]]
                found[f"attention.{kind}[{head}]"] = torch.cat(sides, dim=-1)
        return found


def experiments(settings: Settings) -> list[Experiment]:
    """One experiment; the full version has AdamW as a fourth arm."""
    network, schedule, images = Transformer(), Schedule.of(settings), load(settings.data_dir)
    require(images, schedule.samples)
    run = partial(train, network, schedule, images, settings.seeds)
    return [
        Experiment(
            name="transformer",
            title="Transformer",
            lead=f"A transformer with {network.heads} attention heads reads {schedule.samples} images ({images.name}) "
            f"row by row, with cross-entropy and η = {schedule.step_size:g}; label noise flips {schedule.flips:.0%} of "
            "the labels of a batch. The pairs of matrices in its heads obey the laws of two-layer linear networks.",
            arms=[*arms(run, settings), *([] if settings.quick else [Arm(ADAMW, "AdamW", False, partial(run, ADAMW))])],
            notes=_notes,
            extra_claims=ledger_claims,
            settings={"data": images.name, "checksum": images.checksum, **asdict(network), **asdict(schedule)},
        )
    ]


def train(
    network: Transformer, schedule: Schedule, images: Images, seeds: Sequence[int], arm: str, work: Work
) -> xr.Dataset:
    """Train all seeds by one arm, AdamW with torch's defaults; the ledgers are those of the first seed.

    Besides what `classify` measures, over (seed, step, pair): pair_log_det, log det(ZZᵀ); pair_alive and
    pair_effective_rank of Z; product_effective_rank of W1W2.
    """
    start = network.start(seeds[0], images.classes)
    books = AttentionBooks(network.heads, network.head_width, start, schedule, arm)
    move = AdamW() if arm == ADAMW else partial(descend, step_size=schedule.step_size)

    def watched(parameters: Parameters, slopes: Parameters) -> dict[str, torch.Tensor]:
        books.step(slopes)
        return move(parameters, slopes)

    def pairs(parameters: Parameters) -> Measured:
        stacked = network.pairs(parameters)
        spectra = [ranks.singular_values(values.detach().double()) for values in stacked.values()]
        products = [ranks.singular_values(network.product(values)) for values in stacked.values()]
        dims = ("seed", "pair")
        return {
            "pair_log_det": (dims, torch.stack([ranks.log_determinant(each) for each in spectra], dim=-1)),
            "pair_alive": (dims, torch.stack([ranks.numerical_rank(each, rtol=ALIVE) for each in spectra], dim=-1)),
            "pair_effective_rank": (dims, torch.stack([ranks.effective_rank(each) for each in spectra], dim=-1)),
            "product_effective_rank": (dims, torch.stack([ranks.effective_rank(each) for each in products], dim=-1)),
        }

    names = list(network.pairs({name: values[None] for name, values in start.items()}))
    try:
        run = classify(
            network, schedule, images, seeds, arm, work, "transformer", move=watched, more=pairs, coords={"pair": names}
        )
    except rf.SimulationInterrupted as stop:
        stop.run = books.enter(stop.run)
        raise
    return books.enter(run)


def _affine(parameters: Parameters, name: str, inputs: torch.Tensor) -> torch.Tensor:
    return torch.baddbmm(parameters[f"{name}.bias"][:, None], inputs, parameters[f"{name}.weight"].mT)


def _norm(parameters: Parameters, name: str, inputs: torch.Tensor) -> torch.Tensor:
    scaled = torch.nn.functional.layer_norm(inputs, inputs.shape[-1:])
    return torch.addcmul(parameters[f"{name}.bias"][:, None], scaled, parameters[f"{name}.weight"][:, None])


def _notes(results: Results) -> list[str]:
    return [*accuracy_notes(results), *loss_notes(results), *head_notes(results)]
