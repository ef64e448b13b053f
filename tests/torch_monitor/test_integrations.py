"""Callbacks inside the real trainers, where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rankfall.errors import InvalidInput
from rankfall.torch import RankMonitor, lightning_callback, transformers_callback
from torch_monitor.small import inputs, mlp, numpy_measures

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers

SETTINGS = {"every": 2, "budget": None}


def batches(number):
    return [(inputs(step, 60, 6), inputs(1000 + step, 60, 5)) for step in range(number)]


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 9, 5)

        def training_step(self, batch, index):
            return (self.net(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(callbacks, steps, checkpoint=None):
        module = Module()
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, torch.utils.data.DataLoader(batches(20), batch_size=None), ckpt_path=checkpoint)
        return module, trainer

    plain, _ = fit([], 6)
    callback = lightning_callback(**SETTINGS)
    module, trainer = fit([callback], 6)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), module.parameters(), strict=True))
    history = callback.monitor.history()
    assert history.step.values.tolist() == [2, 4, 6] and callback.monitor.problems == []
    assert history.layer.values.tolist() == ["net.0", "net.2"]
    right = numpy_measures(module.net[0].weight.detach())["effective_rank"]
    assert history.weights_effective_rank.sel(step=6, layer="net.0").item() == pytest.approx(right, rel=1e-5)
    # Lightning gives its optimizers a closure: passes and gradients happen inside the step.
    assert (history.activations_samples == 60).all() and np.isfinite(history.gradients_norm).all()
    assert not any(part._forward_hooks for part in module.modules())

    trainer.save_checkpoint(tmp_path / "six.ckpt")
    again = lightning_callback(**SETTINGS)
    fit([again], 8, checkpoint=tmp_path / "six.ckpt")
    assert again.monitor.history().step.values.tolist() == [2, 4, 6, 8]


def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 9, 5)

        def forward(self, x, labels=None):
            output = self.net(x)
            return {"loss": (output - labels).square().mean(), "logits": output}

    data = [{"x": x, "labels": y} for xs, ys in batches(2) for x, y in zip(xs, ys, strict=True)]

    def fit(callbacks, steps, resume=None):
        model = Model()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            save_steps=3,
            per_device_train_batch_size=60,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            seed=0,
        )
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return model

    plain = fit([], 6)
    callback = transformers_callback(**SETTINGS)
    model = fit([callback], 6)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    whole = callback.monitor.history()
    assert whole.step.values.tolist() == [2, 4, 6] and callback.monitor.problems == []
    right = numpy_measures(model.net[0].weight.detach())["effective_rank"]
    assert whole.weights_effective_rank.sel(step=6, layer="net.0").item() == pytest.approx(right, rel=1e-5)
    assert not any(part._forward_hooks for part in model.modules())

    again = transformers_callback(**SETTINGS)
    fit([again], 6, resume=str(tmp_path / "checkpoint-3"))
    resumed = again.monitor.history()
    assert resumed.step.values.tolist() == [2, 4, 6]
    np.testing.assert_array_equal(resumed.weights_norm, whole.weights_norm)


def test_unknown_settings_are_refused_at_once():
    for make in (lightning_callback, transformers_callback):
        with pytest.raises(InvalidInput, match=r"no setting 'evry'.*every"):
            make(evry=3)


def test_wrapped_optimizers_are_unwrapped():
    class Wrapper(torch.optim.Optimizer):
        """What accelerate does: an optimizer that hands on to another."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self):
            self.optimizer.step()

    model = mlp(6, 9, 5)
    wrapper = Wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    monitor = RankMonitor(model, wrapper, every=1, budget=None)
    model(inputs(0, 60, 6)).sum().backward()
    wrapper.step()
    assert monitor.history().step.values.tolist() == [1]


def test_without_the_trainers(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for make, name in ((lightning_callback, "lightning"), (transformers_callback, "transformers")):
        with pytest.raises(ImportError, match=f"pip install {name}"):
            make()
