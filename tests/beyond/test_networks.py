"""The convolutional network and the transformer against modules of torch's, trained by an ordinary loop."""

from functools import partial

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments._target import Work

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from rankfall.experiments._beyond import _training, convolution, images, transformer  # noqa: E402
from rankfall.experiments._beyond._classifier import Schedule  # noqa: E402

SILENT = Work(threads=None, progress=False, checkpoint=None)
SCHEDULE = Schedule(
    step_size=0.1, flips=0.4, samples=40, tests=50, probe=30, jacobian_probe=2, batch_size=6, steps=25, save_points=3
)
CONVOLUTIONS = convolution.Convolutions(filters=(5, 6))
TRANSFORMER = transformer.Transformer(features=8, heads=2, head_width=4, hidden=12)
DIGITS = images.load(None)
ARMS = ["gd", "sgd", "label-noise"]
TRAIN = {
    "convolution": partial(convolution.train, CONVOLUTIONS, SCHEDULE, DIGITS),
    "transformer": partial(transformer.train, TRANSFORMER, SCHEDULE, DIGITS),
}


class Convolutional(torch.nn.Module):
    """The same network as modules; its filters see the places of a patch as we list them, the channels last."""

    def __init__(self, start, classes=10):
        first, second = len(start["filters 1"]), len(start["filters 2"])
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, first, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(first, second, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * second, classes),
        )
        with torch.no_grad():
            for number, inputs in ((0, 1), (2, first)):
                name = f"filters {number // 2 + 1}"
                self.layers[number].weight.copy_(start[name].view(-1, 3, 3, inputs).permute(0, 3, 1, 2))
                self.layers[number].bias.copy_(start[f"{name} shift"])
            # their units are ordered by channel and place, ours by place and channel
            self.layers[5].weight.copy_(start["scores"].view(classes, 4, second).transpose(1, 2).flatten(1))
            self.layers[5].bias.copy_(start["scores shift"])

    def forward(self, given):
        return self.layers(given[:, None])

    def hidden(self, given):
        return {"layer 1": self.layers[:2](given[:, None]).flatten(1), "layer 2": self.layers[:5](given[:, None])}

    def matrices(self):
        return [self.layers[i].weight.flatten(1) for i in (0, 2, 5)]


class Encoder(torch.nn.Module):
    """The same network around torch's encoder layer, in which every head has width features/heads."""

    def __init__(self, start, classes=10):
        super().__init__()
        width = TRANSFORMER.features
        self.embed = torch.nn.Linear(8, width)
        self.positions = torch.nn.Parameter(start["positions"].clone())
        self.block = torch.nn.TransformerEncoderLayer(
            width, 2, TRANSFORMER.hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = torch.nn.LayerNorm(width)
        self.scores = torch.nn.Linear(width, classes)
        self.places = {
            "norm_attention": self.block.norm1,
            "norm_hidden": self.block.norm2,
            "enter": self.block.linear1,
            "leave": self.block.linear2,
            "attention.out_proj": self.block.self_attn.out_proj,
            "embed": self.embed,
            "norm_scores": self.norm,
            "scores": self.scores,
        }
        with torch.no_grad():
            for name, module in self.places.items():
                module.weight.copy_(start[f"{name}.weight"])
                module.bias.copy_(start[f"{name}.bias"])
            for part, packed in (
                ("weight", self.block.self_attn.in_proj_weight),
                ("bias", self.block.self_attn.in_proj_bias),
            ):
                packed.copy_(torch.cat([start[f"attention.{letter}_proj.{part}"] for letter in "qkv"]))

    def forward(self, given):
        return self.scores(self.mean(given))

    def mean(self, given):
        return self.norm(self.block(self.embed(given) + self.positions)).mean(1)

    def hidden(self, given):
        return {"mean": self.mean(given)}

    def matrices(self):
        attention = self.block.self_attn
        heads = []
        for head in range(2):
            rows = [slice(8 * i + 4 * head, 8 * i + 4 * head + 4) for i in range(3)]
            heads += [attention.in_proj_weight[each] for each in rows]
            heads.append(attention.out_proj.weight[:, 4 * head : 4 * head + 4])
        return [self.embed.weight, *heads, *(self.places[name].weight for name in ("enter", "leave", "scores"))]


def ordinary_loop(model, seed, arm, optimizer=None):
    """25 steps on what the seed draws; the streams are drawn 512 steps at a time."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=SCHEDULE.step_size)
    split = images.draw(DIGITS, [seed], SCHEDULE.samples, SCHEDULE.tests)
    inputs, labels = split.inputs[0], split.labels[0]
    size = (512, SCHEDULE.batch_size)
    chosen = torch.randint(SCHEDULE.samples, size, generator=_training.generator(seed, "batches"))
    source = _training.generator(seed, "flips")
    replaced = torch.rand(*size, generator=source) < SCHEDULE.flips
    shifts = torch.randint(1, 10, size, generator=source)
    for step in range(SCHEDULE.steps):
        x, y = (inputs, labels) if arm == "gd" else (inputs[chosen[step]], labels[chosen[step]])
        if arm == "label-noise":
            y = torch.where(replaced[step], (y + shifts[step]) % 10, y)
        optimizer.zero_grad()
        torch.nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()
    return split


def effective_rank(matrix):
    values = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return np.exp(-np.sum(shares * np.log(shares)))


def compare(run, model, split):
    """Everything that is measured at the end, in float32 after 25 steps, each rounding at 1e-7."""
    last = run.isel(seed=0, step=-1)
    inputs, tests = split.inputs[0], split.test_inputs[0]
    with torch.no_grad():
        loss = torch.nn.CrossEntropyLoss()(model(inputs), split.labels[0])
        assert float(last["loss"]) == pytest.approx(float(loss), rel=1e-4)
        for name, x, y in (
            ("accuracy", inputs, split.labels[0]),
            ("test_accuracy", tests, split.test_labels[0]),
        ):
            assert float(last[name]) == pytest.approx(float((model(x).argmax(1) == y).double().mean()), abs=1e-9)
        ranks = [effective_rank(matrix.numpy()) for matrix in model.matrices()]
        np.testing.assert_allclose(last["effective_rank_weights"], ranks, rtol=1e-4)
        for name, features in model.hidden(tests[: SCHEDULE.probe]).items():
            centred = features.numpy() - features.numpy().mean(axis=0)
            assert float(last["effective_rank_features"].sel(layer=name)) == pytest.approx(
                effective_rank(centred), rel=1e-4
            )
    rows = []
    for sample in tests[: SCHEDULE.jacobian_probe]:
        for score in model(sample[None])[0]:
            slopes = torch.autograd.grad(score, list(model.parameters()), retain_graph=True)
            rows.append(np.concatenate([slope.numpy().ravel() for slope in slopes]))
    assert float(last["effective_rank_jacobian"]) == pytest.approx(effective_rank(np.array(rows)), rel=1e-3)


@pytest.mark.parametrize("arm", ARMS)
def test_the_convolutions_against_modules(arm):
    run = TRAIN["convolution"]([4], arm, SILENT)
    model = Convolutional(CONVOLUTIONS.start(4, 10))
    compare(run, model, ordinary_loop(model, 4, arm))


@pytest.mark.parametrize("arm", [*ARMS, "adamw"])
def test_the_transformer_against_modules(arm):
    run = TRAIN["transformer"]([4], arm, SILENT)
    model = Encoder(TRANSFORMER.start(4, 10))
    optimizer = torch.optim.AdamW(model.parameters()) if arm == "adamw" else None
    compare(run, model, ordinary_loop(model, 4, arm, optimizer))


@pytest.mark.parametrize("name", TRAIN)
@pytest.mark.parametrize("arm", ARMS)
def test_a_seed_is_the_same_alone_and_beside_others(name, arm):
    one, five = TRAIN[name]([2], arm, SILENT), TRAIN[name](range(5), arm, SILENT)
    for variable, values in one.data_vars.items():
        if "seed" in values.dims and variable != "outcome":
            # not bit for bit on every processor: a library may sum in another order for another number of products
            np.testing.assert_allclose(
                five[variable].sel(seed=[2]), values, rtol=1e-3, atol=1e-6, err_msg=str(variable)
            )


@pytest.mark.parametrize("name", TRAIN)
def test_arms_share_start_and_data_and_differ_in_noise(name):
    runs = {arm: TRAIN[name]([0, 1], arm, SILENT) for arm in ARMS}
    for variable in ("loss", "accuracy", "effective_rank_weights", "effective_rank_jacobian"):
        starts = [run[variable].isel(step=0).values for run in runs.values()]
        assert all(np.array_equal(start, starts[0]) for start in starts)
        ends = [run[variable].isel(step=-1).values for run in runs.values()]
        assert variable == "accuracy" or not any(np.array_equal(end, ends[0]) for end in ends[1:])


@pytest.mark.parametrize("module, network", [(convolution, CONVOLUTIONS), (transformer, TRANSFORMER)])
def test_a_seed_that_diverges_leaves_the_others_alone(module, network):
    class Broken(type(network)):
        def start(self, seed, classes):
            start = super().start(seed, classes)
            return {name: values * (torch.nan if seed == 0 else 1.0) for name, values in start.items()}

    run = module.train(Broken(**vars(network)), SCHEDULE, DIGITS, [0, 1], "sgd", SILENT)
    assert list(run["outcome"].values) == ["diverged at step 0", "completed"]
    assert np.isnan(run["effective_rank_jacobian"][0]).all()
    sound = module.train(network, SCHEDULE, DIGITS, [0, 1], "sgd", SILENT)
    for name in ("loss", "effective_rank_weights", "effective_rank_jacobian"):
        np.testing.assert_array_equal(run[name][1], sound[name][1])
    if module is transformer:  # the ledgers are those of the first seed: nothing can be said, nothing is claimed
        verdicts = module.ledger_claims({"sgd": run})
        assert verdicts and all(verdict.passed is None for verdict in verdicts)


@pytest.mark.parametrize("name", TRAIN)
def test_ctrl_c_keeps_what_is_there(name):
    def press(state):
        if state.completed >= 40:  # step 20 of two seeds
            raise KeyboardInterrupt

    with pytest.raises(rf.SimulationInterrupted) as stop:
        TRAIN[name]([0, 1], "label-noise", Work(None, press, None))
    run = stop.value.run
    assert list(run["step"]) == [0, 6] and str(run["outcome"].values[0]) == "interrupted at step 20"
    whole = TRAIN[name]([0, 1], "label-noise", SILENT)
    np.testing.assert_array_equal(run["effective_rank_jacobian"], whole["effective_rank_jacobian"][:, :2])
    if name == "transformer":
        assert int(run["ledger_step"][-1]) == 20


def test_images_of_a_folder_are_learned(tmp_path):
    from tests.beyond.test_images import some, write

    write(tmp_path, "train", *some(60, side=14, classes=4))
    write(tmp_path, "t10k", *some(30, side=14, classes=4, seed=1))
    for module in (convolution, transformer):
        network = CONVOLUTIONS if module is convolution else TRANSFORMER
        schedule = Schedule(**{**vars(SCHEDULE), "tests": 30, "steps": 6})
        run = module.train(network, schedule, images.load(tmp_path), [0], "label-noise", SILENT)
        assert run.attrs["data"].startswith("60 + 30 images of 14 × 14 pixels from ")
        # one row for each of 2 images and 4 classes
        assert float(run["alive_jacobian"].max()) <= 8 and np.isfinite(run["loss"]).all()
