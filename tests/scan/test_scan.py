"""Whole checkpoints: files, folders, shards, steps; measures, order, threads, memory, interruption."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import rankfall as rf
from rankfall.scan import scan_checkpoint
from rankfall.scan._words import summary
from scan.files import planted


@pytest.fixture
def model(tmp_path):
    """Four matrices, one of them of low rank, one vector."""
    generator = np.random.default_rng(1)
    arrays = {
        "layers.2.weight": generator.normal(size=(12, 9)),
        "layers.10.weight": generator.normal(size=(9, 30)).astype(np.float32),
        "embed.weight": planted([3.0, 2.0, 1e-9], 40, 9),
        "attn.q_proj.weight": generator.normal(size=(9, 9)),
        "layers.2.bias": generator.normal(size=12),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", arrays


def test_measures_are_those_of_the_library(model):
    """Read, reshaped and measured on two ways that share the measures alone; their golden values are tested there."""
    file, arrays = model
    found = scan_checkpoint(file, measures="all")
    assert [layer.name for layer in found] != [] and len(found) == 4
    for layer in found:
        matrix = arrays[layer.name]
        report = rf.ranks.report(matrix, atol=layer.error)
        assert set(layer.values) == set(report.values)
        for name, value in report.values.items():
            if name in rf.ranks.COUNTS:
                assert layer[name] == value and isinstance(layer[name], int), name
            elif name != "log_determinant" or "embed" not in layer.name:  # a value of rounding noise has no logarithm
                assert layer[name] == pytest.approx(value, rel=1e-5 if matrix.dtype == np.float32 else 1e-7), name


def test_savings(model):
    file, _ = model
    layers = {layer.name: layer for layer in scan_checkpoint(file)}
    embed = layers["embed.weight"]
    # Energies 9 : 4, so rank 2 keeps 99 %, rank 1 does not.
    assert (embed.factor_rank, embed.saved, embed.parameters) == (2, 40 * 9 - 2 * 49, 360)
    assert embed.share == pytest.approx(math.exp(-(0.6 * math.log(0.6) + 0.4 * math.log(0.4))) / 9)
    assert layers["attn.q_proj.weight"].saved == 0
    (less,) = scan_checkpoint(file, select="embed", energy=0.6)
    assert less.factor_rank == 1 and less["energy_rank"] == 1


def test_rounding_noise_is_no_rank(tmp_path):
    """A long float32 matrix of rank 2: NumPy's threshold needs the longer side."""
    matrix = planted([1.0, 0.5], 900, 30).astype(np.float32)
    save_file({"w": matrix, "t": np.ascontiguousarray(matrix.T)}, tmp_path / "m.safetensors")
    for method in ("auto", "svd", "gram"):
        for layer in scan_checkpoint(tmp_path / "m.safetensors", method=method):
            assert layer["numerical_rank"] == 2 == np.linalg.matrix_rank(matrix)


def test_threads_change_no_bit(model):
    file, _ = model
    one, three = (scan_checkpoint(file, measures="all", threads=number) for number in (1, 3))
    assert [layer.to_dict(spectrum=True) for layer in one] == [layer.to_dict(spectrum=True) for layer in three]


@pytest.mark.parametrize(
    "key, reverse, expected",
    [
        ("name", False, ["attn.q_proj.weight", "embed.weight", "layers.2.weight", "layers.10.weight"]),
        ("size", False, ["embed.weight", "layers.10.weight", "layers.2.weight", "attn.q_proj.weight"]),
        ("saved", False, ["embed.weight"]),
        ("share", False, ["embed.weight"]),
        ("stable-rank", False, ["embed.weight"]),
        ("effective rank", True, ["layers.10.weight"]),
    ],
)
def test_sorting(model, key, reverse, expected):
    file, _ = model
    found = scan_checkpoint(file).sorted_by(key, reverse=reverse)
    assert [layer.name for layer in found][: len(expected)] == expected
    assert len(found) == 4


def test_unusable_arguments(model, tmp_path):
    file, _ = model
    for options, message in [
        ({"measures": ["stabel_rank"]}, "no measure 'stabel_rank'; did you mean stable_rank"),
        ({"measures": ["zzz"]}, "no measure 'zzz'; choose numerical_rank"),
        ({"select": "["}, "select must be a regular expression"),
        ({"select": "nothing"}, "select='nothing' fits none of the matrices in .*, like "),
        ({"energy": 1.0}, "energy must lie strictly between 0 and 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"method": "qr"}, "method must be one of auto, svd, gram"),
        ({"over_time": True}, "checkpoints over time are a folder"),
        ({"progress": 3}, "progress must be True, False or a function"),
    ]:
        with pytest.raises(rf.InvalidInput, match=message):
            scan_checkpoint(file, **options)
    with pytest.raises(rf.InvalidInput, match=r"cannot sort by 'nuclear_rank'.*A measure has to be computed"):
        scan_checkpoint(file).sorted_by("nuclear_rank")
    for path, message in [
        (tmp_path / "no.safetensors", "there is no .*no.safetensors"),
        (tmp_path / "model.onnx", "no checkpoint that can be read"),
        (tmp_path / "empty", "holds no checkpoint"),
    ]:
        (tmp_path / "model.onnx").touch()
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(rf.InvalidInput, match=message):
            scan_checkpoint(path)


def test_matrices_that_are_not_finite(tmp_path):
    sound, nan, infinite = np.eye(4), np.eye(4), np.eye(4)
    nan[1, 2], infinite[0, :2] = np.nan, -np.inf
    save_file({"a": sound, "b": nan, "c": infinite, "d": sound}, tmp_path / "m.safetensors")
    found = scan_checkpoint(tmp_path / "m.safetensors")
    problems = {layer.name: layer.problem for layer in found}
    assert problems == {
        "a": "",
        "b": "1 of 16 entries are NaN or infinite",
        "c": "2 of 16 entries are NaN or infinite",
        "d": "",
    }
    assert [layer.name for layer in found.problems] == ["b", "c"]
    assert [layer["stable_rank"] for layer in found.sorted_by("stable_rank", reverse=True)][:2] == [4.0, 4.0]
    assert "2 of 4 matrices are not finite" in " ".join(summary(found))
    assert [layer.route for layer in found] == ["svd", "", "", "svd"]
    json.dumps(found.to_dict(spectra=True), allow_nan=False)
    assert np.isnan(found.to_dataset()["stable_rank"].sel(layer="b"))


def test_a_tensor_too_large_for_the_memory_is_a_row(model, monkeypatch):
    """Numbers that cannot be allocated, simulated: a real attempt might be granted terabytes."""
    file, _ = model
    plain = np.fromfile

    def limited(path, *, dtype, count, offset):
        if count > 2_000:
            raise MemoryError
        return plain(path, dtype=dtype, count=count, offset=offset)

    monkeypatch.setattr(np, "fromfile", limited)
    found = {layer.name: layer for layer in scan_checkpoint(file)}
    assert found["embed.weight"].problem == "too large for the memory of this machine (1.44e-06 GB in float32)"
    assert found["attn.q_proj.weight"].problem == "" and found["attn.q_proj.weight"]["stable_rank"] > 1
    assert "1 of 4 matrices have no numbers" in " ".join(summary(scan_checkpoint(file)))


def test_infinite_factors_of_a_pair(tmp_path):
    bad = np.ones((3, 5), dtype=np.float32)
    bad[0, 0] = np.inf
    save_file({"q.lora_A.weight": bad, "q.lora_B.weight": np.ones((4, 3), np.float32)}, tmp_path / "m.safetensors")
    (pair,) = scan_checkpoint(tmp_path / "m.safetensors")
    assert pair.problem == "1 of 27 entries are NaN or infinite" and len(pair.singular_values) == 3


def test_shards(tmp_path):
    generator = np.random.default_rng(2)
    parts = {f"model-0000{i}-of-00002.safetensors": {f"w{i}": generator.normal(size=(5, 4))} for i in (1, 2)}
    for file, tensors in parts.items():
        save_file(tensors, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    mapping = {name: file for file, tensors in parts.items() for name in tensors}
    index.write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    assert [layer.name for layer in scan_checkpoint(tmp_path)] == ["w1", "w2"]
    index.unlink()
    assert [layer.name for layer in scan_checkpoint(tmp_path)] == ["w1", "w2"]  # shards without an index
    for content, message in [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "has no weight_map"),
        (json.dumps({"weight_map": {"w": "../secret.safetensors"}}), "names '../secret.safetensors', .* not opened"),
        (json.dumps({"weight_map": {"w": "/etc/passwd"}}), "names '/etc/passwd', .* not opened"),
        (json.dumps({"weight_map": {"w": "absent.safetensors"}}), "1 of 1 shards are missing, the first is absent"),
        (json.dumps({"weight_map": mapping | {"w9": next(iter(parts))}}), "1 of 3 tensors of the index are in none"),
    ]:
        index.write_text(content)
        with pytest.raises(rf.InvalidInput, match=message):
            scan_checkpoint(tmp_path)


def test_two_models_in_a_folder_are_not_mixed(tmp_path):
    for name in ("one", "two"):
        save_file({"w": np.eye(3)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(rf.InvalidInput, match="'w' is in more than one file"):
        scan_checkpoint(tmp_path)


def test_adapters_and_configurations(tmp_path):
    save_file(
        {"q.lora_A.weight": np.ones((2, 5)), "q.lora_B.weight": np.ones((4, 2))}, tmp_path / "adapter_model.safetensors"
    )
    assert [layer.kind for layer in scan_checkpoint(tmp_path)] == ["lora"]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(rf.InvalidInput, match=r"config\.json is not JSON"):
        scan_checkpoint(tmp_path)


def test_names_that_the_file_says_are_tied(tmp_path):
    save_file(
        {"embed.weight": np.eye(3)}, tmp_path / "m.safetensors", {"lm_head.weight": "embed.weight", "format": "pt"}
    )
    assert dict(scan_checkpoint(tmp_path / "m.safetensors").tied) == {"lm_head.weight": "embed.weight"}


@pytest.fixture
def series(tmp_path):
    """Rank 3, 2, 1 at the steps 0, 50, 1000; folders as a trainer makes them, with what lies beside the weights."""
    for step, rank in ((1000, 1), (0, 3), (50, 2)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": planted(np.ones(rank), 6, 5), "attn.q_proj.weight": np.eye(4)}, folder / "model.safetensors")
        (folder / "optimizer.pt").write_bytes(b"not looked at")
    (tmp_path / "logs").mkdir()
    return tmp_path


def test_checkpoints_over_time(series):
    found = scan_checkpoint(series, measures=["numerical_rank", "stable_rank"])
    assert found.steps == (0, 50, 1000) and len(found) == 6
    data = found.to_dataset()
    assert data["numerical_rank"].dims == ("step", "layer") and data["step"].values.tolist() == [0, 50, 1000]
    assert data["numerical_rank"].sel(layer="w").values.tolist() == [3, 2, 1]
    assert np.allclose(data["stable_rank"].sel(layer="w"), [3, 2, 1], rtol=1e-12, atol=0)
    assert data["singular_values"].dims == ("step", "layer", "mode")
    assert np.isnan(data["singular_values"].sel(layer="attn.q_proj.weight", mode=4)).all()
    assert "at step 1000, the last of 3" in summary(found)[0]


def test_a_layer_that_comes_later(series):
    save_file({"w": np.eye(5), "new": np.eye(3)}, series / "checkpoint-1000" / "model.safetensors")
    data = scan_checkpoint(series).to_dataset()
    assert np.isnan(data["stable_rank"].sel(layer="new")).values.tolist() == [True, True, False]


def test_a_model_beside_its_checkpoints(series):
    save_file({"final": np.eye(3)}, series / "model.safetensors")
    assert [layer.name for layer in scan_checkpoint(series)] == ["final"]
    assert scan_checkpoint(series, over_time=True).steps == (0, 50, 1000)
    with pytest.raises(rf.InvalidInput, match="no two checkpoints whose names differ in a step"):
        scan_checkpoint(series / "checkpoint-50", over_time=True)


def test_a_damaged_step_is_found_before_any_work(series):
    (series / "checkpoint-1000" / "model.safetensors").write_bytes(b"x")
    seen = []
    with pytest.raises(rf.InvalidInput, match=r"checkpoint-1000.*no sound safetensors"):
        scan_checkpoint(series, progress=seen.append)
    assert seen == []


def test_files_over_time(tmp_path):
    for step in (5, 10):
        save_file({"w": np.eye(3)}, tmp_path / f"step_{step}.safetensors")
    assert scan_checkpoint(tmp_path).steps == (5, 10)


def test_dataset_survives_the_disk(model, tmp_path):
    xarray = pytest.importorskip("xarray")
    file, _ = model
    data = scan_checkpoint(file).to_dataset()
    data.to_netcdf(tmp_path / "scan.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "scan.nc", engine="h5netcdf") as again:
        assert again.load().identical(data)


def test_progress_ends_at_its_total(model):
    file, _ = model
    seen = []
    scan_checkpoint(file, threads=2, progress=seen.append)
    assert [state.completed for state in seen] == sorted(state.completed for state in seen)
    assert len(seen) == 4 and seen[-1].completed == seen[-1].total and seen[-1].unit == "operations"


@pytest.mark.parametrize("threads", [1, 2])
def test_interruption_keeps_what_is_finished(model, threads):
    file, _ = model

    def stop(state):
        if state.completed < state.total:
            raise KeyboardInterrupt

    with pytest.raises(rf.errors.ScanInterrupted) as caught:
        scan_checkpoint(file, threads=threads, progress=stop)
    partial = caught.value.scan
    assert not partial.complete and 1 <= len(partial) < 4
    whole = {layer.name: layer.to_dict() for layer in scan_checkpoint(file)}
    assert all(layer.to_dict() == whole[layer.name] for layer in partial)


MEMORY = """
import sys, pathlib
from rankfall.scan import scan_checkpoint
def peak():
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
scan_checkpoint(sys.argv[1], threads=2)
before = peak()
scan_checkpoint(sys.argv[2], threads=2)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_that_of_the_largest_matrix(tmp_path):
    """24 matrices of 4 MB and one of 8: less than 8 MB, its copy in LAPACK and 8 MB for the rest, not 104."""
    matrix = np.random.default_rng(0).normal(size=(8192, 128)).astype(np.float32)
    save_file({"w": matrix[:256]}, tmp_path / "small.safetensors")
    save_file({f"w{i}": matrix for i in range(24)} | {"large": np.tile(matrix, (2, 1))}, tmp_path / "large.safetensors")
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "small.safetensors"), str(tmp_path / "large.safetensors")]
    grown = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert grown < 3 * 8 * 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_tall_matrix_is_never_in_memory(tmp_path):
    """Of 67 MB, a block of rows (2 MB as float64, 1 MB as it is stored) and a Gram matrix of 128 kB, and room."""
    matrix = np.random.default_rng(0).normal(size=(8192, 128)).astype(np.float32)
    save_file({"w": matrix[:256]}, tmp_path / "small.safetensors")
    save_file({"embed": np.tile(matrix, (16, 1))}, tmp_path / "large.safetensors")
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "small.safetensors"), str(tmp_path / "large.safetensors")]
    grown = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert grown < 12 * 2**20


def test_rankfall_itself_does_not_load_the_scan():
    code = "import sys, rankfall; sys.exit('rankfall.scan' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_safetensors_need_no_torch(model):
    file, _ = model
    code = (
        "import sys; from rankfall.scan import scan_checkpoint; scan_checkpoint(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == 0
