"""The stochastic gradient flow against diffrax, which shares no code with it: path by path, and in distribution."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

import rankfall as rf
from rankfall._kernels.noise import normals

pytestmark = pytest.mark.skipif(importlib.util.find_spec("diffrax") is None, reason="diffrax is not installed")

FLOW = {"label_noise": 2.0, "step_size": 0.1}  # σ² = 0.2: strong noise, so that it decides the outcome
SAMPLES = 6_000
# Of all the comparisons of one test together. The seeds are fixed, so a test that has passed once keeps passing until
# the random numbers change; then one change in a thousand fails a test without being wrong.
FALSE_ALARM_RATE = 1e-3


def diffrax(folder: Path, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Final W1, W2 of a solve in a process of its own."""
    given, found = folder / "given.npz", folder / "found.npz"
    np.savez(given, **inputs)
    command = [sys.executable, str(Path(__file__).with_name("diffrax_program.py")), str(given), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(found, allow_pickle=False) as file:
        return file["W1"], file["W2"]


def statistics_of(problem: rf.Problem) -> dict[str, np.ndarray]:
    """Σ, C and F = U √D: the kernel's normals belong to the eigenvectors of Σ."""
    eigenvalues, basis = problem.eigenbasis()
    return {
        "covariance": problem.covariance,
        "cross_covariance": problem.cross_covariance,
        "factor": basis * np.sqrt(eigenvalues),
    }


@pytest.mark.parametrize(
    ("p", "k", "width", "precision"),
    [(5, 2, 10, "single"), (3, 4, 2, "double"), (6, 5, 8, "single"), (1, 1, 1, "single")],
)
def test_euler_follows_diffrax_path_by_path(p: int, k: int, width: int, precision: str, tmp_path: Path) -> None:
    """The same Brownian increments give the same weights, up to rounding that 200 steps amplify."""
    steps, dt, replicates, seed = 200, 0.005, 3, 12
    problem = rf.Problem.gaussian(n_samples=100, n_inputs=p, n_outputs=k, seed=1)
    network = rf.LinearNetwork.gaussian(n_inputs=p, width=width, n_outputs=k)
    W1, W2 = (w[0] for w in network.draw(replicates=1, seed=2))
    method = rf.StochasticGradientFlow(**FLOW, integrator="euler")
    run = rf.simulate(
        problem,
        rf.LinearNetwork.from_weights(W1, W2),
        method,
        duration=steps * dt,
        dt=dt,
        replicates=replicates,
        seed=seed,
        save_points=2,
        weights=True,
        noise_precision=precision,
    )
    drawn = normals(seed, replicates, 0, steps, p * k, double=precision == "double").reshape(replicates, steps, p, k)
    first, second = diffrax(
        tmp_path, **statistics_of(problem), W1=W1, W2=W2, intensity=method.intensity, dt=dt, steps=steps, normals=drawn
    )
    np.testing.assert_allclose(run.W1.values[:, -1], first, rtol=0, atol=1e-12)
    np.testing.assert_allclose(run.W2.values[:, -1], second, rtol=0, atol=1e-12)


class Case:
    """A small wide network from one start, and what is compared: loss and log singular values at time 2."""

    duration = 2.0
    problem = rf.Problem.gaussian(n_samples=100, n_inputs=3, n_outputs=1, seed=3)
    W1, W2 = (w[0] for w in rf.LinearNetwork.gaussian(3, 5, 1, scale=0.5).draw(replicates=1, seed=4))

    @classmethod
    def compared(cls, W1: np.ndarray, W2: np.ndarray) -> dict[str, np.ndarray]:
        gap = W1 @ W2 - cls.problem.solution
        stacked = np.concatenate([W1, W2.swapaxes(1, 2)], axis=1)
        logs = np.log(np.linalg.svd(stacked, compute_uv=False))
        loss = 0.5 * np.einsum("rpk,pq,rqk->r", gap, cls.problem.covariance, gap)
        return {"log loss": np.log(loss), **{f"log σ_{i + 1}(Z)": logs[:, i] for i in range(logs.shape[1])}}

    @classmethod
    def simulated(cls, integrator: str, dt: float, noise: float = 1.0) -> dict[str, np.ndarray]:
        """From rankfall, with the intensity off by the factor `noise`."""
        method = rf.StochasticGradientFlow(
            label_noise=noise * FLOW["label_noise"], step_size=FLOW["step_size"], integrator=integrator
        )
        run = rf.simulate(
            cls.problem,
            rf.LinearNetwork.from_weights(cls.W1, cls.W2),
            method,
            duration=cls.duration,
            dt=dt,
            replicates=SAMPLES,
            seed=5,
            save_points=2,
            weights=True,
        )
        return cls.compared(run.W1.values[:, -1], run.W2.values[:, -1])

    @classmethod
    def solved(cls, folder: Path, dt: float) -> dict[str, np.ndarray]:
        """From diffrax."""
        weights = diffrax(
            folder,
            **statistics_of(cls.problem),
            W1=cls.W1,
            W2=cls.W2,
            intensity=rf.StochasticGradientFlow(**FLOW).intensity,
            dt=dt,
            steps=round(cls.duration / dt),
            replicates=SAMPLES,
            seed=6,
        )
        return cls.compared(*weights)


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return Case.solved(tmp_path_factory.mktemp("diffrax"), dt=0.01)


def smallest_p_value(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Of the two-sample Kolmogorov–Smirnov tests of all compared quantities, times their number (Bonferroni)."""
    return len(ours) * min(ks_2samp(ours[name], theirs[name]).pvalue for name in ours)


def test_euler_has_the_distribution_of_diffrax(solved: dict[str, np.ndarray]) -> None:
    """Both are Euler–Maruyama with one step length, so the distributions are equal, not only close."""
    assert smallest_p_value(Case.simulated("euler", dt=0.01), solved) > FALSE_ALARM_RATE


def test_a_wrong_intensity_is_rejected(solved: dict[str, np.ndarray]) -> None:
    """The test above would see a noise that is wrong by 5 % either way."""
    for noise in (0.95, 1.05):
        assert smallest_p_value(Case.simulated("euler", dt=0.01, noise=noise), solved) < FALSE_ALARM_RATE / 10


def test_geometric_has_the_distribution_of_diffrax(tmp_path: Path) -> None:
    """Two different integrators of weak order 1 agree once their steps are small enough for this many samples.

    Euler–Maruyama needs the smaller ones: its error in log det M alone is of order dt, the geometric step has none.
    """
    fine = Case.solved(tmp_path, dt=0.001)
    assert smallest_p_value(Case.simulated("geometric", dt=0.0025), fine) > FALSE_ALARM_RATE
    for noise in (0.95, 1.05):
        assert smallest_p_value(Case.simulated("geometric", dt=0.0025, noise=noise), fine) < FALSE_ALARM_RATE / 10
