"""A streamed run is the simulated one, bit for bit, however it is cut."""

import numpy as np
import pytest
import xarray as xr

import rankfall as rf

PROBLEM = rf.Problem.gaussian(n_samples=50, n_inputs=3, n_outputs=2, seed=0)
NETWORK = rf.LinearNetwork.gaussian(n_inputs=3, width=6, n_outputs=2)
METHODS = [
    (NETWORK, rf.GradientFlow(), {"duration": 2.0}),
    (NETWORK, rf.StochasticGradientFlow(label_noise=1.0, step_size=0.01), {"duration": 2.0}),
    (NETWORK, rf.LabelNoiseDescent(label_noise=1.0, step_size=0.01), {"steps": 300, "ledger": "both"}),
    (NETWORK, rf.StochasticGradientDescent(step_size=0.01, batch_size=4), {"steps": 300, "weights": True}),
    (
        rf.LinearNetwork.gaussian(n_inputs=3, width=[6, 6], n_outputs=2, scale=0.3),
        rf.GradientDescent(0.01),
        {"steps": 100},
    ),
]


@pytest.mark.parametrize(("network", "method", "options"), METHODS, ids=[type(each[1]).__name__ for each in METHODS])
@pytest.mark.parametrize("pieces", [[1, 1, 5, 3, 100], [100]])
def test_same_bits_as_simulate(network, method, options, pieces):
    options = {"replicates": 5, "seed": 3, "save_points": 21, **options}
    whole = rf.simulate(PROBLEM, network, method, **options)
    live = rf.stream(PROBLEM, network, method, threads=2, **options)
    for piece in pieces:
        live.advance(piece)
    assert live.finished
    xr.testing.assert_identical(live.dataset(), whole)


def test_what_is_there_so_far():
    live = rf.stream(PROBLEM, NETWORK, METHODS[2][1], steps=300, replicates=3, save_points=31)
    assert (live.saved, live.finished, len(live.times)) == (0, False, 31)
    with pytest.raises(RuntimeError, match="nothing was simulated yet"):
        live.dataset()
    assert live.advance() is False
    assert live.saved == 1
    live.advance(10)
    run = live.dataset()
    np.testing.assert_array_equal(run.time, live.times[:11])
    assert (run.outcome != "completed").all()
    assert live.advance(1000) is True
    assert live.advance() is True
    assert (live.dataset().outcome == "completed").all()


def test_bad_input_comes_before_any_work():
    with pytest.raises(rf.InvalidInput, match="save_points"):
        rf.stream(PROBLEM, NETWORK, METHODS[1][1], duration=1.0, save_points=1)
    with pytest.raises(rf.InvalidInput, match="save_points"):
        rf.stream(PROBLEM, NETWORK, METHODS[1][1], duration=1.0).advance(0)
    with pytest.raises(rf.InvalidInput, match="threads"):
        rf.stream(PROBLEM, NETWORK, METHODS[1][1], duration=1.0, threads=0)
