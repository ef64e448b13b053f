"""What can be kept of a cell, by name: definitions only; `_measuring` computes them.

Means and standard errors are over the replicates that did not diverge. A mode counts as alive at a time if
σ_i(t) ≥ alive · σ_i(0) and σ_i(t) > max(p, l) · eps · σ_1(t): the first is the share of its start that the study names
(a thousandth by default), the second is the resolution of float64, below which starts of low rank lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rankfall.errors import InvalidInput
from rankfall.sweep._cell import Quantity
from rankfall.sweep._settings import hint

__all__ = ["ALWAYS", "DEFAULT", "MEASURES", "RESERVED", "Measure", "make_quantities", "measures_of"]

Need = Literal["", "determinant", "two layers", "accuracy", "frame", "growth"]


@dataclass(frozen=True)
class Measure:
    """One kind of number that a cell gives.

    Attributes:
        words: What it is.
        formula: How it follows from a run.
        dims: Dimensions after those of the study.
        error: Whether a standard error is kept beside it.
        dtype: Of the quantity.
        needs: What a cell must have for it: "determinant" (two layers, width ≥ inputs + outputs), "two layers",
            "accuracy" (a loss of classification), "frame" and "growth" (two layers, and a method that moves in steps).
        observable: What `simulate` must record for it besides.
        series: Whether it is one of the time series.
    """

    words: str
    formula: str
    dims: tuple[str, ...] = ()
    error: bool = False
    dtype: Literal["float64", "int64"] = "float64"
    needs: Need = ""
    observable: str = ""
    series: bool = False


_ALIVE = "#{i: σ_i(t) ≥ alive · σ_i(0)}"
_LOG_Z, _LOG_W1 = "log_singular_values_Z", "log_singular_values_W1"

MEASURES: dict[str, Measure] = {
    "final_rank": Measure("rank of W1 at the end", f"mean of {_ALIVE} at the end", error=True),
    "stable_rank": Measure("stable rank of W1 at the end", "mean of Σσ²/σ_1²", error=True),
    "effective_rank": Measure("effective rank of W1 at the end", "mean of exp(−Σ q ln q), q = σ/Σσ", error=True),
    "final_loss": Measure("loss at the end", "mean of L", error=True),
    "final_accuracy": Measure("accuracy at the end", "mean", error=True, needs="accuracy", observable="accuracy"),
    "final_log_det": Measure("log det M at the end", "mean of 2 Σ log σ_i(Z)", error=True, needs="determinant"),
    "final_balance": Measure("imbalance at the end", "mean of ‖W1ᵀW1 − W2W2ᵀ‖_F", error=True, needs="two layers"),
    "balance_drift": Measure("change of the balance", "mean of ‖Q_T − Q_0‖_F", error=True, needs="two layers"),
    "log_det_slope": Measure(
        "slope of log det M",
        "mean of the least-squares slope over the save points with cond(Z) ≤ 1e8, at least three",
        error=True,
        needs="determinant",
    ),
    "log_det_slope_predicted": Measure(
        "slope of log det M by the law",
        "−2kσ² tr Σ of a flow; of a descent that of its ledger, over the same save points, mean",
        needs="determinant",
    ),
    "final_singular_values_W1": Measure("singular values of W1 at the end", "median", ("mode_W1",)),
    "final_singular_values_W2": Measure("singular values of W2 at the end", "median", ("mode_W2",)),
    "final_singular_values_Z": Measure("singular values of Z at the end", "median", ("mode_Z",), needs="two layers"),
    "final_log_singular_values_W1": Measure(
        "log singular values of W1 at the end", "mean, from a graded form", ("mode_W1",), True, needs="frame",
        observable=_LOG_W1,
    ),
    "final_log_singular_values_Z": Measure(
        "log singular values of Z at the end", "mean, from a graded form", ("mode_Z",), True, needs="frame",
        observable=_LOG_Z,
    ),
    "lyapunov_exponents": Measure(
        "Lyapunov exponents", "μ_i = Σ log R_ii / t, see lyapunov_spectrum", ("mode",), True, needs="growth"
    ),
    "lyapunov_rank": Measure(
        "exponents compatible with zero", "−1 if undecided, see laws.lyapunov.final_rank", dtype="int64",
        needs="growth",
    ),
    "lyapunov_rank_lowest": Measure("surviving modes", "the undecided ones left out", dtype="int64", needs="growth"),
    "lyapunov_rank_highest": Measure("surviving modes", "the undecided ones counted", dtype="int64", needs="growth"),
    "save_time": Measure("time of the save points", "flow time, or steps · step size", ("time",), series=True),
    "loss": Measure("loss", "mean", ("time",), True, series=True),
    "rank": Measure("rank of W1", f"mean of {_ALIVE}", ("time",), True, series=True),
    "accuracy": Measure("accuracy", "mean", ("time",), True, needs="accuracy", observable="accuracy", series=True),
    "log_det": Measure("log det M", "mean of 2 Σ log σ_i(Z)", ("time",), True, needs="determinant", series=True),
    "balance": Measure("imbalance", "mean of ‖Q‖_F", ("time",), True, needs="two layers", series=True),
    "singular_values_W1": Measure("singular values of W1", "median", ("time", "mode_W1"), series=True),
    "singular_values_W2": Measure("singular values of W2", "median", ("time", "mode_W2"), series=True),
    "singular_values_Z": Measure(
        "singular values of Z", "median", ("time", "mode_Z"), needs="two layers", series=True
    ),
    _LOG_W1: Measure(
        "log singular values of W1", "mean, from a graded form", ("time", "mode_W1"), True, needs="frame",
        observable=_LOG_W1, series=True,
    ),
    _LOG_Z: Measure(
        "log singular values of Z", "mean, from a graded form", ("time", "mode_Z"), True, needs="frame",
        observable=_LOG_Z, series=True,
    ),
    "step_length": Measure("time step", "0 for gradient flow with step control"),
    "steps": Measure("steps", "−1 for gradient flow with step control", dtype="int64"),
    "replicates_used": Measure("replicates that were run", "", dtype="int64"),
    "diverged": Measure("replicates that diverged and are left out", "", dtype="int64"),
}  # fmt: skip

# Kept of every cell, and what is kept where a study names nothing.
ALWAYS = ("replicates_used", "diverged", "steps", "step_length")
DEFAULT = (
    "final_rank", "stable_rank", "final_loss", "log_det_slope", "log_det_slope_predicted", "final_singular_values_W1",
)  # fmt: skip
ERROR = "_standard_error"

# Names that an axis cannot have: those of quantities, of their dimensions, and what the store keeps beside them.
_DIMS = [dim for measure in MEASURES.values() for dim in measure.dims]
_STORE = ["replicate", "status", "wall_time", "checksum", "reason", "outcome"]
RESERVED = frozenset([*MEASURES, *(name + ERROR for name in MEASURES), *_DIMS, *_STORE])


def measures_of(keep: Mapping[str, Any]) -> list[str]:
    """The names that a study's [keep] asks for, checked, in order, with what belongs to them."""
    wanted = list(DEFAULT) if keep["quantities"] is None else list(keep["quantities"])
    series = list(keep["time_series"])
    for names, is_series, where in ((wanted, False, "quantities"), (series, True, "time_series")):
        known = [name for name, measure in MEASURES.items() if measure.series is is_series]
        for name in names:
            if name not in known:
                other = "time_series" if where == "quantities" else "quantities"
                elsewhere = f" It belongs to keep.{other}." if name in MEASURES else hint(str(name), known)
                raise InvalidInput(f"keep.{where} has no {name!r}.{elsewhere} It takes {', '.join(known)}.")
    return list(dict.fromkeys([*wanted, *(["save_time"] if series else []), *series, *ALWAYS]))


def make_quantities(names: Sequence[str], sizes: Mapping[str, int]) -> list[Quantity]:
    """Quantities with their errors, for dimensions of these sizes."""
    found = []
    for name in names:
        measure = MEASURES[name]
        shape = tuple(sizes[dim] for dim in measure.dims)
        attributes = {"long_name": measure.words}
        if measure.formula:
            attributes["formula"] = measure.formula
        found.append(Quantity(name, measure.dims, shape, measure.dtype, attributes))
        if measure.error:
            words = {"long_name": f"standard error of: {measure.words}"}
            found.append(Quantity(name + ERROR, measure.dims, shape, "float64", words))
    return found
