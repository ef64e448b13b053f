"""The loop, the stacked gradients and the ranks that all experiments beyond linear networks share."""

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments._target import Work

torch = pytest.importorskip("torch")

from rankfall.experiments._beyond import _ranks, _training, _vectorised  # noqa: E402

SILENT = Work(threads=None, progress=False, checkpoint=None)  # nothing here continues from a file


def small_models(count, dtype=torch.float64):
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).to(dtype))
    return models


def call(parameters, inputs):
    hidden = torch.tanh(inputs @ parameters["0.weight"].mT + parameters["0.bias"])
    return hidden @ parameters["2.weight"].mT + parameters["2.bias"]


def squares(parameters, inputs, labels):
    return ((call(parameters, inputs) - labels) ** 2).mean()


def batch(count, dtype=torch.float64):
    chosen = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, 8, 4, generator=chosen, dtype=dtype)
    return inputs, torch.randn(count, 8, 3, generator=chosen, dtype=dtype)


def test_stacked_gradients_are_those_of_each_model_alone():
    models, (inputs, labels) = small_models(3), batch(3)
    found = _vectorised.gradients(squares, _vectorised.stack_models(models), inputs, labels)
    for i, model in enumerate(models):
        ((model(inputs[i]) - labels[i]) ** 2).mean().backward()
        for name, parameter in model.named_parameters():
            # sums of at most 24 terms of order 1, in another order
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-12, atol=1e-14)


def test_a_model_that_is_not_finite_does_not_touch_the_others():
    stacked, data = _vectorised.stack_models(small_models(3)), batch(3)
    clean = _vectorised.gradients(squares, stacked, *data)
    stacked["0.weight"][1, 0, 0] = torch.nan
    spoilt = _vectorised.gradients(squares, stacked, *data)
    for name, values in clean.items():
        assert torch.equal(spoilt[name][[0, 2]], values[[0, 2]])
    assert spoilt["0.weight"][1].isnan().all()


def test_descending_is_a_step_against_the_gradient():
    stacked = _vectorised.stack_models(small_models(2))
    moved = _vectorised.descend(stacked, stacked, 0.25)
    assert all(torch.equal(moved[name], 0.75 * values) for name, values in stacked.items())
    assert not any(values.requires_grad for values in moved.values())


def test_random_numbers_belong_to_seed_and_purpose():
    draw = lambda seed, purpose: torch.randn(1000, generator=_training.generator(seed, purpose), dtype=torch.float64)  # noqa: E731
    assert torch.equal(draw(0, "start"), draw(0, "start"))
    streams = torch.stack([draw(seed, purpose) for seed in (0, 1, 2**63 - 1) for purpose in ("start", "noise")])
    correlations = torch.corrcoef(streams) - torch.eye(6, dtype=torch.float64)
    # 15 pairs, standard error 1/√1000: 4.5 of it is passed by chance in 1e-4 of all choices of seeds
    assert correlations.abs().max() < 4.5 / np.sqrt(1000)


def halving(state, step):
    return state / 2


def sizes(state):
    return {"size": (("seed",), state), "parts": (("seed", "part"), torch.stack([state, -state], 1))}


def test_following_measures_at_the_save_points():
    told = []
    work = Work(threads=1, progress=told.append, checkpoint=None)
    before = torch.get_num_threads()
    result = _training.follow(
        torch.tensor([1.0, 4.0]), halving, sizes, 50, [0, 3, 50], work, "halving",
        seeds=[5, 6], coords={"part": ["plus", "minus"]}, attrs={"definitions": {"size": "of it"}, "n": 3},
    )  # fmt: skip
    assert torch.get_num_threads() == before
    assert result["size"].dims == ("seed", "step") and result["parts"].dims == ("seed", "step", "part")
    assert result["seed"].values.tolist() == [5, 6] and result["step"].values.tolist() == [0, 3, 50]
    np.testing.assert_array_equal(result["size"], [[1, 1 / 8, 2.0**-50], [4, 1 / 2, 2.0**-48]])
    assert float(result["parts"].sel(seed=6, step=3, part="minus")) == -0.5
    assert result["outcome"].values.tolist() == ["completed"] * 2
    assert result.attrs == {"steps": 50, "definitions": '{"size": "of it"}', "n": 3}
    assert [(each.completed, each.total) for each in told] == [(0, 100), (40, 100), (80, 100), (100, 100)]


@pytest.mark.parametrize("saved", [[], [3, 1], [0, 0, 2], [-1, 2], [0, 51]])
def test_save_points_out_of_order_are_refused(saved):
    with pytest.raises(rf.InvalidInput, match=r"ascending and within 0 … 50"):
        _training.follow(torch.ones(1), halving, sizes, 50, saved, SILENT, "x", seeds=[0])


def test_a_seed_that_diverges_leaves_the_others_alone():
    squaring = lambda state, step: state**2  # noqa: E731  overflows in float32 after 2^7
    alone = _training.follow(torch.tensor([1.0]), squaring, sizes, 20, [0, 5, 10, 20], SILENT, "x", seeds=[1])
    both = _training.follow(torch.tensor([2.0, 1.0]), squaring, sizes, 20, [0, 5, 10, 20], SILENT, "x", seeds=[0, 1])
    assert both["outcome"].values.tolist() == ["diverged at step 10", "completed"]
    np.testing.assert_array_equal(both.sel(seed=0)["size"], [2, 2.0**32, np.nan, np.nan])
    np.testing.assert_array_equal(both.sel(seed=1)["parts"], alone.sel(seed=1)["parts"])


def test_when_all_have_diverged_nothing_more_is_computed():
    seen = []

    def spoil(state, step):
        seen.append(step)
        return state * torch.nan

    result = _training.follow(torch.ones(2), spoil, sizes, 50, [0, 1, 30, 50], SILENT, "x", seeds=[0, 1])
    assert seen == [0] and result["step"].values.tolist() == [0, 1, 30, 50]
    assert np.isnan(result["parts"].values[:, 1:]).all()
    assert result["outcome"].values.tolist() == ["diverged at step 1"] * 2


def test_interruption_keeps_the_save_points():
    def stop(state, step):
        if step == 12:
            raise KeyboardInterrupt
        return state / 2

    threads = torch.get_num_threads()
    with pytest.raises(rf.SimulationInterrupted, match="halving: stopped at step 12 of 50") as stopped:
        _training.follow(torch.ones(2), stop, sizes, 50, [0, 10, 20, 50], SILENT, "halving", seeds=[0, 1])
    run = stopped.value.run
    assert run["step"].values.tolist() == [0, 10] and float(run["size"][1, 1]) == 2.0**-10
    assert run["outcome"].values.tolist() == ["interrupted at step 12"] * 2
    assert torch.get_num_threads() == threads


def test_interruption_before_the_first_save_point():
    def stop(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        _training.follow(torch.ones(1), halving, stop, 50, [0, 50], SILENT, "x", seeds=[0])
    assert not isinstance(stopped.value, rf.SimulationInterrupted)


def test_dimensions_that_do_not_fit_are_an_error_of_ours():
    wrong = lambda state: {"size": (("part", "seed"), np.ones((2, 1)))}  # noqa: E731
    with pytest.raises(ValueError, match="seed comes first"):
        _training.follow(torch.ones(1), halving, wrong, 5, [0], SILENT, "x", seeds=[0])


def test_weights_and_features_against_numpy():
    chosen = np.random.default_rng(0)
    wide, tall = chosen.normal(size=(2, 3, 7)), chosen.normal(size=(2, 9, 4))
    tall[:, :, 3] = 1e-4 * tall[:, :, 0]
    tall[:, :, 3] += 1e-3 * chosen.normal(size=(2, 9))  # one direction below a hundredth
    found = _ranks.weight_ranks({"wide": torch.tensor(wide), "tall": torch.tensor(tall)})
    features = _ranks.feature_ranks({"tall": torch.tensor(tall + 100.0)})
    for i in range(2):
        for j, matrix in enumerate((wide[i], tall[i])):
            values = np.linalg.svd(matrix, compute_uv=False)
            shares = values / values.sum()
            # rounding of a handful of sums
            assert float(found["effective_rank_weights"][1][i, j]) == pytest.approx(
                np.exp(-np.sum(shares * np.log(shares))), rel=1e-10
            )
            assert float(found["stable_rank_weights"][1][i, j]) == pytest.approx(
                np.sum(values**2) / values[0] ** 2, rel=1e-10
            )
            assert float(found["alive_weights"][1][i, j]) == 3
        values = np.linalg.svd(tall[i] - tall[i].mean(axis=0), compute_uv=False)
        shares = values / values.sum()
        # 100 was added and taken away again: 1e-14 absolute, on values of 1e-3
        assert float(features["effective_rank_features"][1][i, 0]) == pytest.approx(
            np.exp(-np.sum(shares * np.log(shares))), rel=1e-9
        )
        assert float(features["alive_features"][1][i, 0]) == 3
    assert found["alive_weights"][0] == ("seed", "matrix") and features["alive_features"][0] == ("seed", "layer")


def test_the_jacobian_against_one_backward_pass_per_row():
    models = small_models(2)
    stacked = _vectorised.stack_models(models)
    probe = batch(1)[0][0, :5]
    found = _ranks.jacobian_ranks(call, stacked, probe)
    for i, model in enumerate(models):
        rows = []
        for sample in probe:
            for output in range(3):
                model.zero_grad()
                model(sample)[output].backward()
                rows.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).numpy().copy())
        values = np.linalg.svd(np.array(rows), compute_uv=False)
        gram = _ranks.jacobian_gram(call, _vectorised.one_seed(stacked, i), probe)
        np.testing.assert_allclose(gram, np.array(rows) @ np.array(rows).T, rtol=1e-10, atol=1e-12)
        shares = values / values.sum()
        # of 15 singular values down to 1e-3 of the largest, squared and rooted: 1e-10 relative
        assert float(found["effective_rank_jacobian"][1][i]) == pytest.approx(
            np.exp(-np.sum(shares * np.log(shares))), rel=1e-8
        )
        assert float(found["rank_jacobian"][1][i]) == np.sum(values > 1e-4 * values[0])
        assert float(found["alive_jacobian"][1][i]) == np.sum(values > 1e-2 * values[0])


def test_the_jacobian_sees_what_does_not_depend_on_the_inputs():
    """Two samples alike, and a parameter that is not used: rank one less, the gradient of what is not used zero."""
    parameters = {"a": torch.ones(1, 3, dtype=torch.float64), "unused": torch.ones(1, 2, dtype=torch.float64)}
    probe = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    found = _ranks.jacobian_ranks(lambda given, inputs: inputs @ given["a"], parameters, probe)
    assert float(found["rank_jacobian"][1][0]) == 2
    values = np.array([np.sqrt(2.0), 2.0])
    shares = values / values.sum()
    assert float(found["effective_rank_jacobian"][1][0]) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))


def test_a_jacobian_that_is_not_finite_is_nan():
    stacked = _vectorised.stack_models(small_models(2))
    stacked["2.bias"][0, 0] = torch.nan
    stacked["0.weight"][0] = torch.inf
    found = _ranks.jacobian_ranks(call, stacked, [batch(1)[0][0, :5]] * 2)
    for _, values in found.values():
        assert values[0].isnan() and values[1].isfinite()
