"""Compiled, distributed and parametrized models, several optimizers."""

from __future__ import annotations

import copy
import socket

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from rankfall.torch import RankMonitor
from torch_monitor.small import Convolutions, inputs, mlp, numpy_measures, square_loss, train, weights_of


def effective(history, thing, layer, step=-1):
    return float(history[f"{thing}_effective_rank"].sel(layer=layer).isel(step=step))


def right(matrix):
    return pytest.approx(numpy_measures(matrix.detach())["effective_rank"], rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_compiled_models_stay_bit_identical():
    found = []
    for watched in (False, True, "late"):
        torch._dynamo.reset()
        plain = mlp(6, 9, 5)
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        if watched == "late":  # compiled under the eyes of the monitor
            monitor = RankMonitor(plain, optimizer, every=1, budget=None)
        model = torch.compile(plain, backend="aot_eager", fullgraph=True)
        if watched is True:
            monitor = RankMonitor(model, optimizer, every=1, budget=None)
        for step in range(4):
            optimizer.zero_grad()
            x = inputs(step, 16, 6)
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
        found.append(weights_of(plain))
        if watched:
            assert monitor.layers == ("0", "2")
            assert effective(monitor.history(), "weights", "0") == right(plain[0].weight)
            assert not any("failed" in text for text in monitor.problems)
    torch._dynamo.reset()
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_compiled_submodules_keep_their_names():
    model = mlp(6, 9, 5)
    model[2] = torch.compile(model[2], backend="eager")
    monitor = RankMonitor(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert monitor.layers == ("0", "2")


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def worker(rank, world, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        model = nn.parallel.DistributedDataParallel(mlp(6, 9, 5))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = RankMonitor(model, optimizer, every=1, budget=None)
        for step in range(3):
            optimizer.zero_grad()
            square_loss_of(model, step * world + rank).backward()
            optimizer.step()
        torch.save(
            {
                "weights": model.module.state_dict(),
                "gradient": model.module[0].weight.grad,
                "state": monitor.state_dict()["history"],
                "problems": monitor.problems,
            },
            f"{folder}/{rank}.pt",
        )
    finally:
        torch.distributed.destroy_process_group()


def square_loss_of(model, seed):
    x = inputs(seed, 16, 6)
    return (model(x) - x.sum(1, keepdim=True).sin()).square().mean()


def test_distributed_in_one_process(tmp_path):
    worker(0, 1, free_port(), str(tmp_path))
    check_ranks(tmp_path, 1)


def test_distributed_in_two_processes(tmp_path):
    torch.multiprocessing.spawn(worker, args=(2, free_port(), str(tmp_path)), nprocs=2)
    check_ranks(tmp_path, 2)


def check_ranks(folder, world):
    """Rank 0 measures the averaged gradient, the others sleep, and the weights are those of plain training."""
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]
    plain = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        (sum(square_loss_of(plain, step * world + rank) for rank in range(world)) / world).backward()
        optimizer.step()
    tables = ranks[0]["state"]["tables"]
    assert ranks[0]["state"]["steps"] == [1, 2, 3]
    assert float(tables["gradients_effective_rank"][2, 0]) == right(ranks[0]["gradient"])
    assert float(tables["gradients_effective_rank"][2, 0]) == pytest.approx(
        numpy_measures(plain[0].weight.grad)["effective_rank"], rel=1e-4
    )
    assert tables["activations_samples"].tolist() == [[16.0, 16.0]] * 3
    for other in ranks:
        torch.testing.assert_close(other["weights"]["0.weight"], plain[0].weight.detach())
    for other in ranks[1:]:
        assert other["state"]["steps"] == [] and other["problems"] == []


def test_several_optimizers_and_groups():
    model = mlp(6, 9, 7, 5)
    first = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": [model[2].bias], "lr": 0.2}], lr=0.1
    )
    second = torch.optim.Adam(model[4].parameters())
    model[2].weight.requires_grad_(False)  # in no optimizer
    monitor = RankMonitor(model, [first, second], every=2, budget=None)
    for step in range(4):
        square_loss(model, step).backward()
        gradients = [model[i].weight.grad for i in (0, 4)]
        expected = [g.clone() for g in gradients]
        before = model[4].weight.detach().clone()
        first.step()
        second.step()
        update = model[4].weight.detach() - before
        first.zero_grad()
        second.zero_grad()
    history = monitor.history()
    assert history.step.values.tolist() == [2, 4]
    assert effective(history, "gradients", "0") == right(expected[0])
    assert effective(history, "gradients", "4") == right(expected[1])
    assert effective(history, "updates", "4") == right(update)
    assert effective(history, "weights", "2") == right(model[2].weight)
    assert np.isnan(effective(history, "gradients", "2")) and history.updates_norm.sel(layer="2").values.max() == 0.0


def test_an_optimizer_that_rests_leaves_nan():
    model = mlp(6, 9, 5)
    first, second = (torch.optim.SGD(model[place].parameters(), lr=0.1) for place in (0, 2))
    monitor = RankMonitor(model, [first, second], watch=("weights", "updates"), every=1, budget=None)
    for step in range(4):
        square_loss(model, step).backward()
        first.step()
        if step % 2:
            second.step()
    history = monitor.history()
    assert history.step.values.tolist() == [1, 2, 3, 4]
    assert np.isnan(history.weights_norm.sel(layer="2").values).tolist() == [True, False, True, False]
    assert np.isfinite(history.weights_norm.sel(layer="0").values).all()


def test_spectral_norm_is_watched_without_moving_it():
    """Reading a spectrally normalised weight in training mode iterates its vectors: the monitor must not."""
    results = []
    for watched in (False, True):
        model = mlp(6, 9, 5)
        torch.manual_seed(1)
        parametrizations.spectral_norm(model[0])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if watched:
            monitor = RankMonitor(model, optimizer, every=1, budget=None)
            clean = sorted(vars(model[0]))
        train(model, optimizer, 4)
        results.append(weights_of(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert sorted(vars(model[0])) == clean
    history = monitor.history()
    assert history.layer.values.tolist() == ["0", "0.parametrizations.weight.original", "2"]
    original = model[0].parametrizations.weight.original
    assert effective(history, "gradients", "0.parametrizations.weight.original") == right(original.grad)
    assert effective(history, "weights", "0.parametrizations.weight.original") == right(original)
    model.eval()
    assert effective(history, "weights", "0") == right(model[0].weight)
    assert np.isfinite(effective(history, "updates", "0")) and np.isnan(effective(history, "gradients", "0"))


class Noisy(nn.Module):
    def forward(self, weight):
        return weight + 0.1 * torch.randn_like(weight)


def test_parametrizations_that_draw_keep_the_random_state():
    results = []
    for watched in (False, True):
        model = mlp(6, 9, 5)
        parametrize.register_parametrization(model[0], "weight", Noisy())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(0)
        if watched:
            RankMonitor(model, optimizer, every=1, budget=None)
        train(model, optimizer, 3)
        results.append(weights_of(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_convolutions_as_matrices():
    torch.manual_seed(0)
    model = Convolutions()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=1, budget=None, watch=("weights", "gradients"))
    model(inputs(0, 2, 3, 7, 7)).square().sum().backward()
    optimizer.step()
    history = monitor.history()
    shapes = dict(zip(history.layer.values, zip(history.rows.values, history.columns.values, strict=True), strict=True))
    assert shapes == {"conv1": (6, 27), "conv2": (4, 27), "line": (5, 8), "up": (5, 6)}
    for layer in shapes:
        weight = getattr(model, layer).weight
        assert effective(history, "weights", layer) == right(weight.reshape(weight.shape[0], -1))
        assert effective(history, "gradients", layer) == right(weight.grad.reshape(weight.shape[0], -1))


class Experts(nn.Module):
    """Parameters of no known layer: a stack of matrices, a matrix, a vector."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)))
        self.mix = nn.Parameter(torch.eye(5))
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return torch.einsum("bi,eij->bej", x, self.stack) @ self.mix * self.scale


def test_any_parameter_by_name():
    model = Experts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=1, budget=None, watch=("weights", "gradients"))
    model(inputs(0, 7, 4)).square().sum().backward()
    optimizer.step()
    history = monitor.history()
    assert history.layer.values.tolist() == [f"model.stack[{i}]" for i in range(3)] + ["model.mix"]
    for i in range(3):
        assert effective(history, "weights", f"model.stack[{i}]") == right(model.stack[i])
        assert effective(history, "gradients", f"model.stack[{i}]") == right(model.stack.grad[i])


def test_sparse_gradients_and_half_precision():
    model = nn.Sequential(nn.Embedding(20, 6, sparse=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=1, budget=None)
    model(torch.arange(40) % 7).square().sum().backward()
    gradient = model[0].weight.grad.to_dense().clone()
    optimizer.step()
    assert effective(monitor.history(), "gradients", "0") == right(gradient)

    half = mlp(6, 9, 5).to(torch.bfloat16)
    optimizer = torch.optim.SGD(half.parameters(), lr=0.1)
    monitor = RankMonitor(half, optimizer, every=1, budget=None)
    before = half[0].weight.detach().clone().float()
    train(half, optimizer, 1)
    assert effective(monitor.history(), "weights", "0") == right(half[0].weight.float())
    assert effective(monitor.history(), "updates", "0") == right(half[0].weight.detach().float() - before)
    assert not any("failed" in text for text in monitor.problems)


def test_attention_with_other_key_sizes():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(12, 3, kdim=5, vdim=7, bias=True, add_bias_kv=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=1, budget=None, watch="weights")
    optimizer.step()
    history = monitor.history()
    assert effective(history, "weights", "model.key[2]") == right(model.k_proj_weight[8:])
    assert effective(history, "weights", "model.value[0]") == right(model.v_proj_weight[:4])
    assert history.sizes["layer"] == 12


def test_models_in_other_places_are_not_mixed_up():
    model = mlp(6, 9, 5)
    other = copy.deepcopy(model)
    with pytest.raises(ValueError, match="No optimizer trains"):
        RankMonitor(model, torch.optim.SGD(other.parameters(), lr=0.1))
