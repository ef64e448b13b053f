"""Files of PyTorch: weights only, never code."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

import rankfall as rf

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def weight():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def scan(file, **options):
    return rf.scan.scan_checkpoint(file, threads=1, **options)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_code_is_refused_and_not_run(tmp_path, weight, writer):
    target = tmp_path / "made-by-the-pickle"
    file = tmp_path / "model.pt"
    content = {"w": weight, "x": Malicious(target)}
    if writer == "pickle":
        file.write_bytes(pickle.dumps({"x": Malicious(target)}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(rf.InvalidInput, match=r"could run any code; .* Nothing of it was run"):
        scan(file)
    assert not target.exists()
    # The file does what it is feared for: the test would notice.
    torch.load(file, weights_only=False) if writer != "pickle" else pickle.loads(file.read_bytes())
    assert target.exists()


def test_a_whole_module_is_code(tmp_path):
    torch.save(torch.nn.Linear(3, 3), tmp_path / "model.pt")
    with pytest.raises(rf.InvalidInput, match=r"save model\.state_dict"):
        scan(tmp_path / "model.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes(tmp_path, weight, legacy, dtype):
    if legacy and dtype.startswith("float8"):
        return  # torch itself cannot read what it wrote
    stored = weight.to(getattr(torch, dtype))
    torch.save({"w": stored}, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    (layer,) = scan(tmp_path / "model.pt")
    expected = np.linalg.svd(stored.double().numpy(), compute_uv=False)
    assert (layer.dtype, layer.computed_dtype) == (dtype, "float64")
    assert layer.route == ("svd" if dtype == "float64" else "gram")
    assert np.abs(layer.singular_values - expected).max() <= layer.error


def test_wrappers_and_optimizers(tmp_path, weight):
    optimizer = {"state": {0: {"exp_avg": weight.clone()}}}
    content = {"model": {"layer.weight": weight, "n": torch.tensor(3)}, "optimizer": optimizer, "epoch": 3}
    torch.save(content, tmp_path / "model.ckpt")
    found = scan(tmp_path / "model.ckpt")
    assert [layer.name for layer in found] == ["layer.weight"]
    torch.save({"generator": {"a": weight}, "critics": [weight.clone()]}, tmp_path / "two.pt")
    assert [layer.name for layer in scan(tmp_path / "two.pt")] == ["generator.a", "critics.0"]


def test_tied_weights_are_measured_once(tmp_path, weight):
    content = {"embed.weight": weight, "lm_head.weight": weight, "view": weight[:, :2], "copy": weight.clone()}
    torch.save(content, tmp_path / "model.bin")
    found = scan(tmp_path / "model.bin")
    assert [layer.name for layer in found] == ["embed.weight", "view", "copy"]
    assert dict(found.tied) == {"lm_head.weight": "embed.weight"}
    assert found.parameters == 24 + 12 + 24


def test_what_is_no_weight_is_counted(tmp_path, weight):
    content = {
        "w": weight,
        "meta": torch.empty(5, 5, device="meta"),
        "sparse": weight.to_sparse(),
        "index": torch.arange(6).reshape(2, 3),
        "complex": weight.to(torch.complex64),
        "empty": torch.empty(0, 3),
        "bias": torch.ones(5),
        "scalar": torch.tensor(1.0),
    }
    torch.save(content, tmp_path / "model.pt")
    found = scan(tmp_path / "model.pt")
    assert [layer.name for layer in found] == ["w"]
    assert dict(found.skipped) == {
        "without data (on the meta device)": 1,
        "in a sparse layout": 1,
        "of whole numbers (indices, masks or quantised)": 1,
        "of type complex64, which cannot be read": 1,
        "empty": 1,
        "with one dimension, or one row or column": 2,
    }


def test_only_meta_tensors(tmp_path):
    torch.save({"w": torch.empty(5, 5, device="meta")}, tmp_path / "model.pt")
    with pytest.raises(rf.InvalidInput, match="no matrix to measure: of its 1 tensors 1 without data"):
        scan(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"not a pickle", bytes(100), b"PK\x03\x04 broken"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(rf.InvalidInput, match="damaged"):
        scan(tmp_path / "model.pt")


def test_truncated_files(tmp_path, weight):
    file = tmp_path / "model.pt"
    torch.save({"w": weight}, file)
    content = file.read_bytes()
    for length in range(0, len(content), 97):
        file.write_bytes(content[:length])
        with pytest.raises(rf.InvalidInput):
            scan(file)


def test_programs_are_refused(tmp_path):
    class Doubling(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.save(torch.jit.trace(Doubling(), torch.ones(2)), tmp_path / "model.pt")
    with pytest.raises(rf.InvalidInput, match="TorchScript archive, which is a program"):
        scan(tmp_path / "model.pt")


def test_parameters_and_transposed_views(tmp_path, weight):
    torch.save({"p": torch.nn.Parameter(weight), "t": weight.T}, tmp_path / "model.pt")
    first, second = scan(tmp_path / "model.pt")
    assert first.shape == (6, 4) and second.shape == (4, 6)
    assert np.allclose(first.singular_values, second.singular_values, rtol=0, atol=first.error + second.error)


def test_old_torch_is_refused(tmp_path, weight, monkeypatch):
    torch.save({"w": weight}, tmp_path / "model.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(rf.InvalidInput, match=r"needs PyTorch 2\.6 or newer, this is 2\.5\.1"):
        scan(tmp_path / "model.pt")
