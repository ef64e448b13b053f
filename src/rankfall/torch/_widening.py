"""The activations of a linear layer with more outputs than inputs, from what goes in: many fewer numbers.

With Y = X̃Bᵀ, X̃ = [X, 1] (samples × q), B = [W, b] (outputs × q), M = X̃ᵀX̃ and BᵀB = LLᵀ, the squares of the singular
values of Y, except for zeros, are the eigenvalues of LᵀML, which is q × q. For the first layer of a transformer's MLP
it has a sixteenth of the entries of YᵀY, and its eigenvalues cost a sixty-fourth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rankfall.torch._gram import Gram, add_up, checked, energy, symmetric

__all__ = ["Pass", "Widening", "inner_width", "pass_of"]

# Samples of a pass whose outputs are computed again, to see that the layer did what a linear layer does.
_PROBES = 4


@dataclass(frozen=True)
class Pass:
    """What one forward pass multiplied: inputs (samples, n) and weights (outputs, n), bias (outputs,) or None."""

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def inner(self) -> int:
        """q: the number of inputs, and one more for a bias."""
        return self.weight.shape[1] + (self.bias is not None)


def inner_width(module: nn.Module) -> int | None:
    """Return q of a plain linear layer with more outputs than that, None for all other modules."""
    if type(module) is not nn.Linear or "forward" in vars(module) or "weight" not in module._parameters:
        return None
    inner = module.in_features + (module.bias is not None)
    return inner if inner < module.out_features else None


def pass_of(module: nn.Module, arguments: Any, output: Tensor) -> Pass | None:
    """Return what a layer has just multiplied, or None where its outputs may be something else than that product.

    That is the case in half precision (autocast, TF32), whose rounding is part of the activations, if other forward
    hooks may have replaced the output, and for weights that are not plain tensors.
    """
    if inner_width(module) is None or len(module._forward_hooks) != 1 or nn.modules.module._global_forward_hooks:
        return None
    inputs = arguments[0] if isinstance(arguments, tuple) and len(arguments) == 1 else None
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    if output.dtype not in (torch.float32, torch.float64) or not isinstance(inputs, Tensor) or weight is None:
        return None
    parts: list[Tensor] = [inputs, weight] if bias is None else [inputs, weight, bias]
    plain = (type(part) in (Tensor, nn.Parameter) and part.layout == torch.strided for part in parts)
    if not all(plain) or any(part.dtype != output.dtype for part in parts):
        return None
    found = Pass(
        inputs.detach().reshape(-1, inputs.shape[-1]), weight.detach(), None if bias is None else bias.detach()
    )
    flat = output.detach().reshape(-1, output.shape[-1])
    if len(found.inputs) != len(flat) or len(flat) == 0:
        return None
    return found if _is_product(found, flat) else None


def _is_product(found: Pass, outputs: Tensor) -> bool:
    """Compute some samples in float64.

    Rounding in the precision of the outputs moves an output by some u·‖x‖‖w‖, and if all terms have the same sign by
    √q times that; TF32 moves it by some 2⁻¹¹·‖x‖‖w‖/√q, bfloat16 by eight times more. The line is drawn between, which
    holds for any q up to 10⁴. (A refusal that is wrong costs time and nothing else.)
    """
    chosen = torch.linspace(0, len(outputs) - 1, _PROBES).long().to(outputs.device)
    weight, inputs = found.weight.double(), found.inputs[chosen].double()
    right, size = inputs @ weight.mT, inputs.norm(dim=1, keepdim=True) * weight.norm(dim=1)
    if found.bias is not None:
        right, size = right + found.bias.double(), size + found.bias.double().abs()
    allowed = (8 + found.inner**0.5 / 2) * torch.finfo(outputs.dtype).eps / 2 * size
    return bool(((outputs[chosen].double() - right).abs() <= allowed).all())


class Widening:
    """M, summed up over passes with the same weights."""

    def __init__(self, first: Pass) -> None:
        self.weight, self.bias = first.weight.clone(), None if first.bias is None else first.bias.clone()
        self.total = first.inputs.new_zeros((1, first.inner, first.inner), dtype=torch.float64)
        self.count = 0

    def continues(self, found: Pass) -> bool:
        """Whether a pass had the same weights."""
        same = torch.equal(self.weight, found.weight) and (self.bias is None) == (found.bias is None)
        return same and (self.bias is None or (found.bias is not None and torch.equal(self.bias, found.bias)))

    def add(self, inputs: Tensor) -> None:
        """Add the inputs of a pass."""
        samples = inputs.double()
        if self.bias is not None:
            samples = torch.cat([samples, samples.new_ones((len(samples), 1))], dim=1)
        self.total += add_up([samples.mT[None]])
        self.count += len(samples)

    def outputs(self) -> Tensor:
        """YᵀY = BMBᵀ, shape (outputs, outputs)."""
        factor = self._factor()
        return factor @ symmetric(self.total)[0] @ factor.mT

    def gram(self) -> Gram:
        """Return LᵀML.

        Its rounding, with n samples, d outputs and the unit roundoff u: BᵀB errs by d·u·‖B‖_F² and its Cholesky factor
        by (q + 1)·u·‖B‖_F² (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, theorem 10.3), and what
        is decomposed is BᵀB + sI, with an s for which that is possible even where B has a lower rank (theorem 10.7).
        Eigenvalues of M^½(BᵀB)M^½ move by at most ‖M‖ times that; M errs by n·u·‖X̃‖_F², which moves them by ‖B‖² times
        that; the two products err by 2q·u·‖B‖_F²‖M‖_F and the solver by 10q·u·‖Y‖_F².
        """
        factor, inner = self._factor(), self.total.shape[-1]
        square, moments = add_up([factor.mT[None]]), symmetric(self.total)
        unit, size = torch.finfo(torch.float64).eps / 2, energy(square)
        largest = square.diagonal(dim1=-2, dim2=-1).amax(-1)
        shift = 2 * unit * (len(factor) * size + inner * (inner + 1) * largest)
        one = torch.eye(inner, dtype=torch.float64, device=square.device)
        lower, failed = torch.linalg.cholesky_ex(square + shift[:, None, None] * one)
        product = lower.mT @ moments @ lower
        # Without weights there is nothing to decompose; where an entry is not finite, M or this says so.
        product = torch.where((size == 0)[:, None, None], torch.zeros_like(product), product)
        product = torch.where(
            ((failed != 0) & (size != 0))[:, None, None], torch.full_like(product, torch.nan), product
        )
        norm, whole = moments.norm(dim=(-2, -1)), symmetric(square).norm(dim=(-2, -1))
        error = unit * ((len(factor) + 3 * inner + 1) * size * norm + self.count * energy(moments) * whole)
        error = error + shift * norm + 10 * inner * unit * energy(product)
        return checked(product, torch.ones_like(error), error)

    def _factor(self) -> Tensor:
        weight = self.weight.double()
        return weight if self.bias is None else torch.cat([weight, self.bias.double()[:, None]], dim=1)
