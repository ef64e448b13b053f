"""The weight that a parametrized layer uses, computed without a trace."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["effective_value"]


def effective_value(module: nn.Module, name: str) -> Tensor:
    """Return the parametrized tensor `name` of a module.

    Reading the attribute could change training: a parametrization may move buffers (spectral_norm iterates each time it
    is read in training mode) or draw random numbers. So a copy is evaluated, in evaluation mode, and the random state
    is put back.
    """
    parametrizations: Any = module.parametrizations
    parametrization = copy.deepcopy(parametrizations[name])
    parametrization.eval()
    devices = {parameter.device for parameter in parametrization.parameters() if parameter.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
        value: Tensor = parametrization()
        return value.detach()
