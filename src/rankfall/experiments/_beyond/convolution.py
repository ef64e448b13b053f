"""A small convolutional network that learns images: two layers of filters, one of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from rankfall.experiments._beyond._classifier import Schedule, arms, classify
from rankfall.experiments._beyond._classifier_notes import accuracy_notes, loss_notes
from rankfall.experiments._beyond._experiment import Experiment
from rankfall.experiments._beyond._training import generator
from rankfall.experiments._beyond._vectorised import Parameters
from rankfall.experiments._beyond.images import SIDE, Images, load, require
from rankfall.experiments._target import Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.experiments.beyond import Settings

__all__ = ["Convolutions", "experiments", "train"]

_KERNEL = 3


@dataclass(frozen=True)
class Convolutions:
    """8 × 8 pixels → ReLU of filters at every second place → the same again → scores.

    All filters are 3 × 3 with a border of zeros, so that 4 × 4 and then 2 × 2 places are left.

    Written for all seeds at once as products of matrices, because that is fastest for mini-batches, and because a
    convolution in groups, which `vmap` makes of `conv2d`, rounds otherwise for one seed than for several. Measured
    (torch 2.13, one thread of a busy Zen 4 core, 5 seeds, CPU time in ms of a gradient and a step):

        samples   loop over modules   vmap(grad(loss))   gradients()   conv2d in groups   this
              8                 2.5                1.6           1.2                0.7    0.5
            256                 6.9                7.7           7.3                6.2    8.5

    Attributes:
        filters: Of the first and of the second layer; more than the 9 and about as many as the 144 entries of a filter
            see to, so that there is rank to lose.
    """

    filters: tuple[int, int] = (16, 32)

    def start(self, seed: int, classes: int) -> dict[str, torch.Tensor]:
        """Weights of variance 2/fan-in (He et al. 2015), no shifts."""
        source = generator(seed, "start")
        first, second = self.filters
        taps = _KERNEL**2
        parameters = {}
        for name, outputs, inputs in (
            ("filters 1", first, taps),
            ("filters 2", second, taps * first),
            ("scores", classes, second * (SIDE // 4) ** 2),
        ):
            parameters[name] = torch.randn(outputs, inputs, generator=source) * (2 / inputs) ** 0.5
            parameters[f"{name} shift"] = torch.zeros(outputs)
        return parameters

    def layers(self, parameters: Parameters, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Both layers' outputs with all places of an image as units, and the scores."""
        maps = images[..., None]
        found = {}
        for number in (1, 2):
            patches = _patches(maps)
            seeds, count, rows, columns, size = patches.shape
            sums = _affine(parameters, f"filters {number}", patches.reshape(seeds, -1, size))
            maps = sums.relu().view(seeds, count, rows, columns, -1)
            found[f"layer {number}"] = maps.flatten(2)
        return {**found, "scores": _affine(parameters, "scores", found["layer 2"])}

    def matrices(self, parameters: Parameters) -> Mapping[str, torch.Tensor]:
        """The filters, one a row, and the last layer."""
        return {name: values for name, values in parameters.items() if values.ndim == 3}


def experiments(settings: Settings) -> list[Experiment]:
    """One experiment."""
    network, schedule, images = Convolutions(), Schedule.of(settings), load(settings.data_dir)
    require(images, schedule.samples)
    return [
        Experiment(
            name="convolution",
            title="Convolutions",
            lead=f"A convolutional network of {network.filters[0]} and {network.filters[1]} filters learns "
            f"{schedule.samples} images ({images.name}) with cross-entropy and η = {schedule.step_size:g}; label noise "
            f"flips {schedule.flips:.0%} of the labels of a batch.",
            arms=arms(partial(train, network, schedule, images, settings.seeds), settings),
            notes=lambda results: [*accuracy_notes(results), *loss_notes(results)],
            settings=_listed(network, schedule, images),
        )
    ]


def train(
    network: Convolutions, schedule: Schedule, images: Images, seeds: Sequence[int], arm: str, work: Work
) -> xr.Dataset:
    """Train all seeds by one arm."""
    return classify(network, schedule, images, seeds, arm, work, "convolutions")


def _patches(maps: torch.Tensor) -> torch.Tensor:
    """What the filters see at every second place: (seed, image, rows/2, columns/2, 9 · channels)."""
    rows, columns = maps.shape[2:4]
    framed = torch.nn.functional.pad(maps, (0, 0, 1, 1, 1, 1))
    places = [(i, j) for i in range(_KERNEL) for j in range(_KERNEL)]
    # not `Tensor.unfold`: the Jacobian needs its derivative in a batch, which torch warns about
    return torch.cat([framed[:, :, i : i + rows : 2, j : j + columns : 2] for i, j in places], dim=-1)


def _affine(parameters: Parameters, name: str, inputs: torch.Tensor) -> torch.Tensor:
    return torch.baddbmm(parameters[f"{name} shift"][:, None], inputs, parameters[name].mT)


def _listed(network: Convolutions, schedule: Schedule, images: Images) -> dict[str, Any]:
    return {"data": images.name, "checksum": images.checksum, **asdict(network), **asdict(schedule)}
