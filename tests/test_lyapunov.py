"""Lyapunov spectra: the path against a literal loop, the statistics against independent noise, and what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

import rankfall as rf
from rankfall._kernels.noise import batches, normals
from rankfall._lyapunov import _summary
from small import METHODS, NARROW, PROBLEM, WIDE

ALL = ["log_growth", "log_singular_values_Z", "log_singular_values_W1"]
MOVING = [name for name in METHODS if not name.startswith("gradient flow")]


def hat(H):
    p, k = H.shape
    return np.block([[np.zeros((p, p)), H], [H.T, np.zeros((k, k))]])


def literal_growth(problem, method, Z, frame, steps, dt, increments, every=1):
    """Σ log R_ii in the original basis, QR at every step, one trajectory: the formulas of theory and nothing else.

    `increments(step, Z)` returns H (noise included). For the geometric step H is taken behind the first half scaling.
    """
    p, k = problem.n_inputs, problem.n_outputs
    geometric = isinstance(method, rf.StochasticGradientFlow) and method.integrator == "geometric"
    keep = 1.0 - method.step_size * getattr(method, "weight_decay", 0.0) if not geometric else 1.0
    if geometric:
        K = method.intensity * scipy.linalg.block_diag(k * problem.covariance, np.trace(problem.covariance) * np.eye(k))
        half = scipy.linalg.expm(-K * dt / 4)
    total, path = np.zeros(p + k), []
    for step in range(steps):
        if geometric:
            A = half @ scipy.linalg.expm(hat(increments(step, half @ Z))) @ half
        else:
            A = keep * np.eye(p + k) + hat(increments(step, Z))
        Z = A @ Z
        frame, upper = np.linalg.qr(A @ frame)
        total = total + np.log(np.abs(np.diagonal(upper)))
        path.append(total)
    return np.array(path)


def increments_of(problem, method, dt, seed, replicate, steps):
    """The increments of a replicate, from the random numbers of the library's run."""
    p, k = problem.n_inputs, problem.n_outputs
    if isinstance(method, rf.StochasticGradientDescent):
        chosen, noise = batches(seed, replicate + 1, 0, steps, problem.n_samples, method.batch_size, k)

        def from_batch(step, Z):
            x, y = problem.inputs[chosen[replicate, step]], problem.labels[chosen[replicate, step]]
            noisy = y + np.sqrt(method.label_noise) * noise[replicate, step]
            return method.step_size * x.T @ (noisy - x @ Z[:p] @ Z[p:].T) / method.batch_size

        return from_batch
    d, U = problem.eigenbasis()
    drawn = normals(seed, replicate + 1, 0, steps, p * k)[replicate].reshape(steps, p, k)
    if isinstance(method, rf.StochasticGradientFlow):
        size = np.sqrt(method.intensity * dt)
    else:
        size = dt * np.sqrt(getattr(method, "label_noise", 0.0) / getattr(method, "batch_size", 1))

    def from_normals(step, Z):
        force = problem.cross_covariance - problem.covariance @ Z[:p] @ Z[p:].T
        return dt * force + size * (U * np.sqrt(d)) @ drawn[step]

    return from_normals


@pytest.mark.parametrize("width", [5, 3])
@pytest.mark.parametrize("name", MOVING)
def test_growth_is_that_of_a_literal_loop_on_the_same_noise(name, width):
    """Save points off the multiples of 16; the replicates of one run. 300 steps of about 10 roundings: below 1e-11."""
    method, length = METHODS[name]
    network = rf.LinearNetwork.gaussian(3, width, 2, scale=0.7)
    saved = [0, 7, 160, 299, 300]
    run = rf.simulate(
        PROBLEM, network, method, **length, replicates=5, seed=9, save_points=[0.01 * s for s in saved], observables=ALL
    )
    assert run.step.values.tolist() == saved
    W1, W2 = network.draw(5, 9)
    for replicate in (0, 4):
        Z = np.vstack([W1[replicate], W2[replicate].T])
        frame = scipy.linalg.qr(Z, pivoting=True)[0]
        H = increments_of(PROBLEM, method, 0.01, 9, replicate, 300)
        path = literal_growth(PROBLEM, method, Z, frame, 300, 0.01, H)
        found = run.log_growth.values[replicate]
        assert not found[0].any() or np.abs(found[0]).max() < 1e-15
        # the columns that complete the frame of a narrow network are any; the sum does not depend on them
        for i, step in enumerate(saved[1:], start=1):
            assert np.abs(found[i, :width] - path[step - 1, :width]).max() < 1e-9
            assert abs(found[i].sum() - path[step - 1].sum()) < 1e-9
        assert np.abs(path[-1, :width]).max() > 1e-2
    (verdict,) = (v for v in rf.laws.check(run) if v.law == "sum of the Lyapunov exponents") if width == 5 else (None,)
    assert verdict is None or verdict.passed is True


@pytest.mark.parametrize("name", MOVING)
def test_a_frame_changes_nothing_else_and_depends_on_nothing_else(name):
    method, length = METHODS[name]
    options = {**length, "seed": 5, "weights": True, "replicates": 11}
    plain = rf.simulate(PROBLEM, WIDE, method, **options, save_points=4)
    framed = rf.simulate(PROBLEM, WIDE, method, **options, save_points=4, observables=ALL, threads=1)
    for variable in plain.data_vars:
        np.testing.assert_array_equal(plain[variable], framed[variable], err_msg=variable)
    more = rf.simulate(PROBLEM, WIDE, method, **options, save_points=31, observables=ALL, threads=2)
    alone = rf.simulate(PROBLEM, WIDE, method, **{**options, "replicates": 5}, save_points=4, observables=ALL)
    for variable in ALL:
        np.testing.assert_array_equal(framed[variable], more[variable][:, ::10], err_msg=variable)
        np.testing.assert_array_equal(framed[variable][:5], alone[variable], err_msg=variable)


class Stop:
    """Presses Ctrl-C once the run has made a share of its steps."""

    def __init__(self, share):
        self.share = share

    def __call__(self, state):
        if state.stage == "running" and state.completed >= self.share * state.total:
            raise KeyboardInterrupt


SPECTRUM = {"duration": 30.0, "dt": 0.01, "replicates": 9, "seed": 4, "batches": 6}
FLOW = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.02)


@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
def test_an_interrupted_spectrum_continues_to_the_same_bits(network, tmp_path, monkeypatch):
    from rankfall._engine import rounds

    monkeypatch.setattr(rounds, "_SECONDS_PER_ROUND", 1e-9)  # a round is one piece of the run
    whole = rf.lyapunov_spectrum(PROBLEM, network, FLOW, **SPECTRUM)
    path = tmp_path / "spectrum.checkpoint"
    with pytest.raises(rf.SimulationInterrupted) as stop:
        rf.lyapunov_spectrum(PROBLEM, network, FLOW, **SPECTRUM, checkpoint=path, progress=Stop(0.6))
    partial = stop.value.run
    assert stop.value.checkpoint == str(path)
    assert 2 <= partial.sizes["time"] < whole.sizes["time"]
    assert partial.sizes["batch"] == partial.sizes["time"] - 1
    np.testing.assert_array_equal(partial.log_growth, whole.log_growth[:, : partial.sizes["time"]])
    assert np.isfinite(partial.exponents).all()
    assert rf.laws.lyapunov.check(partial)[0].passed
    continued = rf.lyapunov_spectrum(PROBLEM, network, FLOW, **SPECTRUM, checkpoint=path, threads=1)
    assert continued.identical(whole)
    assert not path.exists()


def test_a_spectrum_is_a_run_that_can_be_saved(tmp_path):
    found = rf.lyapunov_spectrum(PROBLEM, NARROW, FLOW, **SPECTRUM)
    rf.save_run(found, tmp_path / "spectrum.nc")
    again = rf.open_run(tmp_path / "spectrum.nc")
    assert again.identical(found)
    assert rf.rerun(again).log_growth.identical(found.log_growth)


def test_exponents_are_what_the_growth_says():
    found = rf.lyapunov_spectrum(PROBLEM, WIDE, FLOW, **SPECTRUM, burn_in=0.5)
    growth, time = found.log_growth.values, found.time.values
    assert time[0] == pytest.approx(15.0) and time[-1] == pytest.approx(30.0) and len(time) == 7
    each = (growth[:, -1] - growth[:, 0]) / (time[-1] - time[0])
    order = np.argsort(-each.mean(0))
    np.testing.assert_allclose(found.exponents, each.mean(0)[order], rtol=1e-13)
    np.testing.assert_allclose(found.standard_error, each.std(0, ddof=1)[order] / 3.0, rtol=1e-12)
    np.testing.assert_allclose(found.batch_exponents.mean("batch"), found.replicate_exponents, rtol=1e-10, atol=1e-12)
    assert (np.diff(found.exponents) <= 0).all()


def test_few_replicates_are_judged_by_their_batches():
    rng = np.random.default_rng(0)
    slopes = rng.standard_normal((2, 50, 3))
    mean, error, freedom = _summary(slopes.mean(axis=1), slopes)
    assert freedom == 99
    np.testing.assert_allclose(error, slopes.reshape(-1, 3).std(0, ddof=1) / 10)
    np.testing.assert_allclose(mean, slopes.mean((0, 1)))


def independent_spectrum(C, intensity, h, steps, burn, replicates, seed):
    """Exponents for whitened inputs by NumPy alone: Strang steps, the exponential by eigenvectors, QR every 8 steps."""
    p, k = C.shape
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((replicates, p + k, p + k))
    F = np.broadcast_to(np.eye(p + k), (replicates, p + k, p + k)).copy()
    half = np.exp(-intensity * h / 4 * np.concatenate([np.full(p, k), np.full(k, p)]))[:, None]
    total = np.zeros((replicates, p + k))
    matrix = np.zeros((replicates, p + k, p + k))
    for step in range(steps):
        Z, F = half * Z, half * F
        H = h * (C - Z[:, :p] @ Z[:, p:].swapaxes(1, 2))
        H += np.sqrt(intensity * h) * rng.standard_normal((replicates, p, k))
        matrix[:, :p, p:], matrix[:, p:, :p] = H, H.swapaxes(1, 2)
        # exp by its series to order 8: |H| < 0.5 leaves 0.5⁹/9! = 5e-9, far below the statistical error
        power, image, both = 1.0, np.concatenate([Z, F], axis=2), None
        both = image.copy()
        for order in range(1, 9):
            image = matrix @ image
            power /= order
            both += power * image
        Z, F = half * both[:, :, : p + k], half * both[:, :, p + k :]
        if step % 8 == 7:
            F, upper = np.linalg.qr(F)
            if step >= burn:
                total += np.log(np.abs(np.diagonal(upper, axis1=1, axis2=2)))
    return total / ((steps - burn) * h)


def test_exponents_are_those_of_independent_noise():
    """p = 2, k = 1, whitened, a teacher of rank one; 64 and 96 replicates, bands of four combined standard errors.

    False alarm: 3 exponents beyond 4 standard errors, about 5e-4 (Student's t with 63 degrees of freedom). A spectrum
    that is 5 % off leaves the band with room for another two.
    """
    C, intensity, h = np.array([[1.0], [0.5]]), 0.5, 0.04
    each = np.sort(independent_spectrum(C, intensity, h, 24_000, 4_000, 64, seed=11), axis=1)[:, ::-1]
    theirs, spread = each.mean(0), each.std(0, ddof=1) / np.sqrt(len(each))
    found = rf.lyapunov_spectrum(
        rf.Problem.from_statistics(np.eye(2), C),
        rf.LinearNetwork.gaussian(2, 3, 1),
        rf.StochasticGradientFlow(label_noise=intensity, step_size=1.0),
        duration=6000.0,
        dt=h,
        replicates=96,
        seed=2,
    )
    band = 4 * np.hypot(spread, found.standard_error.values)
    assert (np.abs(found.exponents.values - theirs) < band).all()
    assert (0.05 * np.abs(theirs[1:]) > 1.5 * band[1:]).all()
    assert found.attrs["final_rank"] == 1
    assert found.attrs["sum_rule_error"] < 1e-11
    assert found.exponents.values.sum() == pytest.approx(-intensity * 2, rel=1e-10)


def test_replicates_that_diverge_are_left_out():
    W1, W2 = WIDE.draw(9, 1)
    W1[4] *= 60.0
    network = rf.LinearNetwork.from_weights(W1, W2)
    with pytest.warns(rf.StepSizeWarning):
        found = rf.lyapunov_spectrum(PROBLEM, network, FLOW, **SPECTRUM)
    assert str(found.outcome.values[4]).startswith("diverged")
    assert np.isnan(found.replicate_exponents.values[4]).all()
    assert np.isfinite(found.replicate_exponents.values[np.arange(9) != 4]).all()
    assert np.isfinite(found.exponents).all() and np.isfinite(found.standard_error).all()
    assert found.attrs["degrees_of_freedom"] == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batches": 1}, "batches must be at least 2"),
        ({"burn_in": 1.0}, "burn_in must be a share"),
        ({"burn_in": -0.1}, "burn_in must be at least 0"),
        ({"duration": None}, "give the duration"),
        ({"steps": 10}, "not both"),
        ({"duration": None, "steps": 10}, "a flow has no steps"),
        ({"duration": -1.0}, "duration must be greater than 0"),
        ({"method": rf.GradientFlow()}, "all its exponents are zero"),
        ({"method": "flow"}, "method must be one of"),
        ({"replicates": 0}, "replicates must be at least 1"),
    ],
)
def test_bad_input_is_named(changes, words):
    options = {"method": FLOW, **SPECTRUM, **changes}
    with pytest.raises(rf.InvalidInput, match=words):
        rf.lyapunov_spectrum(PROBLEM, WIDE, **options)


def test_descents_take_steps_and_keep_their_ledger_at_any_width():
    method = rf.LabelNoiseDescent(step_size=0.01, label_noise=1.0)
    found = rf.lyapunov_spectrum(PROBLEM, NARROW, method, steps=4000, replicates=9, batches=5)
    assert found.sizes["mode"] == 5 and found.step.values[-1] == 4000
    assert found.attrs["sum_rule_error"] < 1e-11
    (verdict,) = rf.laws.lyapunov.check(found)
    assert verdict.passed is True and "Ĥ" in verdict.statement
