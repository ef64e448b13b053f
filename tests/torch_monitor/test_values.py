"""Every recorded value against NumPy on tensors that a plain loop has kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankfall.torch import RankMonitor
from torch_monitor.small import Transformer, mlp, numpy_measures, seeded, square_loss, text_loss, train

MEASURES = ("stable_rank", "effective_rank", "numerical_rank")


def settings(**changed):
    return {"watch": ("weights", "gradients", "updates"), "every": 2, "budget": None, "spectra": True, **changed}


def compare(history, thing, layer, step, matrix, measures=MEASURES, rtol=1e-6):
    """The Gram matrix in float64 errs by (l + 10k)·u·‖M‖² < 1e-13 in σ²/‖M‖²: 3e-7 in the least singular values."""
    right = numpy_measures(matrix)
    at = history.sel(layer=layer, step=step)
    for measure in (*measures, "norm"):
        np.testing.assert_allclose(float(at[f"{thing}_{measure}"]), right[measure], rtol=rtol, err_msg=measure)
    spectrum = at[f"{thing}_spectrum"].values
    number = len(right["spectrum"])
    np.testing.assert_allclose(spectrum[:number], right["spectrum"], atol=5e-7 * right["norm"])
    assert np.isnan(spectrum[number:]).all()


@pytest.mark.parametrize("method", ["gram", "svd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_gradients_updates(method, dtype):
    model = mlp(6, 9, 5, dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    monitor = RankMonitor(model, optimizer, **settings(method=method))
    seen = train(model, optimizer, 6)
    history = monitor.history()
    assert history.step.values.tolist() == [2, 4, 6]
    assert history.layer.values.tolist() == ["0", "2"]
    assert history.rows.values.tolist() == [9, 5] and history.columns.values.tolist() == [6, 9]
    # The decomposition in float32 itself errs by some eps·σ₁ ≈ 1e-6 σ₁.
    rtol = 2e-5 if (method, dtype) == ("svd", torch.float32) else 1e-6
    for step in (2, 4, 6):
        for thing in ("weights", "gradients", "updates"):
            for layer in ("0", "2"):
                compare(history, thing, layer, step, seen[step - 1][thing][f"{layer}.weight"], rtol=rtol)
    assert monitor.problems == []


def test_rank_of_low_rank_weights_in_single_precision():
    """Gram matrices square the spread of singular values; in float64 the rank of a float32 matrix survives that."""
    model = mlp(40, 60, 40)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, rank in ((0, 3), (2, 17)):
            left = torch.randn(model[layer].weight.shape[0], rank, generator=generator)
            model[layer].weight.copy_(left @ torch.randn(rank, model[layer].weight.shape[1], generator=generator))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = RankMonitor(model, optimizer, **settings(every=1))
    train(model, optimizer, 1)
    assert monitor.history().weights_numerical_rank.values.tolist() == [[3.0, 17.0]]
    assert monitor.history().updates_norm.values.tolist() == [[0.0, 0.0]]
    assert monitor.history().updates_stable_rank.values.tolist() == [[0.0, 0.0]]


def test_threshold_of_the_numerical_rank():
    """σ = 1, 0.1, 1e-6: finer than the Gram matrix resolves (3e-7), but below 60·1.2e-7 = 7e-6, that of float32."""
    model = torch.nn.Sequential(torch.nn.Linear(60, 40, bias=False))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[range(3), range(3)] = torch.tensor([1.0, 0.1, 1e-6])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for method in ("gram", "svd"):
        monitor = RankMonitor(model, optimizer, **settings(every=1, watch=("weights", "activations"), method=method))
        model(torch.eye(60))
        optimizer.step()
        monitor.close()
        history = monitor.history()
        assert history.weights_numerical_rank.item() == history.activations_numerical_rank.item() == 2
        np.testing.assert_allclose(history.weights_spectrum.values[0, 0, :3], [1, 0.1, 1e-6], rtol=0.01)
        np.testing.assert_allclose(history.activations_spectrum.values[0, 0, :3], [1, 0.1, 1e-6], rtol=0.01)


def test_without_decompositions():
    """Stable rank by power iteration, with its stated error; participation ratio from norms."""
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = RankMonitor(model, optimizer, **settings(measures=("stable_rank", "participation_ratio"), spectra=False))
    seen = train(model, optimizer, 10)
    history = monitor.history()
    assert "weights_spectrum" not in history
    for step in history.step.values:
        for thing in ("weights", "gradients", "updates"):
            for layer in ("0", "2"):
                right = numpy_measures(seen[step - 1][thing][f"{layer}.weight"])
                at = history.sel(layer=layer, step=step)
                value, error = float(at[f"{thing}_stable_rank"]), float(at[f"{thing}_stable_rank_error"])
                # Rounding in float32 of a sum of 54 squares: less than 54·6e-8.
                assert value - error - 1e-5 < right["stable_rank"] < value + 1e-5
                np.testing.assert_allclose(
                    float(at[f"{thing}_participation_ratio"]), right["participation_ratio"], rtol=1e-5
                )
    # Weights barely move: the warm iteration has converged by the last measurement.
    last = numpy_measures(seen[-1]["weights"]["0.weight"])["stable_rank"]
    assert float(history.weights_stable_rank.sel(layer="0", step=10)) == pytest.approx(last, rel=1e-3)


def test_transformer_by_head_and_tied_once():
    model = seeded(Transformer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = RankMonitor(model, optimizer, **settings())
    seen = train(model, optimizer, 2, loss=text_loss)
    history = monitor.history()
    names = history.layer.values.tolist()
    assert "embed" in names and "head" not in names
    assert sum(name.startswith("blocks.0.attn.") for name in names) == 12
    for thing in ("weights", "gradients", "updates"):
        tensors = seen[1][thing]
        compare(history, thing, "embed", 2, tensors["embed.weight"], rtol=1e-5)
        compare(history, thing, "blocks.1.fc1", 2, tensors["blocks.1.fc1.weight"], rtol=1e-5)
        projections = tensors["blocks.1.attn.in_proj_weight"]
        for place, role in enumerate(("query", "key", "value")):
            for head in range(3):
                part = projections[12 * place + 4 * head : 12 * place + 4 * head + 4]
                compare(history, thing, f"blocks.1.attn.{role}[{head}]", 2, part, rtol=1e-5)
        output = tensors["blocks.1.attn.out_proj.weight"]
        for head in range(3):
            compare(history, thing, f"blocks.1.attn.output[{head}]", 2, output[:, 4 * head : 4 * head + 4], rtol=1e-5)


def test_gradient_accumulation_is_what_the_optimizer_sees():
    model = mlp(4, 6, 4)
    optimizer = torch.optim.Adam(model.parameters())
    monitor = RankMonitor(model, optimizer, **settings(every=1, watch="gradients"))
    for part in range(3):
        square_loss(model, part).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    total = model[0].weight.grad.clone()
    optimizer.step()
    compare(monitor.history(), "gradients", "0", 1, total)


def test_optimizer_with_closure():
    model = mlp(4, 6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, **settings(every=1))

    def closure():
        optimizer.zero_grad()
        loss = square_loss(model, 0)
        loss.backward()
        return loss

    optimizer.step(closure)
    compare(monitor.history(), "gradients", "0", 1, model[0].weight.grad)
