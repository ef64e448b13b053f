"""Every method of deep networks against the literal loop, trajectory by trajectory with the same random numbers."""

from __future__ import annotations

import numpy as np
import pytest

import deep_oracle
import rankfall as rf
from rankfall._kernels import noise as kernel_noise
from simulate.injected import GivenBatches, normals_of_the_run, problem_with_data

# A crossing of the 64 steps after which a kernel stores its ledger, and a rest.
STEPS, EVERY, REPLICATES, SEED = 90, 45, 5, 3
DECAY = 0.3
METHODS = {
    "descent": rf.GradientDescent(0.004, weight_decay=DECAY),
    "label noise": rf.LabelNoiseDescent(0.004, 1.5, batch_size=3),
    "mini-batch": rf.StochasticGradientDescent(0.004, 8, label_noise=0.7),
    "stochastic flow": rf.StochasticGradientFlow(1.5, 0.05),
}
# p, hidden, k: wide pairs inside and out, bottlenecks, hidden units that reduce, fewer inputs than outputs.
SIZES = {
    "three layers": (3, [8, 5], 2),
    "bottleneck": (3, [4, 1, 4], 2),
    "reduced": (3, [4, 30, 3], 2),
    "more outputs": (2, [7, 4, 12], 3),
    "depth 6": (2, [3, 9, 3, 4, 3], 2),
}


def follow(size, method, *, precision="single", dependent=0, ledger="auto"):
    """Assert that the library takes the oracle's path; returns the run and the oracle's final ledgers."""
    p, hidden, k = size
    problem = problem_with_data(p, k, dependent=dependent)
    network = rf.LinearNetwork.gaussian(p, hidden, k, 1.0 / np.sqrt(max(hidden)))
    flow = isinstance(method, rf.StochasticGradientFlow)
    dt = 0.004 if flow else None
    run = rf.simulate(
        problem,
        network,
        method,
        **({"duration": STEPS * dt, "dt": dt} if flow else {"steps": STEPS}),
        replicates=REPLICATES,
        seed=SEED,
        save_points=STEPS // EVERY + 1,
        weights=True,
        ledger=ledger,
        noise_precision=precision,
        threads=1,
    )
    starts = network.draw(REPLICATES, SEED)
    normals = normals_of_the_run(problem, SEED, REPLICATES, STEPS, precision == "double")
    factor = deep_oracle_root(problem)
    batch_of = None
    if isinstance(method, rf.StochasticGradientDescent):
        batch_of = GivenBatches(problem, method, SEED, REPLICATES, STEPS, precision == "double")
    depth = len(hidden) + 1
    for i in range(REPLICATES):
        layers = [start[i] for start in starts]
        noise = batch = None
        if batch_of is not None:
            batch = lambda step, i=i: (batch_of.chosen[i, step], batch_of.noise[i, step])  # noqa: E731
        elif not isinstance(method, rf.GradientDescent):
            noise = lambda step, i=i: factor @ normals(step)[i]  # noqa: E731
        states, ledgers, balance_ledgers = deep_oracle.descend(
            problem, layers, method, steps=STEPS, noise=noise, batch=batch, dt=dt
        )
        for index, step in enumerate(range(0, STEPS + 1, EVERY)):
            assert_same(run.isel(replicate=i, time=index), states[step], problem, depth)
            if "ledger_log_det" in run:
                known = np.isfinite(run.log_det.values[i, 0])
                # a sum of `steps` terms, each rounded on the grid of 1
                np.testing.assert_allclose(
                    run.ledger_log_det.values[i, index, known], ledgers[step][known], rtol=1e-12, atol=1e-13
                )
                assert np.isnan(run.ledger_log_det.values[i, index, ~known]).all()
            norms = [np.linalg.norm(q) for q in balance_ledgers[step]]
            np.testing.assert_allclose(run.ledger_balance.values[i, index], norms, rtol=1e-12, atol=1e-13)
    return run


def deep_oracle_root(problem):
    """The L with L Lᵀ = Σ that `normals_of_the_run` turns the kernel's normals for."""
    values, vectors = np.linalg.eigh(problem.covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def assert_same(found, layers, problem, depth):
    """One save point of one replicate. 1e-12 of the size of the weights is what 90 steps round, a hundredfold."""
    for i, layer in enumerate(layers, start=1):
        np.testing.assert_allclose(found[f"W{i}"], layer, rtol=0, atol=1e-12 * max(1.0, np.abs(layer).max()))
        spectrum = np.linalg.svd(layer, compute_uv=False)
        np.testing.assert_allclose(found[f"singular_values_W{i}"], spectrum, rtol=0, atol=1e-12 * max(1, spectrum[0]))
    product = deep_oracle.chain(layers, problem.n_inputs)
    spectrum = np.linalg.svd(product, compute_uv=False)
    np.testing.assert_allclose(found.singular_values_product, spectrum, rtol=0, atol=1e-12 * max(1, spectrum[0]))
    residual = problem.inputs @ product - problem.labels
    np.testing.assert_allclose(found.loss, (residual**2).sum() / (2 * len(residual)), rtol=1e-11)
    for i, (z, q) in enumerate(zip(deep_oracle.stacks(layers), deep_oracle.balances(layers), strict=True), start=1):
        values = np.linalg.svd(z, compute_uv=False)
        np.testing.assert_allclose(found[f"singular_values_Z{i}"], values, rtol=0, atol=1e-12 * max(1, values[0]))
        np.testing.assert_allclose(found.balance[i - 1], np.linalg.norm(q), rtol=0, atol=1e-12 * max(1, values[0] ** 2))
        if z.shape[0] <= z.shape[1]:
            condition = values[0] / values[-1]
            tolerance = 1e-12 * len(values) * condition
            np.testing.assert_allclose(found.log_det[i - 1], 2 * np.log(values).sum(), rtol=0, atol=tolerance)
        else:
            assert np.isneginf(found.log_det[i - 1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_the_oracles_path(name, size):
    run = follow(SIZES[size], METHODS[name])
    assert (run.outcome == "completed").all()


def test_many_outputs_take_tiles_of_columns():
    """Six columns on the smaller side: two tiles, of four and of two, which share the weight decay."""
    follow((6, [16, 9], 7), rf.LabelNoiseDescent(0.01, 1.0, weight_decay=DECAY))


def test_one_of_each():
    follow((1, [1, 1], 1), METHODS["label noise"])


def test_double_precision_noise():
    follow((3, [8, 5], 2), METHODS["label noise"], precision="double")


def test_singular_covariance():
    follow((4, [7, 5], 2), METHODS["label noise"], dependent=1)


def test_large_networks_go_through_lapack():
    """More rows than the lanes record."""
    run = follow((3, [70, 66], 2), rf.LabelNoiseDescent(0.002, 1.5))
    assert run.singular_values_W2.shape[-1] == 66


def test_two_layers_are_a_depth_like_any_other():
    """The deep kernel at depth 2 takes the path of the two-layer one (both are correct to rounding, not to the bit)."""
    from rankfall._kernels import loader
    from rankfall._kernels.deep import deep_source
    from rankfall._kernels.deep_layout import DeepLayout
    from rankfall._kernels.deep_variant import DeepVariant, scratch_size
    from rankfall._kernels.vector import aligned_zeros

    problem = problem_with_data(3, 2)
    network = rf.LinearNetwork.gaussian(3, 5, 2, 0.6)
    method = METHODS["label noise"]
    run = rf.simulate(problem, network, method, steps=STEPS, replicates=8, seed=SEED, weights=True, save_points=2)
    d, U = problem.eigenbasis()
    W1, W2 = network.draw(8, SEED)
    layout = DeepLayout((3, 5, 2), 8, 8)
    state = layout.pack([U.T @ W1, W2])
    variant = DeepVariant(2)
    loader.load(variant.name, deep_source(variant))(
        state,
        np.array(layout.stored),
        0.004 * U.T @ problem.cross_covariance,
        0.004 * d,
        0.004 * np.sqrt(1.5 / 3 * d),
        1.0,
        False,
        np.zeros(1, dtype=np.int64),
        np.uint64(SEED),
        0,
        0,
        STEPS,
        0,
        1,
        np.zeros((1, 8)),
        np.zeros(1),
        np.full(8, -1),
        aligned_zeros(scratch_size(variant, layout.stored, 6)),
        (),
    )
    first, second = layout.unpack(state)
    np.testing.assert_allclose(U @ first, run.W1.values[:, -1], rtol=0, atol=1e-13)
    np.testing.assert_allclose(second, run.W2.values[:, -1], rtol=0, atol=1e-13)


def test_noise_is_that_of_two_layers():
    """The first step from zero outputs: W_L moves by η A_Lᵀ (C + noise), with the same numbers as in two layers."""
    problem = problem_with_data(3, 2)
    W1, W2 = np.eye(3), np.zeros((3, 2))
    method = rf.LabelNoiseDescent(0.1, 2.0)
    two = rf.simulate(problem, rf.LinearNetwork.from_weights(W1, W2), method, steps=1, seed=8, weights=True)
    deep = rf.simulate(problem, rf.LinearNetwork.from_weights(W1, W1, W2), method, steps=1, seed=8, weights=True)
    np.testing.assert_allclose(two.W2[0, -1].values, deep.W3[0, -1].values, rtol=0, atol=1e-15)
    drawn = kernel_noise.normals(8, 1, 0, 1, 6).reshape(3, 2)
    d, U = problem.eigenbasis()
    expected = 0.1 * (problem.cross_covariance + U @ (np.sqrt(2.0 * d)[:, None] * drawn))
    np.testing.assert_allclose(deep.W3[0, -1].values, expected, rtol=0, atol=1e-14)
