"""Same seed, same numbers: whatever the threads, the replicates beside, the pieces and the interruptions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats

import rankfall as rf
from rankfall._engine import rounds
from rankfall._kernels import host
from small import METHODS, NARROW, PROBLEM, WIDE

each_method = pytest.mark.parametrize("name", METHODS)


def run_of(name, network=WIDE, **options):
    method, length = METHODS[name]
    options = {"seed": 5, "save_points": 7, "weights": True, **length, **options}
    if not isinstance(method, rf.GradientFlow):
        options.setdefault("ledger", "auto")
    return rf.simulate(PROBLEM, network, method, **options)


def assert_equal(first, second, replicates=slice(None)):
    """Bit for bit in everything but what depends on the number of replicates by definition."""
    assert set(first.variables) == set(second.variables)
    for variable in first.variables:
        a, b = first[variable], second[variable]
        if "replicate" in a.dims:
            a, b = a.isel(replicate=replicates), b.isel(replicate=replicates)
        np.testing.assert_array_equal(a.values, b.values, err_msg=variable, strict=True)


@each_method
@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
def test_threads(name, network):
    one, two, many = (run_of(name, network, replicates=37, threads=count) for count in (1, 2, 5))
    assert_equal(one, two)
    assert_equal(one, many)


@each_method
def test_replicates(name):
    few, more = run_of(name, replicates=10), run_of(name, replicates=100)
    for variable in few.data_vars:
        if "replicate" in few[variable].dims:
            np.testing.assert_array_equal(few[variable], more[variable][:10], err_msg=variable)


@each_method
def test_one_replicate_is_the_first_of_many(name):
    alone, many = run_of(name, replicates=1), run_of(name, replicates=9)
    assert_equal(alone, many.isel(replicate=slice(1)).assign_coords(replicate=alone.replicate))


@each_method
def test_width_of_the_vectors(name, monkeypatch):
    """What a machine without AVX-512 computes is what one with it does."""
    widest = run_of(name, replicates=11)
    for lanes in (1, 2, 4, 8):
        monkeypatch.setattr(host, "host_lanes", lambda lanes=lanes: lanes)
        assert_equal(widest, run_of(name, replicates=11))


@each_method
def test_save_points_do_not_touch_the_path(name):
    if name == "gradient flow":
        pytest.skip("steps are cut at the save points; the accuracy is tested, not the bits")
    few, more = run_of(name, replicates=3, save_points=4), run_of(name, replicates=3, save_points=31)
    np.testing.assert_array_equal(few.time, more.time[::10])
    np.testing.assert_array_equal(few.W1, more.W1[:, ::10])
    np.testing.assert_array_equal(few.log_det, more.log_det[:, ::10])


@each_method
@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_length_of_the_rounds(name, seconds, monkeypatch):
    """Rounds of a single piece, and one round for all, give the same bits."""
    usual = run_of(name, replicates=5)
    monkeypatch.setattr(rounds, "_SECONDS_PER_ROUND", seconds)
    monkeypatch.setattr(rounds, "_FIRST_ROUND", 1 if seconds < 1 else 1 << 40)
    assert_equal(usual, run_of(name, replicates=5))


@each_method
def test_seeds_differ_and_starts_do_not_depend_on_the_method(name):
    one, other = run_of(name, replicates=2), run_of(name, replicates=2, seed=6)
    assert not np.isclose(one.loss, other.loss, rtol=1e-6).any()
    np.testing.assert_array_equal(one.W1[:, 0], run_of("gradient descent", replicates=2).W1[:, 0])


def test_replicates_are_independent_draws():
    run = run_of("geometric", replicates=50)
    assert len(np.unique(run.loss.values[:, 0])) == len(np.unique(run.loss.values[:, -1])) == 50


def test_shared_start_differs_by_the_noise_alone():
    run = run_of("label noise", replicates=4, start="shared")
    assert (run.W1[:, 0] == run.W1[0, 0]).all()
    assert len(np.unique(run.loss.values[:, -1])) == 4
    np.testing.assert_array_equal(run.W1[0, 0], run_of("label noise", replicates=1).W1[0, 0])


def test_noise_precision_is_another_stream_of_the_same_law():
    single, double = (
        run_of("label noise", replicates=2000, start="shared", noise_precision=kind) for kind in ("single", "double")
    )
    assert not np.isclose(single.loss[:, 1:], double.loss[:, 1:], rtol=1e-6).all()
    assert scipy.stats.ks_2samp(single.loss[:, -1], double.loss[:, -1]).pvalue > 1e-3  # false alarm: 1 in 1000


class Stop:
    """A progress function that presses Ctrl-C once, after some rounds."""

    def __init__(self, after):
        self.left = after

    def __call__(self, state):
        if state.stage == "running" and state.completed > 0:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.fixture
def short_rounds(monkeypatch):
    monkeypatch.setattr(rounds, "_SECONDS_PER_ROUND", 1e-9)
    monkeypatch.setattr(rounds, "_FIRST_ROUND", 1)


@each_method
@pytest.mark.parametrize("after", [1, 2, 4])
def test_interrupted_and_continued(name, after, short_rounds, tmp_path):
    options = {"replicates": 5, "checkpoint": tmp_path / "here.checkpoint"}
    if "gradient flow" not in name and name != "geometric":
        options["ledger"] = "both"
    whole = run_of(name, **{**options, "checkpoint": None})
    with pytest.raises(rf.SimulationInterrupted) as stopped:
        run_of(name, progress=Stop(after), **options)
    partial, path = stopped.value.run, tmp_path / "here.checkpoint"
    assert stopped.value.checkpoint == str(path) and path.exists()
    saved = partial.sizes["time"]
    assert 1 <= saved < 7
    assert set(partial.outcome.values) == {f"interrupted at t={float(partial.time[-1]):g}"}
    np.testing.assert_array_equal(partial.W1, whole.W1[:, :saved])
    # a second interruption, then another number of threads to the end
    with pytest.raises(rf.SimulationInterrupted):
        run_of(name, progress=Stop(1), **options)
    assert_equal(whole, run_of(name, threads=1, **options))
    assert not path.exists()


def test_interrupted_without_a_checkpoint_still_gives_the_run(short_rounds):
    with pytest.raises(rf.SimulationInterrupted, match="stopped at t=0") as stopped:
        run_of("label noise", replicates=5, progress=Stop(2))
    assert stopped.value.checkpoint is None
    assert isinstance(stopped.value, KeyboardInterrupt)


def test_a_checkpoint_moves_between_processors(short_rounds, tmp_path, monkeypatch):
    whole = run_of("geometric", replicates=5)
    with pytest.raises(rf.SimulationInterrupted):
        run_of("geometric", replicates=5, progress=Stop(3), checkpoint=tmp_path / "c")
    monkeypatch.setattr(host, "host_lanes", lambda: 2)
    assert_equal(whole, run_of("geometric", replicates=5, checkpoint=tmp_path / "c"))


def test_a_checkpoint_of_another_run_is_refused(short_rounds, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(rf.SimulationInterrupted):
        run_of("label noise", replicates=5, progress=Stop(2), checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(rf.InvalidInput, match=r"simulate\.seed is 5 there, 6 here"):
        run_of("label noise", replicates=5, seed=6, checkpoint=path)
    with pytest.raises(rf.InvalidInput, match=r"method\.name is LabelNoiseDescent there, GradientDescent here"):
        run_of("gradient descent", replicates=5, checkpoint=path)
    other = rf.Problem.gaussian(n_samples=60, n_inputs=3, n_outputs=2, seed=1)
    method, length = METHODS["label noise"]
    with pytest.raises(rf.InvalidInput, match="belongs to another run"):
        rf.simulate(other, WIDE, method, **length, seed=5, save_points=7, weights=True, replicates=5, checkpoint=path)
    assert path.read_bytes() == before


def damaged_files(good):
    yield b""
    yield b"no archive"
    yield good[: len(good) // 2]
    yield good[:-10]
    middle = len(good) // 2
    yield good[:middle] + bytes(255 - byte for byte in good[middle : middle + 200]) + good[middle + 200 :]


def test_a_damaged_checkpoint_is_refused_and_kept(short_rounds, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(rf.SimulationInterrupted):
        run_of("label noise", replicates=5, progress=Stop(2), checkpoint=path)
    for content in damaged_files(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(rf.InvalidInput, match="not a checkpoint of rankfall or is damaged"):
            run_of("label noise", replicates=5, checkpoint=path)
        assert path.read_bytes() == content


def test_a_hostile_checkpoint_is_not_unpickled(short_rounds, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(rf.SimulationInterrupted):
        run_of("label noise", replicates=5, progress=Stop(2), checkpoint=path)

    class Hostile:
        def __reduce__(self):
            return (exec, ("raise SystemExit('unpickled')",))

    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    for name in ("head", "state"):
        changed = arrays | {name: np.array([Hostile()], dtype=object)}
        with path.open("wb") as stream:
            np.savez(stream, **changed)
        with pytest.raises(rf.InvalidInput, match="damaged"):
            run_of("label noise", replicates=5, checkpoint=path)


def test_a_checkpoint_of_a_future_format_is_refused(short_rounds, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(rf.SimulationInterrupted):
        run_of("label noise", replicates=5, progress=Stop(2), checkpoint=path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    head = json.loads(arrays["head"].tobytes())
    head["format"] = 99
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    with pytest.raises(rf.InvalidInput, match="written by another version"):
        run_of("label noise", replicates=5, checkpoint=path)


def test_rerun_repeats_every_method(tmp_path):
    for name in METHODS:
        run = run_of(name, replicates=3)
        rf.save_run(run, tmp_path / "run.nc")
        again = rf.rerun(rf.open_run(tmp_path / "run.nc"))
        assert_equal(run, again)
        assert again.attrs == run.attrs


def test_rerun_of_given_weights_and_single_starts():
    rng = np.random.default_rng(0)
    for shape in ((), (3,)):
        network = rf.LinearNetwork.from_weights(
            rng.standard_normal((*shape, 3, 4)), rng.standard_normal((*shape, 4, 2))
        )
        run = run_of("geometric", network, replicates=3)
        assert_equal(run, rf.rerun(run))
