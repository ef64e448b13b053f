"""Every descent and stochastic flow against a plain NumPy loop, trajectory by trajectory with the same random numbers.

The loop (`oracles.simulate`) works in the original basis, on the full hidden width, from explicit data where a method
is defined by data, with SVDs for the ledger and `scipy.linalg.expm` for the geometric step: it shares none of the
reductions, closed forms and kernels that the library uses. What it needs is the random numbers of the kernels, which
`rankfall._kernels.noise` gives one by one.
"""

import dataclasses

import numpy as np
import pytest

import oracles
import rankfall as rf
from simulate import injected
from simulate.injected import REPLICATES, assert_same, both, errors, problem_with_data

# Two crossings of the 64 steps after which a kernel stores its ledger, and a rest.
STEPS = 150
LABEL_NOISE = rf.LabelNoiseDescent(0.02, 2.0, batch_size=3)
MINI_BATCH = rf.StochasticGradientDescent(0.02, 8, label_noise=0.7)
EULER = rf.StochasticGradientFlow(2.0, 0.05, integrator="euler")
GEOMETRIC = rf.StochasticGradientFlow(2.0, 0.05)
STOCHASTIC = {"label noise": LABEL_NOISE, "mini-batch": MINI_BATCH, "euler": EULER, "geometric": GEOMETRIC}

SIZES = {
    "wide": (3, 2, 8),
    "square": (3, 2, 5),
    "narrow": (3, 2, 2),
    "more outputs": (2, 3, 6),
    "one of each": (1, 1, 1),
}


def follow(p, k, width, method, *, dependent=0, n=20, steps=STEPS, dt=0.01, scale=0.5, ledger=None, **options):
    """Assert that the library takes the oracle's path; returns both runs and the problem."""
    problem = problem_with_data(p, k, n=n, dependent=dependent)
    network = rf.LinearNetwork.gaussian(p, width, k, scale)
    geometric = getattr(method, "integrator", "") == "geometric"
    ledger = ledger or ("both" if network.is_wide and not geometric else "balance")
    dt = dt if isinstance(method, rf.StochasticGradientFlow) else None
    run, expected = both(problem, network, method, steps=steps, dt=dt, ledger=ledger, **options)
    assert_same(run, expected, problem)
    return run, expected, problem


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_method_takes_the_oracles_path_at_every_width(name, size):
    p, k, width = SIZES[size]
    run, _, problem = follow(p, k, width, STOCHASTIC[name])
    # the loss is that of the data, to the rounding of sums over 20 samples
    residual = problem.inputs @ run.W1.values @ run.W2.values - problem.labels
    np.testing.assert_allclose(run.loss, (residual**2).sum((-2, -1)) / 40, rtol=1e-13)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_without_weights_it_is_the_same_path(name):
    """Then the hidden units are reduced without a way back: all else is recorded as before."""
    method, steps = STOCHASTIC[name], STEPS
    ledger = "balance" if name == "geometric" else "both"
    run, expected, problem = follow(3, 2, 8, method, ledger=ledger)
    flow = isinstance(method, rf.StochasticGradientFlow)
    bare = rf.simulate(
        problem,
        rf.LinearNetwork.gaussian(3, 8, 2, 0.5),
        method,
        **({"duration": steps * 0.01, "dt": 0.01} if flow else {"steps": steps}),
        replicates=REPLICATES,
        seed=3,
        save_points=6,
        ledger=ledger,
    )
    assert "W1" not in bare and "W2" not in bare
    assert_same(bare.assign(W1=run.W1, W2=run.W2), expected, problem)


@pytest.mark.parametrize("width", [8, 2])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_singular_covariance(name, width):
    run, _, problem = follow(3, 2, width, STOCHASTIC[name], dependent=1)
    d, basis = problem.eigenbasis()
    assert d[0] == 0.0 < d[1]
    # what the data do not see stays, to the rounding of a step, 150 times and all the same way
    unseen = basis[:, 0] @ run.W1.values
    np.testing.assert_allclose(unseen[:, -1], unseen[:, 0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("width", [8, 2])
def test_gradient_descent(width):
    run, _, _ = follow(3, 2, width, rf.GradientDescent(0.02), ledger="balance")
    assert run.loss[:, -1].max() < run.loss[:, 0].min()


@pytest.mark.parametrize("method", [LABEL_NOISE, MINI_BATCH, rf.GradientDescent(0.02)])
def test_weight_decay(method):
    follow(3, 2, 8, dataclasses.replace(method, weight_decay=0.5))


@pytest.mark.parametrize("batch_size", [1, 8, 20])
@pytest.mark.parametrize("label_noise", [0.0, 0.7])
def test_mini_batches_of_one_some_and_all_samples(batch_size, label_noise):
    method = rf.StochasticGradientDescent(0.02, batch_size, label_noise=label_noise)
    run, _, problem = follow(3, 2, 8, method)
    if batch_size == problem.n_samples and not label_noise:  # then there is nothing random left
        network = rf.LinearNetwork.gaussian(3, 8, 2, 0.5)
        plain = injected.oracle(
            problem, network, rf.GradientDescent(0.02), steps=STEPS, save_every=STEPS // 5, ledger="both"
        )
        assert_same(run, plain, problem)


@pytest.mark.parametrize("method", [LABEL_NOISE, MINI_BATCH, GEOMETRIC], ids=lambda m: type(m).__name__)
def test_double_precision_noise(method):
    run, _, problem = follow(3, 2, 8, method, precision="double")
    # it is other noise than that of single precision, not the same numbers with more digits
    network = rf.LinearNetwork.gaussian(3, 8, 2, 0.5)
    dt = 0.01 if method is GEOMETRIC else None
    ledger = "balance" if method is GEOMETRIC else "both"
    single = injected.oracle(problem, network, method, steps=STEPS, dt=dt, save_every=STEPS // 5, ledger=ledger)
    assert errors(run, single, problem)["W1"] > 1e6


@pytest.mark.parametrize(("p", "k", "width"), [(6, 4, 12), (6, 4, 3), (4, 6, 10)])
@pytest.mark.parametrize("name", ["label noise", "euler", "geometric"])
def test_sizes_beyond_the_unrolled_kernels(name, p, k, width):
    follow(p, k, width, STOCHASTIC[name], ledger="balance")


@pytest.mark.parametrize("width", [5, 60])
@pytest.mark.parametrize("name", ["label noise", "euler"])
def test_sizes_whose_spectra_lapack_computes(name, width):
    """More than 48 rows of Z, 7 of the 46 inputs linear combinations of others."""
    method = {"label noise": rf.LabelNoiseDescent(0.002, 2.0), "euler": EULER}[name]
    follow(46, 3, width, method, dependent=7, n=60, steps=60, dt=0.001, ledger="balance")


@pytest.mark.parametrize("method", [LABEL_NOISE, GEOMETRIC], ids=["descent", "flow"])
@pytest.mark.parametrize("shared", [False, True])
def test_save_points_and_starts_as_they_were_asked_for(method, shared):
    """Uneven save points, the first after the start, and starts that were given, one or one per replicate."""
    problem, steps = problem_with_data(3, 2), 100
    starts = rf.LinearNetwork.gaussian(3, 8, 2, 0.5).draw(REPLICATES, seed=8)
    if shared:
        starts = tuple(np.repeat(weights[:1], REPLICATES, axis=0) for weights in starts)
    network = rf.LinearNetwork.from_weights(*(weights[0] if shared else weights for weights in starts))
    dt = 0.01 if method is GEOMETRIC else method.step_size
    ledger = "balance" if method is GEOMETRIC else "both"
    wanted = np.array([3, 4, 63, 64, 65, 97])
    run = rf.simulate(
        problem,
        network,
        method,
        duration=steps * dt,
        dt=dt if method is GEOMETRIC else None,
        replicates=REPLICATES,
        seed=3,
        save_points=wanted * dt,
        weights=True,
        ledger=ledger,
    )
    expected = oracles.simulate(
        problem,
        *starts,
        method,
        steps=steps,
        dt=dt,
        normals=injected.normals_of_the_run(problem, 3, REPLICATES, steps),
        ledger=ledger,
    )
    assert_same(run, expected.isel(time=wanted), problem)


def test_the_largest_increment_is_that_of_the_path():
    """‖H‖_F of the geometric step is evaluated behind the first half scaling."""
    problem, network, h = problem_with_data(3, 2), rf.LinearNetwork.gaussian(3, 8, 2, 0.5), 0.01
    run, expected = both(problem, network, GEOMETRIC, steps=STEPS, dt=h, save_every=1, ledger="balance")
    normals = injected.normals_of_the_run(problem, 3, REPLICATES, STEPS)
    d, basis = problem.eigenbasis()
    inputs = basis * np.exp(-GEOMETRIC.intensity * 2 * d * h / 4) @ basis.T
    output = np.exp(-GEOMETRIC.intensity * d.sum() * h / 4)
    root = oracles.covariance_root(problem.covariance)
    largest = np.zeros(REPLICATES)
    for step in range(STEPS):
        W1, W2 = expected.W1.values[:, step], expected.W2.values[:, step]
        H = h * oracles.gradient(problem, inputs @ W1, W2 * output)
        H += np.sqrt(GEOMETRIC.intensity * h) * (root @ normals(step))
        largest = np.maximum(largest, np.linalg.norm(H, axis=(1, 2)))
    # as the weights: rounding of 150 steps, relative
    np.testing.assert_allclose(run.largest_increment, largest, rtol=1e-12)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_tolerance_has_teeth(name):
    """A noise variance, and a step, that are wrong by 1e-9 are seen in the weights."""
    method = STOCHASTIC[name]
    run, expected, problem = follow(3, 2, 8, method)
    network = rf.LinearNetwork.gaussian(3, 8, 2, 0.5)
    flow = isinstance(method, rf.StochasticGradientFlow)
    ledger = "balance" if name == "geometric" else "both"
    for field in ("label_noise", "step_size"):
        wrong = dataclasses.replace(method, **{field: getattr(method, field) * (1 + 1e-9)})
        off = injected.oracle(
            problem, network, wrong, steps=STEPS, dt=0.01 if flow else None, save_every=STEPS // 5, ledger=ledger
        )
        off = off.assign_coords(time=expected.time)
        assert errors(run, off, problem)["W1"] > 10.0, field
