"""A scan in words and columns, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rankfall._text import printable
from rankfall.scan._measuring import Value

if TYPE_CHECKING:
    from rankfall.scan._result import LayerReport, Scan

__all__ = [
    "SECTIONS",
    "columns_of",
    "common_start",
    "count",
    "numbers_of",
    "percent",
    "problems",
    "sections",
    "summary",
    "value",
    "with_times",
]

SECTIONS = {
    "attention": "Attention",
    "head": "Attention heads",
    "lora": "LoRA pairs (B·A)",
    "convolution": "Convolutions (out × in·height·width)",
    "embedding": "Embeddings",
    "dense": "Other matrices",
}


def sections(layers: Sequence[LayerReport]) -> list[tuple[str, list[LayerReport]]]:
    """The parts of the table that have rows, each in the order given."""
    # Over time, the steps of a matrix stand below each other.
    places = {name: i for i, name in enumerate(dict.fromkeys(layer.name for layer in layers))}
    layers = sorted(layers, key=lambda layer: places[layer.name])
    found = [(heading, [layer for layer in layers if layer.kind == kind]) for kind, heading in SECTIONS.items()]
    return [(heading, rows) for heading, rows in found if rows]


def columns_of(scan: Scan) -> list[str]:
    """Headings of the columns of numbers."""
    names = {"energy_rank": f"{100 * scan.energy:g} % energy"}
    measures = [names.get(name, name.replace("_rank", "").replace("_", " ")) for name in scan.measures]
    return [*measures, *(("used", "saves") if scan.spectra else ("σ₁", "‖W‖"))]


def numbers_of(scan: Scan, layer: LayerReport) -> list[str]:
    """The numbers of a row, as they are shown."""
    shown = [value(layer.values[name]) for name in scan.measures]
    if not scan.spectra:
        return [*shown, f"{layer.spectral_norm:.4g}", f"{layer.frobenius_norm:.4g}"]
    return [*shown, percent(layer.share), "—" if layer.problem else (count(layer.saved) if layer.saved else "0")]


def with_times(shape: Sequence[int]) -> str:
    """A shape as people write it."""
    return "×".join(map(str, shape))


def value(number: Value) -> str:
    """A measure with as many digits as help.

    Example:
        >>> value(1.97142), value(351.533), value(384), value(float("nan")), value(12345.6), value(-11.6183)
        ('1.97', '351.5', '384', '—', '12346', '-11.6')
    """
    if isinstance(number, int):
        return str(number)
    if math.isnan(number):
        return "—"
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    return f"{number:.{2 if abs(number) < 10 else 1 if abs(number) < 1000 else 0}f}"


def percent(share: float) -> str:
    """A share, in per cent."""
    return "—" if math.isnan(share) else f"{100 * share:.0f} %"


def count(number: float) -> str:
    """A number of parameters in three digits.

    Example:
        >>> count(512), count(147456), count(22713728), count(7e9)
        ('512', '147 k', '22.7 M', '7 G')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def common_start(names: Sequence[str]) -> str:
    """The dotted front that all names share, to be shown once.

    Example:
        >>> common_start(["model.layers.0.q", "model.layers.1.q"]), common_start(["model.a"])
        ('model.layers.', '')
    """
    if len(names) < 2:
        return ""
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for several in zip(*parts, strict=False):
        if len(set(several)) > 1:
            break
        shared.append(several[0])
    return "".join(f"{part}." for part in shared)


def problems(scan: Scan) -> str:
    """How many rows have no numbers, and why."""
    finite = all("NaN" in layer.problem for layer in scan.problems)
    why = "are not finite" if finite else "have no numbers"
    return f"{len(scan.problems)} of {len(scan)} matrices {why}"


def summary(scan: Scan) -> list[str]:
    """Sentences about the whole checkpoint; of several, about the last."""
    layers = scan.of_step(scan.steps[-1]) if scan.steps else scan.layers
    whole = [layer for layer in layers if not layer.part_of]
    measured = sum(layer.parameters for layer in whole)
    saved = sum(layer.saved for layer in whole)
    helped = sum(1 for layer in whole if layer.saved)
    matrices = f"{len(whole)} {'matrix' if len(whole) == 1 else 'matrices'}"
    lines = [
        f"{matrices} with {count(measured)} of the {count(scan.parameters)} parameters"
        + (f" at step {scan.steps[-1]}, the last of {len(scan.steps)}" if scan.steps else "")
        + f", stored in {_listed(sorted({layer.dtype for layer in whole}))}, measured in "
        f"{_listed(sorted({layer.computed_dtype for layer in whole}))}."
    ]
    if not scan.spectra:
        lines.append("Without the singular values in between: no effective rank, no energy rank, no savings.")
    elif helped:
        lines.append(
            f"With {100 * scan.energy:g} % of the energy, factors of {helped} of them would save {count(saved)} "
            f"({100 * saved / measured:.0f} %)."
        )
    else:
        lines.append(f"With {100 * scan.energy:g} % of the energy, factors would save nothing.")
    if scan.skipped:
        parts = [f"{number} {why}" for why, number in scan.skipped.items()]
        lines.append(f"Tensors left out: {_listed(parts, ';')}.")
    if scan.tied:
        pairs = [f"{printable(name)} = {printable(other)}" for name, other in scan.tied.items()]
        shown = ", ".join(pairs[:3]) + (f" and {len(pairs) - 3} more" if len(pairs) > 3 else "")
        lines.append(f"Tied, measured once: {shown}.")
    by_gram = [layer for layer in whole if layer.route == "gram" and _positive(layer)]
    if by_gram:
        worst = max(layer.error / layer.spectral_norm for layer in by_gram)
        of_what = (
            "every σ is within {}·σ₁, large ones much closer" if scan.spectra else "every σ₁ is within {} of itself"
        )
        lines.append(f"By Gram matrices in float64: {of_what.format(f'{worst:.1e}')}.")
    if scan.problems:
        lines.append(f"{problems(scan).capitalize()}: see the table.")
    if not scan.complete:
        lines.append("Stopped before the end: the rest was not measured.")
    return lines


def _positive(layer: LayerReport) -> bool:
    return not layer.problem and layer.spectral_norm > 0


def _listed(parts: Sequence[str], separator: str = ",") -> str:
    return f"{separator} ".join(parts)
