"""Fine-tuning with adapters against a plain module trained by a plain loop, and what its ledger says."""

import json
from dataclasses import replace

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments._target import Work

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from rankfall.experiments._beyond import _adapted, _adapter_training, _training, adapters  # noqa: E402
from rankfall.experiments._beyond._adapter_protocol import ARMS, Protocol  # noqa: E402
from rankfall.experiments._beyond._adapter_training import tune  # noqa: E402
from rankfall.experiments.beyond import Settings  # noqa: E402
from rankfall.torch import Ledger, linear_pairs  # noqa: E402

SILENT = Work(threads=None, progress=False, checkpoint=None)
SMALL = Protocol(rank=6, both=False, seeds=(3,), steps=12, samples=20, batch_size=5, step_size=0.1, save_points=3)


class Adapted(torch.nn.Module):
    """A frozen matrix with an adapter, as it is usually written."""

    def __init__(self, frozen, lora_a, lora_b):
        super().__init__()
        self.register_buffer("frozen", frozen)
        self.lora_A, self.lora_B = torch.nn.Parameter(lora_a.clone()), torch.nn.Parameter(lora_b.clone())

    def forward(self, x):
        return x @ self.frozen.T + x @ self.lora_A.T @ self.lora_B.T


class Plain(torch.nn.Module):
    """The network of one seed in torch's own words, in float64."""

    def __init__(self, protocol, seed, weights):
        super().__init__()
        self.weights = {name: matrix.double() for name, matrix in weights.items()}
        width = _adapted.WIDTH

        def uniform(name):
            drawn = torch.rand((protocol.rank, width), generator=_training.generator(seed, name))
            return (drawn.double() * 2 - 1) / width**0.5

        for name in ("query", "value"):
            a, b = uniform(f"{name}.lora_A"), torch.zeros(width, protocol.rank, dtype=torch.float64)
            frozen = self.weights[name]
            if protocol.both:
                b = uniform(f"{name}.lora_B").T
                frozen = frozen - b @ a
            setattr(self, name, Adapted(frozen, a, b))

    def features(self, images):
        w, functional = self.weights, torch.nn.functional
        stream = images @ w["embedding"].T + w["position"]
        normal = functional.layer_norm(stream, stream.shape[-1:])
        query, key, value = (
            part.view(*part.shape[:2], _adapted.HEADS, -1).transpose(1, 2)
            for part in (self.query(normal), normal @ w["key"].T, self.value(normal))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        stream = stream + mixed @ w["output"].T
        normal = functional.layer_norm(stream, stream.shape[-1:])
        hidden = functional.gelu(functional.linear(normal, w["up"], w["up.bias"]))
        stream = stream + functional.linear(hidden, w["down"], w["down.bias"])
        return mixed.mean(1), functional.layer_norm(stream, stream.shape[-1:]).mean(1)

    def forward(self, images):
        return torch.nn.functional.linear(self.features(images)[1], self.weights["head"], self.weights["head.bias"])


def effective_rank(matrix):
    values = np.linalg.svd(np.asarray(matrix), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return np.exp(-np.sum(shares * np.log(shares)))


def alive(matrix):
    values = np.linalg.svd(np.asarray(matrix), compute_uv=False)
    return int((values > 0.01 * values[0]).sum())


def plain_training(protocol, arm, seed):
    """Train one seed by a plain loop; returns the network, its ledger, samples, labels, test images."""
    network = _adapted.pretrained()
    source = lambda purpose: _training.generator(seed, purpose)  # noqa: E731
    chosen = torch.randperm(len(network.labels) - 200, generator=source("samples"))[: protocol.samples] + 200
    images, labels = network.tokens[chosen].double(), network.labels[chosen]
    model = Plain(protocol, seed, network.weights)
    way = ARMS[arm]
    optimizer = (
        torch.optim.AdamW(model.parameters(), lr=protocol.adam_rate)
        if way.adam
        else torch.optim.SGD(model.parameters(), lr=protocol.step_size)
    )
    ledger = Ledger(model, optimizer, every=protocol.steps, determinant=False)
    # the streams are drawn 512 steps at a time
    batches = torch.randint(protocol.samples, (512, protocol.batch_size), generator=source("batches"))
    flips = source("flips")
    flipped = torch.rand(512, protocol.batch_size, generator=flips) < protocol.flips
    others = torch.randint(1, 5, (512, protocol.batch_size), generator=flips)
    for step in range(protocol.steps):
        x, y = images, labels
        if way.batches:
            x, y = images[batches[step]], labels[batches[step]]
        if way.flips:
            y = torch.where(flipped[step], (y + others[step]) % 5, y)
        taught = torch.nn.functional.one_hot(y, 5).double()
        if way.smoothed:  # flipped with the probability f, each of the four others is taught with f/4
            taught = (1 - protocol.flips) * taught + protocol.flips / 4 * (1 - taught)
        loss = -(taught * model(x).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, ledger, images, labels, network.tokens[:200].double()


@pytest.mark.parametrize("arm, both", [*((arm, False) for arm in ARMS), ("label-noise", True), ("adamw", True)])
def test_an_arm_against_a_plain_loop(arm, both):
    protocol = replace(SMALL, both=both)
    last = tune(protocol, arm, SILENT).isel(seed=0, step=-1)
    model, ledger, images, labels, test = plain_training(protocol, arm, 3)
    # float32 against float64: 12 steps that amplify roundings of 6e-8 a few hundred times at most
    near = lambda value: pytest.approx(value, rel=2e-4, abs=2e-6)  # noqa: E731
    with torch.no_grad():
        assert float(last["loss"]) == near(float(torch.nn.functional.cross_entropy(model(images), labels)))
        right = model(images).argmax(1) == labels
        assert float(last["accuracy"]) == pytest.approx(float(right.double().mean()))
        for layer, values in zip(("attention", "pooled"), model.features(test[:100]), strict=True):
            values = values - values.mean(0)
            assert float(last["effective_rank_features"].sel(layer=layer)) == near(effective_rank(values))
        for name in ("query", "value"):
            a, b = getattr(model, name).lora_A, getattr(model, name).lora_B
            for which, matrix in (("A", a), ("B", b), ("product", b @ a)):
                found = last.sel(pair=name)
                assert float(found[f"effective_rank_{which}"]) == near(effective_rank(matrix))
                assert float(found[f"alive_{which}"]) == alive(matrix)
                spectrum = np.linalg.svd(matrix.numpy(), compute_uv=False)
                np.testing.assert_allclose(found[f"singular_values_{which}"], spectrum[:6], rtol=1e-3, atol=1e-5)
                shown = "product" if both else "A"
                if which == shown:
                    assert float(last["effective_rank_weights"].sel(matrix=f"{name}.{which}")) == near(
                        effective_rank(matrix)
                    )
    # the pairs that are cut out of stacked parameters are those that a search in a plain module finds
    assert [pair.name for pair in linear_pairs(model)] == ["query.lora", "value.lora"]
    books = ledger.history().isel(step=-1)
    np.testing.assert_allclose(last["balance"], books["balance"], rtol=1e-4)
    np.testing.assert_allclose(last["balance_drift"], books["balance_drift"], rtol=2e-3)
    if ARMS[arm].adam:
        np.testing.assert_allclose(last["balance_error"], books["balance_error"], rtol=2e-3)
        assert float(last["balance_error"].min()) > 0.5 * float(last["balance_drift"].min()) > 1e-3
    else:
        assert float(last["balance_error"].max()) < 1e-5 * float(last["balance_drift"].max())


def test_the_jacobian_row_by_row():
    last = tune(SMALL, "gd", SILENT).isel(seed=0, step=-1)
    model, _, _, _, test = plain_training(SMALL, "gd", 3)
    rows = []
    for output in model(test[:32]).flatten():
        slopes = torch.autograd.grad(output, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([slope.flatten() for slope in slopes]).numpy())
    jacobian = np.stack(rows)
    assert jacobian.shape == (160, 4 * 6 * 32)
    assert float(last["effective_rank_jacobian"]) == pytest.approx(effective_rank(jacobian), rel=1e-3)
    assert abs(float(last["alive_jacobian"]) - alive(jacobian)) <= 1  # one may lie at the threshold


def test_a_seed_does_not_depend_on_those_beside_it():
    protocol = replace(SMALL, step_size=1.0, steps=40)
    many, one = (tune(replace(protocol, seeds=seeds), "label-noise", SILENT) for seeds in ((0, 3, 8), (3,)))
    chosen = many.sel(seed=[3])
    assert set(one.data_vars) == set(chosen.data_vars)
    for name, values in one.data_vars.items():
        np.testing.assert_array_equal(values, chosen[name], err_msg=name)


def test_all_arms_begin_at_the_pretrained_network():
    network = _adapted.pretrained()
    assert (
        network.accuracy > 0.99 and len(network.labels) == 896 and sorted(set(network.labels.tolist())) == [*range(5)]
    )
    plain = {name: tune(replace(SMALL, steps=1), name, SILENT).isel(step=0) for name in ARMS}
    shifted = tune(replace(SMALL, steps=1, both=True), "gd", SILENT).isel(step=0)
    for name, run in plain.items():
        np.testing.assert_array_equal(run["loss"], plain["gd"]["loss"], err_msg=name)
        assert not run["alive_product"].any() and (run["alive_A"] == 6).all()
    assert (shifted["alive_product"] == 6).all()
    # the product is added and taken off: a few roundings in float32
    np.testing.assert_allclose(shifted["loss"], plain["gd"]["loss"], rtol=1e-5)


def test_the_pretraining_is_the_same_every_time():
    before = _adapted.pretrained()
    _adapted.pretrained.cache_clear()
    again = _adapted.pretrained()
    assert before is not again
    assert all(torch.equal(before.weights[name], again.weights[name]) for name in before.weights)
    assert torch.equal(before.tokens, again.tokens)


@pytest.mark.parametrize("arm", ["gd", "sgd", "label-noise"])
def test_the_ledger_passes_and_one_that_is_five_percent_off_does_not(arm, monkeypatch):
    protocol = replace(SMALL, step_size=1.0, steps=40, seeds=(0, 1))
    verdicts = json.loads(tune(protocol, arm, SILENT).attrs["ledger"])
    assert [each["status"] for each in verdicts] == ["PASS"] * 4  # two adapters, two seeds

    def further(optimizer, *_):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.data.sub_(0.05 * parameter.grad)  # the ledger is told a step size of 1

    made = _adapter_training._Tuning._ledger

    def tampered(self):
        self.optimizer.register_step_post_hook(further)
        return made(self)

    monkeypatch.setattr(_adapter_training._Tuning, "_ledger", tampered)
    verdicts = json.loads(tune(protocol, arm, SILENT).attrs["ledger"])
    assert [each["status"] for each in verdicts] == ["FAIL"] * 4


def test_gradient_descent_with_small_steps_keeps_the_balance_and_loses_no_direction():
    """Without steps AAᵀ = A₀A₀ᵀ + BᵀB (B₀ = 0): no singular value of A falls below its start. Steps add O(η)."""
    drifts = []
    for step_size, steps in ((0.02, 40), (0.01, 80)):
        run = tune(replace(SMALL, step_size=step_size, steps=steps), "gd", SILENT).isel(seed=0)
        start, end = (run["singular_values_A"].isel(step=i).values for i in (0, -1))
        drift = run["balance_drift"].isel(step=-1).values
        assert (end**2 >= start**2 - drift[:, None] - 1e-5).all() and (end[:, 0] > 1.001 * start[:, 0]).any()
        drifts.append(drift)
    # the same time with half the step: half the drift, up to the next order in η
    np.testing.assert_allclose(drifts[1] / drifts[0], 0.5, atol=0.1)


def test_a_seed_that_diverges_takes_nobody_with_it(monkeypatch):
    protocol = replace(SMALL, seeds=(0, 1), steps=20)
    made = _adapter_training._Tuning.step

    def step(self, number):
        if number == 3:
            with torch.no_grad():
                self.parameters["value.lora_A"][0, 0] = torch.nan  # of the first seed
        return made(self, number)

    plain = tune(protocol, "sgd", SILENT)
    monkeypatch.setattr(_adapter_training._Tuning, "step", step)
    run = tune(protocol, "sgd", SILENT)
    assert list(run["outcome"].values) == ["diverged at step 20", "completed"]
    for name, values in run.isel(seed=1).data_vars.items():
        np.testing.assert_array_equal(values, plain.isel(seed=1)[name], err_msg=name)
    assert [each["passed"] for each in json.loads(run.attrs["ledger"])] == [None, None, True, True]


def test_ctrl_c_keeps_what_is_there():
    def press(state):
        if state.completed >= 40:
            raise KeyboardInterrupt

    protocol = replace(SMALL, steps=60, save_points=4)
    with pytest.raises(rf.SimulationInterrupted, match="step 40 of 60") as stopped:
        tune(protocol, "sgd", replace(SILENT, progress=press))
    run = stopped.value.run
    assert list(run["outcome"].values) == ["interrupted at step 40"]
    assert list(run["step"].values) == [0, 20] and len(json.loads(run.attrs["ledger"])) == 2


def test_save_points_are_multiples_of_what_the_ledger_records():
    for steps, every in ((3000, 20), (300, 20), (45, 5), (7, 1)):
        protocol = replace(SMALL, steps=steps, save_points=6)
        assert protocol.every == every
        saved = protocol.saved_steps
        assert saved[0] == 0 and saved[-1] == steps and all(step % every == 0 for step in saved)


def test_the_experiments():
    made = adapters.experiments(Settings.choose(seed=4))
    assert [each.name for each in made] == ["adapters", "adapters-small-step", "adapters-narrow", "adapters-both"]
    arms = [[arm.name for arm in each.arms] for each in made]
    four = ["gd", "sgd", "label-noise", "adamw"]
    assert set(arms[0]) == {*four, "gd-smoothed", "adamw-label-noise"} == set(ARMS)
    assert arms[1:] == [four[:3], four, four]
    assert [arm.name for arm in made[0].arms if arm.noise] == ["label-noise", "adamw-label-noise"]
    assert [each.settings["rank"] for each in made] == [16, 16, 4, 16] and made[3].settings["both"]
    assert [each.settings["step_size"] for each in made] == [1.0, 0.3, 1.0, 1.0]
    assert "is 0.09 of what it is there" in made[1].lead and "with r = 4" in made[2].lead
    assert json.loads(json.dumps(made[0].settings)) == made[0].settings
    (quick,) = adapters.experiments(Settings.choose(quick=True))
    assert quick.settings["steps"] < made[0].settings["steps"] and [arm.name for arm in quick.arms] == four
