import pytest

import rankfall as rf
from laws import oracle_runs as c


@pytest.fixture(scope="session")
def flow_run():
    return c.simulate(c.gaussian_problem(5, 2), 10, c.STOCHASTIC_FLOW, steps=1000, dt=0.01, save_every=50)


@pytest.fixture(scope="session")
def white_flow_run():
    return c.simulate(c.white_problem(3, 3), 7, c.STOCHASTIC_FLOW, steps=1000, dt=0.01, save_every=50)


@pytest.fixture(scope="session")
def gradient_flow_run():
    return c.simulate(c.gaussian_problem(4, 2), 7, rf.GradientFlow(), steps=1000, dt=0.01, save_every=50)


@pytest.fixture(scope="session")
def descent_run():
    return c.simulate(c.gaussian_problem(5, 2), 10, rf.LabelNoiseDescent(0.01, 2.0), steps=3000, save_every=100)
