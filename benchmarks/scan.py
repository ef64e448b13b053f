"""Scanning a checkpoint, beside WeightWatcher on the same file: time, memory, and that both find the same stable ranks.

WeightWatcher wants packages of its own: name an interpreter that has it (and safetensors) in
RANKFALL_WEIGHTWATCHER_PYTHON, else this one is tried, and where it is not installed the comparison is left out.
RANKFALL_SCAN_CHECKPOINT names a real .safetensors file; by default one with the shapes of MiniLM-L6 and random weights
is made.

WeightWatcher also fits power laws, which rankfall does not; it has no switch to leave them out. They are timed
apart, by a second call in which the fit does nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import cores, describe, load

GOAL = 5.0

_HEAD = """
import json, pathlib, resource, sys, time, warnings
warnings.simplefilter("ignore")
def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
def timed(call, repeats):
    wall, cpu = [], []
    for _ in range(repeats):
        w, c = time.perf_counter(), time.process_time()
        found = call()
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    return found, {"seconds": min(wall), "cpu_seconds": min(cpu)}
path, threads, repeats, method = json.loads(sys.argv[1])
begin = time.perf_counter()
"""

_RANKFALL = (
    _HEAD
    + """
from rankfall.scan import scan_checkpoint
imported, before = time.perf_counter() - begin, peak()
found, result = timed(lambda: scan_checkpoint(path, method=method, threads=threads), repeats)
stable = {layer.name.removesuffix(".weight"): layer["stable_rank"] for layer in found}
print(json.dumps(result | {"import_seconds": imported, "grown_bytes": peak() - before, "stable": stable}))
"""
)

_WEIGHTWATCHER = (
    _HEAD
    + """
import contextlib, io, logging
logging.disable(logging.CRITICAL)
with contextlib.redirect_stdout(io.StringIO()):
    import torch, weightwatcher
    from safetensors.torch import load_file
    if threads == 1:
        torch.set_num_threads(1)
    imported, before = time.perf_counter() - begin, peak()
    def analyse():
        # Every matrix of two rows and more, as rankfall does.
        return weightwatcher.WeightWatcher(model=load_file(path)).analyze(min_evals=1, max_evals=50_000)
    found, result = timed(analyse, repeats)
    grown = peak() - before
    nothing = (-1.0, -1.0, 0.0, 0.0, -1.0, 0.0, 0, 0, -1.0, "failed", "")
    weightwatcher.WeightWatcher.fit_powerlaw = lambda self, *words, **options: nothing
    try:
        _, bare = timed(analyse, repeats)
    except Exception:
        bare = {"seconds": None, "cpu_seconds": None}
stable = dict(zip(found["longname"], map(float, found["stable_rank"])))
extra = {"without_fits": bare, "version": weightwatcher.__version__, "torch": torch.__version__}
print(json.dumps(result | extra | {"import_seconds": imported, "grown_bytes": grown, "stable": stable}))
"""
)


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    rounds, repeats = (2, 1) if quick else (3, 2)
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("RANKFALL_SCAN_CHECKPOINT")
        path = Path(given) if given else _made(Path(folder) / "minilm-shapes.safetensors")
        contenders = {
            "rankfall": (sys.executable, _RANKFALL, "svd"),
            "rankfall, gram": (sys.executable, _RANKFALL, "gram"),
        }
        peer = os.environ.get("RANKFALL_WEIGHTWATCHER_PYTHON", sys.executable)
        if _has_weightwatcher(peer):
            contenders["WeightWatcher"] = (peer, _WEIGHTWATCHER, "")
        else:
            print("    WeightWatcher is not installed, so it is left out (RANKFALL_WEIGHTWATCHER_PYTHON)", flush=True)
        # All cores only where nothing else runs: threads of BLAS that wait for a busy core spin, and the ratio would
        # say more about the neighbours than about the programs.
        busy = load()
        choices: tuple[int | None, ...] = (1,) if busy is not None and busy > 0.5 else (1, None)
        parts = [_compare(contenders, path, threads, rounds, repeats) for threads in choices]
        name, size = path.name, path.stat().st_size
    return {
        "machine": machine,
        "goal": GOAL,
        "checkpoint": name if not given else f"{name} (real)",
        "bytes": size,
        "parts": parts,
        "load_after": load(),
    }


def _compare(
    contenders: dict[str, tuple[str, str, str]], path: Path, threads: int | None, rounds: int, repeats: int
) -> dict[str, object]:
    """One core or all: every round runs every contender once, each in a process of its own."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (python, source, method) in contenders.items():
            results[name].append(_run(python, source, [str(path), threads, repeats, method], threads))
    rows = [_row(name, runs) for name, runs in results.items()]
    found: dict[str, object] = {"cores": threads or cores(), "rows": rows}
    if "WeightWatcher" in results:
        theirs = results["WeightWatcher"]
        for name in list(contenders)[:-1]:
            ours = results[name]
            found[f"times faster: {name}"] = {
                "scan": _ratio(theirs, ours, "seconds"),
                "scan, processor time": _ratio(theirs, ours, "cpu_seconds"),
                "scan without their power laws, processor time": _ratio_bare(theirs, ours),
                "whole process": _ratio(theirs, ours, "process_seconds"),
                "memory": _ratio(theirs, ours, "grown_bytes"),
            }
            found[f"largest relative difference of stable ranks: {name}"] = _difference(ours[0], theirs[0])
    for row in rows:
        print(
            f"    {row['name']}, {found['cores']} core(s): {row['seconds']} s, {row['grown_megabytes']} MB", flush=True
        )
    return found


def _run(python: str, source: str, arguments: list[object], threads: int | None) -> dict[str, Any]:
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.pop(name, None)
        if threads is not None:
            environment[name] = str(threads)
    done = subprocess.run(
        [python, "-c", source, json.dumps(arguments)], env=environment, check=True, capture_output=True, text=True
    )
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    # As if the scan had been done once: without the repetitions and what was timed apart.
    found["process_seconds"] = found["import_seconds"] + found["seconds"]
    return found


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, object]:
    row: dict[str, object] = {
        "name": name,
        "seconds": round(min(run["seconds"] for run in runs), 3),
        "cpu_seconds": round(min(run["cpu_seconds"] for run in runs), 3),
        "import_seconds": round(min(run["import_seconds"] for run in runs), 3),
        "grown_megabytes": round(max(run["grown_bytes"] for run in runs) / 1e6, 1),
        "matrices": len(runs[0]["stable"]),
        "all_seconds": [round(run["seconds"], 3) for run in runs],
    }
    if "without_fits" in runs[0] and runs[0]["without_fits"]["cpu_seconds"] is not None:
        row["cpu_seconds_without_fits"] = round(min(run["without_fits"]["cpu_seconds"] for run in runs), 3)
        row["version"], row["torch"] = runs[0]["version"], runs[0]["torch"]
    return row


def _ratio(theirs: list[dict[str, Any]], ours: list[dict[str, Any]], key: str) -> float:
    """Median over the rounds of the ratio within a round."""
    return round(statistics.median(a[key] / b[key] for a, b in zip(theirs, ours, strict=True)), 2)


def _ratio_bare(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> float | None:
    pairs = [(a["without_fits"]["cpu_seconds"], b["cpu_seconds"]) for a, b in zip(theirs, ours, strict=True)]
    return None if any(a is None for a, _ in pairs) else round(statistics.median(a / b for a, b in pairs), 2)


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, object]:
    both = sorted(set(ours["stable"]) & set(theirs["stable"]))
    worst = max((abs(ours["stable"][name] / theirs["stable"][name] - 1) for name in both), default=float("nan"))
    return {"matrices": len(both), "difference": float(f"{worst:.2e}")}


def _has_weightwatcher(python: str) -> bool:
    code = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('weightwatcher', 'safetensors'))))"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def _made(path: Path) -> Path:
    """Random weights in the shapes of MiniLM-L6, spectra falling like a power: about 90 MB."""
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)

    def weight(rows: int, columns: int) -> np.ndarray:
        decay = np.arange(1, columns + 1) ** -0.3
        return (generator.standard_normal((rows, columns), dtype=np.float32) * decay).astype(np.float32)

    shapes = {"embeddings.word_embeddings": (30522, 384), "embeddings.position_embeddings": (512, 384)}
    for i in range(6):
        for name in ("query", "key", "value"):
            shapes[f"encoder.layer.{i}.attention.self.{name}"] = (384, 384)
        shapes[f"encoder.layer.{i}.attention.output.dense"] = (384, 384)
        shapes[f"encoder.layer.{i}.intermediate.dense"] = (1536, 384)
        shapes[f"encoder.layer.{i}.output.dense"] = (384, 1536)
    save_file({f"{name}.weight": weight(*shape) for name, shape in shapes.items()}, path)
    return path
