"""What the rank monitor costs: a transformer of eleven million parameters on the CPU, with it and without, in turns.

python -m benchmarks.monitor              about eight minutes on a quiet core, into benchmarks/results/monitor.json
python -m benchmarks.monitor --quick      a minute and a half, into benchmarks/results/quick

Every contender has a model of its own, trained on the same data; they take turns in blocks of steps, and end at the
same weights bit for bit. Times are those of the processor (other programs disturb them little) and of the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.monitored import (
    COMMON,
    Training,
    effective_rank_by_gram,
    effective_rank_by_svd,
    has_module_monitor,
    largest_difference,
    watched_by_module_monitor,
    watched_by_rankfall,
)
from rankfall.torch import RankMonitor

GOAL, BUDGET = 0.02, 0.02
RESULTS = Path(__file__).parent / "results"
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    every: int = 100
    block: int = 50  # so long that the monitor takes the others' turns for a pause
    steps: int = 200  # of the plain training and the default monitor
    compared: int = 100  # of the comparison with another monitor
    single: int = 3
    batch: int = 8
    length: int = 128
    budget: float = BUDGET
    small_steps: int = 3000


QUICK = Plan(every=20, block=20, steps=20, compared=20, single=1, budget=5 * BUDGET, small_steps=2000)


def measure(*, quick: bool, threads: int = 1) -> Numbers:
    plan, before = QUICK if quick else Plan(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measure(plan, threads)
    finally:
        torch.set_num_threads(before)


def _measure(plan: Plan, threads: int) -> Numbers:
    described = machine.describe()
    plain = Training("no monitor", plan.batch, plan.length)
    default = Training("rankfall, default", plan.batch, plan.length)
    same = Training("rankfall, one measure", plan.batch, plan.length)
    monitor = watched_by_rankfall(default, every=plan.every, budget=plan.budget)
    ours = watched_by_rankfall(
        same,
        watch=("weights", "gradients", "activations"),
        measures="effective_rank",
        select=COMMON,
        every=plan.every,
        budget=None,
    )
    lengths = {plain: plan.steps, default: plan.steps, same: plan.compared}
    theirs = None
    if has_module_monitor():
        other = Training("torch-module-monitor", plan.batch, plan.length)
        theirs = watched_by_module_monitor(other, plan.every)
        lengths[other] = plan.compared
    else:
        print("    torch-module-monitor is not installed, so it is left out", flush=True)
    shares, prints = _take_turns(lengths, plan, monitor)
    found: Numbers = {
        "parameters": sum(parameter.numel() for parameter in plain.model.parameters()),
        "batch": [plan.batch, plan.length],
        "threads": threads,
        "every": plan.every,
        "budget": plan.budget,
        "goal": GOAL * 100 / plan.every,
        "step_seconds": {"cpu": statistics.median(plain.cpu), "wall": statistics.median(plain.wall)},
        "contenders": [_compare(training, plain, plan.every) for training in lengths if training is not plain],
        "weights_identical": len(set(prints.values())) == 1,
        "account": _account(monitor, shares, plan.budget),
        "same_values": largest_difference(ours, theirs, plan.every) if theirs is not None else None,
    }
    for each in (monitor, ours):
        each.close()
    found["one_measurement"] = _single(plain, plan)
    found["small"] = _small(plan)
    return found | {"machine": described, "load_after": machine.load()}


def _take_turns(lengths: dict[Training, int], plan: Plan, monitor: RankMonitor) -> tuple[list[float], dict[str, str]]:
    """Run all in blocks; returns the account's share after each step of the default monitor, and the weights' bits."""
    shares, prints = [], {}
    for first in range(0, max(lengths.values()), plan.block):
        for training, steps in lengths.items():
            for _ in range(min(plan.block, steps - first)):
                training.step()
                if training.name == "rankfall, default":
                    shares.append(monitor.spending.share)
            if len(training.cpu) == plan.compared:
                prints[training.name] = training.fingerprint()
        print(f"    {first + plan.block} steps of each", flush=True)
    return shares, prints


def _compare(training: Training, plain: Training, every: int) -> Numbers:
    """What a training takes more than the plain one on the same steps, one of `every` being measured."""
    measured = training.measured()
    found: Numbers = {"name": training.name, "steps": len(training.cpu), "measured_steps": measured}
    for kind in ("cpu", "wall"):
        times, base = getattr(training, kind), getattr(plain, kind)[: len(training.cpu)]
        usual = statistics.median(base)
        rest = [time for number, time in enumerate(times, 1) if number not in measured]
        # Step by step, with medians for what all steps have in common: a disturbed step counts for nothing.
        between = statistics.median(rest) - usual
        extra = [times[number - 1] - usual - between for number in measured]
        found[kind] = {
            "seconds": sum(times),
            "plain_seconds": sum(base),
            "overhead_of_sums": sum(times) / sum(base) - 1,
            # A difference below zero is noise, one above may be, and counts.
            "overhead": (statistics.mean(extra) / every + max(0.0, between)) / usual if extra else None,
            "seconds_per_measurement": statistics.mean(extra) if extra else None,
            "seconds_per_step_between": between,
        }
    overhead = found["cpu"]["overhead"]
    print(f"    {training.name}: {100 * (overhead or 0):.2f} % at steps {measured or 'none'}", flush=True)
    return found


def _account(monitor: RankMonitor, shares: list[float], budget: float) -> Numbers:
    spending = monitor.spending
    # Before the first measurement there is nothing but the hooks of the first steps.
    first = int(monitor.history().step.values[0]) if spending.measurements else len(shares)
    worst = max(shares[first - 1 :], default=spending.share)
    return {
        "budget": budget,
        "training_seconds": spending.training_seconds,
        "monitor_seconds": spending.monitor_seconds,
        "share": spending.share,
        "largest_share": worst,
        "measurements": spending.measurements,
        "steps": len(shares),
        "within_a_tenth": bool(worst <= 1.1 * budget),
    }


def _single(training: Training, plan: Plan) -> list[Numbers]:
    """A measurement of each thing by itself and of all; processor seconds beyond a plain step, the least of some."""
    usual = statistics.median(training.cpu)
    rows = []

    def add(name: str, steps: int) -> None:
        for _ in range(steps):
            training.step()
        rows.append({"name": name, "cpu_seconds": min(training.cpu[-steps:]) - usual})
        print(f"    one measurement of {name}: {rows[-1]['cpu_seconds']:.3f} s", flush=True)

    things = ("weights", "gradients", "updates", "activations")
    for watch in (*((thing,) for thing in things), things):
        with RankMonitor(training.model, training.optimizer, every=1, budget=None, watch=watch):
            add(f"rankfall: {', '.join(watch)}" if len(watch) == 1 else "rankfall: all of them", plan.single)
    common: Numbers = {"watch": things[:2] + things[3:], "measures": "effective_rank", "select": COMMON}
    with RankMonitor(training.model, training.optimizer, every=1, budget=None, **common):
        add("comparison: rankfall", plan.single)
    if has_module_monitor():
        metrics: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "singular value decomposition": effective_rank_by_svd,
            "Gram matrix in float64": effective_rank_by_gram,
        }
        for name, metric in metrics.items():
            monitor = watched_by_module_monitor(training, 1, metric)
            add(f"comparison: torch-module-monitor, metric by {name}", plan.single)
            monitor.activation_hooks.remove_all_hooks()
            training.calls = None
    return rows


def _small(plan: Plan) -> Numbers:
    """A small model that is to be measured every 10 steps, which is far too dear: the budget decides."""
    training = Training("small", 4, 32, width=64, depth=2, heads=4)
    monitor = watched_by_rankfall(training, every=10, budget=BUDGET)
    shares = []
    for _ in range(plan.small_steps):
        training.step()
        shares.append(monitor.spending.share)
    monitor.close()
    found = _account(monitor, shares, BUDGET) | {"every": 10, "step_seconds": statistics.median(training.wall)}
    print(f"    small model: share {found['share']:.4f}, largest {found['largest_share']:.4f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, measured every 20")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--out", type=Path, default=None, help="write the results there instead")
    given = parser.parse_args()
    path = given.out or (RESULTS / "quick" if given.quick else RESULTS) / "monitor.json"
    results = measure(quick=given.quick, threads=given.threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
