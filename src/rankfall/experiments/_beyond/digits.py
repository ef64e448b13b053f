"""A deep ReLU network on scikit-learn's digits with cross-entropy: small and large steps, right and wrong labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rankfall.experiments._beyond import _ranks
from rankfall.experiments._beyond._draws import Draws
from rankfall.experiments._beyond._experiment import GD, LABEL_NOISE, Experiment, three_arms
from rankfall.experiments._beyond._training import follow, generator, save_steps
from rankfall.experiments._beyond._vectorised import descend, stacked_gradients
from rankfall.experiments._target import Results, Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.experiments.beyond import Settings

__all__ = ["Setup", "experiments", "train"]

_CLASSES = 10


@dataclass(frozen=True)
class Setup:
    """The classification.

    Attributes:
        step_size: η.
        wrong_labels: Share of the training labels that are wrong throughout.
        flips: Probability with which the arm with label noise replaces a label of a batch by another class, afresh at
            every step.
        layers: Hidden layers.
        width: Units of each.
        samples: Training images of each seed; the others are test images.
        probe: Test images on which the features are measured.
        jacobian_probe: Test images for the Jacobian, each with ten rows.
        batch_size: b.
        steps: How many.
        save_points: How many, about.
    """

    step_size: float
    wrong_labels: float
    flips: float = 0.3
    layers: int = 3
    width: int = 32
    samples: int = 256
    probe: int = 256
    jacobian_probe: int = 16
    batch_size: int = 8
    steps: int = 12_000
    save_points: int = 21


_SMALL_STEP, _LARGE_STEP = 0.02, 0.2
# By name of the experiment: its row's heading and what sets it apart.
_KINDS = {
    "digits-small-step": ("Digits, small step", Setup(step_size=_SMALL_STEP, wrong_labels=0.0)),
    "digits-large-step": ("Digits, large step", Setup(step_size=_LARGE_STEP, wrong_labels=0.0)),
    "digits-wrong-small-step": ("Wrong labels, small step", Setup(step_size=_SMALL_STEP, wrong_labels=0.2)),
    "digits-wrong-large-step": ("Wrong labels, large step", Setup(step_size=_LARGE_STEP, wrong_labels=0.2)),
}
# Share of hidden units that never answer from which on the note mentions them.
_WORTH_SAYING = 0.05


def experiments(settings: Settings) -> list[Experiment]:
    """Small and large step; in the full version, with a fifth of the labels wrong as well."""
    found = []
    for name, (title, setup) in _KINDS.items():
        if settings.quick:
            if setup.wrong_labels:
                continue
            setup = replace(setup, steps=1_500, save_points=7, samples=128)
        found.append(_experiment(name, title, setup, settings.seeds))
    return found


def _experiment(name: str, title: str, setup: Setup, seeds: Sequence[int]) -> Experiment:
    wrong = f", {setup.wrong_labels:.0%} of whose labels are wrong," if setup.wrong_labels else ""
    return Experiment(
        name=name,
        title=title,
        lead=f"A ReLU network of {setup.layers} hidden layers of {setup.width} units learns {setup.samples} "
        f"digits{wrong} with cross-entropy and η = {setup.step_size:g}; label noise flips {setup.flips:.0%} of a "
        "batch's labels.",
        arms=three_arms(partial(train, setup, seeds)),
        notes=partial(_notes, setup),
        settings=asdict(setup),
    )


def train(setup: Setup, seeds: Sequence[int], arm: str, work: Work) -> xr.Dataset:
    """Train all seeds by one arm; ranks of every weight matrix, of every hidden layer and of the Jacobian."""
    inputs, labels, test_inputs, test_labels = _problem(setup, seeds)
    rows = torch.arange(len(seeds))[:, None]
    shape = setup.batch_size
    batches = Draws(seeds, "batches", lambda source, n: torch.randint(setup.samples, (n, shape), generator=source))
    flips = Draws(seeds, "flips", partial(_flips, setup.flips, shape))

    def layers(parameters: dict[str, torch.Tensor], given: torch.Tensor) -> list[torch.Tensor]:
        """Every layer's outputs, the scores last; with the seed as first axis or without."""
        found = [given]
        for number in range(1, setup.layers + 2):
            weights, shifts = parameters[f"W{number}"], parameters[f"b{number}"]
            if given.ndim == 3:
                sums = torch.baddbmm(shifts[:, None], found[-1], weights.mT)
            else:
                sums = torch.nn.functional.linear(found[-1], weights, shifts)
            found.append(sums.relu() if number <= setup.layers else sums)
        return found[1:]

    def losses(parameters: dict[str, torch.Tensor], given: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        scores = layers(parameters, given)[-1]
        each = torch.nn.functional.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none")
        return each.view(classes.shape).mean(1)

    def update(parameters: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        given, classes = inputs, labels
        if arm != GD:
            chosen = batches.at(step)
            given, classes = inputs[rows, chosen], labels[rows, chosen]
        if arm == LABEL_NOISE:
            classes = (classes + flips.at(step)) % _CLASSES
        slopes = stacked_gradients(lambda weights: losses(weights, given, classes), parameters)
        return descend(parameters, slopes, setup.step_size)

    def measure(parameters: dict[str, torch.Tensor]) -> dict[str, tuple[tuple[str, ...], Any]]:
        found = layers(parameters, test_inputs)
        hidden = {f"hidden {i}": values[:, : setup.probe] for i, values in enumerate(found[:-1], 1)}
        matrices = {name: values for name, values in parameters.items() if name.startswith("W")}
        silent = torch.stack([(values == 0).all(1).double().mean(1) for values in hidden.values()], dim=1)
        return {
            "loss": (("seed",), losses(parameters, inputs, labels)),
            "accuracy": (("seed",), _accuracy(layers(parameters, inputs)[-1], labels)),
            "test_accuracy": (("seed",), _accuracy(found[-1], test_labels)),
            "silent_units": (("seed", "layer"), silent),
            **_ranks.weight_ranks(matrices),
            **_ranks.feature_ranks(hidden),
            **_ranks.jacobian_ranks(
                lambda weights, given: layers(weights, given)[-1],
                parameters,
                list(test_inputs[:, : setup.jacobian_probe]),
            ),
        }

    return follow(
        _start(setup, seeds),
        update,
        measure,
        setup.steps,
        save_steps(setup.steps, setup.save_points),
        work,
        f"digits, η = {setup.step_size:g}, {arm}",
        seeds=seeds,
        coords={
            "matrix": [f"W{i}" for i in range(1, setup.layers + 2)],
            "layer": [f"hidden {i}" for i in range(1, setup.layers + 1)],
        },
        attrs={
            "arm": arm,
            "setup": json.dumps(asdict(setup)),
            "definitions": json.dumps(
                {**_ranks.DEFINITIONS, "silent_units": "share of the units that are 0 on all probe samples"}
            ),
        },
    )


def _flips(probability: float, batch_size: int, source: torch.Generator, steps: int) -> torch.Tensor:
    """What is added to the classes, modulo their number: 0, or with the probability 1 … 9."""
    flipped = torch.rand(steps, batch_size, generator=source) < probability
    return flipped * torch.randint(1, _CLASSES, (steps, batch_size), generator=source)


def _problem(setup: Setup, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, labels, test inputs, test labels; seed first; each seed draws its own samples and wrong labels."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    pixels = pixels - pixels.mean(axis=0)
    images = torch.tensor(pixels / pixels.std(), dtype=torch.float32)  # one scale: pixels at the rim stay small
    truth = torch.tensor(classes)
    made = []
    for seed in seeds:
        source = generator(seed, "data")
        order = torch.randperm(len(images), generator=source)
        chosen, rest = order[: setup.samples], order[setup.samples :]
        wrong = _flips(setup.wrong_labels, setup.samples, source, 1)[0]
        made.append((images[chosen], (truth[chosen] + wrong) % _CLASSES, images[rest], truth[rest]))
    inputs, labels, test_inputs, test_labels = (torch.stack(each) for each in zip(*made, strict=True))
    return inputs, labels, test_inputs, test_labels


def _start(setup: Setup, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
    """Weights of variance 2/fan-in (He et al. 2015), no shifts."""
    sizes = [64, *[setup.width] * setup.layers, _CLASSES]
    sources = [generator(seed, "start") for seed in seeds]
    parameters = {}
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes), 1):
        drawn = [torch.randn(fan_out, fan_in, generator=source) for source in sources]
        parameters[f"W{number}"] = torch.stack(drawn) * (2 / fan_in) ** 0.5
        parameters[f"b{number}"] = torch.zeros(len(seeds), fan_out)
    return parameters


def _accuracy(scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return (scores.argmax(-1) == classes).double().mean(1)


def _notes(setup: Setup, results: Results) -> list[str]:
    words = []
    for arm, run in results.items():
        accuracies = [run[name].values[:, -1] for name in ("accuracy", "test_accuracy")]
        if np.isfinite(accuracies[0]).any():
            seen, test = (float(np.nanmedian(values)) for values in accuracies)
            silent = float(np.nanmedian(run["silent_units"].mean("layer").values[:, -1]))
            quiet = f" ({silent:.0%} of the hidden units silent)" if silent >= _WORTH_SAYING else ""
            words.append(f"{arm} {seen:.1%} and {test:.1%}{quiet}")
    notes = [f"Accuracy on the samples and on other images at the end, medians: {'; '.join(words)}."] if words else []
    if setup.step_size < _LARGE_STEP:
        share = (setup.step_size / _LARGE_STEP) ** 2
        notes.append(
            f"What noise does goes with η² per step: {setup.steps} of these steps see {share:.2g} of what as many "
            "large ones see, and say nothing about longer training."
        )
    return notes
