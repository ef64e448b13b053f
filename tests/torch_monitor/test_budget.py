"""The account of time, with a clock in the test's hand."""

from __future__ import annotations

import math
import time

import pytest
import torch

from rankfall.torch import RankMonitor
from rankfall.torch._budget import Budget
from torch_monitor.small import mlp, train


def run(budget, steps, cost, every, step_time=1.0):
    """Train in simulated time; returns the measured steps and the largest share seen."""
    now, due, measured, worst = 0.0, every, [], 0.0
    budget.start(now)
    for step in range(1, steps + 1):
        now += step_time
        if step >= due and budget.allows():
            price = cost(len(measured))
            now += price
            budget.charge(price)
            budget.measured()
            measured.append(step)
            due = step + every
        budget.step_ended(now)
        worst = max(worst, budget.report().share)
    assert budget.training == pytest.approx(steps * step_time)
    return measured, worst


def test_cheap_measurements_come_at_their_interval():
    measured, worst = run(Budget(0.02, expected=0.1), 500, cost=lambda n: 0.1, every=100)
    assert measured == [100, 200, 300, 400, 500] and worst < 0.0011


def test_dear_measurements_are_stretched_to_the_budget():
    """A measurement of 10 steps' time at 2 %: one every 500 steps. The share is never above the budget."""
    measured, worst = run(Budget(0.02, expected=10.0), 5000, cost=lambda n: 10.0, every=100)
    # The decision is taken before the step that is measured has ended: one step later than the quotient.
    assert measured == [501 + 500 * n for n in range(9)]
    assert worst <= 0.02


def test_varying_costs_stay_within_a_tenth():
    """Costs that change by a fifth from one measurement to the next; expected is the dearest of the last three."""
    _, worst = run(Budget(0.02, expected=12.0), 20000, cost=lambda n: 10.0 + 2.0 * math.sin(n), every=100)
    assert worst <= 0.02 * 1.1


def test_a_wrong_estimate_is_paid_back():
    budget = Budget(0.02, expected=0.0)
    measured, _ = run(budget, 5000, cost=lambda n: 10.0, every=100)
    assert measured[:2] == [100, 1001]
    assert budget.report().share <= 0.02


def test_no_limit():
    measured, _ = run(Budget(None, expected=0.0), 10, cost=lambda n: 100.0, every=1)
    assert measured == list(range(1, 11))


def test_pauses_save_nothing_up():
    budget = Budget(0.02, expected=1.0)
    budget.start(0.0)
    for step in range(1, 11):
        budget.step_ended(float(step))
    budget.step_ended(5000.0)
    assert budget.training == pytest.approx(11.0)
    assert not budget.allows()


def test_account_continues():
    budget = Budget(0.02, expected=3.0)
    run(budget, 1000, cost=lambda n: 3.0, every=100)
    again = Budget(0.02, expected=99.0)
    again.load_state_dict(budget.state_dict())
    assert again.report() == budget.report() and again.allows() == budget.allows()


def test_the_monitor_times_itself(monkeypatch):
    """Inside time that is known: the measurement sleeps."""
    from rankfall.torch import _steps as module

    right = module.Session.end
    monkeypatch.setattr(module.Session, "end", lambda *given: (time.sleep(0.02), right(*given)))
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=2, budget=None)
    start = time.perf_counter()
    train(model, optimizer, 8)
    whole = time.perf_counter() - start
    spent = monitor.spending
    assert spent.measurements == 4 and spent.interval == 2.0
    assert 0.08 <= spent.monitor_seconds <= whole
    assert spent.share == pytest.approx(spent.monitor_seconds / spent.training_seconds)
    # Training and monitor together are the time that has passed, between the first step and the last.
    assert spent.training_seconds + spent.monitor_seconds == pytest.approx(whole, rel=0.1)
    costs = monitor.history().monitor_seconds.values
    assert (costs >= 0.02).all() and costs.sum() <= spent.monitor_seconds


def test_an_empty_history_says_why(caplog):
    """A billionth of a short training is too little for a measurement: told once, and only when one was due."""
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, watch="weights", every=3, budget=1e-9)
    train(model, optimizer, 2)
    assert monitor.history().sizes["step"] == 0 and not monitor.problems  # nothing was due
    train(model, optimizer, 4)
    attributes = [monitor.history().attrs["problems"], monitor.history().attrs["problems"]]
    monitor.close()
    (told,) = monitor.problems
    assert "Nothing is measured yet" in told and "budget=None" in told and attributes == [told, told]
    assert [record.getMessage() for record in caplog.records] == [told]


def test_a_small_budget_measures_rarely(monkeypatch):
    """Steps of 2 ms, measurements of 20 ms at least: at 10 % the interval is 100 steps or more."""
    from rankfall.torch import _steps as module

    right = module.Session.end
    monkeypatch.setattr(module.Session, "end", lambda *given: (time.sleep(0.02), right(*given)))
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *given: time.sleep(0.002))
    monitor = RankMonitor(model, optimizer, watch="weights", every=1, budget=0.1)
    train(model, optimizer, 400)
    steps = monitor.history().step.values
    spent = monitor.spending
    # Only the first measurement, whose cost is a guess, may go beyond; what the hooks cost otherwise is in it.
    assert len(steps) >= 1 and spent.monitor_seconds <= 0.1 * spent.training_seconds + 0.05
    assert len(steps) <= 0.1 * spent.training_seconds / 0.02 + 1


class Clock:
    """In the place of the module `time`: it moves when the test says so."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


# How dear the n-th measurement is, in steps of training; the estimate before the first says 12.
COSTS = {
    "steady": lambda n: 10.0,
    "noisy": lambda n: 10.0 + 2.0 * math.sin(7.0 * n),
    "the first is the dearest": lambda n: 13.0 if n == 0 else 8.0,
    "dearer by and by": lambda n: 8.0 + 0.05 * n,
    "every tenth is twice as dear": lambda n: 20.0 if n % 10 == 9 else 10.0,
}


@pytest.mark.parametrize("kind", COSTS)
def test_the_monitor_keeps_within_a_tenth_of_its_budget(kind, monkeypatch):
    """The whole monitor, in 12000 steps of one second each that vary by a third, hooks of forward passes included.

    The share is looked at after every step, as somebody would who has only a clock: time in all less time of training.
    """
    from rankfall.torch import _guard, _steps
    from rankfall.torch import monitor as module
    from rankfall.torch._estimate import Rates, Slowdown

    clock, made = Clock(), []
    monkeypatch.setattr(_guard, "time", clock)
    monkeypatch.setattr(module, "measured_rates", lambda *given: Rates(0.0, 0.0, False))
    monkeypatch.setattr(Rates, "matrices", lambda *given: 12.0)
    monkeypatch.setattr(Rates, "moments", lambda *given: 0.0)
    monkeypatch.setattr(Slowdown, "factor", lambda self: 1.0)

    def works(share):
        def slow(right):
            def call(*given, **named):
                clock.now += share * COSTS[kind](len(made))
                return right(*given, **named)

            return call

        return slow

    # The time of a measurement is spent in three places: a forward hook, before the step and after it.
    model = mlp(6, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monkeypatch.setattr(_steps.Session, "begin", works(0.3)(_steps.Session.begin))
    monkeypatch.setattr(_steps.Session, "end", works(0.2)(_steps.Session.end))
    monitor = RankMonitor(
        model,
        optimizer,
        watch=("gradients", "activations"),
        measures="stable_rank",
        every=100,
        loggers=[lambda step, values: made.append(step)],
    )
    add = monitor._steps._forward._add
    monkeypatch.setattr(monitor._steps._forward, "_add", works(0.5)(add))
    batch, training, worst, start = torch.zeros(2, 6), 0.0, 0.0, clock.now
    for step in range(12000):
        length = 1.0 + 0.3 * math.sin(step)
        clock.now += length
        training += length
        model(batch)
        optimizer.step()
        worst = max(worst, (clock.now - start - training) / training)
    assert monitor.problems == [text for text in monitor.problems if "samples" in text]
    assert worst <= 1.1 * 0.02
    # It also uses what it may: at the end not more than two measurements are still to come.
    assert (0.02 * training - (clock.now - start - training)) <= 2 * 20.0
    assert monitor.spending.monitor_seconds == pytest.approx(clock.now - start - training)
    assert monitor.spending.training_seconds == pytest.approx(training)
    assert len(made) == monitor.spending.measurements >= 12
