"""Training with the monitor is training without it, bit for bit, and afterwards nothing is left of it."""

from __future__ import annotations

import copy
import io
import random

import numpy as np
import pytest
import torch

from rankfall.torch import RankMonitor
from torch_monitor.small import Transformer, mlp, seeded, square_loss, text_loss, train, weights_of

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "foreach": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
}


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_and_random_state_are_bit_identical(optimizer):
    results = []
    for watched in (False, True):
        model = seeded(Transformer)
        steps = OPTIMIZERS[optimizer](model.parameters())
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        if watched:
            monitor = RankMonitor(model, steps, every=2, budget=None, spectra=True)
        train(model, steps, 6, loss=text_loss)
        states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
        results.append((weights_of(model), copy.deepcopy(steps.state_dict()), states))
    history = monitor.history()
    assert history.sizes["step"] == 3
    for thing in ("weights", "gradients", "updates", "activations"):
        assert np.isfinite(history[f"{thing}_norm"].sel(layer=["embed", "blocks.1.fc2"])).all()
    (plain, plain_state, plain_random), (watched, watched_state, watched_random) = results
    assert same(plain, watched)
    for key, entries in plain_state["state"].items():
        for name, value in entries.items():
            assert value is None or torch.equal(value, watched_state["state"][key][name])
    assert torch.equal(plain_random[0], watched_random[0]) and plain_random[1:] == watched_random[1:]


def everything_in(model):
    """Names of the attributes of all modules and the numbers of their hooks."""
    return [
        (name, sorted(vars(module)), {key: len(value) for key, value in vars(module).items() if "hooks" in key})
        for name, module in model.named_modules()
    ]


def test_nothing_is_left_on_the_model():
    model = seeded(Transformer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clean, attributes = everything_in(model), sorted(vars(optimizer))
    tensors = {name: sorted(vars(value)) for name, value in model.named_parameters()}
    monitor = RankMonitor(model, optimizer, every=2, budget=None)
    assert everything_in(model) == clean  # no forward hooks while no measurement is near
    train(model, optimizer, 1, loss=text_loss)
    assert everything_in(model) != clean
    train(model, optimizer, 1, loss=text_loss)
    assert everything_in(model) == clean
    train(model, optimizer, 1, loss=text_loss)
    monitor.close()
    assert everything_in(model) == clean and sorted(vars(optimizer)) == attributes
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert {name: sorted(vars(value)) for name, value in model.named_parameters()} == tensors
    train(model, optimizer, 4, loss=text_loss)
    assert monitor.history().step.values.tolist() == [2]
    monitor.close()


def test_copies_and_files_of_the_model_do_not_take_the_monitor_along():
    model = mlp(4, 6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=1, budget=None)
    assert model[0]._forward_hooks
    twin = copy.deepcopy(model)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    for other in (twin, loaded):
        square_loss(other, 0)
    square_loss(model, 0).backward()
    optimizer.step()
    assert monitor.history().activations_samples.values.tolist() == [[16.0, 16.0]]


def test_context_manager():
    model = mlp(4, 6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with RankMonitor(model, optimizer, every=1, budget=None) as monitor:
        train(model, optimizer, 2)
    train(model, optimizer, 2)
    assert monitor.history().step.values.tolist() == [1, 2]


def test_exceptions_become_nan_and_are_told_once(monkeypatch, caplog):
    model = mlp(6, 9, 5)
    plain = mlp(6, 9, 5)
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, watch=("weights", "updates"), every=1, budget=None)
    right = torch.linalg.eigvalsh

    def fails(matrix):
        if matrix.shape[-1] == 6:
            raise RuntimeError("no memory")
        return right(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails)
    train(model, optimizer, 6)
    assert same(plain.state_dict(), model.state_dict())
    history = monitor.history()
    assert history.sizes["step"] == 6
    assert np.isnan(history.weights_stable_rank.sel(layer="0")).all()
    assert np.isfinite(history.weights_stable_rank.sel(layer="2")).all()
    assert len(monitor.problems) == 2 and all("no memory" in text for text in monitor.problems)
    assert len(caplog.records) == 2


def test_exceptions_anywhere_do_not_end_the_training(monkeypatch):
    """Each internal entrance broken in turn."""
    from rankfall.torch import _forward
    from rankfall.torch import _steps as module

    def broken(*arguments, **named):
        raise ValueError("broken")

    for owner, name in (
        (module.Session, "begin"),
        (module.Session, "end"),
        (module.Session, "finish"),
        (module.Session, "activations"),
        (module.Steps, "_arm"),
        (module.Results, "add"),
        (_forward, "rows"),
    ):
        model = mlp(4, 6, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with monkeypatch.context() as patch:
            monitor = RankMonitor(model, optimizer, every=1, budget=None)
            patch.setattr(owner, name, broken)
            train(model, optimizer, 3)
            assert any("broken" in text for text in monitor.problems), name
            monitor.history()
            monitor.close()


def test_nan_weights_are_nan_in_the_results_and_recover():
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for measures in (("stable_rank", "effective_rank", "numerical_rank"), ("stable_rank",)):
        monitor = RankMonitor(model, optimizer, watch="weights", measures=measures, every=1, budget=None)
        with torch.no_grad():
            model[0].weight[0, 0] = float("nan")
        optimizer.step()
        with torch.no_grad():
            model[0].weight[0, 0] = 0.25
        optimizer.step()
        monitor.close()
        for measure in measures:
            found = monitor.history()[f"weights_{measure}"].values
            assert np.isnan(found).tolist() == [[True, False], [False, False]]
        assert monitor.problems == []
