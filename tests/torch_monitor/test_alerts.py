"""Alerts: the rules on made-up series, and in a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankfall.errors import InvalidInput
from rankfall.torch import RankMonitor
from rankfall.torch._alerts import make_rule
from torch_monitor.small import mlp, train


def fires(name, series, **settings):
    """Places of a series at which the rule gives an alert."""
    rule = make_rule(name, settings)
    series = np.array(series, dtype=float)
    return [place for place in range(len(series)) if rule.check(0, "weights", "layer", series[: place + 1]) is not None]


def test_rank_drop():
    assert fires("rank_drop", [10, 10, 10, 10, 4.9, 4.9, 4.9, 4.9]) == [4, 5, 6]  # until the median has followed
    assert fires("rank_drop", [10, 10, 10, 10, 5.1]) == []
    assert fires("rank_drop", [10, 10, 1]) == []  # two values are no habit
    assert fires("rank_drop", [10, 9, 8, 7, 6, 5, 4, 3]) == []  # slow: 3 is not below half of 6
    assert fires("rank_drop", [10, 10, np.nan, 10, 10, np.nan, 1]) == [6]
    assert fires("rank_drop", [10, 10, 10, 7.9], drop=0.2) == [3]
    assert fires("rank_drop", [20, 1, 10, 10, 10, 4], window=3) == [5]


def test_dead_layer_and_spike_are_told_when_they_begin():
    assert fires("dead_layer", [1, 0, 0, 2, 0, np.nan, 0]) == [1, 4]
    assert fires("dead_layer", [0]) == [0]
    assert fires("spike", [2, 1.05, 1.04, 1.2, 1.1]) == [1, 4]
    assert fires("spike", [2, 1.05, 1.04, 1.2, 1.9], share=0.5) == [1]
    assert fires("spike", [0.0]) == []  # a zero matrix has rank 0 and no spike


def test_alerts_in_a_training(caplog):
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = RankMonitor(model, optimizer, every=1, budget=None)
    told = []
    monitor.on("rank_drop", told.append, watch="weights")
    monitor.on("spike", told.append)
    monitor.on("dead_layer")
    train(model, optimizer, 4)
    assert told == [] and monitor.alerts[0].thing == "updates"  # a step size of zero moves nothing
    with torch.no_grad():
        model[2].weight.copy_(torch.outer(torch.ones(5), torch.arange(9.0)))
    train(model, optimizer, 2)
    assert [(alert.name, alert.step, alert.layer) for alert in told] == [
        ("rank_drop", 5, "2"),
        ("spike", 5, "2"),
        ("rank_drop", 6, "2"),
    ]
    drop = told[0]
    assert drop.value == pytest.approx(1.0, abs=1e-5) and drop.reference > 3
    assert "the effective_rank of the weights of 2 fell to 1 from about" in drop.message
    assert "50% below the median of the last 5 measurements" in str(drop)
    with torch.no_grad():
        model[0].weight.zero_()
    train(model, optimizer, 1)
    assert monitor.alerts[-1].name == "dead_layer" or any(
        (alert.name, alert.thing, alert.layer) == ("dead_layer", "weights", "0") for alert in monitor.alerts
    )
    assert any("all zero" in record.getMessage() for record in caplog.records)


def test_a_callback_that_fails_does_not_end_the_training():
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = RankMonitor(model, optimizer, every=1, budget=None)
    monitor.on("dead_layer", lambda alert: 1 / 0)
    train(model, optimizer, 3)
    assert monitor.history().sizes["step"] == 3
    assert len([text for text in monitor.problems if "division" in text]) == 1


def test_bad_alerts():
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, watch="weights", measures="stable_rank")
    for match, name, settings in (
        ("Did you mean 'rank_drop'", "rankdrop", {}),
        ("no setting 'limit'", "rank_drop", {"limit": 3}),
        ("effective_rank, which is not measured", "rank_drop", {}),
        ("drop must be less than 1", "rank_drop", {"drop": 1.5}),
        ("calls a function with each Alert, got float", "spike", {"call": 0.5}),
        ("share must be greater than 0", "spike", {"share": 0}),
        ("watch has no 'gradients'", "spike", {"watch": "gradients"}),
    ):
        with pytest.raises(InvalidInput, match=match):
            monitor.on(name, **settings)
    monitor.on("rank_drop", measure="stable_rank")
    with pytest.raises(InvalidInput, match="none of which is watched"):
        RankMonitor(model, optimizer, watch="updates").on("spike")
