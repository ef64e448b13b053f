"""Where compiled kernels are kept, who may write there, and when they are written anew."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import platformdirs
import pytest

from rankfall._kernels import loader
from rankfall._kernels.generator import Variant, source
from rankfall.errors import OutputError

ENVIRONMENT = "RANKFALL_CACHE_DIR"
TINY = Variant(1, 1, lanes=1, noise="none")
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """Folder and kernels are looked up once per process: here once per test, and what is loaded stays in the test."""
    forget(monkeypatch)
    before = generated()
    yield
    for name in generated():
        del sys.modules[name]
    sys.modules.update(before)


def generated():
    return {name: module for name, module in sys.modules.items() if name.startswith("rankfall._generated.")}


def forget(monkeypatch):
    """As a new process would."""
    monkeypatch.setattr(loader, "cache_folder", cache(loader.cache_folder.__wrapped__))
    monkeypatch.setattr(loader, "load", cache(loader.load.__wrapped__))
    monkeypatch.setattr(loader, "kernel", cache(loader.kernel.__wrapped__))


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A folder that the environment names, and the folder of kernels in it."""
    wanted = tmp_path / "somewhere" / "deep"
    monkeypatch.setenv(ENVIRONMENT, str(wanted))
    return wanted / f"kernels-{loader.fingerprint()}"


def test_the_environment_names_the_folder(named):
    assert loader.cache_folder() == named
    assert named.is_dir()
    assert not list(named.iterdir())  # the trial of writing leaves nothing behind


@posix
def test_a_new_folder_is_private(named):
    before = os.umask(0o000)
    try:
        loader.cache_folder()
    finally:
        os.umask(before)
    assert named.stat().st_mode & 0o777 == 0o700


def test_otherwise_it_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, **_: str(tmp_path / name))
    assert loader.cache_folder() == tmp_path / "rankfall" / f"kernels-{loader.fingerprint()}"
    monkeypatch.setenv(ENVIRONMENT, "")  # empty is not set
    forget(monkeypatch)
    assert loader.cache_folder().parent == tmp_path / "rankfall"


def test_the_fingerprint_names_the_versions_and_the_sources(monkeypatch):
    """numba does not see that an imported module was edited; the name of the folder does."""
    ours = loader.fingerprint()
    original = Path.read_bytes

    def edited(path):
        return original(path) + (b"#" if path.name == "vector.py" else b"")

    for change in (
        lambda m: m.setattr(Path, "read_bytes", edited),
        lambda m: m.setattr(loader, "__version__", "0.0.0"),
        lambda m: m.setattr(loader.numba, "__version__", "0.0.0"),
        lambda m: m.setattr(loader.llvmlite, "__version__", "0.0.0"),
    ):
        with monkeypatch.context() as m:
            change(m)
            assert loader.fingerprint.__wrapped__() != ours
    assert loader.fingerprint.__wrapped__() == ours


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(named, mode, monkeypatch):
    loader.cache_folder().chmod(mode)
    forget(monkeypatch)
    with pytest.raises(OutputError, match="not yours alone") as caught:
        loader.cache_folder()
    assert str(named) in str(caught.value) and ENVIRONMENT in str(caught.value)
    with pytest.raises(OutputError):  # and nothing is loaded from it
        loader.kernel(TINY)
    named.chmod(0o755)  # to be read is harmless
    assert loader.cache_folder() == named


@posix
def test_a_folder_of_someone_else_is_refused(named, monkeypatch):
    loader.cache_folder()
    forget(monkeypatch)
    monkeypatch.setattr(os, "getuid", lambda: named.stat().st_uid + 1)
    with pytest.raises(OutputError, match="not yours alone"):
        loader.cache_folder()


@posix
def test_the_default_folder_is_held_to_the_same(tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, **_: str(tmp_path / name))
    loader.cache_folder().chmod(0o777)
    forget(monkeypatch)
    with pytest.raises(OutputError, match="not yours alone"):
        loader.cache_folder()


@pytest.fixture
def blocked(tmp_path):
    """A path that not even root can make a folder of: it leads through a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def test_a_named_folder_that_cannot_be_written_is_an_error(blocked, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, str(blocked))
    with pytest.raises(OutputError, match="cannot be written") as caught:
        loader.cache_folder()
    assert ENVIRONMENT in str(caught.value) and str(blocked) in str(caught.value)


def test_a_default_folder_that_cannot_be_written_is_replaced_by_a_private_one(blocked, tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, **_: str(blocked))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder = loader.cache_folder()
    assert folder.parent == tmp_path / "temporary"
    assert folder.name.startswith("rankfall-kernels-")
    assert loader.cache_folder() == folder  # one per process
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
    loader.kernel(TINY)
    assert (folder / f"{TINY.name}.py").is_file()


def reload():
    loader.load.cache_clear()
    loader.kernel.cache_clear()
    return loader.kernel(TINY)


def test_an_unchanged_source_is_left_alone(named):
    """numba recognises its own cache by the time stamp of the source."""
    loader.kernel(TINY)
    path = named / f"{TINY.name}.py"
    assert path.read_text(encoding="utf-8") == source(TINY)
    os.utime(path, ns=(1, 1))
    before = path.stat()
    reload()
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (1, before.st_ino)
    assert sorted(x.name for x in named.glob("*.*")) == [path.name]  # no temporary file left


def test_a_changed_source_is_written_anew(named):
    loader.kernel(TINY)
    path = named / f"{TINY.name}.py"
    for text in ("raise SystemExit('stale')\n", source(TINY)[:-20], ""):
        path.write_text(text, encoding="utf-8")
        assert callable(reload())
        assert path.read_text(encoding="utf-8") == source(TINY)
    assert sorted(x.name for x in named.glob("*.*")) == [path.name]


def test_a_kernel_is_made_once_per_process(named):
    assert loader.kernel(TINY) is loader.kernel(Variant(1, 1, lanes=1, noise="none"))
    assert loader.kernel(Variant(2, 1, lanes=1, noise="none")) is not loader.kernel(TINY)


def test_variants_have_names_of_their_own():
    """Two variants with different source in one file would overwrite each other for ever."""
    flags = (False, True)
    variants = [
        Variant(p, k, lanes, step, noise, determinant, balance, decay)
        for p, k in ((1, 1), (2, 1), (1, 2), (1, 11), (11, 1), (4, 5), (5, 4), (7, 3), (3, 7))
        for lanes in (1, 8)
        for step in ("descent", "geometric")
        for noise in ("none", "single", "double", "batch")
        for determinant in flags
        for balance in flags
        for decay in flags
    ]
    unrolled = [v for v in variants if v.unrolled]
    assert len({v.name for v in unrolled}) == len(unrolled)
    tiled = [v for v in variants if not v.unrolled]  # one file for all sizes: then their sources must agree
    sources = {}
    for v in tiled:
        assert sources.setdefault(v.name, loader.tiles.source(v)) == loader.tiles.source(v)
    assert len(sources) == len(tiled) / 2


PROGRAM = """
import numpy as np
from rankfall._kernels.generator import Variant
from rankfall._kernels.loader import kernel
f = kernel(Variant(1, 1, lanes=1, noise="none"))
one = np.ones(1)
state = np.array([2.0, 3.0])
f(state, np.full((1, 1), 0.1), 0.0 * one, one, one, np.uint64(1), 0, 0, 1, 0, 1, 1, one, one, one, one,
  np.full(1, -1), np.zeros(200), ())
print(state.tolist(), sum(f.stats.cache_hits.values()), sum(f.stats.cache_misses.values()))
"""


def test_compiled_code_is_found_again_by_the_next_process(tmp_path):
    """Compiled at first, read from the folder then; x ← x + h y, y ← y + h x with h = 0.1 in either."""
    environment = {**os.environ, ENVIRONMENT: str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    outputs = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.split("]")
        for _ in range(2)
    ]
    assert [x[0] for x in outputs] == ["[2.3, 3.2"] * 2
    assert [x[1].split() for x in outputs] == [["0", "1"], ["1", "0"]]
    folder = tmp_path / "cache" / f"kernels-{loader.fingerprint()}"
    assert list(folder.rglob("*.nbi"))
