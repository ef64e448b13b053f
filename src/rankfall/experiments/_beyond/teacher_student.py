"""Two-layer networks that learn from a smaller one of their kind: ReLU, tanh and GELU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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

__all__ = ["Setup", "activations", "experiments", "train"]

_TITLES = {"relu": "ReLU", "tanh": "tanh", "gelu": "GELU"}


@dataclass(frozen=True)
class Setup:
    """The regression, the same for the three activations.

    With label noise of variance δ, step size η and batch size b the noise per unit of time is σ² = ηδ/b, as in the
    linear networks; the full runs last until σ²t = 100, t being steps times step size, the quick ones until 10.

    Attributes:
        inputs: d, of standard normal inputs.
        units: m of the student.
        teacher_units: Of the teacher, with weights of norm 1 and signs ±1.
        samples: n, fewer than the (d + 1)m weights of the student, so that it can fit them.
        probe: Fresh inputs on which features, Jacobian and test loss are measured.
        step_size: η.
        batch_size: b.
        label_noise: δ; the labels themselves have variance 1.
        steps: How many.
        save_points: How many, about.
    """

    inputs: int = 10
    units: int = 30
    teacher_units: int = 3
    samples: int = 100
    probe: int = 100
    step_size: float = 0.1
    batch_size: int = 5
    label_noise: float = 1.0
    steps: int = 50_000
    save_points: int = 31

    @property
    def noise_time(self) -> float:
        """σ²t at the end."""
        return self.step_size**2 * self.label_noise / self.batch_size * self.steps


def activations() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The activations by name."""
    return {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}


def experiments(settings: Settings) -> list[Experiment]:
    """One experiment for each activation."""
    setup = Setup(steps=5_000, save_points=11) if settings.quick else Setup()
    return [_experiment(name, setup, settings.seeds) for name in activations()]


def _experiment(name: str, setup: Setup, seeds: Sequence[int]) -> Experiment:
    return Experiment(
        name=name,
        title=f"{_TITLES[name]}, two layers",
        lead=f"A two-layer {_TITLES[name]} network of {setup.units} units learns {setup.samples} labels of a teacher "
        f"of {setup.teacher_units} units, until σ²t = {setup.noise_time:g} with "
        "σ² = ηδ/b as in the linear networks.",
        arms=three_arms(partial(train, name, setup, seeds)),
        notes=_notes,
        settings=asdict(setup),
    )


def train(activation: str, setup: Setup, seeds: Sequence[int], arm: str, work: Work) -> xr.Dataset:
    """Train all seeds by one arm; ranks of W1 (W2 is one row), of the hidden units and of the Jacobian."""
    function = activations()[activation]
    problem = _problem(function, setup, seeds)
    inputs, labels, probe, probe_labels = problem
    rows = torch.arange(len(seeds))[:, None]
    batches = Draws(
        seeds, "batches", lambda source, n: torch.randint(setup.samples, (n, setup.batch_size), generator=source)
    )
    noise = Draws(
        seeds, "noise", lambda source, n: torch.randn(n, setup.batch_size, generator=source, dtype=torch.float64)
    )

    def outputs(parameters: dict[str, torch.Tensor], given: torch.Tensor) -> torch.Tensor:
        # The sum instead of a product with a vector: BLAS would sum in another order for another number of seeds.
        return (function(given @ parameters["W1"].mT) * parameters["W2"][..., None, :]).sum(-1)

    def losses(parameters: dict[str, torch.Tensor], given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return ((outputs(parameters, given) - wanted) ** 2).mean(-1) / 2

    def update(parameters: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        given, wanted = inputs, labels
        if arm != GD:
            chosen = batches.at(step)
            given, wanted = inputs[rows, chosen], labels[rows, chosen]
        if arm == LABEL_NOISE:
            wanted = wanted + setup.label_noise**0.5 * noise.at(step)
        slopes = stacked_gradients(lambda weights: losses(weights, given, wanted), parameters)
        return descend(parameters, slopes, setup.step_size)

    def measure(parameters: dict[str, torch.Tensor]) -> dict[str, tuple[tuple[str, ...], Any]]:
        hidden = function(probe @ parameters["W1"].mT)
        return {
            "loss": (("seed",), losses(parameters, inputs, labels)),
            "test_loss": (("seed",), losses(parameters, probe, probe_labels)),
            **_ranks.weight_ranks({"W1": parameters["W1"]}),
            **_ranks.feature_ranks({"hidden": hidden}),
            **_ranks.jacobian_ranks(outputs, parameters, list(probe)),
        }

    return follow(
        _start(setup, seeds),
        update,
        measure,
        setup.steps,
        save_steps(setup.steps, setup.save_points),
        work,
        f"{activation}, {arm}",
        seeds=seeds,
        coords={"matrix": ["W1"], "layer": ["hidden"]},
        attrs={
            "activation": activation,
            "arm": arm,
            "setup": json.dumps(asdict(setup)),
            "definitions": json.dumps(_ranks.DEFINITIONS),
        },
    )


def _problem(
    function: Callable[[torch.Tensor], torch.Tensor], setup: Setup, seeds: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, labels, probe inputs, probe labels; seed first."""
    made = []
    for seed in seeds:
        normal = partial(torch.randn, generator=generator(seed, "data"), dtype=torch.float64)
        given, probe = normal(setup.samples, setup.inputs), normal(setup.probe, setup.inputs)
        weights = normal(setup.teacher_units, setup.inputs)
        weights = weights / weights.norm(dim=1, keepdim=True)
        signs = normal(setup.teacher_units).sign()
        labels, probe_labels = (function(x @ weights.mT) @ signs for x in (given, probe))
        scale = labels.std()
        made.append((given, labels / scale, probe, probe_labels / scale))
    given, labels, probe, probe_labels = (torch.stack(each) for each in zip(*made, strict=True))
    return given, labels, probe, probe_labels


def _start(setup: Setup, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
    """Weights of variance 1/fan-in."""
    first, second = [], []
    for seed in seeds:
        normal = partial(torch.randn, generator=generator(seed, "start"), dtype=torch.float64)
        first.append(normal(setup.units, setup.inputs) / setup.inputs**0.5)
        second.append(normal(setup.units) / setup.units**0.5)
    return {"W1": torch.stack(first), "W2": torch.stack(second)}


def _notes(results: Results) -> list[str]:
    losses = {
        arm: [float(np.nanmedian(run[which].values[:, -1])) for which in ("loss", "test_loss")]
        for arm, run in results.items()
        if np.isfinite(run["loss"].values[:, -1]).any()
    }
    words = "; ".join(f"{arm} {loss:.2g} and {test:.2g}" for arm, (loss, test) in losses.items())
    return [f"Loss on the samples and on fresh inputs at the end, medians: {words}."] if words else []
