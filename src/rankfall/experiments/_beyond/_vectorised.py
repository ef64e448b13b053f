"""The same network many times over, one for each seed, advanced by one call.

Measured (torch 2.13, one thread of a Zen 4 core, 5 seeds; µs per gradient):

    network, samples          loop   vmap(grad(loss))   gradients()   torch.baddbmm for all seeds at once
    10-40-1, 16                981               1240           745                                   141
    64-64-64-64-10, 32        2176               2162          1527                                   743
    64-64-64-64-10, 512       7724               9640          9374                                  7684

With many samples the products themselves take the time. So: write the forward pass for all seeds where the network is
small and plain (`stacked_gradients`), use `gradients` for any other module, and measure a loop as well where the batch
is large or the network convolves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.func import stack_module_state, vmap

__all__ = ["Parameters", "descend", "gradients", "one_seed", "stack_models", "stacked_gradients"]

# By name; the first axis is the seed.
Parameters = Mapping[str, torch.Tensor]


def stack_models(models: Sequence[torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The parameters of models of one kind, stacked along a new first axis; buffers are left out."""
    parameters, _ = stack_module_state(list(models))
    return {name: values.detach().clone() for name, values in parameters.items()}


def one_seed(parameters: Parameters, index: int) -> dict[str, torch.Tensor]:
    """The parameters of one seed, without the first axis."""
    return {name: values[index].detach() for name, values in parameters.items()}


def gradients(loss: Callable[..., torch.Tensor], parameters: Parameters, *batch: Any) -> dict[str, torch.Tensor]:
    """The gradient of every seed's own loss.

    Args:
        loss: A number from the parameters of one seed and its part of the batch, e.g. by `torch.func.functional_call`.
        parameters: Stacked.
        batch: Tensors whose first axis is the seed.
    """
    return stacked_gradients(lambda given: vmap(loss)(given, *batch), parameters)


def stacked_gradients(
    losses: Callable[[dict[str, torch.Tensor]], torch.Tensor], parameters: Parameters
) -> dict[str, torch.Tensor]:
    """The gradient of every seed's own loss, from a function that computes all of them.

    A seed's loss does not depend on the other seeds' parameters, so that the gradient of the sum holds that of each.
    One that is not finite does not touch the others.

    Args:
        losses: Shape (seed,) from the stacked parameters.
        parameters: Stacked.

    Example:
        >>> import torch
        >>> from rankfall.experiments._beyond._vectorised import stacked_gradients
        >>> weights = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
        >>> stacked_gradients(lambda given: (given["w"] ** 2).sum(1), weights)["w"]
        tensor([[2., 4.],
                [6., 8.]])
    """
    given = {name: values.detach().requires_grad_() for name, values in parameters.items()}
    found = torch.autograd.grad(losses(given).sum(), list(given.values()))
    return dict(zip(given, found, strict=True))


def descend(parameters: Parameters, slopes: Parameters, step_size: float) -> dict[str, torch.Tensor]:
    """One step of plain gradient descent, θ − η g."""
    with torch.no_grad():
        return {name: torch.sub(values, slopes[name], alpha=step_size) for name, values in parameters.items()}
