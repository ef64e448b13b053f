"""Log singular values hundreds of orders of magnitude apart, against hundreds of digits on the same noise."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

import rankfall as rf
from rankfall._kernels.noise import normals
from small import PROBLEM

OBSERVABLES = ["log_singular_values_Z", "log_singular_values_W1"]
CURVATURE, CROSS = [0.7, 1.2], [[0.5], [0.8]]
SEED = 3


def in_many_digits(method, W1, W2, steps, dt, saved):
    """Spectra of Z and W1, descending, at the steps in `saved`: the formulas of the methods, for one output, in mpmath.

    For a column H the exponential is exp Ĥ = I + sinh s/s Ĥ + (cosh s − 1)/s² Ĥ² with s = |H|, since Ĥ³ = s²Ĥ.
    """
    p, k = 2, 1
    noise = normals(SEED, 1, 0, steps, p * k, double=True)[0]
    h, d = mp.mpf(dt), [mp.mpf(x) for x in CURVATURE]
    z = mp.matrix(np.vstack([W1, W2.T]).tolist())
    flow = isinstance(method, rf.StochasticGradientFlow)
    intensity = mp.mpf(method.step_size) * mp.mpf(method.label_noise) / method.batch_size
    variance = intensity * h if flow else intensity * mp.mpf(method.step_size)  # of an increment with d = 1
    exponents = [k * x for x in d] + [sum(d)] * k if flow else [0] * (p + k)
    half = mp.diag([mp.exp(-intensity * x * h / 4) for x in exponents])
    spectra = []
    for step in range(steps + 1):
        if step in saved:
            spectra.append(
                [sorted(map(mp.log, mp.svd_r(part, compute_uv=False)))[::-1] for part in (z.copy(), z[:p, :])]
            )
        if step == steps:
            return spectra
        z = half * z
        hat = mp.zeros(p + k)
        for i in range(p):
            product = sum(z[i, m] * z[p, m] for m in range(z.cols))
            force = h * (mp.mpf(CROSS[i][0]) - d[i] * product)
            hat[i, p] = hat[p, i] = force + mp.sqrt(variance * d[i]) * mp.mpf(noise[step, i])
        if flow:
            s = mp.sqrt(hat[0, p] ** 2 + hat[1, p] ** 2)
            z = half * (z + (mp.sinh(s) / s) * (hat * z) + ((mp.cosh(s) - 1) / s**2) * (hat * (hat * z)))
        else:
            z = z + hat * z
    raise AssertionError


GRADED = (1.0, 1e-130, 1e-280)
CASES = {
    # starts whose columns lie 280 orders apart, and a long product of strong noise
    "descent": (rf.LabelNoiseDescent(label_noise=2.0, step_size=0.05), GRADED, 200, 0.05, 400),
    "flow": (rf.StochasticGradientFlow(label_noise=2.0, step_size=0.05), GRADED, 150, 0.05, 400),
    "long": (rf.StochasticGradientFlow(label_noise=1.0, step_size=3.0), (1.0, 1.0, 1.0), 1500, 0.05, 260),
}


@pytest.mark.parametrize("name", CASES)
def test_singular_values_far_below_float64(name):
    """The logarithms agree to 1e-10 (absolute, that is relative in the singular values themselves).

    What the kernel's roundings of 1e-16 per step may sum up to over these runs is 1e-12.
    """
    method, scales, steps, dt, digits = CASES[name]
    rng = np.random.default_rng(0)
    W1, W2 = rng.standard_normal((2, 3)) * scales, (rng.standard_normal((1, 3)) * scales).T
    flow = isinstance(method, rf.StochasticGradientFlow)
    saved = [0, steps // 2 - 3, steps]
    run = rf.simulate(
        rf.Problem.from_statistics(np.diag(CURVATURE), CROSS),
        rf.LinearNetwork.from_weights(W1, W2),
        method,
        **({"duration": steps * dt, "dt": dt} if flow else {"steps": steps}),
        save_points=[dt * step for step in saved],
        seed=SEED,
        noise_precision="double",
        observables=OBSERVABLES,
    )
    assert run.step.values.tolist() == saved
    with mp.workdps(digits):
        exact = in_many_digits(method, W1, W2, steps, float(run.attrs["step_length"]), saved)
    for i, parts in enumerate(exact):
        for observable, values in zip(OBSERVABLES, parts, strict=True):
            expected = np.array([float(x) for x in values])
            assert np.abs(run[observable].values[0, i] - expected).max() < 1e-10
    smallest = float(exact[-1][0][-1])
    assert smallest < np.log(1e-100)
    with np.errstate(divide="ignore"):  # float64 has long lost it
        assert abs(np.log(run.singular_values_Z.values[0, -1, -1]) - smallest) > 10.0


@pytest.mark.parametrize(("p", "k", "width"), [(3, 2, 7), (3, 2, 2), (3, 2, 4), (2, 4, 3), (6, 4, 10)])
def test_they_are_the_singular_values_where_float64_resolves_them(p, k, width):
    """p above and below the columns of Z, narrow and wide; the larger size runs in tiles."""
    problem = rf.Problem.gaussian(n_samples=60, n_inputs=p, n_outputs=k, seed=0)
    network = rf.LinearNetwork.gaussian(p, width, k)
    method = rf.LabelNoiseDescent(step_size=0.01, label_noise=1.0)
    ledger = "both" if width == p + k else "auto"
    run = rf.simulate(
        problem, network, method, steps=200, replicates=9, save_points=5, observables=OBSERVABLES, ledger=ledger
    )
    for name in ("Z", "W1"):
        ordinary, graded = run[f"singular_values_{name}"], run[f"log_singular_values_{name}"]
        assert ordinary.dims == graded.dims
        # Jacobi in float64: u · cond, with 200 steps of rounding on top
        condition = float((ordinary[..., 0] / ordinary[..., -1]).max())
        assert np.abs(np.log(ordinary.values) - graded.values).max() < 1e-13 * condition


def test_a_start_of_lower_rank_keeps_modes_of_minus_infinity():
    network = rf.LinearNetwork.balanced(3, 7, 2)
    method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.1)
    run = rf.simulate(
        PROBLEM, network, method, duration=1.0, dt=0.01, replicates=9, save_points=3, observables=OBSERVABLES
    )
    assert np.isneginf(run.log_singular_values_Z.values[..., 2:]).all()
    assert np.isneginf(run.log_singular_values_W1.values[..., 2:]).all()
    first_two = np.log(run.singular_values_Z.values[..., :2])
    np.testing.assert_allclose(run.log_singular_values_Z.values[..., :2], first_two, atol=1e-12)


def test_gradient_flow_has_no_frame():
    with pytest.raises(rf.InvalidInput, match="adaptive ones of GradientFlow"):
        rf.simulate(
            PROBLEM, rf.LinearNetwork.gaussian(3, 7, 2), rf.GradientFlow(), duration=1.0, observables=OBSERVABLES
        )
