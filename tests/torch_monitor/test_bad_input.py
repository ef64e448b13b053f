"""Bad input is refused before any work, with what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from rankfall.errors import InvalidInput
from rankfall.torch import RankMonitor
from torch_monitor.small import Transformer, mlp, seeded, square_loss, train


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"watch": "weight"}, "watch has no 'weight'. Did you mean 'weights'"),
        ({"watch": ()}, "watch must not be empty"),
        ({"measures": ["stable_rnk"]}, "Did you mean 'stable_rank'"),
        ({"method": "grams"}, "method has no 'grams'. Did you mean 'gram'"),
        ({"select": "blocks"}, "matches no name"),
        ({"select": r"blocks\.0\.fcl"}, "matches no name"),
        ({"select": "("}, "not a regular expression"),
        ({"select": ["blocks.0.fcl"]}, "Did you mean 'blocks.0.fc"),
        ({"every": 0}, "every must be at least 1"),
        ({"budget": 0}, "budget must be greater than 0"),
        ({"budget": float("nan")}, "budget must be finite"),
        ({"spectra": "all"}, "spectra must be a whole number"),
        ({"activation_steps": 101}, "activation_steps must be at most 100"),
    ],
)
def test_arguments(changed, match):
    model = seeded(Transformer)
    with pytest.raises(InvalidInput, match=match):
        RankMonitor(model, sgd(model), **changed)
    assert not any(module._forward_hooks for module in model.modules())


def test_models():
    with pytest.raises(InvalidInput, match=r"must be a torch\.nn\.Module, got list"):
        RankMonitor([], None)
    vectors = nn.LayerNorm(4)
    with pytest.raises(InvalidInput, match=r"LayerNorm.*no rank to watch"):
        RankMonitor(vectors, sgd(vectors))
    with torch.device("meta"):
        meta = nn.Linear(3, 4)
    with pytest.raises(InvalidInput, match=r"meta device.*to_empty"):
        RankMonitor(meta, sgd(meta))
    lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(InvalidInput, match="no shape yet"):
        RankMonitor(lazy, sgd(lazy))


def test_optimizers():
    model = mlp(4, 6, 4)
    for wrong, match in (("adam", "got str"), ([], "empty list"), ([sgd(model), None], "got NoneType")):
        with pytest.raises(InvalidInput, match=match):
            RankMonitor(model, wrong)


def test_selection():
    model = seeded(Transformer)

    def layers(select, watch=("weights", "activations")):
        return set(RankMonitor(model, sgd(model), select=select, watch=watch).layers)

    assert layers(r"blocks\..*fc1") == {"blocks.0.fc1", "blocks.1.fc1"}
    assert layers(["blocks.0.attn.query[1]", "embed"]) == {"blocks.0.attn.query[1]", "embed"}
    assert len(layers("blocks.0.attn")) == 13  # twelve matrices, one output
    assert layers("blocks.0.attn.in_proj_weight") == {
        f"blocks.0.attn.{role}[{head}]" for role in ("query", "key", "value") for head in range(3)
    }
    assert layers("head") == {"embed", "head"}  # its weights are those of the embedding
    assert layers("head", watch="weights") == {"embed"}


def test_an_empty_batch():
    model = mlp(4, 6, 4)
    optimizer = sgd(model)
    monitor = RankMonitor(model, optimizer, every=1, budget=None)
    model(torch.zeros(0, 4)).sum().backward()
    optimizer.step()
    history = monitor.history()
    assert history.activations_samples.values.tolist() == [[0.0, 0.0]]
    assert history.activations_stable_rank.isnull().all() and (history.gradients_stable_rank == 0).all()
    assert len(monitor.problems) == 1 and "No activations of 0" in monitor.problems[0]


def test_history_before_any_step():
    model = mlp(4, 6, 4)
    history = RankMonitor(model, sgd(model)).history()
    assert dict(history.sizes) == {"step": 0, "layer": 2}


def test_warnings_as_errors_do_not_reach_the_training():
    """This suite turns warnings into errors, so a warning inside a hook would end here."""
    model = mlp(4, 30, 4)
    optimizer = sgd(model)
    monitor = RankMonitor(model, optimizer, every=1, budget=None)
    square_loss(model, 0).backward()
    optimizer.step()
    train(model, optimizer, 2)
    assert any("below 5 × 30" in text for text in monitor.problems)


def test_rankfall_alone_does_not_import_torch():
    code = "import sys, rankfall; from rankfall import ranks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torch_the_import_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\nimport rankfall.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pip install 'rankfall[torch]'" in done.stderr
