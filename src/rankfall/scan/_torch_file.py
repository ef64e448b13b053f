"""Reading .pt, .pth, .bin and .ckpt files: PyTorch's pickles, and never a pickle that carries code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankfall.errors import InvalidInput
from rankfall.scan._tensors import Tensor

__all__ = ["SUFFIXES", "tensors_of"]

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# What training scripts wrap a state dict in; such a name in front says nothing about the layer.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
# Moments of Adam look like weights, but are none.
_NOT_WEIGHTS = ("optim", "scheduler", "scaler", "rng", "loops", "callbacks", "hyper_parameters", "args")
_DEEPEST = 20


def tensors_of(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of a file, in its order.

    Raises:
        InvalidInput: PyTorch is missing, the file is damaged, or it holds Python code, which is not run.
    """
    try:
        import torch
    except ImportError:
        raise InvalidInput(
            f"reading {path} needs PyTorch. Install it (pip install 'rankfall[torch]'), or save the weights as "
            "safetensors."
        ) from None
    # Up to 2.5, weights_only could be got round (CVE-2025-32434).
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 6):
        raise InvalidInput(
            f"reading {path} safely needs PyTorch 2.6 or newer, this is {torch.__version__}. Upgrade it, or save the "
            "weights as safetensors."
        )
    return tuple(_tensor(torch, name, value) for name, value in _flatten(_load(torch, path), ""))


def _load(torch: Any, path: Path) -> Any:
    last: Exception | None = None
    for mapped in (True, False):  # files from before PyTorch 1.6 cannot be mapped into memory
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except OSError:
            raise
        # What a damaged file makes torch raise is not documented: RuntimeError, EOFError, KeyError, ValueError …
        except Exception as error:
            last = error
            if _is_refusal(error):
                break
    raise InvalidInput(_refusal(path, last)) from None


def _is_refusal(error: Exception | None) -> bool:
    # By the type: torch's sentences change from version to version.
    return type(error).__name__ == "UnpicklingError"


def _refusal(path: Path, error: Exception | None) -> str:
    text = str(error)
    if "TorchScript" in text:
        return f"{path} is a TorchScript archive, which is a program. Save its state_dict() instead."
    if _is_refusal(error):
        return (
            f"{path} was refused: PyTorch's safe reader (weights_only) found more in it than tensors, and unpickling "
            "that could run any code; or it is damaged. Nothing of it was run. If you trust where it comes from, load "
            "it yourself and save model.state_dict() as safetensors."
        )
    first = text.strip().splitlines()[0][:160] if text.strip() else type(error).__name__
    return f"{path} is no checkpoint that PyTorch can read, or it is damaged ({first}). Save or download it again."


def _flatten(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every tensor below `value` with its dotted name, those of an optimizer left out."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
        return
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), each) for index, each in enumerate(value)]
    else:
        return
    for key, each in items:
        if depth < 2 and any(key.lower().startswith(word) for word in _NOT_WEIGHTS):
            continue
        wrapper = depth == 0 and key in _WRAPPERS and isinstance(each, Mapping)
        yield from _flatten(each, name if wrapper else f"{name}.{key}".lstrip("."), depth + 1)


def _tensor(torch: Any, name: str, value: Any) -> Tensor:
    dtype = str(value.dtype).removeprefix("torch.")
    shape = tuple(value.shape)
    unread = _why_unread(torch, value)
    if unread:
        return Tensor(name, shape, dtype, None, unread)

    def read() -> np.ndarray:
        # A copy in any case: what reads it may work in its memory.
        wide = torch.float64 if value.dtype == torch.float64 else torch.float32
        return np.asarray(value.detach().to(wide, copy=True, memory_format=torch.contiguous_format).numpy())

    storage = (value.untyped_storage().data_ptr(), value.storage_offset(), shape, tuple(value.stride()), dtype)
    return Tensor(name, shape, dtype, read, storage=storage)


def _why_unread(torch: Any, value: Any) -> str:
    if value.is_meta:
        return "without data (on the meta device)"
    if value.layout != torch.strided:
        return "in a sparse layout"
    if value.is_quantized:
        return "quantised"
    if value.numel() == 0:
        return "empty"
    if value.is_complex():
        return f"of type {str(value.dtype).removeprefix('torch.')}, which cannot be read"
    if not value.is_floating_point():
        return "of whole numbers (indices, masks or quantised)"
    return ""
