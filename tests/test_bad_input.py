"""What is refused, in which words, and that it is refused before any work."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import rankfall as rf
from small import NARROW, PROBLEM, WIDE

GAUSSIAN = {"n_samples": 10, "n_inputs": 3, "n_outputs": 2, "seed": 0}


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Fail if a bad call gets as far as drawing a start."""

    def work(*arguments):
        raise AssertionError("bad input reached the work")

    monkeypatch.setattr("rankfall._simulate.Run.execute", work)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_samples": 0}, "n_samples must be at least 1, got 0"),
        ({"n_inputs": 2.5}, "n_inputs must be a whole number, got 2.5"),
        ({"n_outputs": -1}, "n_outputs must be at least 1, got -1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**64}, "seed must be at most"),
        ({"rank": 3}, "rank must be at most 2, got 3"),
        ({"noise": -1.0}, "noise must be at least 0, got -1"),
        ({"noise": np.nan}, "noise must be finite"),
    ],
)
def test_gaussian_problem(change, message):
    with pytest.raises(rf.InvalidInput, match=message):
        rf.Problem.gaussian(**{**GAUSSIAN, **change})


def test_data():
    x, y = np.ones((4, 3)), np.ones((4, 2))
    for inputs, labels, message in [
        (x, np.ones((5, 2)), "one row per sample, got 4 and 5 rows"),
        (np.where(np.eye(4, 3), np.nan, x), y, r"inputs must be finite, but 3 of 12 entries are NaN or infinite"),
        (x, np.full((4, 2), np.inf), "labels must be finite"),
        (np.ones((4, 3, 2)), y, "inputs must be a matrix"),
        (np.ones((0, 3)), np.ones((0, 2)), "inputs must not be empty"),
        ([["a", "b"]], [1.0], "inputs must be a numeric array"),
        (1j * x, y, "inputs must be real"),
        (1e200 * x, y, "overflow float64 when squared"),
    ]:
        with pytest.raises(rf.InvalidInput, match=message):
            rf.Problem.from_data(inputs, labels)


def test_statistics():
    eye = np.eye(3)
    for sigma, cross, more, message in [
        (np.ones((3, 2)), np.ones((3, 2)), {}, "covariance must be square"),
        (eye, np.ones((2, 2)), {}, "one row per input"),
        (eye + np.triu(np.ones((3, 3)), 1), np.ones((3, 1)), {}, "covariance must be symmetric"),
        (np.diag([1.0, 1.0, -1.0]), np.ones((3, 1)), {}, "lowest eigenvalue is -1"),
        (np.diag([1.0, 1.0, 0.0]), np.ones((3, 1)), {}, "leaves the range of the covariance"),
        (eye, np.ones((3, 1)), {"n_samples": 0}, "n_samples"),
        (eye, np.ones((3, 1)), {"label_second_moment": 1.0}, "label_second_moment must be at least .* = 3, got 1"),
    ]:
        with pytest.raises(rf.InvalidInput, match=message):
            rf.Problem.from_statistics(sigma, cross, **more)


def test_network():
    for make, message in [
        (lambda: rf.LinearNetwork.gaussian(3, 0, 2), "width must be at least 1, got 0"),
        (lambda: rf.LinearNetwork.gaussian(3, 5, 2, scale=0.0), "scale must be greater than 0"),
        (lambda: rf.LinearNetwork.balanced(3, 5, 2, scale=-1.0), "scale must be greater than 0"),
        (lambda: rf.LinearNetwork.from_weights(np.ones((3, 4)), np.ones((5, 2))), r"\(3, 4\) and \(5, 2\)"),
        (lambda: rf.LinearNetwork.from_weights(np.full((3, 4), np.nan), np.ones((4, 2))), "W1 must be finite"),
    ]:
        with pytest.raises(rf.InvalidInput, match=message):
            make()


def test_methods():
    for make, message in [
        (lambda: rf.StochasticGradientFlow(label_noise=-1.0, step_size=0.1), "label_noise must be at least 0, got -1"),
        (lambda: rf.StochasticGradientFlow(label_noise=1.0, step_size=0.0), "step_size must be greater than 0, got 0"),
        (lambda: rf.StochasticGradientFlow(1.0, 0.1, integrator="exact"), "integrator must be 'geometric' or 'euler'"),
        (lambda: rf.GradientDescent(step_size=-0.1), "step_size must be greater than 0, got -0.1"),
        (lambda: rf.GradientDescent(step_size=np.inf), "step_size must be finite"),
        (lambda: rf.GradientDescent(step_size=0.1, weight_decay=-1.0), "weight_decay must be at least 0"),
        (lambda: rf.GradientDescent(step_size=0.1, weight_decay=10.0), "one step would wipe out"),
        (lambda: rf.LabelNoiseDescent(step_size=0.1, label_noise=1.0, batch_size=0), "batch_size must be at least 1"),
        (lambda: rf.StochasticGradientDescent(step_size=0.1, batch_size=1.5), "batch_size must be a whole number"),
        (lambda: rf.GradientFlow(tolerance=1.0), "tolerance must lie in"),
    ]:
        with pytest.raises(rf.InvalidInput, match=message):
            make()


FLOW = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.01)
DESCENT = rf.GradientDescent(step_size=0.01)


@pytest.mark.parametrize(
    "method, options, message",
    [
        (FLOW, {}, "give the duration"),
        (FLOW, {"duration": 0.0}, "duration must be greater than 0, got 0"),
        (FLOW, {"duration": -1.0}, "duration must be greater than 0"),
        (FLOW, {"duration": np.inf}, "duration must be finite"),
        (FLOW, {"duration": 10**400}, "duration must be a number that float64 holds"),
        (FLOW, {"duration": "long"}, "duration must be a number, got 'long'"),
        (FLOW, {"steps": 10}, "a flow has no steps"),
        (FLOW, {"duration": 1.0, "dt": 0.0}, "dt must be greater than 0"),
        (FLOW, {"duration": 1.0, "ledger": "determinant"}, "obeys the determinant law exactly"),
        (DESCENT, {}, "give the steps or the duration"),
        (DESCENT, {"steps": 10, "duration": 1.0}, "duration or steps, not both"),
        (DESCENT, {"steps": 0}, "steps must be at least 1, got 0"),
        (DESCENT, {"duration": 0.001}, "shorter than one step"),
        (DESCENT, {"steps": 10, "dt": 0.01}, "dt is for flows"),
        (DESCENT, {"steps": 10**18}, "more than can be counted"),
        (DESCENT, {"steps": 10, "replicates": 0}, "replicates must be at least 1, got 0"),
        (DESCENT, {"steps": 10, "replicates": 1.5}, "replicates must be a whole number, got 1.5"),
        (DESCENT, {"steps": 10, "replicates": 10**12}, "needs about .* GiB of memory"),
        (DESCENT, {"steps": 10, "seed": "one"}, "seed must be a whole number"),
        (DESCENT, {"steps": 10, "save_points": 1}, "save_points must be at least 2"),
        (DESCENT, {"steps": 10, "save_points": "all"}, "save_points must be a number of times or a list"),
        (DESCENT, {"steps": 10, "save_points": [0.0, 0.2, 0.1]}, "ascending"),
        (DESCENT, {"steps": 10, "save_points": [-0.1, 0.1]}, "ascending times from 0 on"),
        (DESCENT, {"steps": 10, "save_points": []}, "must not be empty"),
        (DESCENT, {"steps": 10, "save_points": [0.0, 1.0]}, "after the end of the run at 0.1"),
        (DESCENT, {"steps": 10, "start": "same"}, "start must be 'independent' or 'shared', got 'same'"),
        (DESCENT, {"steps": 10, "ledger": "all"}, "ledger must be one of auto, determinant, balance, both, none"),
        (DESCENT, {"steps": 10, "noise_precision": "half"}, "noise_precision must be 'single' or 'double'"),
        (DESCENT, {"steps": 10, "threads": 0}, "threads must be at least 1, got 0"),
        (DESCENT, {"steps": 10, "weights": 3}, "weights must be True or False"),
        (DESCENT, {"steps": 10, "progress": "bar"}, "progress must be True, False or a function"),
        (rf.GradientFlow(), {"duration": 1.0, "ledger": "balance"}, "gradient flow conserves det M and Q"),
        (rf.StochasticGradientDescent(0.1, batch_size=61), {"steps": 1}, "got 61 for 60 samples"),
        (rf.GradientFlow, {"duration": 1.0}, "the class; make one"),
        ("gd", {"duration": 1.0}, "method must be one of rankfall's methods, got 'gd'"),
    ],
)
def test_simulate(method, options, message):
    with pytest.raises(rf.InvalidInput, match=message):
        rf.simulate(PROBLEM, WIDE, method, **options)


def test_what_does_not_belong_together():
    with pytest.raises(rf.InvalidInput, match="network has 4 inputs and 2 outputs, the problem 3 and 2"):
        rf.simulate(PROBLEM, rf.LinearNetwork.gaussian(4, 7, 2), DESCENT, steps=10)
    with pytest.raises(rf.InvalidInput, match="problem must be a Problem, got ndarray"):
        rf.simulate(np.eye(3), WIDE, DESCENT, steps=10)
    with pytest.raises(rf.InvalidInput, match="network must be a LinearNetwork, got int"):
        rf.simulate(PROBLEM, 7, DESCENT, steps=10)
    statistics = rf.Problem.from_statistics(PROBLEM.covariance, PROBLEM.cross_covariance)
    with pytest.raises(rf.InvalidInput, match="needs the data"):
        rf.simulate(statistics, WIDE, rf.StochasticGradientDescent(0.1, batch_size=1), steps=10)
    with pytest.raises(rf.InvalidInput, match=r"det M = 0 here .* Use ledger='balance'"):
        rf.simulate(PROBLEM, NARROW, DESCENT, steps=10, ledger="determinant")


def test_starts_for_another_number_of_replicates():
    network = rf.LinearNetwork.from_weights(np.ones((4, 3, 7)), np.ones((4, 7, 2)))
    with pytest.raises(rf.InvalidInput, match="holds 4 starts, but replicates=3"):
        rf.simulate(PROBLEM, network, DESCENT, steps=10, replicates=3)
    with pytest.raises(rf.InvalidInput, match="start='shared' needs one start, but the network holds 4"):
        rf.simulate(PROBLEM, network, DESCENT, steps=10, replicates=4, start="shared")


def test_folder_of_the_checkpoint(tmp_path):
    with pytest.raises(rf.OutputError, match="cannot write to"):
        rf.simulate(PROBLEM, WIDE, DESCENT, steps=10, checkpoint=tmp_path / "none" / "run.checkpoint")


def sharpness(problem, W1, W2):
    """Largest eigenvalue of the Hessian by finite differences of the gradient: nothing shared with the library."""
    p, l = W1.shape
    size = p * l

    def gradient(flat):
        first, second = flat[:size].reshape(p, l), flat[size:].reshape(l, -1)
        G = problem.cross_covariance - problem.covariance @ first @ second
        return -np.concatenate([(G @ second.T).ravel(), (first.T @ G).ravel()])

    at = np.concatenate([W1.ravel(), W2.ravel()])
    steps = 1e-5 * np.eye(len(at))
    hessian = np.array([(gradient(at + step) - gradient(at - step)) / 2e-5 for step in steps])
    return np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]


@pytest.mark.parametrize("kind", ["descent", "flow"])
def test_too_large_a_step_is_warned_of(kind, monkeypatch):
    monkeypatch.setattr("rankfall._simulate.Run.execute", lambda *arguments: None)
    monkeypatch.setattr("rankfall._simulate.Run.dataset", lambda *arguments: None)
    W1, W2 = (w[0] for w in WIDE.draw(1, seed=3))
    network = rf.LinearNetwork.from_weights(W1, W2)
    limit = 2 / sharpness(PROBLEM, W1, W2)

    def run(step):
        if kind == "descent":
            return rf.simulate(PROBLEM, network, rf.GradientDescent(step), steps=10)
        method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.01)
        return rf.simulate(PROBLEM, network, method, duration=100 * step, dt=step)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(0.95 * limit)
    with pytest.warns(rf.StepSizeWarning, match="above 2/sharpness") as caught:
        run(1.05 * limit)
    assert caught[0].filename == __file__
