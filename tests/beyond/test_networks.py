"""The convolutional network and the transformer against modules of torch's, trained by an ordinary loop."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments._target import Work

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from beyond.modules import CONVOLUTIONS, DIGITS, SCHEDULE, TRANSFORMER, Convolutional, Encoder, ordinary_loop  # noqa: E402
from rankfall.experiments._beyond import convolution, images, transformer  # noqa: E402
from rankfall.experiments._beyond._classifier_notes import accuracy_notes, loss_notes  # noqa: E402

SILENT = Work(threads=None, progress=False, checkpoint=None)
ARMS = ["gd", "gd-smoothed", "sgd", "label-noise"]
TRAIN = {
    "convolution": partial(convolution.train, CONVOLUTIONS, SCHEDULE, DIGITS),
    "transformer": partial(transformer.train, TRANSFORMER, SCHEDULE, DIGITS),
}


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
@pytest.mark.parametrize("arm", ["gd", "label-noise"])
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
    (note,) = loss_notes(runs)
    for arm in ("gd-smoothed", "label-noise"):
        rank = runs[arm]["effective_rank_jacobian"]
        assert f"{float((rank[:, -1] / rank[:, 0]).median()):.2f}" in note.partition("Jacobian")[2]
    assert loss_notes({"gd": runs["gd"], "label-noise": runs["label-noise"]}) == []
    accuracy = float(runs["sgd"]["test_accuracy"][:, -1].median())
    assert "; sgd " in accuracy_notes(runs)[0] and f" and {accuracy:.1%}" in accuracy_notes(runs)[0]


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
    from beyond.test_images import some, write

    write(tmp_path, "train", *some(60, side=14, classes=4))
    write(tmp_path, "t10k", *some(30, side=14, classes=4, seed=1))
    for module in (convolution, transformer):
        network = CONVOLUTIONS if module is convolution else TRANSFORMER
        schedule = replace(SCHEDULE, tests=30, steps=6)
        run = module.train(network, schedule, images.load(tmp_path), [0], "label-noise", SILENT)
        assert run.attrs["data"].startswith("60 + 30 images of 14 × 14 pixels from ")
        # one row for each of 2 images and 4 classes
        assert float(run["alive_jacobian"].max()) <= 8 and np.isfinite(run["loss"]).all()
