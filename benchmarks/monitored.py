"""Trainings for the benchmark of the monitor: a transformer, and the same with somebody looking at its ranks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rankfall import ranks
from rankfall.torch import RankMonitor

# What both monitors can see alike: plain linear layers and embeddings (attention is seen by head or as a whole).
COMMON = r"embed|place|head|.*\.linear[12]"
VOCABULARY = 512


class Transformer(nn.Module):
    def __init__(self, width: int = 384, depth: int = 6, heads: int = 6, length: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.place = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.blocks(x))


class Training:
    """Training on data that depend on the number of the step alone, so that all trainings see the same.

    Attributes:
        cpu: Processor seconds of each step so far, those of the one who looks on included.
        wall: The same by the clock.
    """

    def __init__(self, name: str, batch: int, length: int, **sizes: int) -> None:
        torch.manual_seed(0)
        self.name, self.shape = name, (batch, length)
        self.model = Transformer(length=length, **sizes)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)
        self.cpu: list[float] = []
        self.wall: list[float] = []
        # For a monitor that has to be called: with the number of the step, after the gradients, after the step.
        self.calls: tuple[Callable[[int], object], Callable[[], object], Callable[[], object]] | None = None
        self.measured: Callable[[], list[int]] = list

    def step(self) -> None:
        number = len(self.cpu) + 1
        tokens = torch.randint(0, VOCABULARY, self.shape, generator=torch.Generator().manual_seed(number))
        cpu, wall = time.process_time(), time.perf_counter()
        if self.calls:
            self.calls[0](number)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten()).backward()
        if self.calls:
            self.calls[1]()
        self.optimizer.step()
        if self.calls:
            self.calls[2]()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def fingerprint(self) -> str:
        """Of the bits of all weights."""
        found = hashlib.sha256()
        for value in self.model.state_dict().values():
            found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def watched_by_rankfall(training: Training, **settings: Any) -> RankMonitor:
    monitor = RankMonitor(training.model, training.optimizer, **settings)
    training.measured = lambda: [int(step) for step in monitor.history().step.values]
    return monitor


def effective_rank_by_svd(tensor: torch.Tensor) -> torch.Tensor:
    """What one writes for torch-module-monitor, whose metrics are functions of one tensor."""
    return ranks.effective_rank(torch.linalg.svdvals(tensor.detach().reshape(-1, tensor.shape[-1])))


def effective_rank_by_gram(tensor: torch.Tensor) -> torch.Tensor:
    """The same from the smaller Gram matrix in float64, as in rankfall but for what is known of the layer."""
    matrix = tensor.detach().reshape(-1, tensor.shape[-1]).double()
    gram = matrix.mT @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.mT
    return ranks.effective_rank(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt())


def watched_by_module_monitor(
    training: Training, every: int, metric: Callable[[torch.Tensor], torch.Tensor] = effective_rank_by_svd
) -> Any:
    """torch-module-monitor on the same matrices, as its README says, but with parameters after the step."""
    from torch_module_monitor import ModuleMonitor

    monitor = ModuleMonitor(monitor_step_fn=lambda step: step % every == 0)
    monitor.set_module(training.model)
    monitor.add_activation_metric("effective_rank", metric, metric_regex=f"({COMMON})$")
    for add in (monitor.add_parameter_metric, monitor.add_gradient_metric):
        add("effective_rank", metric, metric_regex=rf"({COMMON})\.weight$")

    def end() -> None:
        monitor.monitor_parameters()
        monitor.end_step()

    training.calls = (monitor.begin_step, monitor.monitor_gradients, end)
    training.measured = lambda: sorted(step for step, values in monitor.get_all_metrics().items() if values)
    return monitor


def has_module_monitor() -> bool:
    try:
        importlib.metadata.version("torch-module-monitor")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def largest_difference(monitor: RankMonitor, other: Any, step: int) -> dict[str, float]:
    """Relative difference of the effective ranks of both monitors, the largest over all layers, by thing."""
    at, values = monitor.history().sel(step=step), other.get_all_metrics()[step]
    found = {}
    for thing, theirs in (("weights", "parameter"), ("gradients", "gradient"), ("activations", "activation")):
        suffix = "" if thing == "activations" else ".weight"
        found[thing] = max(
            abs(float(at[f"{thing}_effective_rank"].sel(layer=layer)) / right - 1)
            for layer in at.layer.values.tolist()
            if (right := values[f"{theirs}/{layer}{suffix}/effective_rank"])
        )
    return found
