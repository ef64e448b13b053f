"""From the save points of a stream to the numbers that the page draws: medians, bands, laws, forces, rates.

Everything is measured from what the kernel recorded, except the columns `*_law` and the law of the bars, which come
from `rankfall.laws` or from the ledgers. Determinants, eigenvalues and singular values are drawn as powers of ten; but
for gradient flow they come from the graded form, right also where a float64 no longer holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankfall import laws
from rankfall._stream import Stream
from rankfall.errors import InvalidInput
from rankfall.explorer._settings import CONTROLS, Settings
from rankfall.methods import GradientFlow, StochasticGradientFlow

__all__ = ["COLUMNS", "MOST_EIGENVALUES", "MOST_SINGULAR_VALUES", "Film", "Moment"]

MOST_SINGULAR_VALUES = int(CONTROLS["p"].high)
MOST_EIGENVALUES = int(CONTROLS["p"].high + CONTROLS["k"].high)
_BANDS = ("log_det", "loss", "balance")
COLUMNS = (
    "time",
    *(f"{name}_{part}" for name in _BANDS for part in ("low", "middle", "high")),
    "log_det_law",
    "balance_law",
    *(f"singular_{i}" for i in range(MOST_SINGULAR_VALUES)),
    *(f"path_{i}" for i in range(MOST_SINGULAR_VALUES)),
    *(f"eigenvalue_{i}" for i in range(MOST_EIGENVALUES)),
)
_PLACE = {name: i for i, name in enumerate(COLUMNS)}
_LN10 = math.log(10.0)
# A singular value counts for the rank of W1 while above this share of the largest, as in `laws.narrow.final_rank`.
_SHARE = 1e-3


@dataclass(frozen=True, eq=False)
class Moment:
    """What is drawn of the current time alone.

    Attributes:
        time: t.
        eigenvalues: log₁₀ λ_i of one trajectory, descending.
        pushes: The repulsion on them, in powers of ten per unit of time; NaN below what float64 resolves.
        repulsion_note: Why there are no pushes, "" if there are.
        rates: Running Lyapunov exponents of the modes, mean over the trajectories, largest first as recorded.
        rate_sum: Their sum.
        rate_law: What the law or the ledger says of the sum; NaN if it is silent.
        rank: Median over the trajectories of the number of σ_i(W1) above a thousandth of the largest.
        alive: Trajectories that have not diverged.
    """

    time: float
    eigenvalues: np.ndarray
    pushes: np.ndarray
    repulsion_note: str
    rates: np.ndarray
    rate_sum: float
    rate_law: float
    rank: int
    alive: int


class Film:
    """The curves of one run so far, one row per save point, and its present moment."""

    def __init__(self, settings: Settings, stream: Stream) -> None:
        run = stream._run
        self.settings, self._stream, self._recording = settings, stream, run.recording
        self._problem, self._method = run.problem, run.method
        self.rows = np.full((len(stream.times), len(COLUMNS)), np.nan)
        self.filled = 0
        self._extent = (0.0, 0.0)
        self.singular = not run.plan.full_rank
        self._flow_rate = math.nan
        if isinstance(self._method, GradientFlow) or self.is_geometric:
            self._flow_rate = laws.determinant.rate(self._problem, self._method)

    @property
    def times(self) -> np.ndarray:
        """All save points, reached or not."""
        return self._stream.times

    @property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest log₁₀ λ_i so far."""
        return self._extent

    @property
    def is_geometric(self) -> bool:
        """Whether this is a stochastic flow that obeys the law itself and not the ledger of its steps."""
        return isinstance(self._method, StochasticGradientFlow) and self._method.integrator == "geometric"

    @property
    def flow_rate(self) -> float:
        """d log det M / dt where the law of the flow holds to rounding, NaN elsewhere."""
        return self._flow_rate

    def take(self) -> Moment:
        """Draw what the stream has saved since the last time."""
        begin, end = self.filled, self._stream.saved
        self._fill(slice(begin, end))
        new = self.rows[begin:end, _PLACE["eigenvalue_0"] :]
        if np.isfinite(new).any():
            ends = float(np.nanmin(new)), float(np.nanmax(new))
            self._extent = ends if begin == 0 else (min(ends[0], self._extent[0]), max(ends[1], self._extent[1]))
        self.filled = end
        return self._moment(end - 1)

    def _fill(self, new: slice) -> None:
        kept, rows, times = self._recording, self.rows, self._stream.times
        if new.start >= new.stop:
            return
        rows[new, 0] = times[new]
        loss, log_det, balance, _, ledger_balance, _ = (kept.scalars[new, i] for i in range(6))  # type: ignore[union-attr]
        spectrum, first = self._logs("Z", new), self._logs("W1", new)
        modes, values = spectrum.shape[-1], first.shape[-1]
        if not self.singular:
            log_det = 2.0 * spectrum.sum(axis=-1) if self.is_graded else log_det
        change = self._law_change(new)
        law = log_det if change is None or self.singular else self._start_log_det()[None, :] + change
        balance_law = ledger_balance
        if isinstance(self._method, GradientFlow):
            balance_law = np.broadcast_to(kept.scalars[0, 2], balance.shape)  # type: ignore[union-attr]
        # A trajectory on its way out overflows here before it does there: it counts for both, or for neither.
        log_det, law = _together(log_det, law)
        balance, balance_law = _together(balance, balance_law)
        with np.errstate(divide="ignore", invalid="ignore"):
            banded = np.stack([log_det / _LN10, np.log10(loss), balance, law / _LN10, balance_law], axis=-1)
        middle = _sorted_quantiles(np.concatenate([banded, first / _LN10], axis=-1), (0.1, 0.5, 0.9))
        for index, name in enumerate(_BANDS):
            for part, quantile in zip(("low", "middle", "high"), middle, strict=True):
                rows[new, _PLACE[f"{name}_{part}"]] = quantile[:, index]
        rows[new, _PLACE["log_det_law"]] = middle[1][:, 3]
        rows[new, _PLACE["balance_law"]] = middle[1][:, 4]
        here = _PLACE["singular_0"]
        rows[new, here : here + values] = middle[1][:, 5:]
        here = _PLACE["path_0"]
        rows[new, here : here + values] = first[:, 0] / _LN10
        here = _PLACE["eigenvalue_0"]
        rows[new, here : here + modes] = 2.0 * spectrum[:, 0] / _LN10
        rows[new] = np.where(np.isfinite(rows[new]), rows[new], np.nan)

    @property
    def is_graded(self) -> bool:
        """Whether the run keeps logarithms of singular values, right where a float64 cannot hold these."""
        return "log_singular_values_Z" in self._recording.observed  # type: ignore[union-attr]

    def _logs(self, layer: str, here: slice) -> np.ndarray:
        """log σ_i of Z or W1, shape (time, replicate, mode)."""
        kept: Any = self._recording
        if self.is_graded:
            logs: np.ndarray = kept.observed[f"log_singular_values_{layer}"][here]
            return logs
        with np.errstate(divide="ignore", invalid="ignore"):
            values = getattr(kept, layer)[here]
            return np.log(np.where(values > 1e-14 * values[..., :1], values, np.nan))

    def _start_log_det(self) -> np.ndarray:
        start: np.ndarray = self._recording.scalars[0, 1]  # type: ignore[union-attr]
        return start

    def _law_change(self, here: slice) -> np.ndarray | None:
        """log det M_t − log det M_0 as the law or the ledger has it, shape (time, replicate)."""
        kept: Any = self._recording
        if math.isfinite(self._flow_rate):
            return np.repeat(self._flow_rate * self._stream.times[here, None], kept.scalars.shape[-1], axis=1)
        return None if kept.ledger is None else kept.ledger[here] - kept.ledger[:1]

    def _moment(self, index: int) -> Moment:
        kept: Any = self._recording
        here = slice(index, index + 1)
        time = float(self._stream.times[index])
        modes = kept.Z.shape[-1]
        eigenvalues = self.rows[index, _PLACE["eigenvalue_0"] :][:modes]
        pushes, note = self._pushes(index, modes)
        finite = np.isfinite(kept.W1[index]).all(axis=-1)
        first = kept.W1[index][finite]
        rank = int(np.median((first > _SHARE * first[:, :1]).sum(axis=-1))) if len(first) else 0
        framed = "log_growth" in kept.observed
        rates, law = np.zeros(kept.observed["log_growth"].shape[-1] if framed else modes), math.nan
        if time > 0.0:
            if framed:
                growth = kept.observed["log_growth"][index]
            else:
                growth = (self._logs("Z", here) - self._logs("Z", slice(0, 1)))[0]
            alive = np.isfinite(growth).all(axis=-1)
            rates = growth[alive].mean(axis=0) / time if alive.any() else np.full(growth.shape[-1], np.nan)
            change = self._law_change(here)
            if change is not None and alive.any() and (framed or not self.singular):
                law = 0.5 * float(change[0][alive].mean()) / time
        elif not self.singular or framed:
            law = 0.5 * self._flow_rate
        return Moment(time, eigenvalues, pushes, note, rates, float(rates.sum()), law, rank, int(finite.sum()))

    def _pushes(self, index: int, modes: int) -> tuple[np.ndarray, str]:
        kept: Any = self._recording
        W1, W2 = kept.weights1[index, 0], kept.weights2[index, 0]
        none = np.full(modes, np.nan)
        if not (np.isfinite(W1).all() and np.isfinite(W2).all()):
            return none, "this trajectory has diverged"
        try:
            force = laws.eigenvalues.forces(W1, W2, self._problem, self._method)
        except InvalidInput:
            return none, "mini-batches: their noise depends on the residuals, the repulsion of label noise is not drawn"
        if not np.nan_to_num(force.rates).any():
            return none, "without label noise there is no repulsion"
        return force.repulsion / _LN10, ""


def _together(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both, NaN where one of them is not finite."""
    known = np.isfinite(first) & np.isfinite(second)
    return np.where(known, first, np.nan), np.where(known, second, np.nan)


def _sorted_quantiles(values: np.ndarray, wanted: tuple[float, ...]) -> list[np.ndarray]:
    """Quantiles over axis 1 of (time, replicate, column), of the finite ones; linear between the order statistics."""
    finite = np.where(np.isfinite(values), values, np.nan)
    ordered = np.sort(finite, axis=1)  # NaN last
    last = np.isfinite(finite).sum(axis=1) - 1
    found = []
    for share in wanted:
        place = share * np.maximum(last, 0)
        below = np.floor(place).astype(int)
        above = np.minimum(below + 1, np.maximum(last, 0))
        low, high = (np.take_along_axis(ordered, at[:, None], axis=1)[:, 0] for at in (below, above))
        found.append(low + (place - below) * (high - low))
    return found
