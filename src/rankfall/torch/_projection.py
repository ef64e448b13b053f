"""Linear layers as the sources of pieces: their outputs, or their inputs, are the hidden features of a pair."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rankfall.torch._pair import Piece

__all__ = ["Projection", "is_plain_linear", "projection"]


@dataclass(frozen=True)
class Projection:
    """A linear map x ↦ x A + b, or a block of its outputs.

    Attributes:
        weight: Its weights.
        weight_name: Of the parameter.
        features: Number of outputs.
        output_axis: Axis of `weight` that counts the outputs: 0 for nn.Linear, 1 for the Conv1D of GPT-2.
        weight_start: Where in that axis the outputs start.
        bias: Its biases, None without.
        bias_name: Of the parameter.
        bias_start: Where in the biases the outputs start.
        vectors: More rows of A: names and vectors that enter at places of their own (`bias_k` of an attention).
    """

    weight: torch.nn.Parameter
    weight_name: str
    features: int
    output_axis: int = 0
    weight_start: int = 0
    bias: torch.nn.Parameter | None = None
    bias_name: str = ""
    bias_start: int = 0
    vectors: tuple[tuple[str, torch.nn.Parameter], ...] = ()

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.weight.shape[0] if self.output_axis else self.weight.flatten(1).shape[1]

    def part(self, start: int, features: int) -> Projection:
        """Return the map to `features` outputs from `start` on."""
        return replace(
            self,
            features=features,
            weight_start=self.weight_start + start,
            bias_start=self.bias_start + start,
        )

    def outputs(self, start: int = 0, stop: int | None = None) -> tuple[Piece, ...]:
        """Pieces with the outputs start … stop as hidden features: weights, biases, further vectors."""
        end = self.features if stop is None else stop
        pieces = [
            Piece(self.weight_name, self.weight, self.output_axis, self.weight_start + start, self.weight_start + end)
        ]
        if self.bias is not None:
            pieces.append(
                Piece(self.bias_name, self.bias, 0, self.bias_start + start, self.bias_start + end, vector=True)
            )
        pieces += [Piece(name, vector, 0, start, end, vector=True) for name, vector in self.vectors]
        return tuple(pieces)

    def inputs(self, start: int = 0, stop: int | None = None) -> tuple[Piece, ...]:
        """Pieces with the inputs start … stop as hidden features: weights alone, for the bias comes after."""
        return (Piece(self.weight_name, self.weight, 1 - self.output_axis, start, stop),)


def is_plain_linear(module: torch.nn.Module | None) -> bool:
    """Whether a module is nn.Linear as it stands: own forward method, weights that are a parameter."""
    if isinstance(module, torch.nn.Linear):
        plain = type(module).forward is torch.nn.Linear.forward
    else:
        plain = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return plain and "weight" in getattr(module, "_parameters", ())


def projection(name: str, module: torch.nn.Module) -> Projection:
    """Return the map of a plain linear layer, nn.Linear or the Conv1D of GPT-2 (weights inputs × outputs)."""
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    assert weight is not None  # `is_plain_linear`
    axis = 0 if isinstance(module, torch.nn.Linear) else 1
    return Projection(weight, f"{name}.weight", weight.shape[axis], axis, bias=bias, bias_name=f"{name}.bias")
