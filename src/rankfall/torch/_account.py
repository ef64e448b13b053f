r"""The ledgers of one pair: what plain SGD makes of Q and of det(ZZᵀ), from the gradients of each step.

A step of SGD with coupled weight decay moves every entry as w ← a w − η g, a = 1 − ηλ. With W1ᵀg1 = −W1ᵀGW2ᵀ = g2W2ᵀ
the cross terms of Q = W1ᵀW1 − W2W2ᵀ cancel where all entries share η and λ:

    Q_{t+1} = a² Q_t + η² (g1ᵀg1 − g2g2ᵀ) .

Let pieces i of W1 (s_i = 1) and of W2 (s_i = −1), B_i in the shape width × m_i, have settings (a_i, η_i) of their own,
as biases without weight decay do. Subtracting aη(W1ᵀg1 − g2W2ᵀ) = 0 from the expanded squares leaves, for any (a, η),

    Q_{t+1} = a² Q_t + Σ_i s_i [ η_i² g_i g_iᵀ + (a_i² − a²) B_iB_iᵀ − (a_iη_i − aη)(B_ig_iᵀ + g_iB_iᵀ) ] ,

in which the pieces that have the settings of the first contribute gradients alone.

For Z = [W1; W2ᵀ] the step is Z ← (D + EĜ) Z with the diagonal matrices D of a_i and E of η_i, Ĝ = [[0, G], [Gᵀ, 0]]:

    log det(ZZᵀ)_{t+1} = log det(ZZᵀ)_t + 2 Σ_i m_i log a_i + 2 Σ_j log |1 − σ_j(S)²| ,  S = (E₁/D₁)^½ G (E₂/D₂)^½ .

Both hold whatever the loss and the batch; with one (η, λ) they are the ledgers of `rankfall.laws`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import torch

from rankfall.errors import InvalidInput
from rankfall.torch._pair import LinearPair, Piece

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
# An update below this many units in the last place of the weights may be rounded the same way at every step.
_STILL = 8.0


@dataclass(frozen=True)
class Setting:
    """How SGD moves one piece: w ← kept · w − rate · g, where g is `scale` times what autograd gave."""

    rate: float
    kept: float
    scale: float = 1.0


@dataclass(frozen=True)
class Books:
    """The state of an account, all in float64: `ledger` of Q, `log_det` summed up, and what the tolerance needs.

    `sums` holds the steps, those with updates of rounding size, the largest η‖g‖, Σ η²‖g‖², Σ ηλ, the largest ησ₁(G).
    """

    ledger: torch.Tensor
    log_det: torch.Tensor
    sums: torch.Tensor


class Account:
    """The books of one pair, and the pair's measured Q and log det(ZZᵀ)."""

    def __init__(self, pair: LinearPair, *, determinant: bool) -> None:
        self.pair = pair
        self.unit = max(torch.finfo(piece.parameter.dtype).eps for piece in pair.pieces) / 2
        values = self._values()
        self.start = _balance(*values)
        self.start_log_det, self.determinant_note = self.start.new_tensor(float("nan")), ""
        if not pair.wide:
            self.determinant_note = f"width {pair.width} < {pair.n_inputs} + {pair.n_outputs}, det(ZZᵀ) = 0"
        elif not determinant:
            self.determinant_note = "switched off"
        else:
            spectrum = torch.linalg.svdvals(torch.cat([*values[0], *values[1]], dim=1))
            if not spectrum[-1] > _floor(pair) * spectrum[0]:
                self.determinant_note = "Z = [W1; W2ᵀ] has not full row rank (zero biases?), det(ZZᵀ) = 0"
            else:
                self.start_log_det = 2.0 * spectrum.log().sum()
        self.books = Books(self.start.clone(), self.start.new_zeros(()), self.start.new_zeros(6))
        self.defect = self.start.new_tensor(float("nan"))

    @property
    def follows_determinant(self) -> bool:
        """Whether there is a determinant ledger."""
        return not self.determinant_note

    def step(self, settings: Sequence[Setting]) -> Books:
        """Return the books after the step that SGD is about to take with the gradients at hand."""
        first, second = self._values()
        gradients = [
            torch.zeros_like(value) if (gradient := piece.gradient) is None else setting.scale * self._double(gradient)
            for piece, value, setting in zip(self.pair.pieces, [*first, *second], settings, strict=True)
        ]
        # without a gradient the optimizer leaves a parameter alone
        settings = [
            Setting(0.0, 1.0) if piece.gradient is None else setting
            for piece, setting in zip(self.pair.pieces, settings, strict=True)
        ]
        n = len(first)
        books = replace(self.books, ledger=self._next_balance([*first, *second], gradients, settings))
        curve = books.log_det.new_zeros(())
        if self.follows_determinant:
            change, curve = self._log_det_change(second, gradients[:n], settings)
            books = replace(books, log_det=self.books.log_det + change)
        return replace(books, sums=self._next_sums([*first, *second], gradients, settings, curve))

    def mismatch(self) -> torch.Tensor:
        """‖W1ᵀg1 − g2W2ᵀ‖ / (‖W1‖‖g1‖ + ‖g2‖‖W2‖): rounding for a pair that meets in a product, 0 without gradients."""
        g1, g2 = self.pair.g1, self.pair.g2
        if g1 is None and g2 is None:
            return self.start.new_zeros(())
        W1, W2 = self._double(self.pair.W1), self._double(self.pair.W2)
        g1 = torch.zeros_like(W1) if g1 is None else self._double(g1)
        g2 = torch.zeros_like(W2) if g2 is None else self._double(g2)
        scale = W1.norm() * g1.norm() + g2.norm() * W2.norm()
        defect = (W1.T @ g1 - g2 @ W2.T).norm()
        return torch.where(scale == 0.0, torch.zeros_like(scale), defect / scale)

    def measure(self) -> torch.Tensor:
        """Return one record, the numbers named in `COLUMNS`."""
        first, second = self._values()
        balance = _balance(first, second)
        gram = sum(part @ part.T for part in (*first, *second))
        assert isinstance(gram, torch.Tensor)
        nan = balance.new_tensor(float("nan"))
        log_det, inverse, smallest = nan, nan, nan
        if self.follows_determinant:
            spectrum = torch.linalg.svdvals(torch.cat([*first, *second], dim=1))
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
                gram.norm().sqrt(),
                gram.trace().sqrt(),
                inverse,
                smallest,
                *self.books.sums,
            ]
        )

    def lose(self) -> None:
        """Make the books NaN: what happened in a step is not known."""
        nan = float("nan")
        books = self.books
        self.books = Books(*(torch.full_like(part, nan) for part in (books.ledger, books.log_det, books.sums)))

    def _next_balance(
        self, values: list[torch.Tensor], gradients: list[torch.Tensor], settings: Sequence[Setting]
    ) -> torch.Tensor:
        kept, rate = settings[0].kept, settings[0].rate
        ledger = kept * kept * self.books.ledger
        for index, (value, gradient, own) in enumerate(zip(values, gradients, settings, strict=True)):
            change = own.rate**2 * (gradient @ gradient.T)
            if (own.kept, own.rate) != (kept, rate):
                cross = value @ gradient.T
                change = change + (own.kept**2 - kept**2) * (value @ value.T)
                change = change - (own.kept * own.rate - kept * rate) * (cross + cross.T)
            ledger = ledger + change if index < len(self.pair.first) else ledger - change
        return ledger

    def _log_det_change(
        self, second: list[torch.Tensor], gradients: list[torch.Tensor], settings: Sequence[Setting]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The change of log det(ZZᵀ), and ησ₁(G)."""
        if min(setting.kept for setting in settings) <= 0.0:
            raise InvalidInput("learning rate · weight decay must be less than 1 for the determinant ledger.")
        W2, g1 = torch.cat(second, dim=1), torch.cat(gradients, dim=1)
        q, r = torch.linalg.qr(W2)
        # W2 Gᵀ = −g1ᵀ; the sign of G does not matter
        turned = torch.linalg.solve_triangular(r, q.T @ g1, upper=True)
        n = len(self.pair.first)
        left = self._spread(self.pair.first, settings[:n])
        right = self._spread(self.pair.second, settings[n:])
        ratios = torch.linalg.svdvals(right[:, None] * turned * left)
        factors = torch.where(ratios < 0.5, torch.log1p(-(ratios**2)), ((1.0 - ratios) * (1.0 + ratios)).abs().log())
        pieces = zip(self.pair.pieces, settings, strict=True)
        shrink = sum(piece.value.shape[1] * log(setting.kept) for piece, setting in pieces)
        return 2.0 * (factors.sum() + shrink), ratios.amax()

    def _spread(self, pieces: Sequence[Piece], settings: Sequence[Setting]) -> torch.Tensor:
        """(η/a)^½, one number per row of W1 or column of W2."""
        parts = [
            self.start.new_full((piece.value.shape[1],), (setting.rate / setting.kept) ** 0.5)
            for piece, setting in zip(pieces, settings, strict=True)
        ]
        return torch.cat(parts)

    def _next_sums(
        self,
        values: list[torch.Tensor],
        gradients: list[torch.Tensor],
        settings: Sequence[Setting],
        curve: torch.Tensor,
    ) -> torch.Tensor:
        n = len(self.pair.first)
        sizes = torch.stack([value.norm() for value in values])
        moves = torch.stack([own.rate * gradient.norm() for gradient, own in zip(gradients, settings, strict=True)])
        still = (moves[:n].norm() <= _STILL * self.unit * sizes[:n].norm()) | (
            moves[n:].norm() <= _STILL * self.unit * sizes[n:].norm()
        )
        steps, stills, pull, path, decay, most = self.books.sums
        shrink = max(1.0 - own.kept for own in settings)
        total = moves.norm()
        return torch.stack(
            [
                steps + 1.0,
                stills + still,
                torch.maximum(pull, total),
                path + total**2,
                decay + shrink,
                torch.maximum(most, curve),
            ]
        )

    def _values(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        first = [self._double(piece.value) for piece in self.pair.first]
        return first, [self._double(piece.value) for piece in self.pair.second]

    def _double(self, tensor: torch.Tensor) -> torch.Tensor:
        """In float64, on the device of the first piece; Apple's has no float64."""
        device = self.pair.first[0].parameter.device
        return tensor.to("cpu" if device.type == "mps" else device, torch.float64)


def _balance(first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
    """Q = W1ᵀW1 − W2W2ᵀ."""
    one, two = torch.cat(first, dim=1), torch.cat(second, dim=1)
    return one @ one.T - two @ two.T


def _floor(pair: LinearPair) -> float:
    """Below this fraction of σ₁ a singular value of a float64 matrix is rounding noise."""
    return max(pair.width, pair.n_inputs + pair.n_outputs) * float(torch.finfo(torch.float64).eps)
