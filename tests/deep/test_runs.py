"""Deep runs as runs: same numbers whatever happens beside them, on disk and back, diverging, bad input, commands."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import rankfall as rf
from deep.networks import METHODS, NETWORK, PROBLEM, run_of
from rankfall import _stability
from rankfall._deep_stability import deep_sharpness_bound
from rankfall._engine import rounds
from rankfall._kernels import host
from rankfall.report import overview, render_figure
from test_reproducibility import Stop, assert_equal

jax.config.update("jax_enable_x64", True)
W, NARROW = np.ones((3, 4)), rf.LinearNetwork.gaussian(3, [3, 3], 2, 0.5)
each_method = pytest.mark.parametrize("name", METHODS)


@each_method
def test_threads_and_replicates(name):
    one = run_of(name, replicates=19, threads=1, weights=True)
    assert_equal(one, run_of(name, replicates=19, threads=3, weights=True))
    few = run_of(name, replicates=10, weights=True)
    assert_equal(few.drop_vars("replicate"), one.isel(replicate=slice(10)).drop_vars("replicate"))


@pytest.mark.parametrize("name", ["gradient flow", "label noise"])
def test_width_of_the_vectors(name, monkeypatch):
    widest = run_of(name, replicates=9)
    monkeypatch.setattr(host, "host_lanes", lambda: 2)
    assert_equal(widest, run_of(name, replicates=9))


def test_save_points_do_not_touch_the_path():
    few, more = (run_of("label noise", replicates=3, save_points=n) for n in (5, 41))
    for name in ("singular_values_W2", "log_det", "ledger_balance", "loss"):
        np.testing.assert_array_equal(few[name], more[name][:, ::10], err_msg=name)


@each_method
def test_interrupted_and_continued(name, monkeypatch, tmp_path):
    options = {"replicates": 9, "weights": True}
    whole = run_of(name, **options)
    monkeypatch.setattr(rounds, "_SECONDS_PER_ROUND", 1e-9)
    monkeypatch.setattr(rounds, "_FIRST_ROUND", 1)
    path = tmp_path / "c"
    with pytest.raises(rf.SimulationInterrupted) as stopped:
        run_of(name, progress=Stop(2), checkpoint=path, **options)
    assert 1 <= stopped.value.run.sizes["time"] < 5
    assert all(verdict.passed is not False for verdict in rf.laws.check(stopped.value.run))
    assert_equal(whole, run_of(name, checkpoint=path, threads=1, **options))


@each_method
def test_file_and_rerun(name, tmp_path):
    run = run_of(name, replicates=3, weights=True)
    rf.save_run(run, tmp_path / "run.nc")
    opened = rf.open_run(tmp_path / "run.nc")
    assert opened.identical(run)
    assert rf.rerun(opened).identical(run)
    assert rf.runs.network_of(opened).widths == (3, 8, 4, 2)


def test_given_weights_single_and_by_replicate(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((), (3,)):
        layers = [0.5 * rng.standard_normal((*shape, a, b)) for a, b in itertools.pairwise((3, 8, 4, 2))]
        network = rf.LinearNetwork.from_weights(*layers)
        assert network.pair_ranks == (7, 4) and network.full_pairs == (True, False)
        run = run_of("label noise", network, replicates=3, weights=True)
        for i, layer in enumerate(layers, start=1):
            # the way into the reduced bases and back
            np.testing.assert_allclose(
                run[f"W{i}"].values[:, 0], np.broadcast_to(layer, (3, *layer.shape[-2:])), atol=1e-14
            )
        rf.save_run(run, tmp_path / "run.nc")
        assert rf.rerun(rf.open_run(tmp_path / "run.nc")).identical(run)


def test_shared_start():
    run = run_of("label noise", replicates=4, start="shared", weights=True)
    assert (run.W2[:, 0] == run.W2[0, 0]).all() and len(np.unique(run.loss.values[:, -1])) == 4


@pytest.mark.parametrize("name", ["gradient flow, given steps", "stochastic flow", "label noise", "mini-batch"])
def test_divergence_is_dated_and_alone(name):
    layers = NETWORK.draw(5, seed=1)
    factors = np.array([1.0, 30.0, 1.0, 0.9, 60.0])[:, None, None]
    network = rf.LinearNetwork.from_weights(*(factors * layer for layer in layers))
    with pytest.warns(rf.StepSizeWarning):
        run = run_of(name, network, replicates=5, weights=True)
    assert (run.outcome[[0, 2, 3]] == "completed").all()
    for wild in (1, 4):
        words = str(run.outcome.values[wild])
        assert words.startswith("diverged at t=")
        gone = run.time.values >= float(words.removeprefix("diverged at t=")) - 1e-9
        assert gone.any() and not gone[0]
        for variable, values in run.data_vars.items():
            if "time" in values.dims and variable not in ("log_det", "ledger_log_det"):
                assert np.isfinite(values.values[wild, ~gone]).all(), variable
                assert np.isnan(values.values[wild, gone]).all(), variable
    alone = run_of(name, rf.LinearNetwork.from_weights(*(layer[:1] for layer in layers)), weights=True)
    np.testing.assert_array_equal(run.W2[0], alone.W2[0])
    assert all(verdict.passed for verdict in rf.laws.check(run))


def test_the_stochastic_flow_says_how_it_is_followed():
    run = run_of("stochastic flow")
    assert rf.runs.method_of(run).integrator == "euler"
    assert run.attrs["integrator"].startswith("Euler–Maruyama")


def test_draws_of_two_layers_do_not_depend_on_how_the_width_is_written():
    one, other = (rf.LinearNetwork.gaussian(3, width, 2) for width in (7, [7]))
    assert one.depth == other.depth == 2 and one.widths == other.widths and repr(one) == repr(other)
    np.testing.assert_array_equal(one.draw(2, 0)[0], other.draw(2, 0)[0])


def test_balanced_draws():
    """Every pair balanced, and the product has the singular values of an inputs×outputs Gaussian matrix."""
    layers = rf.LinearNetwork.balanced(4, [6, 3, 5], 3, scale=0.7).draw(2, seed=0)
    for left, right in itertools.pairwise(layers):
        np.testing.assert_allclose(left.transpose(0, 2, 1) @ left, right @ right.transpose(0, 2, 1), atol=1e-13)
    two = rf.LinearNetwork.balanced(4, 3, 3, scale=0.7).draw(2, seed=0)
    product = layers[0] @ layers[1] @ layers[2] @ layers[3]
    # the same draw of the spectrum comes first in both, for the first replicate
    np.testing.assert_allclose(
        np.linalg.svd(product[0], compute_uv=False), np.linalg.svd(two[0][0] @ two[1][0], compute_uv=False), atol=1e-13
    )


def test_sharpness_is_that_of_the_hessian():
    """Against the dense Hessian of JAX; the power iteration approaches from below, within a few per cent."""
    layers = [layer[:1] for layer in NETWORK.draw(1, seed=3)]
    cuts = np.cumsum([layer.size for layer in layers])[:-1]
    X, Y = PROBLEM.inputs, PROBLEM.labels

    def loss(flat):
        product = np.eye(3)
        for part, layer in zip(jax.numpy.split(flat, cuts), layers, strict=True):
            product = product @ part.reshape(layer.shape[1:])
        return ((X @ product - Y) ** 2).sum() / (2 * len(X))

    hessian = jax.hessian(loss)(np.concatenate([layer.ravel() for layer in layers]))
    exact = float(np.linalg.eigvalsh(hessian)[-1])
    found = _stability.sharpness(PROBLEM, *layers)
    assert 0.95 * exact < found < 1.0001 * exact
    assert deep_sharpness_bound(PROBLEM, layers) >= exact


@pytest.mark.parametrize("hidden", [[8, 4], [10] * 5, [30, 3, 30]], ids=str)
def test_default_time_step_is_stable(hidden):
    network = rf.LinearNetwork.gaussian(3, hidden, 2, 1 / np.sqrt(max(hidden)))
    run = rf.simulate(
        PROBLEM, network, rf.StochasticGradientFlow(2.0, 0.05), duration=3.0, replicates=50, save_points=3
    )
    assert (run.outcome == "completed").all()
    assert run.loss.median("replicate")[-1] < run.loss.median("replicate")[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rf.LinearNetwork.gaussian(3, [], 2), "at least one hidden layer"),
        (lambda: rf.LinearNetwork.gaussian(3, [4, 0], 2), "width must be at least 1"),
        (lambda: rf.LinearNetwork.gaussian(3, [4, 1.5], 2), "whole number"),
        (lambda: rf.LinearNetwork.gaussian(3, "4,4", 2), "whole number"),
        (lambda: rf.LinearNetwork.from_weights(W, np.ones((4, 5)), np.ones((4, 2))), "W2 must have as many"),
        (lambda: rf.LinearNetwork.from_weights(W, np.ones((2, 4, 5)), np.ones((5, 2))), "one start per"),
        (lambda: rf.LinearNetwork.from_weights(W, np.full((4, 5), np.nan), np.ones((5, 2))), "W2 must be fin"),
        (lambda: run_of("label noise", observables=["eigenvalues"]), "observables are recorded for two layers"),
        (lambda: run_of("label noise", NARROW, ledger="both"), "for every pair of layers"),
        (lambda: run_of("gradient flow", ledger="balance"), "no ledger to keep"),
        (lambda: run_of("label noise", rf.LinearNetwork.gaussian(4, [3, 3], 2)), "make the network for the problem"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(rf.InvalidInput, match=words):
        call()


def test_too_much_memory_is_refused():
    network = rf.LinearNetwork.gaussian(3, [300, 300], 2, 0.05)
    with pytest.raises(rf.InvalidInput, match="GiB of memory"):
        rf.simulate(PROBLEM, network, rf.GradientDescent(1e-4), steps=10, replicates=10**8)


def test_command_line(tmp_path):
    from rankfall.cli import app

    out = tmp_path / "run.nc"
    words = [
        "simulate",
        "--method",
        "label-noise-descent",
        "--label-noise",
        "1",
        "--step-size",
        "0.01",
        "--steps",
        "100",
    ]
    words += ["--n-inputs", "3", "--width", "8,4", "--width", "5", "--scale", "0.4", "--out", str(out), "-q"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "widths 3, 8, 4, 5, 2" in result.output
    assert "PASS determinant ledger, layers 1–2" in result.output
    assert "PASS balance ledger, layers 3–4" in result.output
    assert rf.open_run(out).attrs["depth"] == 4
    result = CliRunner().invoke(app, ["plot", str(out)])
    assert result.exit_code == 0 and out.with_suffix(".svg").exists()
    bad = CliRunner().invoke(app, [*words[:-3], "--width", "x", "--out", str(tmp_path / "b.nc")])
    assert bad.exit_code != 0


@pytest.mark.parametrize("columns", [1, 2])
def test_overview_draws_every_layer(columns):
    figure = overview(run_of("label noise", replicates=4), columns=columns)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        *(f"Singular values of W{i}" for i in (1, 2, 3)),
        "Singular values of the product",
        "Loss",
        "Balances (dashed: law)",
        "Determinants (dashed: law)",
    ]
    assert render_figure(figure, "svg").startswith(b"<?xml")
