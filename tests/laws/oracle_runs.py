"""Problems and oracle runs that the tests of the laws share."""

import json
from dataclasses import asdict

import numpy as np

import oracles
import rankfall as rf


def gaussian_problem(p, k, *, singular=0, seed=5):
    """Explicit data, the last `singular` inputs linear combinations of the first."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((60, p))
    if singular:
        inputs[:, -singular:] = inputs[:, :-singular] @ rng.standard_normal((p - singular, singular))
    return rf.Problem.from_data(inputs, inputs @ rng.standard_normal((p, k)) + rng.standard_normal((60, k)))


def white_problem(p, k, *, variance=1.3, rank=None, seed=6):
    """Σ = variance · I and a C of given rank."""
    rng = np.random.default_rng(seed)
    rank = min(p, k) if rank is None else rank
    cross = rng.standard_normal((p, rank)) @ rng.standard_normal((rank, k))
    return rf.Problem.from_statistics(variance * np.eye(p), cross)


def simulate(problem, width, method, *, replicates=6, scale=1.0, **options):
    """An oracle run from Gaussian starts; options go to `oracles.simulate`."""
    network = rf.LinearNetwork.gaussian(problem.n_inputs, width, problem.n_outputs, scale)
    return oracles.simulate(problem, *network.draw(replicates, seed=7), method, **options)


def with_method(run, method):
    """The same run, claiming to come from another method."""
    settings = json.loads(run.attrs["settings"])
    settings["method"] = {"name": type(method).__name__, **asdict(method)}
    return run.assign_attrs(settings=json.dumps(settings), method=type(method).__name__)


STOCHASTIC_FLOW = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.01)
