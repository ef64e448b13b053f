"""Small models, plain training loops and measures by NumPy that share no code with the monitor."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self, width=12, heads=3):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 20)
        self.fc2 = nn.Linear(20, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.drop(self.fc2(torch.relu(self.fc1(self.norm(x)))))


class Transformer(nn.Module):
    """Two blocks, an embedding and a head that shares its weights."""

    def __init__(self, vocabulary=30, width=12):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.conv2 = nn.Conv2d(6, 4, 3, groups=2)
        self.line = nn.Conv1d(4, 5, 2)
        self.up = nn.ConvTranspose1d(5, 3, 2)

    def forward(self, images):
        x = self.conv2(torch.relu(self.conv1(images))).flatten(2)
        return self.up(self.line(x))


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make()


def mlp(*widths, dtype=torch.float32, seed=0):
    def make():
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers[:-1]).to(dtype)

    return seeded(make, seed)


def tokens(seed, batch=4, length=5, vocabulary=30):
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def inputs(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def text_loss(model, seed):
    given = tokens(seed)
    return nn.functional.cross_entropy(model(given).flatten(0, 1), given.roll(1, 1).flatten())


def square_loss(model, seed, batch=16):
    first = next(model.parameters())
    width = next(module.in_features for module in model.modules() if isinstance(module, nn.Linear))
    x = inputs(seed, batch, width, dtype=first.dtype)
    return (model(x) - x.sum(1, keepdim=True).sin()).square().mean()


def train(model, optimizer, steps, loss=square_loss, first=0):
    """A plain loop; what the optimizer saw and made at each step, taken by other means than hooks."""
    seen = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss(model, step).backward()
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        optimizer.step()
        after = {name: value.detach().clone() for name, value in model.named_parameters()}
        updates = {name: after[name] - before[name] for name in after}
        seen.append({"weights": after, "gradients": gradients, "updates": updates})
    return seen


def weights_of(model):
    return copy.deepcopy(model.state_dict())


def numpy_measures(matrix):
    """By definition, from NumPy's decomposition in float64; the threshold of the rank is that of float32 entries."""
    matrix = np.asarray(matrix)
    precision = np.finfo(np.float64 if matrix.dtype == np.float64 else np.float32).eps
    matrix = matrix.astype(np.float64)
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return {
        "norm": np.sqrt((matrix**2).sum()),
        "stable_rank": (values**2).sum() / values[0] ** 2,
        "effective_rank": np.exp(-(shares * np.log(shares)).sum()),
        "participation_ratio": (values**2).sum() ** 2 / (values**4).sum(),
        "numerical_rank": (values > max(matrix.shape) * precision * values[0]).sum(),
        "spectrum": values,
    }
