"""The images that convolutional network and transformer learn: scikit-learn's digits, or a folder of IDX files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from rankfall.errors import InvalidInput
from rankfall.experiments._beyond._idx import read_idx
from rankfall.experiments._beyond._training import generator

__all__ = ["SIDE", "Images", "Split", "draw", "load", "require"]

# All images are reduced to this many rows and columns, the size of scikit-learn's digits.
SIDE = 8
# One row of the Jacobian for every class.
_MOST_CLASSES = 64
# Ranks of features on fewer would say nothing.
_FEWEST_TESTS = 30
_NAMES = ("images-idx3-ubyte", "images.idx3-ubyte"), ("labels-idx1-ubyte", "labels.idx1-ubyte")


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their classes.

    Attributes:
        name: What they are, for texts.
        images: To be trained on, shape (images, rows, columns).
        labels: Their classes 0 … classes − 1, int64.
        test_images: Others; None where the set has none: those that are not trained on are taken then.
        test_labels: Their classes.
        classes: How many.
        checksum: CRC-32 of all of it, so that a report is not continued with other images.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray | None
    test_labels: np.ndarray | None
    classes: int
    checksum: str


@dataclass(frozen=True, eq=False)
class Split:
    """What every seed trains on and is tested with, seed first.

    Attributes:
        inputs: Shape (seed, sample, SIDE, SIDE), float32; minus the mean image, over the deviation of all pixels.
        labels: Shape (seed, sample).
        test_inputs: Scaled as the others.
        test_labels: Likewise.
        classes: How many.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    test_inputs: torch.Tensor
    test_labels: torch.Tensor
    classes: int


def load(folder: str | Path | None) -> Images:
    """Return the digits, or what the IDX files of a folder hold.

    Args:
        folder: Has train-images-idx3-ubyte and train-labels-idx1-ubyte, perhaps t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each plain or with the ending .gz; None for scikit-learn's digits.

    Raises:
        InvalidInput: Files are missing, unusable (see `read_idx`), do not belong together, or the images are smaller
            than SIDE × SIDE.

    Example:
        >>> from rankfall.experiments._beyond import images
        >>> images.load(None).images.shape
        (1797, 8, 8)
    """
    if folder is None:
        return _digits()
    return _from_folder(str(Path(folder).absolute()))


@lru_cache(maxsize=1)
def _digits() -> Images:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = images.reshape(-1, SIDE, SIDE), labels.astype(np.int64)
    return Images("scikit-learn's digits", images, labels, None, None, 10, _checksum(images, labels))


@lru_cache(maxsize=1)
def _from_folder(folder: str) -> Images:
    images, labels = _pair(Path(folder), "train")
    try:
        test = _pair(Path(folder), "t10k")
    except _Missing:
        test = None
    named = np.unique(labels)
    if not 2 <= len(named) <= _MOST_CLASSES:
        raise InvalidInput(
            f"the labels in {folder} are of {len(named)} classes; between 2 and {_MOST_CLASSES} are used."
        )
    if test is not None:
        if test[0].shape[1:] != images.shape[1:]:
            raise InvalidInput(
                f"{folder}: the images to train on have {_size(images)} pixels and those to test with {_size(test[0])}."
            )
        foreign = np.setdiff1d(test[1], named)
        if len(foreign):
            raise InvalidInput(f"{folder}: class {foreign[0]} is among the labels to test with, but not to train on.")
    if min(images.shape[1:]) < SIDE:
        raise InvalidInput(f"{folder}: images of {_size(images)} pixels; at least {SIDE} × {SIDE} are needed.")
    parts = [images, labels, *(test or ())]
    count = f"{len(images)} + {len(test[0])}" if test is not None else f"{len(images)}"
    return Images(
        f"{count} images of {_size(images)} pixels from {Path(folder).name}",
        images,
        np.searchsorted(named, labels).astype(np.int64),
        None if test is None else test[0],
        None if test is None else np.searchsorted(named, test[1]).astype(np.int64),
        len(named),
        _checksum(*parts),
    )


class _Missing(InvalidInput):
    """Neither of the two files of a pair is there."""


def _pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of "train" or "t10k"."""
    files = [_find(folder, part, names) for names in _NAMES]
    for file, names in zip(files, _NAMES, strict=True):
        if file is None:
            kind = _Missing if files == [None, None] else InvalidInput
            raise kind(
                f"there is no {part}-{names[0]} (or {part}-{names[0]}.gz) in {folder}; give a folder with the four "
                "files of MNIST or of a set in its format."
            )
    images, labels = (read_idx(file, size) for file, size in zip(files, (3, 1), strict=True) if file is not None)
    if len(images) != len(labels):
        raise InvalidInput(
            f"{files[0]} holds {len(images)} images and {files[1]} {len(labels)} labels; they do not belong together."
        )
    return images, labels


def _find(folder: Path, part: str, names: Sequence[str]) -> Path | None:
    places = (folder / f"{part}-{name}{ending}" for name in names for ending in ("", ".gz"))
    return next((place for place in places if _is_there(place)), None)


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a folder that may not be searched
        return False


def require(images: Images, samples: int) -> None:
    """Raise `InvalidInput` unless there are so many images to train on, and some others."""
    total = len(images.images)
    others = total - samples if images.test_images is None else len(images.test_images)
    if samples > total or others < _FEWEST_TESTS:
        apart = "of these" if images.test_images is None else f"others, of {others}"
        raise InvalidInput(
            f"{images.name}: {samples} to train on are needed, of {total}, and {_FEWEST_TESTS} {apart} to test with."
        )


def draw(images: Images, seeds: Sequence[int], samples: int, tests: int) -> Split:
    """Choose for every seed the images that it trains on, and others; the same whatever runs beside it.

    Raises:
        InvalidInput: There are not enough images.
    """
    require(images, samples)
    total = len(images.images)
    made = []
    for seed in seeds:
        order = torch.randperm(total, generator=generator(seed, "data")).numpy()
        chosen, rest = order[:samples], order[samples:]
        pool, classes = images.images, images.labels
        if images.test_images is not None and images.test_labels is not None:
            pool, classes = images.test_images, images.test_labels
            rest = torch.randperm(len(pool), generator=generator(seed, "tests")).numpy()
        rest = rest[:tests]
        seen, unseen = reduce(images.images[chosen]), reduce(pool[rest])
        middle, scale = seen.mean(axis=0), (seen - seen.mean(axis=0)).std()
        scaled = (((each - middle) / (scale or 1.0)).astype(np.float32) for each in (seen, unseen))
        inputs, test_inputs = map(torch.from_numpy, scaled)
        made.append((inputs, torch.from_numpy(images.labels[chosen]), test_inputs, torch.from_numpy(classes[rest])))
    inputs, labels, test_inputs, test_labels = (torch.stack(each) for each in zip(*made, strict=True))
    return Split(inputs, labels, test_inputs, test_labels, images.classes)


def reduce(images: np.ndarray) -> np.ndarray:
    """Average images over SIDE × SIDE equal areas, shape (images, SIDE, SIDE); those of that size stay as they are.

    Example:
        >>> import numpy as np
        >>> from rankfall.experiments._beyond.images import reduce
        >>> halves = np.repeat(np.eye(8), 2, axis=0)[None]             # 16 × 8
        >>> np.array_equal(reduce(halves)[0], np.eye(8))
        True
    """
    rows, columns = (_areas(size) for size in images.shape[1:])
    return rows @ images.astype(np.float64) @ columns.T


def _areas(size: int) -> np.ndarray:
    """Share of every pixel in each of SIDE equal parts of a line, shape (SIDE, size); rows sum to 1."""
    edges = np.arange(SIDE + 1)[:, None] * size / SIDE
    covered = np.clip(edges - np.arange(size), 0.0, 1.0)
    return np.diff(covered, axis=0) * SIDE / size


def _size(images: np.ndarray) -> str:
    return f"{images.shape[1]} × {images.shape[2]}"


def _checksum(*arrays: np.ndarray) -> str:
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).data, total)
    return f"{total:08x}"
