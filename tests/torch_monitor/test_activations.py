"""Activations: second moments against the singular values of all samples put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rankfall.torch import RankMonitor
from torch_monitor.small import Convolutions, Transformer, inputs, mlp, numpy_measures, seeded, square_loss, tokens

MEASURES = ("stable_rank", "effective_rank", "numerical_rank")


def watched(model, **changed):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"watch": "activations", "every": 1, "budget": None, **changed}
    return RankMonitor(model, optimizer, **settings), optimizer


def compare(history, layer, samples, step=1):
    """Float64 sums of float32 samples: σ²/‖X‖² errs by less than 1e-13."""
    right = numpy_measures(samples.detach().numpy())
    at = history.sel(layer=layer, step=step)
    assert at.activations_samples == len(samples)
    for measure in (*MEASURES, "norm"):
        np.testing.assert_allclose(float(at[f"activations_{measure}"]), right[measure], rtol=1e-5, err_msg=measure)


def test_linear_layers_over_micro_batches():
    model = mlp(6, 9, 5)
    monitor, optimizer = watched(model)
    batches = [inputs(0, 30, 6), inputs(1, 0, 6), inputs(2, 4, 8, 6)]  # one is empty, one has two batch axes
    for batch in batches:
        model(batch).square().sum().backward()
    optimizer.step()
    plain = mlp(6, 9, 5)
    flat = torch.cat([batch.reshape(-1, 6) for batch in batches])
    compare(monitor.history(), "0", plain[0](flat))
    compare(monitor.history(), "2", plain(flat))


def test_fewer_samples_than_features():
    """n samples have n singular values: what the Gram matrix has beyond them is rounding and does not count."""
    model = mlp(6, 20, 20)
    monitor, optimizer = watched(model)
    batch = inputs(0, 4, 6)
    output = model(batch)
    output.sum().backward()
    optimizer.step()
    compare(monitor.history(), "2", output)
    assert monitor.history().activations_numerical_rank.sel(layer="2").values.tolist() == [4.0]
    assert len(monitor.problems) == 1 and "4 samples of 20 features" in monitor.problems[0]


def test_enough_samples_give_no_warning():
    model = mlp(6, 9, 5)
    monitor, optimizer = watched(model)
    square_loss(model, 0, batch=45).backward()
    optimizer.step()
    assert monitor.problems == []


def test_embedding_attention_and_tied_head():
    model = seeded(Transformer)
    kept = {}
    handles = [
        module.register_forward_hook(
            lambda module, given, output, name=name: kept.update(
                {name: output[0] if isinstance(output, tuple) else output}
            )
        )
        for name, module in model.named_modules()
    ]
    monitor, optimizer = watched(model)
    model(tokens(0)).sum().backward()
    optimizer.step()
    for handle in handles:
        handle.remove()
    history = monitor.history()
    for layer in ("embed", "head", "blocks.0.attn", "blocks.1.fc1", "blocks.1.fc2"):
        compare(history, layer, kept[layer].reshape(-1, kept[layer].shape[-1]))
    assert np.isnan(history.activations_norm.sel(layer="blocks.0.attn.query[0]")).all()


def test_convolutions_have_their_channels_as_features():
    model = seeded(Convolutions)
    monitor, optimizer = watched(model)
    images = inputs(0, 5, 3, 7, 7)
    model(images).sum().backward()
    optimizer.step()
    plain = seeded(Convolutions)
    first = plain.conv1(images)
    line = plain.line(plain.conv2(torch.relu(first)).flatten(2))
    compare(monitor.history(), "conv1", first.permute(0, 2, 3, 1).reshape(-1, 6))
    compare(monitor.history(), "line", line.permute(0, 2, 1).reshape(-1, 5))
    compare(monitor.history(), "up", plain.up(line).permute(0, 2, 1).reshape(-1, 3))


def test_convolution_of_a_single_image():
    model = nn.Sequential(nn.Conv2d(3, 6, 3))
    monitor, optimizer = watched(model)
    image = inputs(0, 3, 9, 9)
    model(image).sum().backward()
    optimizer.zero_grad()
    optimizer.step()
    compare(monitor.history(), "0", model(image).permute(1, 2, 0).reshape(-1, 6))


def test_evaluation_does_not_count_and_windows_add_up():
    model = mlp(6, 9, 5)
    monitor, optimizer = watched(model, every=5, activation_steps=3)
    seen = []
    for step in range(5):
        batch = inputs(step, 20, 6)
        output = model(batch)
        seen.append(output.detach())
        output.square().sum().backward()
        model.eval()
        model(batch)
        model.train()
        optimizer.step()
        optimizer.zero_grad()
    compare(monitor.history(), "2", torch.cat(seen[2:]), step=5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_counts_a_pass_once(reentrant):
    model = mlp(6, 9, 5)
    monitor, optimizer = watched(model, watch=("activations", "gradients"))
    batch = inputs(0, 50, 6).requires_grad_()
    checkpoint(model, batch, use_reentrant=reentrant).square().sum().backward()
    plain = mlp(6, 9, 5)
    output = plain(batch)
    output.square().sum().backward()
    optimizer.step()
    compare(monitor.history(), "2", output)
    gradient = numpy_measures(plain[0].weight.grad)["effective_rank"]
    assert monitor.history().gradients_effective_rank.sel(layer="0").item() == pytest.approx(gradient, rel=1e-5)


def test_autocast():
    model = mlp(6, 9, 5)
    monitor, optimizer = watched(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(inputs(0, 50, 6))
        assert output.dtype == torch.bfloat16
        output.square().sum().backward()
        optimizer.step()  # measured inside autocast too
    compare(monitor.history(), "2", output.float())


def test_nan_activations():
    model = mlp(6, 9, 5)
    monitor, optimizer = watched(model)
    batch = inputs(0, 50, 6)
    batch[3, 2] = float("nan")
    model(batch)
    optimizer.step()
    assert np.isnan(monitor.history().activations_stable_rank).all()
    assert monitor.problems == []


def test_outputs_that_are_too_wide_are_said():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5000))
    monitor, _ = watched(model, watch=("weights", "activations"))
    assert len(monitor.problems) == 1 and "1" in monitor.problems[0] and "4096" in monitor.problems[0]
    assert monitor.layers == ("0", "1")
