"""A small pre-trained transformer with low-rank adapters on its queries and values, many times side by side.

One block on four tokens, the 4 × 4 patches of a digit: attention, then two layers with GELU, each behind a layer norm
and beside a residual stream of width `WIDTH`; a last layer norm, the mean over the tokens, a linear head. It is trained
on the digits 0–4 and then frozen. What comes before the adapters does not change any more and is computed once for each
image.

Every product is a batched one over the seeds (`torch.baddbmm`), so that a seed's numbers do not depend on how many
seeds run beside it. A step of five seeds on 16 images each takes 1.1 ms so, 3.3 ms in a loop over the seeds; on 64
images 2.7 and 4.1 ms (torch 2.13, one thread of a Zen 4 core, without ledgers).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from rankfall.experiments._beyond._training import generator, single_threaded

__all__ = ["ADAPTED", "CLASSES", "WIDTH", "Pretrained", "forward", "frozen_part", "pretrained"]

WIDTH, HEADS, HIDDEN, PATCH, TOKENS, CLASSES = 32, 4, 64, 4, 4, 5
# What has an adapter, and where its frozen output is among the frozen numbers of a token.
ADAPTED = {"query": 2, "value": 4}
_STEPS, _BATCH, _RATE = 300, 64, 3e-3

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Pretrained:
    """The frozen network, and the images that it has not seen.

    Attributes:
        weights: Its matrices by name.
        accuracy: On the digits 0–4 that it was trained on.
        tokens: Patches of the digits 5–9, shape (image, TOKENS, PATCH²), in an order drawn once.
        labels: Their digits − 5.
    """

    weights: Weights
    accuracy: float
    tokens: torch.Tensor
    labels: torch.Tensor


@functools.cache
def pretrained() -> Pretrained:
    """Train on the digits 0–4; half a second, once in a process, always to the same weights."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.as_tensor(digits.target)
    tokens = _patches(torch.as_tensor(digits.images, dtype=torch.float32) / 16.0)
    old = labels < CLASSES
    with single_threaded():
        weights = _start()
        for matrix in weights.values():
            matrix.requires_grad_()
        optimizer = torch.optim.AdamW(weights.values(), lr=_RATE)
        seen, known = tokens[old], labels[old]
        draws = generator(0, "pre-training batches")
        for _ in range(_STEPS):
            batch = torch.randint(len(seen), (_BATCH,), generator=draws)
            loss = functional.cross_entropy(_whole(weights, seen[batch]), known[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights = {name: matrix.detach() for name, matrix in weights.items()}
        accuracy = float((_whole(weights, seen).argmax(dim=1) == known).double().mean())
    order = torch.randperm(int((~old).sum()), generator=generator(0, "order of the new images"))
    return Pretrained(weights, accuracy, tokens[~old][order], (labels[~old] - CLASSES)[order])


def frozen_part(weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """What does not depend on the adapters: residual stream, its normalised copy, queries, keys, values.

    Args:
        weights: Of the frozen network.
        tokens: Shape (image, TOKENS, PATCH²).

    Returns:
        Shape (image, TOKENS, 5·WIDTH).
    """
    stream = tokens @ weights["embedding"].T + weights["position"]
    normal = functional.layer_norm(stream, (WIDTH,))
    return torch.cat([stream, normal, *(normal @ weights[name].T for name in ("query", "key", "value"))], dim=-1)


def forward(
    weights: Weights, frozen: torch.Tensor, adapters: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Outputs and features of all seeds.

    Args:
        weights: Of the frozen network, shared by the seeds.
        frozen: Of `frozen_part`, shape (seed, image, TOKENS, 5·WIDTH).
        adapters: "query.lora_A", shape (seed, rank, WIDTH), and "query.lora_B" transposed, of the same shape, which add
            x ↦ B A x to the queries; the same for "value". Empty for the frozen network.

    Returns:
        Outputs, shape (seed, image, CLASSES), and by layer the features of an image, shape (seed, image, unit).
    """
    seeds, images = frozen.shape[:2]
    stream, normal, *projections = frozen.reshape(seeds, images * TOKENS, -1).split(WIDTH, dim=-1)
    for name, place in ADAPTED.items():
        if f"{name}.lora_A" in adapters:
            inner = normal @ adapters[f"{name}.lora_A"].mT
            projections[place - 2] = torch.baddbmm(projections[place - 2], inner, adapters[f"{name}.lora_B"])
    query, key, value = (_heads(projection, images) for projection in projections)
    attention = torch.softmax(query @ key.mT * (WIDTH // HEADS) ** -0.5, dim=-1) @ value
    mixed = attention.transpose(2, 3).reshape(seeds, images * TOKENS, WIDTH)
    stream = stream + _linear(mixed, weights["output"])
    hidden = functional.gelu(_linear(functional.layer_norm(stream, (WIDTH,)), weights["up"], weights["up.bias"]))
    stream = stream + _linear(hidden, weights["down"], weights["down.bias"])
    tokens = functional.layer_norm(stream, (WIDTH,)).reshape(seeds, images, TOKENS, WIDTH)
    pooled = tokens.mean(dim=2)
    features = {"attention": mixed.reshape(seeds, images, TOKENS, WIDTH).mean(dim=2), "pooled": pooled}
    return _linear(pooled, weights["head"], weights["head.bias"]), features


def _heads(projection: torch.Tensor, images: int) -> torch.Tensor:
    """Shape (seed, image·token, WIDTH) to (seed, image, head, token, WIDTH/HEADS)."""
    return projection.reshape(len(projection), images, TOKENS, HEADS, -1).transpose(2, 3)


def _linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x ↦ W x + b with one W for all seeds, inputs of shape (seed, row, in)."""
    seeds = len(inputs)
    turned = weight.mT.expand(seeds, -1, -1)
    return torch.bmm(inputs, turned) if bias is None else torch.baddbmm(bias.expand(seeds, 1, -1), inputs, turned)


def _whole(weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    return forward(weights, frozen_part(weights, tokens)[None], {})[0][0]


def _patches(images: torch.Tensor) -> torch.Tensor:
    """Shape (image, 8, 8) to (image, TOKENS, PATCH²)."""
    side = images.shape[1] // PATCH
    return images.reshape(-1, side, PATCH, side, PATCH).transpose(2, 3).reshape(len(images), TOKENS, PATCH * PATCH)


def _start() -> Weights:
    """Gaussian, of variance 1/inputs; biases zero."""
    draws = generator(0, "pre-training start")

    def gaussian(outputs: int, inputs: int) -> torch.Tensor:
        return torch.randn(outputs, inputs, generator=draws) / inputs**0.5

    return {
        "embedding": gaussian(WIDTH, PATCH * PATCH),
        "position": 0.3 * torch.randn(TOKENS, WIDTH, generator=draws),
        **{name: gaussian(WIDTH, WIDTH) for name in ("query", "key", "value", "output")},
        "up": gaussian(HIDDEN, WIDTH),
        "up.bias": torch.zeros(HIDDEN),
        "down": gaussian(WIDTH, HIDDEN),
        "down.bias": torch.zeros(WIDTH),
        "head": gaussian(CLASSES, WIDTH),
        "head.bias": torch.zeros(CLASSES),
    }
