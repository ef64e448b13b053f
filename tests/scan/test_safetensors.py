"""Reading safetensors: the reference implementation writes and judges, every number format, hostile files."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

import rankfall as rf
from rankfall.scan._dtypes import BITS, DECODERS
from rankfall.scan._safetensors import tensors_of
from scan.files import entry, write_raw


def test_numbers_of_the_reference_writer(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {f"{name}": generator.normal(size=(3, 5)).astype(name) for name in ("float16", "float32", "float64")}
    save_file(arrays | {"index": np.arange(6).reshape(2, 3)}, tmp_path / "a.safetensors", {"format": "pt"})
    tensors, metadata = tensors_of(tmp_path / "a.safetensors")
    assert metadata == {"format": "pt"}
    found = {tensor.name: tensor for tensor in tensors}
    for name, array in arrays.items():
        read = found[name].read()
        assert found[name].dtype == name and read.shape == (3, 5)
        assert read.dtype == ("float64" if name == "float64" else "float32")
        assert np.array_equal(read, array)  # widening is exact
    assert found["index"].read is None and "whole numbers" in found["index"].unread


@pytest.mark.parametrize(
    "dtype, other, bits",
    [
        ("BF16", ml_dtypes.bfloat16, 16),
        ("F16", np.float16, 16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn, 8),
        ("F8_E5M2", ml_dtypes.float8_e5m2, 8),
    ],
)
def test_every_code_of_the_narrow_formats(dtype, other, bits):
    """All 2^bits codes against ml_dtypes (or NumPy), NaN and infinities included."""
    codes = np.arange(2**bits, dtype=f"<u{bits // 8}")
    found = DECODERS[dtype](codes.view(np.uint8))
    assert found.dtype == np.float32
    with np.errstate(invalid="ignore"):  # signalling NaN among the codes
        expected = codes.view(other).astype(np.float32)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.isnan(found).any()


HOSTILE = [
    (b"", "is no sound safetensors file: it has 0 bytes"),
    (b"\x01\x02", "it has 2 bytes"),
    ((2**63).to_bytes(8, "little") + b"{}", "claims 9,223,372,036,854,775,808 bytes, more than the 100,000,000"),
    ((100_000_001).to_bytes(8, "little") + b"{}", "more than the 100,000,000 allowed"),
    ((1000).to_bytes(8, "little") + b"{}", "claims 1,000 bytes, but only 2 follow"),
]


@pytest.mark.parametrize("content, message", HOSTILE)
def test_hostile_lengths(tmp_path, content, message):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    refused(file, message)


HEADERS = [
    (b"not json", b"", "not JSON"),
    (b"\xff\xfe{}", b"", "not JSON"),
    (b"[1, 2]", b"", "not a JSON object"),
    (b"[" * 100_000, b"", "not JSON"),
    (b'{"a": ' + b"9" * 10_000 + b"}", b"", "not JSON"),
    (b'{"a": {}, "a": {}}', b"", "a name occurs twice"),
    ({"a": 3}, b"", "'a' is not described by"),
    ({"a": {"dtype": "F32", "shape": [2, 2]}}, bytes(16), "'a' is not described by"),
    ({"a": entry(dtype=7)}, bytes(16), "has no type"),
    ({"a": entry(shape=(-2, -2))}, bytes(16), "not whole numbers from 0 on"),
    ({"a": entry(shape=(True, 4))}, bytes(16), "not whole numbers from 0 on"),
    ({"a": entry(shape=(2.0, 2))}, bytes(16), "not whole numbers from 0 on"),
    ({"a": entry(end=2**70)}, bytes(16), "not whole numbers from 0 on"),
    ({"a": entry(begin=16, end=0)}, bytes(16), "ends before it begins"),
    ({"a": entry(end=12)}, bytes(12), r"shape \(2, 2\) cannot have the 12 bytes"),
    ({"a": entry(shape=(2**40, 2**40))}, bytes(16), "cannot have the 16 bytes"),
    ({"a": entry(), "b": entry(8, 24)}, bytes(24), "'b' overlaps another one"),
    ({"a": entry(), "b": entry()}, bytes(16), "'b' overlaps another one"),
    ({"a": entry(4, 20)}, bytes(20), "'a' leaves a gap before it"),
    ({"a": entry()}, bytes(12), "take 16 bytes, but only 12 follow the header: it is truncated"),
    ({"a": entry()}, bytes(20), "4 bytes follow its last tensor"),
    ({"a": entry(0, 2**62, shape=(2**60,))}, bytes(16), "it is truncated"),
    ({"__metadata__": {"a": 3}}, b"", "__metadata__ is not a mapping of strings"),
]


@pytest.mark.parametrize("header, data, message", HEADERS)
def test_hostile_headers(tmp_path, header, data, message):
    file = write_raw(tmp_path / "a.safetensors", header, data)
    refused(file, message)
    # The reference implementation refuses each of them as well.
    with pytest.raises(Exception, match=r"."):
        with safetensors.safe_open(file, framework="np") as opened:
            json.dumps(list(opened.keys()))
            json.dumps(opened.metadata())


def test_every_truncation_of_a_sound_file_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"w": np.eye(3, dtype=np.float32), "v": np.ones((2, 3))}, file)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(rf.InvalidInput, match="no sound safetensors file"):
            rf.scan.scan_checkpoint(file)
    file.write_bytes(content)
    assert len(rf.scan.scan_checkpoint(file)) == 2


def test_every_single_byte_of_a_header_changed_is_an_error_or_a_file(tmp_path):
    """No change of a byte makes anything but InvalidInput or a scan."""
    file = tmp_path / "a.safetensors"
    save_file({"w": np.eye(3, dtype=np.float32)}, file)
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    outcomes = set()
    for place in range(end):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 7)
        file.write_bytes(bytes(changed))
        try:
            rf.scan.scan_checkpoint(file, threads=1)
            outcomes.add("scanned")
        except rf.InvalidInput:
            outcomes.add("refused")
    assert outcomes == {"scanned", "refused"}


def test_types_that_cannot_be_read_are_counted(tmp_path):
    header = {"a": entry(), "b": entry(16, 20, "F8_E8M0"), "c": entry(20, 24, "NEW_TYPE"), "d": entry(24, 56, "C64")}
    scan = rf.scan.scan_checkpoint(
        write_raw(tmp_path / "a.safetensors", header, np.ones(4, "<f4").tobytes() + bytes(40))
    )
    assert len(scan) == 1
    assert set(scan.skipped) == {
        "of type F8_E8M0, which cannot be read",
        "of type NEW_TYPE, which cannot be read",
        "of type complex64, which cannot be read",
    }


def test_empty_tensors_and_files(tmp_path):
    file = write_raw(tmp_path / "a.safetensors", {})
    refused(file, "holds no tensors")
    file = write_raw(tmp_path / "b.safetensors", {"a": entry(0, 0, shape=(0, 4))})
    refused(file, "holds no matrix to measure: of its 1 tensors 1 empty")


def test_sizes_of_the_formats():
    assert all(BITS[name] % 8 == 0 for name in DECODERS)


def test_cut_off_while_it_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"w": np.eye(40)}, file)
    (tensor,), _ = tensors_of(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(rf.InvalidInput, match="was cut off while it was read"):
        tensor.read()
    assert tensor.read_parts is None  # of float64
    save_file({"w": np.eye(40, dtype=np.float32)}, file)
    (tensor,), _ = tensors_of(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(rf.InvalidInput, match="was cut off while it was read"):
        list(tensor.read_parts(300))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("numbers", [1, 7, 60, 119, 120, 1000])
def test_parts_are_the_whole(tmp_path, dtype, numbers):
    import ml_dtypes  # noqa: F401  (names the types)

    size = np.dtype(dtype).itemsize
    header = {"a": entry(0, 8), "w": entry(8, 8 + 120 * size, TYPES[dtype], (12, 10))}
    header["a"]["shape"] = [2]
    values = np.random.default_rng(0).normal(size=120).astype(dtype)
    file = write_raw(tmp_path / "a.safetensors", header, bytes(8) + values.tobytes())
    tensor = tensors_of(file)[0][1]
    parts = [part.copy() for part in tensor.read_parts(numbers)]
    assert [len(part) for part in parts[:-1]] == [numbers] * (len(parts) - 1)
    assert np.array_equal(np.concatenate(parts), values.astype(np.float32))
    assert np.array_equal(tensor.read(), values.astype(np.float32).reshape(12, 10))


TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}


def refused(file, message):
    with pytest.raises(rf.InvalidInput, match=message) as caught:
        rf.scan.scan_checkpoint(file)
    assert str(file) in str(caught.value)
