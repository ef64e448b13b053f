"""What the rank monitor costs: a transformer of ten million parameters on the CPU, with it and without, in turns.

python -m benchmarks.monitor                     two rounds of 200 steps with and 200 without (minutes)
python -m benchmarks.monitor --steps 100 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks import machine
from rankfall.torch import RankMonitor


class Transformer(nn.Module):
    def __init__(self, width=384, depth=6, heads=6, vocabulary=512, length=128):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.blocks(x))


class Training:
    def __init__(self, batch: int, length: int) -> None:
        torch.manual_seed(0)
        self.model = Transformer(length=length)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)
        self.shape = (batch, length)
        self.number = 0

    def step(self) -> float:
        """One step; returns the seconds it took."""
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(self.number)
        tokens = torch.randint(0, 512, self.shape, generator=generator)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten()).backward()
        self.optimizer.step()
        self.number += 1
        return time.perf_counter() - start


def one_measurement(training: Training) -> dict[str, object]:
    """Seconds of a single measurement of each thing by itself and of all, and of a step: the least of three."""
    found: dict[str, object] = {"step_seconds": min(training.step() for _ in range(5))}
    for watch in (("weights",), ("gradients",), ("updates",), ("activations",), None):
        named = {} if watch is None else {"watch": watch}
        with RankMonitor(training.model, training.optimizer, every=1, budget=None, **named) as monitor:
            for _ in range(3):
                training.step()
            found[watch[0] if watch else "all"] = float(monitor.history().monitor_seconds.min())
    return found


def measure(steps: int, rounds: int, batch: int, length: int, every: int, budget: float) -> dict[str, object]:
    training = Training(batch, length)
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    single = one_measurement(training)
    print(json.dumps(single), flush=True)
    state = None
    turns = []
    worst = 0.0
    for _ in range(rounds):
        without = [training.step() for _ in range(steps)]
        monitor = RankMonitor(training.model, training.optimizer, every=every, budget=budget)
        if state is not None:
            monitor.load_state_dict(state)
        watched = []
        for _ in range(steps):
            watched.append(training.step())
            if monitor.spending.measurements:
                worst = max(worst, monitor.spending.share)
        monitor.close()
        state = monitor.state_dict()
        turns.append(
            {
                "without_seconds": sum(without),
                "with_seconds": sum(watched),
                "ratio": sum(watched) / sum(without),
                "ratio_of_medians": statistics.median(watched) / statistics.median(without),
            }
        )
        print(json.dumps(turns[-1]), flush=True)
    spending = monitor.spending
    return {
        "parameters": parameters,
        "batch": [batch, length],
        "threads": torch.get_num_threads(),
        "every": every,
        "budget": budget,
        "one_measurement": single,
        "turns": turns,
        "own_account": {
            "training_seconds": spending.training_seconds,
            "monitor_seconds": spending.monitor_seconds,
            "share": spending.share,
            "largest_share_at_any_step": worst,
            "measured_steps": monitor.history().step.values.tolist(),
        },
        "within_a_tenth_of_the_budget": bool(worst <= 1.1 * budget),
        "machine": machine.describe(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--budget", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="write the results there as JSON")
    arguments = vars(parser.parse_args())
    torch.set_num_threads(arguments.pop("threads"))
    out = arguments.pop("out")
    results = measure(**arguments)
    print(json.dumps(results, indent=1))
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
