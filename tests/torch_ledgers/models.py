"""Small models, and the same networks written out with a perturbation of each product: the oracle of the ledgers.

The oracle shares no code with `rankfall.torch`: it slices the parameters itself, gets G = −∂L/∂(W1W2) from autograd as
the gradient of a matrix that is added to the product, and recomputes Q and det(ZZᵀ).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

INPUTS, HEADS, CLASSES, TOKENS = 4, 2, 3, 5


def one(x):
    """The inputs with a 1 appended, for the biases."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def stacked(weight, bias):
    """W1 of a linear layer: inputs × hidden, with the bias as the last row."""
    return torch.cat([weight.T, bias[None]], dim=0)


class WideHeads(nn.Module):
    """A causal attention with separate projections whose heads may be wider than the inputs (Hugging Face style)."""

    def __init__(self, head_dim):
        super().__init__()
        self.num_heads, self.head_dim = HEADS, head_dim
        hidden = HEADS * head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(INPUTS, hidden) for _ in range(3))
        self.out_proj = nn.Linear(hidden, INPUTS)

    def forward(self, x, products=None):
        n, t, _ = x.shape
        if products is not None:
            return self.written_out(x, products)
        q, k, v = (
            f(x).view(n, t, HEADS, self.head_dim).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def factors(self):
        """Name → (W1, W2), sliced by hand."""
        found = {}
        for h in range(HEADS):
            rows = slice(h * self.head_dim, (h + 1) * self.head_dim)
            found[f"value-output[{h}]"] = (
                stacked(self.v_proj.weight[rows], self.v_proj.bias[rows]),
                self.out_proj.weight[:, rows].T,
            )
            found[f"query-key[{h}]"] = (
                stacked(self.q_proj.weight[rows], self.q_proj.bias[rows]),
                stacked(self.k_proj.weight[rows], self.k_proj.bias[rows]).T,
            )
        return found

    def written_out(self, x, products):
        t = x.shape[1]
        mask = torch.full((t, t), -math.inf, dtype=x.dtype).triu(1)
        out = self.out_proj.bias
        for h in range(HEADS):
            scores = one(x) @ products[f"query-key[{h}]"] @ one(x).mT / math.sqrt(self.head_dim)
            out = out + torch.softmax(scores + mask, dim=-1) @ one(x) @ products[f"value-output[{h}]"]
        return out


class PackedHeads(WideHeads):
    """nn.MultiheadAttention with packed projections; its heads are narrow."""

    def __init__(self):
        nn.Module.__init__(self)
        self.head_dim = INPUTS // HEADS
        self.attention = nn.MultiheadAttention(INPUTS, HEADS, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_bias.normal_(0.0, 0.3)

    def forward(self, x, products=None):
        if products is not None:
            return self.written_out(x, {name.removeprefix("attention."): P for name, P in products.items()})
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]

    @property
    def out_proj(self):
        return self.attention.out_proj

    def factors(self):
        found, size, weight, bias = {}, INPUTS, self.attention.in_proj_weight, self.attention.in_proj_bias
        for h in range(HEADS):
            q, k, v = (slice(i * size + h * self.head_dim, i * size + (h + 1) * self.head_dim) for i in range(3))
            rows = slice(h * self.head_dim, (h + 1) * self.head_dim)
            found[f"attention.value-output[{h}]"] = stacked(weight[v], bias[v]), self.out_proj.weight[:, rows].T
            found[f"attention.query-key[{h}]"] = stacked(weight[q], bias[q]), stacked(weight[k], bias[k]).T
        return found


class FusedHeads(WideHeads):
    """timm style: qkv in one layer, proj after; without its q_norm and k_norm."""

    def __init__(self, head_dim):
        nn.Module.__init__(self)
        self.num_heads, self.head_dim = HEADS, head_dim
        self.qkv, self.proj = nn.Linear(INPUTS, 3 * HEADS * head_dim), nn.Linear(HEADS * head_dim, INPUTS)
        self.attn_drop = nn.Dropout(0.0)

    def forward(self, x, products=None):
        if products is not None:
            return self.written_out(x, products)
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, HEADS, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(n, t, -1))

    @property
    def out_proj(self):
        return self.proj

    def factors(self):
        found, d = {}, self.head_dim
        for h in range(HEADS):
            q, k, v = (slice((i * HEADS + h) * d, (i * HEADS + h + 1) * d) for i in range(3))
            weight, bias = self.qkv.weight, self.qkv.bias
            found[f"value-output[{h}]"] = (
                stacked(weight[v], bias[v]),
                self.proj.weight[:, h * d : (h + 1) * d].T,
            )
            found[f"query-key[{h}]"] = stacked(weight[q], bias[q]), stacked(weight[k], bias[k]).T
        return found


class Block(nn.Module):
    """Attention, LayerNorm, a GELU MLP and class scores."""

    def __init__(self, attention):
        super().__init__()
        self.attention, self.norm = attention, nn.LayerNorm(INPUTS)
        self.mlp = nn.Sequential(nn.Linear(INPUTS, 8), nn.GELU(), nn.Linear(8, CLASSES))

    def forward(self, x, products=None):
        inner = None if products is None else {k.removeprefix("attention."): v for k, v in products.items()}
        return self.mlp(self.norm(x + self.attention(x, inner)))

    def factors(self):
        return {f"attention.{name}": pair for name, pair in self.attention.factors().items()}


class Adapted(nn.Module):
    """A frozen layer with a plain low-rank adapter, between nonlinearities."""

    def __init__(self, rank=3):
        super().__init__()
        self.base = nn.Linear(INPUTS, 6).requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, INPUTS) / 2)
        self.lora_B = nn.Parameter(torch.zeros(6, rank))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x, products=None):
        product = self.lora_A.T @ self.lora_B.T if products is None else products["lora"]
        return self.head(torch.tanh(self.base(torch.tanh(x)) + 0.5 * torch.tanh(x) @ product))

    def factors(self):
        return {"lora": (self.lora_A.T, self.lora_B.T)}


class Chain(nn.Module):
    """Three linear layers after one another, the first pair wide enough for the determinant."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, 12), nn.Identity(), nn.Linear(12, 5), nn.Linear(5, CLASSES))

    def forward(self, x, products=None):
        if products is None:
            return self.layers(x)
        # each product is perturbed where the other is not: their gradients are taken at the same point
        a, b, c = self.layers[0], self.layers[2], self.layers[3]
        first = one(x) @ products["layers.0 → layers.2"] + b.bias
        second = one(a(x)) @ products["layers.2 → layers.3"]
        return torch.cat([first @ c.weight.T + c.bias, second + c.bias]), 2

    def factors(self):
        a, b, c = self.layers[0], self.layers[2], self.layers[3]
        return {
            "layers.0 → layers.2": (stacked(a.weight, a.bias), b.weight.T),
            "layers.2 → layers.3": (stacked(b.weight, b.bias), c.weight.T),
        }


def batches(steps, seed=0, size=16, dtype=torch.float64):
    """Random sequences, one batch per step; the class of a token depends on the mean of all tokens so far."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(INPUTS, CLASSES, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    for _ in range(steps):
        x = torch.randn(size, TOKENS, INPUTS, generator=generator, dtype=torch.float64)
        yield x.to(dtype), (x.cumsum(dim=1) @ teacher).argmax(dim=-1)


def loss_of(model, x, labels):
    return functional.cross_entropy(model(x).flatten(0, 1), labels.flatten())


def oracle_gradients(model, x, labels):
    """G = −∂L/∂(W1W2) of every pair, from a perturbation that is added to the product."""
    factors = {name: (a.detach(), b.detach()) for name, (a, b) in model.factors().items()}
    bumps = {
        name: torch.zeros(a.shape[0], b.shape[1], dtype=x.dtype, requires_grad=True) for name, (a, b) in factors.items()
    }
    products = {name: a @ b + bumps[name] for name, (a, b) in factors.items()}
    out = model(x, products)
    out, copies = out if isinstance(out, tuple) else (out, 1)
    many = labels.repeat(copies, 1)
    loss = functional.cross_entropy(out.flatten(0, 1), many.flatten()) * copies
    gradients = torch.autograd.grad(loss, list(bumps.values()))
    return loss.item() / copies, dict(zip(bumps, (-g for g in gradients), strict=True))


def oracle_balance(W1, W2):
    return W1.T @ W1 - W2 @ W2.T


def oracle_log_det(W1, W2):
    Z = torch.cat([W1, W2.T])
    return torch.linalg.slogdet(Z @ Z.T).logabsdet
