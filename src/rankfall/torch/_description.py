"""Names, meanings and attributes of what a monitor records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankfall.torch._measuring import Settings

__all__ = ["ERRORS", "variable_attributes", "variables"]

# Method → how far its singular values may be from the true ones.
ERRORS = {
    "gram": "eigenvalues of the Gram matrix in float64: |σ̂² − σ²| ≤ (l + 10k)·1.1e-16·‖M‖_F² with sides k ≤ l; "
    "smaller σ² are recorded as 0; activations of layers with more outputs than inputs: docs/monitor.md",
    "gram_float32": "eigenvalues of the Gram matrix in float32: |σ̂² − σ²| ≤ (l + 10k)·6.0e-8·‖M‖_F² with sides k ≤ l; "
    "smaller σ² are recorded as 0",
    "svd": "singular value decomposition in the precision of the matrix, float32 at least; activations as with gram",
    "iterated": "norms and power iteration: the stable rank lies between value − stable_rank_error and value, "
    "activations as with gram",
}


def variables(watch: Sequence[str], settings: Settings, modes: int) -> dict[str, int]:
    """Return the names of all variables with the number of values per layer (0: one, without an axis)."""
    found: dict[str, int] = {}
    for thing in watch:
        found[f"{thing}_norm"] = 0
        for measure in settings.measures:
            found[f"{thing}_{measure}"] = 0
        if settings.iterates and "stable_rank" in settings.measures and thing != "activations":
            found[f"{thing}_stable_rank_error"] = 0
        if settings.spectrum:
            found[f"{thing}_spectrum"] = min(settings.spectrum, modes)
    if "activations" in watch:
        found["activations_samples"] = 0
    return found


def variable_attributes(watch: Sequence[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the meaning of each variable."""
    found: dict[str, dict[str, Any]] = {}
    for thing in watch:
        found[f"{thing}_norm"] = {"long_name": f"Frobenius norm of the {thing}"}
        found[f"{thing}_stable_rank_error"] = {"long_name": f"bound on how far the stable rank of the {thing} is below"}
        found[f"{thing}_spectrum"] = {"long_name": f"singular values of the {thing}, descending"}
        for measure in settings.measures:
            words = measure.replace("_", " ")
            found[f"{thing}_{measure}"] = {
                "long_name": f"{words} of the {thing}",
                "definition": f"rankfall.ranks.{measure}",
            }
    found["activations_samples"] = {"long_name": "number of samples behind the activations"}
    return found
