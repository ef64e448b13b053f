"""Runs with known numbers, made without the simulator: what a figure shows can be compared with what went in."""

import json

import numpy as np
import pytest
import xarray as xr


def make_run(
    *,
    noise=2.0,
    replicates=6,
    duration=100.0,
    points=21,
    width=10,
    decay=0.1,
    method=None,
    n_inputs=5,
    n_outputs=2,
    seed=0,
):
    """det M follows the law exactly; two singular values of W1 stay, the others fall like e^{−decay t}."""
    p, k = n_inputs, n_outputs
    rng = np.random.default_rng(seed)
    time = np.linspace(0.0, duration, points)
    covariance, cross = np.eye(p), rng.standard_normal((p, k))
    name = method or ("StochasticGradientFlow" if noise else "GradientFlow")
    fields = {"name": name}
    if noise:
        fields |= {"label_noise": noise, "step_size": 0.01, "batch_size": 1, "integrator": "geometric"}
    rate = 2 * k * 0.01 * noise * p
    start = rng.normal(3.0, 1.0, replicates)
    m1, m2, mz = min(p, width), min(width, k), min(p + k, width)
    modes = np.sort(rng.uniform(0.5, 3.0, (replicates, m1)), axis=1)[:, ::-1]
    rates = np.where(np.arange(m1) < 2, 0.0, decay if noise else 0.0)
    w1 = modes[:, None] * np.exp(-rates * time[:, None])
    spectrum = np.ones((replicates, points, mz))
    spectrum[..., -1] = np.exp(-(decay if noise else 0.0) * time)
    wide = width >= p + k
    log_det = start[:, None] - rate * time if wide else np.full((replicates, points), -np.inf)
    balance = np.broadcast_to(rng.uniform(5, 9, (replicates, 1)), (replicates, points)).copy()
    both = ("replicate", "time")
    return xr.Dataset(
        {
            "loss": (both, np.exp(-time) + np.zeros((replicates, 1)) + 0.01),
            "log_det": (both, log_det),
            "singular_values_W1": ((*both, "mode_W1"), w1),
            "singular_values_W2": ((*both, "mode_W2"), np.ones((replicates, points, m2))),
            "singular_values_Z": ((*both, "mode_Z"), spectrum),
            "balance": (both, balance),
            "balance_drift": (both, np.zeros((replicates, points))),
            "outcome": ("replicate", np.array(["completed"] * replicates)),
            "covariance": (("input", "input_other"), covariance),
            "cross_covariance": (("input", "output"), cross),
        },
        coords={
            "replicate": np.arange(replicates),
            "time": time,
            "step": ("time", np.arange(points)),
            "mode_W1": 1 + np.arange(m1),
            "mode_W2": 1 + np.arange(m2),
            "mode_Z": 1 + np.arange(mz),
        },
        attrs={
            "rankfall_version": "0",
            "format_version": 1,
            "seed": 0,
            "method": name,
            "n_inputs": p,
            "width": width,
            "n_outputs": k,
            "replicates": replicates,
            "start_rank": mz,
            "step_length": 0.01,
            "settings": json.dumps(
                {
                    "method": fields,
                    "problem": {"n_samples": 1000, "label_second_moment": None},
                    "simulate": {},
                    "network": {},
                }
            ),
        },
    )


@pytest.fixture
def made_run():
    return make_run
