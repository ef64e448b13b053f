"""Turns generated source into an importable, cached module."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite
import numba
import platformdirs

from rankfall._kernels import generator, tiles
from rankfall._kernels.generator import Variant
from rankfall._version import __version__
from rankfall.errors import OutputError

_ENVIRONMENT = "RANKFALL_CACHE_DIR"


@cache
def fingerprint() -> str:
    """Hash of everything that generated code depends on: numba's cache does not see edits in imported modules."""
    digest = hashlib.sha256(f"{__version__} {numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_folder() -> Path:
    """The folder of compiled kernels: $RANKFALL_CACHE_DIR, else the user's cache folder, else a private temporary one.

    Compiled code is loaded from it, so it must belong to the user and be writable by nobody else.
    """
    named = os.environ.get(_ENVIRONMENT)
    wanted = Path(named) if named else Path(platformdirs.user_cache_dir("rankfall", appauthor=False))
    folder = wanted / f"kernels-{fingerprint()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if named:
            raise OutputError(f"{_ENVIRONMENT} names {wanted}, which cannot be written: {error.strerror}.") from None
        return Path(tempfile.mkdtemp(prefix="rankfall-kernels-"))
    if os.name == "posix":
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OutputError(
                f"the kernel cache {folder} is not yours alone (owner {status.st_uid}, mode "
                f"{stat.filemode(status.st_mode)}); compiled code is loaded from it. Remove it or set {_ENVIRONMENT}."
            )
    return folder


def _import(path: Path, name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@cache
def load(name: str, text: str) -> Callable[..., Any]:
    """The function `advance` of a module of this text, compiled at its first call or loaded from the cache."""
    path = cache_folder() / f"{name}.py"
    # An unchanged file keeps its time stamp, by which numba recognises its own cache.
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    advance: Callable[..., Any] = _import(path, f"rankfall._generated.{name}").advance
    return advance


@cache
def kernel(variant: Variant) -> Callable[..., Any]:
    """The `advance` function of a variant, compiled at its first call or loaded from the cache."""
    return load(variant.name, (generator if variant.unrolled else tiles).source(variant))
