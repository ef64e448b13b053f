r"""The ledgers of one pair: what plain SGD makes of Q and of det(ZZᵀ), from the gradients of each step.

A step of SGD with coupled weight decay moves every entry as w ← a w − η g, a = 1 − ηλ. With W1ᵀg1 = −W1ᵀGW2ᵀ = g2W2ᵀ
the cross terms of Q = W1ᵀW1 − W2W2ᵀ cancel where all entries share η and λ:

    Q_{t+1} = a² Q_t + η² (g1ᵀg1 − g2g2ᵀ) .

Let the columns b_i of [W1ᵀ, W2] (s_i = 1 for those of W1ᵀ, −1 for those of W2) have their own settings (a_i, η_i), as
biases without weight decay do. Adding aη(W1ᵀg1 − g2W2ᵀ + transpose) = 0 to the expanded squares leaves, for any (a, η),

    Q_{t+1} = a² Q_t + Σ_i s_i [ η_i² g_i g_iᵀ + (a_i² − a²) b_ib_iᵀ − (a_iη_i − aη)(b_ig_iᵀ + g_ib_iᵀ) ] ,

in which the columns that have the settings of the first contribute gradients alone.

For Z = [W1; W2ᵀ] the step is Z ← (D + EĜ) Z with the diagonal matrices D of a_i and E of η_i, Ĝ = [[0, G], [Gᵀ, 0]]:

    log det(ZZᵀ)_{t+1} = log det(ZZᵀ)_t + 2 Σ_i log a_i + 2 Σ_j log |1 − σ_j(S)²| ,  S = (E₁/D₁)^½ G (E₂/D₂)^½ .

Both hold whatever the loss and the batch; with one (η, λ) they are the ledgers of `rankfall.laws`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch

from rankfall.errors import InvalidInput
from rankfall.torch._pair import LinearPair

__all__ = ["COLUMNS", "Account", "Books", "Setting"]

# One record: what `Account.measure` returns.
COLUMNS = (
    "balance",
    "balance_drift",
    "balance_error",
    "ledger_balance",
    "log_det",
    "ledger_log_det",
    "product_defect",
    "contradiction",
    "spectral_bound",
    "frobenius",
    "inverse",
    "smallest",
    "steps",
    "still",
    "pull",
    "path",
    "decay",
    "curve",
)
# An update that differs from the last one by less than this many roundings of the weight may be rounded alike.
_STILL = 4.0
# Of a pair, this many rows and columns at most are looked at for that.
_SAMPLE = 64


@dataclass(frozen=True)
class Setting:
    """How SGD moves one piece: w ← kept · w − rate · g, where g is `scale` times what autograd gave."""

    rate: float
    kept: float
    scale: float = 1.0


@dataclass(frozen=True)
class Books:
    """The state of an account, all in float64: `ledger` of Q, `log_det` summed up, and what the tolerance needs.

    `sums` holds the steps, the steps (weighted by the share of ‖Z‖) that may round like the one before, the largest
    η‖g‖, Σ η²‖g‖², Σ ηλ, the largest ησ₁(G). `update` is a sample of ηg, empty before the first step.
    """

    ledger: torch.Tensor
    log_det: torch.Tensor
    sums: torch.Tensor
    update: torch.Tensor


@dataclass(frozen=True)
class _Columns:
    """Settings, one number per column of [W1ᵀ, W2], and those of the first column."""

    rate: torch.Tensor
    kept: torch.Tensor
    first_rate: float
    first_kept: float
    uniform: bool
    log_kept: float
    decay: float


class Account:
    """The books of one pair, and the pair's measured Q and log det(ZZᵀ)."""

    def __init__(self, pair: LinearPair, *, determinant: bool) -> None:
        self.pair = pair
        self.unit = max(torch.finfo(piece.parameter.dtype).eps for piece in pair.pieces) / 2
        self._known: dict[tuple[Setting, ...], _Columns] = {}
        self._rows = pair.n_inputs
        values = self._values()
        self._sign = torch.ones_like(values[0])
        self._sign[self._rows :] = -1.0
        self.start = (values * self._sign) @ values.T
        self.start_log_det, self.determinant_note = self.start.new_tensor(float("nan")), ""
        if not pair.wide:
            self.determinant_note = f"width {pair.width} < {pair.n_inputs} + {pair.n_outputs}, det(ZZᵀ) = 0"
        elif not determinant:
            self.determinant_note = "switched off"
        else:
            spectrum = torch.linalg.svdvals(values)
            # below this fraction of σ₁ a singular value is rounding noise
            if not spectrum[-1] > max(values.shape) * torch.finfo(torch.float64).eps * spectrum[0]:
                self.determinant_note = "Z = [W1; W2ᵀ] has not full row rank (zero biases?), det(ZZᵀ) = 0"
            else:
                self.start_log_det = 2.0 * spectrum.log().sum()
        zero = self.start.new_zeros(())
        self.books = Books(self.start.clone(), zero, self.start.new_zeros(6), self.start.new_zeros(0))
        self.defect, self.contradiction, self.largest = zero * float("nan"), zero, zero

    @property
    def follows_determinant(self) -> bool:
        """Whether there is a determinant ledger."""
        return not self.determinant_note

    def step(self, settings: Sequence[Setting]) -> Books:
        """Return the books after the step that SGD is about to take with the gradients at hand."""
        values, gradients = self._values(), self._gradients(settings)
        # without a gradient the optimizer leaves a parameter alone
        columns = self._columns(
            tuple(
                Setting(0.0, 1.0) if piece.parameter.grad is None else setting
                for piece, setting in zip(self.pair.pieces, settings, strict=True)
            )
        )
        moves = gradients * columns.rate
        rate, kept = columns.first_rate, columns.first_kept
        ledger = kept * kept * self.books.ledger + (moves * self._sign) @ moves.T
        if not columns.uniform:
            ledger = ledger + (values * (self._sign * (columns.kept**2 - kept**2))) @ values.T
            cross = (values * (self._sign * (columns.kept * columns.rate - kept * rate))) @ gradients.T
            ledger = ledger - cross - cross.T
        log_det, curve = self.books.log_det, torch.zeros_like(self.books.log_det)
        if self.follows_determinant:
            change, curve = self._log_det_change(values[:, self._rows :], gradients[:, : self._rows], columns)
            log_det = log_det + change
        still, update = self._still(values, moves)
        steps, stills, pull, path, decay, most = self.books.sums
        total = moves.norm()
        sums = torch.stack(
            [
                steps + 1.0,
                stills + still,
                torch.maximum(pull, total),
                path + total**2,
                decay + columns.decay,
                torch.maximum(most, curve),
            ]
        )
        return Books(ledger, log_det, sums, update)

    def compare(self) -> None:
        """Set `defect` ‖W1ᵀg1 − g2W2ᵀ‖ / (‖W1‖‖g1‖ + ‖g2‖‖W2‖): rounding for a pair that meets in a product.

        `contradiction` is the same with the largest gradient so far in the denominator: near a minimum, gradients are
        nothing but rounding, and would contradict any pair.
        """
        n, values = self._rows, self._values()
        gradients = self._gradients([Setting(1.0, 1.0)] * len(self.pair.pieces))
        W1, W2, g1, g2 = values[:, :n], values[:, n:], gradients[:, :n], gradients[:, n:]
        scale, size = W1.norm() * g1.norm() + g2.norm() * W2.norm(), gradients.norm()
        defect = (W1 @ g1.T - g2 @ W2.T).norm()
        self.largest = torch.maximum(self.largest, size)
        self.defect = torch.where(scale == 0.0, torch.zeros_like(scale), defect / scale)
        self.contradiction = torch.where(size == 0.0, torch.zeros_like(size), self.defect * size / self.largest)

    def measure(self) -> torch.Tensor:
        """Return one record, the numbers named in `COLUMNS`."""
        values = self._values()
        balance, gram = (values * self._sign) @ values.T, values @ values.T
        nan = torch.full_like(self.defect, float("nan"))
        log_det, inverse, smallest = nan, nan, nan
        if self.follows_determinant:
            spectrum = torch.linalg.svdvals(values)
            log_det, inverse = 2.0 * spectrum.log().sum(), (spectrum**-2).sum().sqrt()
            smallest = spectrum[-1] / spectrum[0]
        return torch.stack(
            [
                balance.norm(),
                (balance - self.start).norm(),
                (balance - self.books.ledger).norm(),
                self.books.ledger.norm(),
                log_det,
                self.start_log_det + self.books.log_det,
                self.defect,
                self.contradiction,
                gram.norm().sqrt(),
                gram.trace().sqrt(),
                inverse,
                smallest,
                *self.books.sums,
            ]
        )

    def lose(self) -> None:
        """Make the books NaN: what happened in a step is not known."""
        books = self.books
        ledger, log_det, sums = (torch.full_like(part, torch.nan) for part in (books.ledger, books.log_det, books.sums))
        self.books = Books(ledger, log_det, sums, books.update)

    def _log_det_change(
        self, W2: torch.Tensor, turned_g1: torch.Tensor, columns: _Columns
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The change of log det(ZZᵀ), and the largest σ(S)."""
        if not float("-inf") < columns.log_kept:
            raise InvalidInput("learning rate · weight decay must be less than 1 for the determinant ledger.")
        q, r = torch.linalg.qr(W2)
        # W2 Gᵀ = −g1ᵀ; the sign of G does not matter
        turned = torch.linalg.solve_triangular(r, q.T @ turned_g1, upper=True)
        spread = (columns.rate / columns.kept).sqrt()
        ratios = torch.linalg.svdvals(spread[self._rows :, None] * turned * spread[: self._rows])
        factors = torch.where(ratios < 0.5, torch.log1p(-(ratios**2)), ((1.0 - ratios) * (1.0 + ratios)).abs().log())
        return 2.0 * (factors.sum() + columns.log_kept), ratios.amax()

    def _still(self, values: torch.Tensor, moves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The share of ‖Z‖ in entries whose update is that of the last step up to roundings, from a sample; the sample.

        What an entry is rounded by depends on its update alone, modulo the spacing of the numbers around it.
        """
        rows, columns = (slice(None, None, -(-size // _SAMPLE)) for size in moves.shape)
        update, sample = moves[rows, columns].clone(), values[rows, columns]  # a view would keep all of ηg alive
        if not self.books.update.numel():
            return torch.zeros_like(self.defect), update
        alike = (update - self.books.update).abs() <= _STILL * self.unit * sample.abs()
        total = sample.norm()
        return torch.where(total == 0.0, total, (sample * alike).norm() / total), update

    def _columns(self, settings: tuple[Setting, ...]) -> _Columns:
        """Kept from step to step, for settings seldom change."""
        if settings not in self._known:
            sizes = [piece.value.shape[1] for piece in self.pair.pieces]
            pairs = list(zip(settings, sizes, strict=True))
            lowest = min(setting.kept for setting in settings)
            self._known = {
                settings: _Columns(
                    rate=torch.cat([self.start.new_full((size,), own.rate) for own, size in pairs]),
                    kept=torch.cat([self.start.new_full((size,), own.kept) for own, size in pairs]),
                    first_rate=settings[0].rate,
                    first_kept=settings[0].kept,
                    uniform=len({(own.rate, own.kept) for own in settings}) == 1,
                    log_kept=sum(size * log(own.kept) for own, size in pairs) if lowest > 0.0 else float("-inf"),
                    decay=max(1.0 - own.kept for own in settings),
                )
            }
        return self._known[settings]

    def _values(self) -> torch.Tensor:
        """[W1ᵀ, W2] = Zᵀ in float64, shape (width, p + k)."""
        return torch.cat([self._double(piece.value) for piece in self.pair.pieces], dim=1)

    def _gradients(self, settings: Sequence[Setting]) -> torch.Tensor:
        """[g1ᵀ, g2] likewise, zero where there is none."""
        parts = []
        for piece, setting in zip(self.pair.pieces, settings, strict=True):
            gradient = piece.gradient
            given = torch.zeros_like(piece.value) if gradient is None else gradient
            parts.append(self._double(given) * setting.scale if setting.scale != 1.0 else self._double(given))
        return torch.cat(parts, dim=1)

    def _double(self, tensor: torch.Tensor) -> torch.Tensor:
        """In float64, on the device of the first piece; Apple's has no float64."""
        device = self.pair.first[0].parameter.device
        return tensor.to("cpu" if device.type == "mps" else device, torch.float64)
