"""`rankfall plot` of a store: the figure is written, or one sentence says why not."""

import subprocess
import sys

import numpy as np
import pytest
from made_up_study import MadeUpStudy, computed, run
from matplotlib.collections import QuadMesh
from typer.testing import CliRunner

from rankfall.cli import app
from rankfall.cli._plot_sweep import draw_sweep
from rankfall.sweep._store import Store


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "results.zarr"
    study = MadeUpStudy({"noise": [0.1, 1.0, 10.0, 100.0], "width": [4, 8, 16], "start": ["gaussian", "balanced"]})
    run(study, path)
    return path


def plot(*arguments):
    return CliRunner().invoke(app, ["plot", *map(str, arguments)])


def test_the_colours_are_the_cells(results):
    options = {"x": "noise", "y": "width", "color": "final_rank", "panels": (), "at": ("start=balanced",)}
    figure = draw_sweep(results, columns=2, **options)
    drawn = next(item for axes in figure.axes for item in axes.collections if isinstance(item, QuadMesh)).get_array()
    study = MadeUpStudy({"noise": [0.1, 1.0, 10.0, 100.0], "width": [4, 8, 16], "start": ["gaussian", "balanced"]})
    failed = 0
    for cell in study.cells():
        if cell.index[2] == 1:
            result = computed(cell)
            shown = drawn[cell.index[1], cell.index[0]]
            if result.status == "failed":
                failed += 1
                assert shown is np.ma.masked
            else:
                assert float(shown) == float(result.values["final_rank"])
    assert failed


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--x", "noise", "--y", "width", "--color", "final_rank"],
        ["--x", "noise", "--y", "final_rank", "--colour", "width", "--panels", "start"],
        ["--y", "final_rank", "--panels", "start", "--panels", "width", "--columns", "1"],
        ["--at", "start=balanced", "--at", "width=8"],
        ["--y", "singular_values", "--at", "width=8"],
    ],
)
def test_a_figure_is_written(results, tmp_path, options):
    ended = plot(results, "--out", tmp_path / "figure.svg", *options)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == f"Figure: {tmp_path / 'figure.svg'}\n"
    assert (tmp_path / "figure.svg").read_text().lstrip().startswith("<?xml")


def test_without_out_the_figure_lies_beside_the_store(tmp_path):
    run(MadeUpStudy({"noise": [1, 2, 3]}), tmp_path / "s.zarr")
    assert plot(tmp_path / "s.zarr").exit_code == 0
    assert (tmp_path / "s.svg").is_file()


def test_while_the_sweep_runs(tmp_path):
    study = MadeUpStudy({"noise": [1, 2, 3], "width": [1, 2, 3]})
    with Store.open(tmp_path / "s.zarr", study) as store:
        assert plot(tmp_path / "s.zarr", "--out", tmp_path / "none.png").exit_code == 0
        store.commit_many([computed(cell) for cell in list(study.cells())[:4]])
        store.fold()
        assert plot(tmp_path / "s.zarr", "--out", tmp_path / "some.png").exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--x", "nois"], "did you mean noise"),
        (["--color", "final_rnk"], "did you mean final_rank"),
        (["--at", "noise"], "AXIS=VALUE"),
        (["--at", "noise=1", "--at", "noise=10"], "names noise twice"),
        (["--at", "noise=7"], "no such value"),
        (["--learning"], "gradient flow"),
        (["--out", "figure.bmp"], "must end in"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_code_2(results, tmp_path, options, words):
    ended = plot(results, *options)
    assert ended.exit_code == 2 and words in ended.stderr and ended.stderr.count("\n") == 1


def test_a_folder_of_something_else_and_a_run_with_options_of_a_sweep(tmp_path):
    (tmp_path / "photos").mkdir()
    ended = plot(tmp_path / "photos")
    assert ended.exit_code == 2 and "not the store of a sweep" in ended.stderr
    (tmp_path / "run.nc").write_bytes(b"")
    ended = plot(tmp_path / "run.nc", "--x", "noise")
    assert ended.exit_code == 2 and "for the results of a sweep" in ended.stderr


def test_a_damaged_chunk_is_said_and_how_to_mend_it(tmp_path):
    run(MadeUpStudy({"noise": [1, 2, 3]}), tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "final_rank" / "c.0"
    content = bytearray(file.read_bytes())
    for damaged in (content[:11], bytearray([*content[:5], content[5] ^ 4, *content[6:]]), b""):
        file.write_bytes(damaged)
        ended = plot(tmp_path / "s.zarr")
        assert ended.exit_code == 2 and "run the sweep again" in ended.stderr, ended.output


def test_the_command_itself(results, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "rankfall.cli", "plot", results, "--out", tmp_path / "f.pdf"], capture_output=True
    )
    assert ended.returncode == 0 and (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
