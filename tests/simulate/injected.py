"""Runs of the library and of the oracle from the same starts with the same random numbers, and their comparison."""

from unittest import mock

import numpy as np

import oracles
import rankfall as rf
from rankfall._kernels import noise

REPLICATES = 6  # fills the eight lanes in part; one lane width keeps the number of kernels to compile small

NOT_RECORDED = {"outcome", "covariance", "cross_covariance"}


def problem_with_data(p, k, *, n=20, dependent=0, seed=5):
    """Explicit noisy data; the last `dependent` inputs are linear combinations of the first, so that Σ is singular."""
    rng = np.random.default_rng([seed, p, k])
    inputs = rng.standard_normal((n, p))
    if dependent:
        inputs[:, -dependent:] = inputs[:, :-dependent] @ rng.standard_normal((p - dependent, dependent)) / np.sqrt(p)
    labels = inputs @ rng.standard_normal((p, k)) / np.sqrt(p) + 0.3 * rng.standard_normal((n, k))
    return rf.Problem.from_data(inputs, labels)


def normals_of_the_run(problem, seed, replicates, steps, double=False):
    """The kernel's normals as those of the oracle, whose noise is root·N' with root·rootᵀ = Σ.

    The noise of the kernel is U diag(√d) N with (d, U) from `Problem.eigenbasis`, so N' = root⁺ U diag(√d) N. The cut
    of the pseudo-inverse lies between √d ≥ 0.1 of the directions that the data see and √1e-16 of rounding dust.
    """
    p, k = problem.n_inputs, problem.n_outputs
    drawn = noise.normals(seed, replicates, 0, steps, p * k, double=double).reshape(replicates, steps, p, k)
    d, basis = problem.eigenbasis()
    turn = np.linalg.pinv(oracles.covariance_root(problem.covariance), rcond=1e-6) @ (basis * np.sqrt(d))
    return lambda step: turn @ drawn[:, step]


class GivenBatches:
    """Stands in for NumPy's generator inside the oracle and hands it the mini-batches that the kernel drew."""

    def __init__(self, problem, method, seed, replicates, steps, double):
        self.n = problem.n_samples
        self.chosen, self.noise = noise.batches(
            seed, replicates, 0, steps, self.n, method.batch_size, problem.n_outputs, double=double
        )
        self.asked, self.step = 0, 0

    def permutation(self, n):
        assert n == self.n
        self.step, replicate = divmod(self.asked, len(self.chosen))
        self.asked += 1
        return self.chosen[replicate, self.step]

    def standard_normal(self, shape):
        assert shape == self.noise[:, self.step].shape
        return self.noise[:, self.step]


def both(problem, network, method, *, steps, dt=None, save_every=None, seed=3, ledger="auto", precision="single"):
    """(run of the library, run of the oracle), with weights."""
    save_every = save_every or steps // 5
    flow = isinstance(method, rf.StochasticGradientFlow)
    run = rf.simulate(
        problem,
        network,
        method,
        **({"duration": steps * dt, "dt": dt} if flow else {"steps": steps}),
        replicates=REPLICATES,
        seed=seed,
        save_points=steps // save_every + 1,
        weights=True,
        ledger=ledger,
        noise_precision=precision,
        threads=1,
    )
    return run, oracle(
        problem,
        network,
        method,
        steps=steps,
        dt=dt,
        save_every=save_every,
        seed=seed,
        ledger=ledger,
        precision=precision,
    )


def oracle(problem, network, method, *, steps, dt=None, save_every=1, seed=3, ledger="auto", precision="single"):
    """The oracle's half of `both`."""
    double = precision == "double"
    if ledger == "auto":
        ledger = "determinant" if network.is_wide else "balance"
    options = {"steps": steps, "dt": dt, "save_every": save_every, "ledger": ledger}
    start = network.draw(REPLICATES, seed)
    if isinstance(method, rf.StochasticGradientDescent):
        given = GivenBatches(problem, method, seed, REPLICATES, steps, double)
        with mock.patch.object(np.random, "default_rng", lambda _: given):
            expected = oracles.simulate(problem, *start, method, **options)
        assert given.asked == steps * REPLICATES
        return expected
    normals = normals_of_the_run(problem, seed, REPLICATES, steps, double)
    return oracles.simulate(problem, *start, method, normals=normals, **options)


def errors(run, expected, problem):
    """Largest distance of every recorded variable from the oracle's, in units of what rounding explains.

    The unit is ε = 4 N (p + k + 2) u: in each of N steps either code rounds an entry in at most p + k + 2 places, by u
    = 1.1e-16 of the largest singular value σ₁ at most, as if they all rounded one way (they do not: the errors found
    are 10 to 100 times smaller), and the dynamics, which end near a minimum, amplify by no more than the remaining 2.
    A change of Z by ε σ₁ moves singular values by ε σ₁ (Weyl), the balances by 2 ε σ₁ ‖Z‖, log det M by 2 ε Σ σ₁/σ_i
    and the loss by 2 ε σ₁² ‖G‖ + ε² ‖Σ‖ σ₁⁴. The determinant ledger adds up logarithms of numbers near 1.
    `test_paths.test_the_tolerance_has_teeth` shows that a constant off by 1e-9 exceeds it.
    """
    names = set(run.data_vars) - NOT_RECORDED - {"largest_increment", "inputs", "labels", "start_W1", "start_W2"}
    assert names == set(expected.data_vars) - NOT_RECORDED
    np.testing.assert_allclose(run.time, expected.time, rtol=1e-14)
    np.testing.assert_array_equal(run.step, expected.step)
    assert (run.outcome == "completed").all()
    unit = 4 * int(run.step[-1]) * (problem.n_inputs + problem.n_outputs + 2) * 2.0**-53
    spectrum = expected.singular_values_Z.values
    largest = spectrum.max()
    gradients = oracles.gradient(problem, expected.W1.values, expected.W2.values)
    slope = np.linalg.norm(gradients, axis=(-2, -1)).max()
    scales = {
        "loss": 2 * largest**2 * slope + unit * np.linalg.norm(problem.covariance, 2) * largest**4,
        "ledger_log_det": 1.0,
        **dict.fromkeys(("W1", "W2", "singular_values_W1", "singular_values_W2", "singular_values_Z"), largest),
        **{
            name: 2 * largest * np.sqrt((spectrum**2).sum(-1).max())
            for name in ("balance", "balance_drift", "ledger_balance", "ledger_balance_error")
        },
    }
    if not np.isneginf(expected.log_det).all():
        scales["log_det"] = 2 * (largest / spectrum).sum(-1).max()
    found = {}
    for name in names:
        ours, theirs = run[name].values, expected[name].values
        if name not in scales:
            np.testing.assert_array_equal(ours, theirs)  # −inf
            continue
        assert ours.shape == theirs.shape
        assert np.isfinite(ours).all()
        found[name] = np.abs(ours - theirs).max() / (unit * scales[name])
    return found


def assert_same(run, expected, problem):
    found = errors(run, expected, problem)
    assert max(found.values()) < 1.0, found
