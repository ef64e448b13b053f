"""From a path to the checkpoints behind it: a file, a folder with shards or an adapter, a folder of steps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankfall.errors import InvalidInput
from rankfall.scan import _safetensors, _torch_file
from rankfall.scan._steps import by_step
from rankfall.scan._tensors import Checkpoint, Tensor

__all__ = ["Source", "find_sources", "open_source"]

_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MODELS = ("model.safetensors", "pytorch_model.bin")
# What trainers write beside the weights.
_NOT_WEIGHTS = ("optimizer", "scheduler", "training_args", "rng_state", "trainer_state", "random_states")
_KINDS = f"a .safetensors file, a {', '.join(_torch_file.SUFFIXES)} file of PyTorch, or a folder with such files"


@dataclass(frozen=True)
class Source:
    """The files of one checkpoint, not opened yet.

    Attributes:
        path: What to call it.
        files: In which its tensors lie.
        index: Name → file, where an index.json says so.
        step: Of training.
    """

    path: Path
    files: tuple[Path, ...]
    index: dict[str, str] | None = None
    step: int | None = None


def find_sources(path: Path, over_time: bool | None = None) -> list[Source]:
    """Return the checkpoint at a path, or those of all steps.

    Args:
        path: File or folder.
        over_time: Whether to follow the steps in a folder; None: where it holds no model of its own.

    Raises:
        InvalidInput: Nothing there, nothing that can be read, or an index that names missing files.
    """
    if not path.exists():
        raise InvalidInput(f"there is no {path}. Give {_KINDS}.")
    if path.is_file():
        if over_time:
            raise InvalidInput(f"checkpoints over time are a folder, but {path} is a file.")
        if not _readable(path):
            raise InvalidInput(f"{path} is no checkpoint that can be read. Give {_KINDS}.")
        return [Source(path, (path,))]
    own = None if over_time else _model_of(path)
    if own is not None:
        return [own]
    steps = steps_of(path)
    if steps:
        return steps
    if over_time:
        raise InvalidInput(
            f"{path} holds no two checkpoints whose names differ in a step number alone, like checkpoint-500 and "
            "checkpoint-1000, or step_500.safetensors and step_1000.safetensors."
        )
    loose = _loose_files(path)
    if loose is not None:
        return [loose]
    raise InvalidInput(f"{path} holds no checkpoint: expected model.safetensors, an index of shards, or {_KINDS}.")


def steps_of(folder: Path) -> list[Source]:
    """The checkpoints in a folder whose names differ in a step number alone."""
    candidates = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    files = [entry for entry in candidates if entry.is_file() and _readable(entry) and not _beside(entry)]
    folders = {entry: _model_of(entry) or _loose_files(entry) for entry in candidates if entry.is_dir()}
    steps = by_step([*files, *(entry for entry, model in folders.items() if model is not None)])
    found = []
    for step, entry in steps.items():
        model = folders.get(entry) or Source(entry, (entry,))
        found.append(Source(entry, model.files, model.index, step))
    return found


def open_source(source: Source) -> Checkpoint:
    """Read names and shapes of all tensors, and no numbers.

    Raises:
        InvalidInput: A file is damaged or refused, a tensor of the index is missing, or two files have the same one.
    """
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for file in source.files:
        found, metadata = _read(file)
        for tensor in found:
            if source.index is not None and source.index.get(tensor.name, file.name) != file.name:
                continue
            if tensor.name in tensors:
                raise InvalidInput(
                    f"{source.path}: {tensor.name!r} is in more than one file; they are not parts of one model. "
                    "Give one of the files."
                )
            tensors[tensor.name] = tensor
        tied |= metadata
    missing = [name for name in source.index or () if name not in tensors]
    if missing:
        raise InvalidInput(
            f"{source.path}: {len(missing)} of {len(source.index or ())} tensors of the index are in none of its "
            f"files, the first is {missing[0]!r}. Download it again."
        )
    # `safetensors.torch.save_model` notes which names it left out because another one has the same memory.
    tied = {name: other for name, other in tied.items() if other in tensors and name not in tensors}
    return Checkpoint(source.path, tuple(tensors.values()), source.step, _config(source), tied)


def _read(file: Path) -> tuple[Iterable[Tensor], dict[str, str]]:
    if file.suffix == ".safetensors":
        return _safetensors.tensors_of(file)
    return _torch_file.tensors_of(file), {}


def _model_of(folder: Path) -> Source | None:
    """The model that a folder says it holds: an adapter, shards with an index, or one file of the usual name."""
    for name in _ADAPTERS:
        if (folder / name).is_file():
            return Source(folder, (folder / name,))
    indexes = [folder / name for name in _INDEXES if (folder / name).is_file()]
    indexes += sorted(set(folder.glob("*.safetensors.index.json")) - set(indexes))
    if indexes:
        return _sharded(folder, indexes[0])
    for name in _MODELS:
        if (folder / name).is_file():
            return Source(folder, (folder / name,))
    return None


def _sharded(folder: Path, index: Path) -> Source:
    weights = _json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(file, str) for file in weights.values()):
        raise InvalidInput(f"{index} has no weight_map of tensor names to files. Download it again.")
    names = sorted(set(weights.values()))
    for name in names:
        # A name with a way out of the folder would have foreign files read.
        if name != Path(name).name or "\\" in name or not _readable(Path(name)):
            raise InvalidInput(f"{index} names {name!r}, which is no checkpoint file beside it. It was not opened.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InvalidInput(
            f"{folder}: {len(missing)} of {len(names)} shards are missing, the first is {missing[0]}. Download them."
        )
    return Source(folder, tuple(folder / name for name in names), dict(weights))


def _loose_files(folder: Path) -> Source | None:
    """All safetensors files of a folder together, else its only file of PyTorch."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and _readable(file) and not _beside(file))
    safe = [file for file in files if file.suffix == ".safetensors"]
    if safe:
        return Source(folder, tuple(safe))
    return Source(folder, (files[0],)) if len(files) == 1 else None


def _readable(file: Path) -> bool:
    return file.suffix == ".safetensors" or file.suffix in _torch_file.SUFFIXES


def _beside(file: Path) -> bool:
    return file.name.startswith(_NOT_WEIGHTS)


def _config(source: Source) -> dict[str, object]:
    file = source.files[0].parent / "config.json"
    return _json(file) if file.is_file() else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file} is not JSON ({str(error)[:120]}). Download it again.") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{file} is not a JSON object. Download it again.")
    return found
