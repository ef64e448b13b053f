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


@pytest.mark.parametrize(("network", "method", "options"), METHODS[1:4])
def test_the_kernels_for_any_size_differ_by_rounding(network, method, options):
    options = {"replicates": 5, "seed": 3, "save_points": 21, **options}
    whole = rf.simulate(PROBLEM, network, method, **options)
    live = rf.stream(PROBLEM, network, method, any_size=True, **options)
    live.advance(21)
    # 300 steps of a stable recursion: 300 roundings of some operations each, far below 1e-11 of the largest value. (The
    # loss falls to 1e-13 of its start, and rounding is relative to what it is the difference of.)
    for name in ("loss", "singular_values_Z", "balance"):
        largest = float(whole[name].max())
        np.testing.assert_allclose(live.dataset()[name], whole[name], rtol=0, atol=1e-11 * largest)
    assert not live.dataset().singular_values_Z.identical(whole.singular_values_Z) or method is METHODS[3][1]


def test_no_compiler_for_a_new_size():
    method = METHODS[1][1]
    rf.stream(PROBLEM, NETWORK, method, duration=0.1, any_size=True).advance(2)
    for p, k in ((7, 1), (6, 3)):
        problem = rf.Problem.gaussian(n_samples=50, n_inputs=p, n_outputs=k, seed=0)
        other = rf.LinearNetwork.gaussian(n_inputs=p, width=p + k + 1, n_outputs=k)
        live = rf.stream(problem, other, method, duration=0.1, any_size=True)
        engine = live._run.begin()
        assert engine.is_compiled
