"""The training that convolutional network and transformer have in common: images, cross-entropy, three noises."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from rankfall.experiments._beyond import _ranks
from rankfall.experiments._beyond._draws import Draws
from rankfall.experiments._beyond._experiment import GD, LABEL_NOISE, Arm, three_arms
from rankfall.experiments._beyond._training import Measured, follow, save_steps
from rankfall.experiments._beyond._vectorised import Parameters, descend, stacked_gradients
from rankfall.experiments._beyond.images import Images, Split, draw
from rankfall.experiments._target import Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.experiments.beyond import Settings

__all__ = ["SMOOTHED", "Network", "Schedule", "arms", "classify", "losses"]

# Gradient descent on the loss that flipped labels have on average: tells that loss from the noise, as in the adapters.
SMOOTHED = "gd-smoothed"

_SILENT = "share of the units that are 0 on all probe samples"

# One step: from the stacked weights and their gradients to the next weights.
Move = Callable[[Parameters, Parameters], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How the networks are trained; the same for all arms and both kinds of network.

    Attributes:
        step_size: η, the large step of the experiment on the digits.
        flips: Probability with which the arm with label noise replaces a label of a batch by another class, afresh at
            every step.
        samples: Images that each seed trains on.
        tests: Other images.
        probe: Of the test images, on which features are measured.
        jacobian_probe: Of the test images, for the Jacobian, each with one row for every class.
        batch_size: b.
        steps: How many.
        save_points: How many, about.
    """

    step_size: float = 0.2
    flips: float = 0.3
    samples: int = 256
    tests: int = 512
    probe: int = 256
    jacobian_probe: int = 16
    batch_size: int = 8
    steps: int = 4_000
    save_points: int = 21

    @classmethod
    def of(cls, settings: Settings) -> Schedule:
        """The full one, or a quick one on fewer images."""
        return cls(samples=64, tests=256, jacobian_probe=8, steps=800, save_points=5) if settings.quick else cls()


class Network(Protocol):
    """A network written for all seeds at once: every tensor has the seed as first axis."""

    def start(self, seed: int, classes: int) -> dict[str, torch.Tensor]:
        """The weights that one seed starts with, without the first axis."""

    def layers(self, parameters: Parameters, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the named layers make of images of shape (seed, image, rows, columns).

        Each of shape (seed, sample, unit), where a place of an image may be a sample; "scores", the last, has one row
        for every image.
        """

    def matrices(self, parameters: Parameters) -> Mapping[str, torch.Tensor]:
        """The weight matrices whose ranks are measured, each of shape (seed, m, n)."""


def classify(
    network: Network,
    schedule: Schedule,
    images: Images,
    seeds: Sequence[int],
    arm: str,
    work: Work,
    title: str,
    *,
    move: Move | None = None,
    more: Callable[[Parameters], Measured] = lambda parameters: {},
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> xr.Dataset:
    """Train all seeds by one arm, and measure losses, accuracies and the ranks of weights, features and Jacobian.

    Args:
        network: What is trained.
        schedule: How.
        images: On what; each seed draws its own.
        seeds: The seeds.
        arm: "gd" takes all samples, "gd-smoothed" as well, with every label what a flipped one is on average;
            "label-noise" flips labels of its mini-batches, others take mini-batches.
        work: Progress.
        title: For the progress.
        move: A step, if not that of plain gradient descent.
        more: Measures something else at the save points.
        coords: What `more` needs.
    """
    split = draw(images, seeds, schedule.samples, schedule.tests)
    batches = _batches(schedule, split, seeds, arm)
    step = move or partial(descend, step_size=schedule.step_size)
    # 1 − flips for the class itself: torch mixes the label with the mean over all classes
    smoothing = schedule.flips * split.classes / (split.classes - 1) if arm == SMOOTHED else 0.0
    start = _stack([network.start(seed, split.classes) for seed in seeds])
    probe = split.test_inputs[:, : schedule.probe]
    jacobian_probe = list(split.test_inputs[:, : schedule.jacobian_probe])

    def update(parameters: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        inputs, labels = batches(number)
        slopes = stacked_gradients(lambda given: losses(network, given, inputs, labels, smoothing), parameters)
        return step(parameters, slopes)

    def measure(parameters: dict[str, torch.Tensor]) -> Measured:
        scores = network.layers(parameters, split.inputs)["scores"]
        tested = network.layers(parameters, split.test_inputs)["scores"]
        hidden = _hidden(network.layers(parameters, probe))
        return {
            "loss": (("seed",), _cross_entropy(scores, split.labels)),
            "accuracy": (("seed",), _accuracy(scores, split.labels)),
            "test_accuracy": (("seed",), _accuracy(tested, split.test_labels)),
            **_ranks.weight_ranks(network.matrices(parameters)),
            "silent_units": (("seed", "layer"), torch.stack([_silent(each) for each in hidden.values()], dim=1)),
            **_ranks.feature_ranks(hidden),
            **_ranks.jacobian_ranks(partial(_one_seed_scores, network), parameters, jacobian_probe),
            **more(parameters),
        }

    return follow(
        start,
        update,
        measure,
        schedule.steps,
        save_steps(schedule.steps, schedule.save_points),
        work,
        f"{title}, {arm}",
        seeds=seeds,
        coords={
            "matrix": list(network.matrices(start)),
            "layer": list(_hidden(network.layers(start, probe[:, :2]))),
            **(coords or {}),
        },
        attrs={
            "arm": arm,
            "data": images.name,
            "setup": json.dumps(asdict(schedule)),
            "definitions": json.dumps(_ranks.DEFINITIONS | {"silent_units": _SILENT}),
        },
    )


def arms(train: Callable[[str, Work], xr.Dataset], settings: Settings) -> list[Arm]:
    """The three of all experiments, and in the full version the one with smoothed labels."""
    smoothed = Arm(SMOOTHED, "gradient descent, smoothed labels", False, partial(train, SMOOTHED))
    return [*three_arms(train), *([] if settings.quick else [smoothed])]


def losses(
    network: Network, parameters: Parameters, images: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy of every seed, shape (seed,)."""
    return _cross_entropy(network.layers(parameters, images)["scores"], labels, smoothing)


def _batches(
    schedule: Schedule, split: Split, seeds: Sequence[int], arm: str
) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """What an arm trains on at a step: images and labels, seed first."""
    if arm in (GD, SMOOTHED):
        return lambda step: (split.inputs, split.labels)
    size, rows = schedule.batch_size, torch.arange(len(seeds))[:, None]
    chosen = Draws(seeds, "batches", lambda source, n: torch.randint(schedule.samples, (n, size), generator=source))
    flips = Draws(seeds, "flips", partial(_flips, schedule.flips, size, split.classes))

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        which = chosen.at(step)
        labels = split.labels[rows, which]
        if arm == LABEL_NOISE:
            labels = (labels + flips.at(step)) % split.classes
        return split.inputs[rows, which], labels

    return batch


def _flips(probability: float, batch_size: int, classes: int, source: torch.Generator, steps: int) -> torch.Tensor:
    """What is added to the classes, modulo their number: 0, or with the probability 1 … classes − 1."""
    flipped = torch.rand(steps, batch_size, generator=source) < probability
    return flipped * torch.randint(1, classes, (steps, batch_size), generator=source)


def _stack(starts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([start[name] for start in starts]) for name in starts[0]}


def _one_seed_scores(network: Network, parameters: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    return network.layers({name: values[None] for name, values in parameters.items()}, images[None])["scores"][0]


def _hidden(layers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values for name, values in layers.items() if name != "scores"}


def _silent(values: torch.Tensor) -> torch.Tensor:
    return (values == 0).all(1).double().mean(1)


def _cross_entropy(scores: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    each = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
    )
    return each.view(labels.shape).mean(1)


def _accuracy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (scores.argmax(-1) == labels).double().mean(1)
