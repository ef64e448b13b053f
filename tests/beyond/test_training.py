"""The experiments' training against loops that share no code with it, and what label noise is."""

import json
from dataclasses import replace

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments._target import Work

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from rankfall.experiments._beyond import _draws, _training, digits, teacher_student  # noqa: E402

SILENT = Work(threads=None, progress=False, checkpoint=None)
REGRESSION = teacher_student.Setup(
    inputs=4, units=6, samples=20, probe=15, step_size=0.05, batch_size=3, label_noise=0.25, steps=40, save_points=3
)
IMAGES = digits.Setup(
    step_size=0.1, wrong_labels=0.2, flips=0.4, layers=2, width=12, samples=40, probe=30, jacobian_probe=3, steps=25,
    save_points=3,
)  # fmt: skip
ARMS = ["gd", "sgd", "label-noise"]


def effective_rank(matrix):
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = values / values.sum()
    return np.exp(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize("arm", ARMS)
def test_the_tanh_network_against_derivatives_by_hand(arm):
    seed, setup = 3, REGRESSION
    run = teacher_student.train("tanh", setup, [seed], arm, SILENT)
    inputs, labels, probe, _ = (each[0].numpy() for each in teacher_student._problem(torch.tanh, setup, [seed]))
    start = teacher_student._start(setup, [seed])
    first, second = start["W1"][0].numpy().copy(), start["W2"][0].numpy().copy()
    source = lambda purpose: _training.generator(seed, purpose)  # noqa: E731
    # the streams are drawn 512 steps at a time
    chosen = torch.randint(setup.samples, (512, setup.batch_size), generator=source("batches")).numpy()
    noise = torch.randn(512, setup.batch_size, generator=source("noise"), dtype=torch.float64).numpy()
    for step in range(setup.steps):
        x, y = (inputs, labels) if arm == "gd" else (inputs[chosen[step]], labels[chosen[step]])
        y = y + 0.5 * noise[step] if arm == "label-noise" else y  # the variance is 0.25
        hidden = np.tanh(x @ first.T)
        misfit = (hidden @ second - y) / len(y)
        slope_second = hidden.T @ misfit
        slope_first = (np.outer(misfit, second) * (1 - hidden**2)).T @ x
        first, second = first - setup.step_size * slope_first, second - setup.step_size * slope_second
    last = run.isel(seed=0, step=-1)
    # 40 steps of sums of 20 terms: a few hundred roundings of 1e-16
    hidden = np.tanh(inputs @ first.T)
    assert float(last["loss"]) == pytest.approx(np.mean((hidden @ second - labels) ** 2) / 2, rel=1e-10)
    assert float(last["effective_rank_weights"][0]) == pytest.approx(effective_rank(first), rel=1e-10)
    features = np.tanh(probe @ first.T)
    assert float(last["effective_rank_features"][0]) == pytest.approx(
        effective_rank(features - features.mean(axis=0)), rel=1e-9
    )
    # d f / d W1 = W2 (1 − h²) ⊗ x,  d f / d W2 = h
    rows = [np.append(np.outer(second * (1 - h**2), x), h) for h, x in zip(features, probe, strict=True)]
    assert float(last["effective_rank_jacobian"]) == pytest.approx(effective_rank(np.array(rows)), rel=1e-7)


@pytest.mark.parametrize("arm", ARMS)
def test_the_digits_against_one_module_and_its_optimizer(arm):
    seed, setup = 5, IMAGES
    run = digits.train(setup, [seed], arm, SILENT)
    inputs, labels, test_inputs, test_labels = (each[0] for each in digits._problem(setup, [seed]))
    start = digits._start(setup, [seed])
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
    )
    with torch.no_grad():
        for number, layer in enumerate(model[::2], 1):
            layer.weight.copy_(start[f"W{number}"][0])
            layer.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=setup.step_size)
    chosen = torch.randint(setup.samples, (512, setup.batch_size), generator=_training.generator(seed, "batches"))
    source = _training.generator(seed, "flips")
    replaced = torch.rand(512, setup.batch_size, generator=source) < setup.flips
    shifts = torch.randint(1, 10, (512, setup.batch_size), generator=source)
    for step in range(setup.steps):
        x, y = (inputs, labels) if arm == "gd" else (inputs[chosen[step]], labels[chosen[step]])
        if arm == "label-noise":
            y = torch.where(replaced[step], (y + shifts[step]) % 10, y)
        optimizer.zero_grad()
        torch.nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()
    last = run.isel(seed=0, step=-1)
    with torch.no_grad():
        # float32: 25 steps, each rounding at 1e-7
        assert float(last["loss"]) == pytest.approx(float(torch.nn.CrossEntropyLoss()(model(inputs), labels)), rel=1e-4)
        for name, x, y in (("accuracy", inputs, labels), ("test_accuracy", test_inputs, test_labels)):
            # one image in 1700 may lie that close to a border
            assert float(last[name]) == pytest.approx(float((model(x).argmax(1) == y).double().mean()), abs=1e-3)
        ranks = [effective_rank(layer.weight.numpy()) for layer in model[::2]]
        np.testing.assert_allclose(last["effective_rank_weights"], ranks, rtol=1e-4)
        hidden = model[:2](test_inputs[: setup.probe])
        assert float(last["silent_units"][0]) == float((hidden == 0).all(0).double().mean())


@pytest.mark.parametrize("arm", ARMS)
def test_a_seed_is_the_same_alone_and_beside_others(arm):
    for train, alone in (
        (lambda seeds: teacher_student.train("relu", REGRESSION, seeds, arm, SILENT), 1e-9),
        (lambda seeds: digits.train(IMAGES, seeds, arm, SILENT), 1e-3),
    ):
        one, five = train([2]), train(range(5))
        for name, values in one.data_vars.items():
            if name != "outcome":
                # not bit for bit on every processor: a library may sum in another order for another number of products
                np.testing.assert_allclose(five[name].sel(seed=[2]), values, rtol=alone, atol=1e-6, err_msg=name)


def test_draws_do_not_depend_on_what_runs_beside_them():
    draw = lambda source, steps: torch.randn(steps, 3, generator=source)  # noqa: E731
    alone, beside = _draws.Draws([7], "noise", draw), _draws.Draws([1, 7, 9], "noise", draw)
    for step in (0, 1, 511, 512, 1300):
        assert torch.equal(alone.at(step)[0], beside.at(step)[1])
    with pytest.raises(ValueError, match="drawn long ago"):
        alone.at(5)


def test_arms_share_start_and_data_and_only_their_noise_differs():
    runs = {arm: teacher_student.train("gelu", REGRESSION, [0, 1], arm, SILENT) for arm in ARMS}
    for name in ("loss", "test_loss", "effective_rank_jacobian"):
        starts = [run[name].isel(step=0).values for run in runs.values()]
        np.testing.assert_array_equal(starts[0], starts[1])
        np.testing.assert_array_equal(starts[0], starts[2])
        assert starts[0][0] != starts[0][1]  # seeds differ
    ends = [float(run["loss"].isel(step=-1, seed=0)) for run in runs.values()]
    assert len(set(ends)) == 3
    quiet = teacher_student.train("gelu", replace(REGRESSION, label_noise=0.0), [0, 1], "label-noise", SILENT)
    np.testing.assert_array_equal(quiet["loss"], runs["sgd"]["loss"])


def test_flips_replace_a_class_by_any_other():
    added = digits._flips(0.3, 50, _training.generator(0, "test"), 2000).numpy().ravel()
    # 4.5 standard errors: by chance in 1e-5 of all seeds; an error of 5 % of 0.3 would be 10 of them
    assert abs(np.mean(added != 0) - 0.3) < 4.5 * np.sqrt(0.21 / added.size)
    counts = np.bincount(added[added > 0], minlength=10)[1:]
    expected = counts.sum() / 9
    # 9 of them, 4.5 standard errors each: 1e-4 of all seeds
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)


def test_wrong_labels_stay_wrong_and_test_labels_are_right():
    from sklearn.datasets import load_digits

    right = digits._problem(replace(IMAGES, wrong_labels=0.0, samples=400), [0, 1])
    wrong = digits._problem(replace(IMAGES, samples=400), [0, 1])
    assert torch.equal(right[0], wrong[0]) and torch.equal(right[3], wrong[3])
    share = (right[1] != wrong[1]).double().mean()
    assert abs(float(share) - 0.2) < 4.5 * np.sqrt(0.16 / 800)  # 1e-5 of all seeds
    pixels, classes = load_digits(return_X_y=True)
    pixels = (pixels - pixels.mean(axis=0)) / (pixels - pixels.mean(axis=0)).std()
    distances = ((wrong[2][0, :20, None].numpy() - pixels[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(classes[distances.argmin(1)], wrong[3][0, :20])


def test_a_step_that_is_too_large_diverges_and_says_so():
    run = teacher_student.train("relu", replace(REGRESSION, step_size=30.0), [0, 1], "gd", SILENT)
    assert all(str(outcome).startswith("diverged at step") for outcome in run["outcome"].values)
    assert np.isnan(run["loss"].values[:, -1]).all() and np.isfinite(run["loss"].values[:, 0]).all()


def test_the_dataset_says_what_it_holds():
    run = digits.train(IMAGES, [0], "label-noise", SILENT)
    assert run["effective_rank_weights"].dims == ("seed", "step", "matrix")
    assert run["matrix"].values.tolist() == ["W1", "W2", "W3"] and run["layer"].values.tolist() == [
        "hidden 1",
        "hidden 2",
    ]
    assert digits.Setup(**json.loads(run.attrs["setup"])) == IMAGES
    assert "centred" in json.loads(run.attrs["definitions"])["features"]
    assert run.sizes["step"] == 3 and run["step"].values[-1] == IMAGES.steps


def test_ctrl_c_keeps_what_was_measured():
    def press(progress):
        if progress.completed >= 20:
            raise KeyboardInterrupt

    with pytest.raises(rf.SimulationInterrupted) as stopped:
        digits.train(replace(IMAGES, steps=100), [0], "sgd", Work(None, press, None))
    assert stopped.value.run["outcome"].values.tolist() == ["interrupted at step 20"]
