"""Images from IDX files that anybody may have written, and what every seed gets of them."""

import gzip
import os
import struct
import tracemalloc

import numpy as np
import pytest

import rankfall as rf

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from rankfall.experiments import beyond  # noqa: E402
from rankfall.experiments._beyond import _idx, images  # noqa: E402


def idx(array, kind=8):
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(folder, part, pixels, labels, pack=lambda content: content, ending=""):
    (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(idx(pixels)))
    (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels)))


def some(count, side=10, classes=3, seed=0):
    source = np.random.default_rng(seed)
    return source.integers(256, size=(count, side, side)), np.arange(count) % classes


@pytest.fixture(autouse=True)
def nothing_remembered():
    images._from_folder.cache_clear()


def test_plain_and_compressed_files_give_the_same(tmp_path):
    made = []
    for name, pack, ending in (("plain", lambda content: content, ""), ("packed", gzip.compress, ".gz")):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, "train", *some(30), pack, ending)
        write(folder, "t10k", *some(12, seed=1), pack, ending)
        made.append(images.load(folder))
    for found in made:
        np.testing.assert_array_equal(found.images, some(30)[0])
        np.testing.assert_array_equal(found.labels, some(30)[1])
        np.testing.assert_array_equal(found.test_images, some(12, seed=1)[0])
        assert found.classes == 3
    assert made[0].checksum == made[1].checksum
    assert made[0].name == "30 + 12 images of 10 × 10 pixels from plain"


def test_names_with_dots_labels_from_one_and_no_test_images(tmp_path):
    pixels, labels = some(50)
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(pixels))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(labels * 2 + 1))  # classes 1, 3 and 5
    found = images.load(tmp_path)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.classes == 3 and found.test_images is None
    split = images.draw(found, [0, 1], 12, 100)
    assert split.inputs.shape == (2, 12, 8, 8) and split.test_inputs.shape == (2, 38, 8, 8)


GOOD = idx(some(6)[0])
HEADER = struct.pack(">HBB", 0, 8, 3)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\x89PNG....", "not an IDX file: it begins with 89 50 4e 47"),
        (GOOD[:10], "cut short: it ends within its header"),
        (GOOD[:-1], r"cut short: it should hold 6 × 10 × 10 bytes and has 599"),
        (GOOD + b"\0", "goes on after the 6 × 10 × 10 bytes"),
        (struct.pack(">HBB3I", 0, 13, 3, 1, 10, 10) + bytes(400), "numbers of kind 0x0d"),
        (idx(np.zeros(4)), "has 1 dimensions; grey images have 3"),
        (idx(np.zeros((2, 10, 10, 3))), "has 4 dimensions; grey images have 3"),
        (struct.pack(">HBB", 0, 8, 255), "has 255 dimensions"),
        (HEADER + struct.pack(">3I", 0, 10, 10), "is empty, of size 0 × 10 × 10"),
        (HEADER + struct.pack(">3I", *[2**32 - 1] * 3), "says that it holds 4294967295 × .* at most 1073741824"),
        (gzip.compress(GOOD)[:-9], "damaged or cut short: it does not decompress"),
        (gzip.compress(GOOD)[:40] + bytes(30) + gzip.compress(GOOD)[70:], "it does not decompress"),
        (gzip.compress(GOOD)[:-8] + bytes(8), "it does not decompress"),
        (b"\x1f\x8bnot compressed", "it does not decompress"),
        (gzip.compress(GOOD[:300]), "cut short: it should hold"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path, content, message):
    write(tmp_path, "train", *some(6))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(rf.InvalidInput, match=message):
        images.load(tmp_path)
    # before any work, and with the name of the file
    with pytest.raises(rf.InvalidInput, match="train-images-idx3-ubyte"):
        beyond.target(beyond.Settings.choose(data_dir=tmp_path, only=("convolution",)))


@pytest.mark.parametrize("bomb", [False, True])
def test_memory_follows_what_is_there_not_what_is_said(tmp_path, bomb):
    file = tmp_path / "images"
    if bomb:  # 6 images said, 80 MB packed into 400 kB
        file.write_bytes(gzip.compress(GOOD + bytes(80_000_000), 1))
    else:  # 2³⁰ bytes said, none there
        file.write_bytes(HEADER + struct.pack(">3I", 2**10, 2**10, 2**10))
    tracemalloc.start()
    try:
        with pytest.raises(rf.InvalidInput, match="goes on after" if bomb else "cut short"):
            _idx.read_idx(file, 3)
        assert tracemalloc.get_traced_memory()[1] < 2 * _idx._CHUNK + 1e6
    finally:
        tracemalloc.stop()


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    def refused(message, folder):
        images._from_folder.cache_clear()
        with pytest.raises(rf.InvalidInput, match=message):
            images.load(folder)

    refused("there is no train-images-idx3-ubyte", tmp_path)
    pixels, labels = some(9)
    write(tmp_path, "train", pixels, labels[:8])
    refused("holds 9 images and .* 8 labels", tmp_path)
    write(tmp_path, "train", pixels, np.zeros(9))
    refused("are of 1 classes; between 2 and 64", tmp_path)
    write(tmp_path, "train", *some(9, side=7))
    refused("images of 7 × 7 pixels; at least 8 × 8", tmp_path)
    write(tmp_path, "train", pixels, labels)
    write(tmp_path, "t10k", *some(9, side=12))
    refused("to train on have 10 × 10 pixels and those to test with 12 × 12", tmp_path)
    write(tmp_path, "t10k", *some(9, classes=4))
    refused("class 3 is among the labels to test with", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refused("there is no t10k-labels-idx1-ubyte", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").mkdir()
    refused("t10k-labels-idx1-ubyte is not a file", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")  # opening it would wait for ever
    refused("train-images-idx3-ubyte is not a file", tmp_path)


def test_too_few_images_are_refused_before_any_work(tmp_path):
    write(tmp_path, "train", *some(100))
    images.draw(images.load(tmp_path), [0], 70, 5)
    with pytest.raises(rf.InvalidInput, match="71 to train on are needed, of 100, and 30 of these to test with"):
        images.draw(images.load(tmp_path), [0], 71, 5)
    write(tmp_path, "t10k", *some(30))
    images._from_folder.cache_clear()
    images.draw(images.load(tmp_path), [0], 100, 5)
    for experiment in ("convolution", "transformer"):
        with pytest.raises(rf.InvalidInput, match="256 to train on are needed, of 100, and 30 others, of 30"):
            beyond.target(beyond.Settings.choose(data_dir=tmp_path, only=(experiment,)))


def test_reducing_is_the_mean_over_areas():
    pixels = np.random.default_rng(0).integers(256, size=(3, 28, 12)).astype(float)
    # every pixel as 8 × 8 of its kind: 224 × 96, whose blocks of 28 × 12 are the areas
    fine = np.kron(pixels, np.ones((1, 8, 8)))
    blocks = fine.reshape(3, 8, 28, 8, 12).mean(axis=(2, 4))
    np.testing.assert_allclose(images.reduce(pixels), blocks, rtol=1e-12)


def test_every_seed_draws_its_own_images(tmp_path):
    digits = images.load(None)
    alone, beside = images.draw(digits, [3], 50, 40), images.draw(digits, [1, 3, 8], 50, 40)
    for name in ("inputs", "labels", "test_inputs", "test_labels"):
        assert torch.equal(getattr(alone, name)[0], getattr(beside, name)[1])
    assert not torch.equal(beside.inputs[0], beside.inputs[1])
    # each is an image of the set with its own label, those to test with are others; undo the scaling to compare
    order = torch.randperm(1797, generator=images.generator(3, "data")).numpy()
    chosen = digits.images[order[:50]]
    middle = chosen.mean(axis=0)
    scale = np.sqrt(np.mean((chosen - middle) ** 2))
    np.testing.assert_allclose(alone.inputs[0].numpy() * scale + middle, chosen, atol=1e-5)
    np.testing.assert_allclose(alone.test_inputs[0].numpy() * scale + middle, digits.images[order[50:90]], atol=1e-5)
    np.testing.assert_array_equal(alone.labels[0], digits.labels[order[:50]])
    np.testing.assert_array_equal(alone.test_labels[0], digits.labels[order[50:90]])
    # with test images of its own a set is tested on those
    write(tmp_path, "train", *some(20, side=8))
    write(tmp_path, "t10k", np.full((30, 8, 8), 77), np.zeros(30))
    split = images.draw(images.load(tmp_path), [0], 20, 5)
    assert bool((split.test_labels == 0).all()) and torch.equal(split.test_inputs[0, 0], split.test_inputs[0, 4])
