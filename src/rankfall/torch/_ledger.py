"""Follow the exact ledgers of a model's pairs through the steps of an optimizer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rankfall.errors import InvalidInput
from rankfall.torch._account import COLUMNS, Account, Books
from rankfall.torch._pair import LinearPair
from rankfall.torch._plain_sgd import setting_of, settings_of, skipped, trained_pairs

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws import Verdict

__all__ = ["Ledger", "LedgerWarning"]

# A record on an accelerator is fetched with this many others, so as not to wait for it.
_FETCH = 64
_FORMAT = 1
_ERROR, _DEFECT, _CONTRADICTION = map(COLUMNS.index, ("balance_error", "product_defect", "contradiction"))


class LedgerWarning(UserWarning):
    """A ledger lost its thread, or a pair is none; training goes on."""


class Ledger:
    """Keep, beside a training run, the books of what plain SGD does to each linear pair.

    Before every step of the optimizer the ledger of Q = W1ᵀW1 − W2W2ᵀ and, where the pair is wide, that of log det(ZZᵀ)
    are advanced from the gradients; after it the weights are measured. With plain SGD the two agree to rounding. With
    momentum, Adam or Muon the difference is what the optimizer itself adds: for log det, how much volume, and in the
    end rank, it gives (positive) or takes (negative) beyond SGD of the same learning rate and weight decay.

    Training is not touched: the weights are the same bit for bit. An error in the books never stops it; the pair's
    ledger becomes NaN, and a `LedgerWarning` says why, once.

    Args:
        model: Any module.
        optimizer: Its optimizer. Parameter groups may have settings of their own, which may change between steps.
        pairs: "auto" for all of `linear_pairs(model)` that the optimizer trains, or as in `linear_pairs(pairs=…)`.
        every: Record after this many steps; the books are advanced at every step.
        determinant: Whether to keep the determinant ledgers; they cost a QR decomposition per step and wide pair.
        query_key: As in `linear_pairs`.

    Attributes:
        pairs: What is followed, with notes on what is not.
        problems: For each pair that lost its thread, why.

    Raises:
        InvalidInput: No pairs, a parameter that the optimizer does not train, a learning rate that is missing, or as
            `linear_pairs`.

    Example:
        >>> import torch
        >>> from rankfall.torch import Ledger
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)).double()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
        >>> ledger = Ledger(model, optimizer)
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(16, 3, dtype=torch.float64)).square().mean().backward()
        ...     optimizer.step()
        >>> history = ledger.history()
        >>> bool(history.balance_error.max() < 1e-14 < 1e-4 < history.balance_drift.max())
        True
        >>> print([verdict.status for verdict in ledger.verdicts()])       # balance, determinant
        ['PASS', 'PASS']
        >>> ledger.remove()
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        pairs: str | Sequence[tuple[str, ...] | LinearPair] = "auto",
        *,
        every: int = 1,
        determinant: bool = True,
        query_key: bool | None = None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidInput(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidInput(f"every must be a positive whole number of steps, got {every!r}.")
        self.every, self._optimizer = every, optimizer
        self.pairs = trained_pairs(model, optimizer, pairs, query_key)
        self.problems: dict[str, str] = {}
        with torch.no_grad():
            self._accounts = [Account(pair, determinant=determinant) for pair in self.pairs]
        self._step = 0
        self._pending: list[Books] = []
        self._calls = 0
        self._warned: set[str] = set()
        self._steps: list[int] = []
        self._fetched: list[np.ndarray] = []
        self._waiting: list[list[torch.Tensor]] = []
        self._record()
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Take the hooks off the optimizer; what was recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def history(self) -> xr.Dataset:
        """Return what was recorded, over `step` and `pair`.

        Variables: `balance` ‖Q‖_F, `balance_drift` ‖Q − Q_0‖_F, `balance_error` ‖Q − ledger‖_F; `log_det` log det(ZZᵀ),
        `log_det_drift` since the start, `log_det_error` measured − ledger, NaN where `determinant_note` says why; and
        `product_defect` ‖W1ᵀg1 − g2W2ᵀ‖ / (‖W1‖‖g1‖ + ‖g2‖‖W2‖) of the step before the record, which for every
        optimizer is rounding where the pair meets in nothing but a product.
        """
        from rankfall.torch._report import dataset

        self._fetch()
        return dataset(self._accounts, self._steps, np.stack(self._fetched), type(self._optimizer).__name__)

    def verdicts(self, *, terms: int = 4096) -> list[Verdict]:
        """Judge every pair's ledgers against the rounding of the steps taken, `replicate` being the index of the pair.

        Args:
            terms: How many terms an entry of a gradient sums at most, samples (times tokens) of a batch; the allowance
                for the rounding of gradients grows as its root.

        Raises:
            LawNotApplicable: The optimizer is not plain SGD, so the difference from the ledger is no error.
            InvalidInput: `terms` is not a positive whole number.
        """
        from rankfall.torch._report import judge, require_plain_sgd

        if isinstance(terms, bool) or not isinstance(terms, int) or terms < 1:
            raise InvalidInput(f"terms must be a positive whole number, got {terms!r}.")
        require_plain_sgd(self._optimizer, self._accounts)
        self._fetch()
        return judge(self._accounts, self._steps, np.stack(self._fetched), self.problems, terms)

    def state_dict(self) -> dict[str, Any]:
        """Return books and records as tensors and plain values, for `torch.save` and loading with weights_only=True."""
        self._fetch()
        return {
            "format": _FORMAT,
            "step": self._step,
            "steps": list(self._steps),
            "records": torch.from_numpy(np.stack(self._fetched)),
            "problems": dict(self.problems),
            "accounts": {
                account.pair.name: {
                    "start": account.start.cpu(),
                    "start_log_det": account.start_log_det.cpu(),
                    "determinant_note": account.determinant_note,
                    "ledger": account.books.ledger.cpu(),
                    "log_det": account.books.log_det.cpu(),
                    "sums": account.books.sums.cpu(),
                    "update": account.books.update.cpu(),
                    "largest": account.largest.cpu(),
                }
                for account in self._accounts
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; load the model's weights and the optimizer as well.

        Raises:
            InvalidInput: The state is of another version, or of other pairs.
        """
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise InvalidInput(f"not the state of a Ledger of this version (format {_FORMAT}).")
        names = [account.pair.name for account in self._accounts]
        if list(state["accounts"]) != names:
            raise InvalidInput(f"the state is of the pairs {list(state['accounts'])}, this ledger follows {names}.")
        for account in self._accounts:
            saved = state["accounts"][account.pair.name]
            if saved["start"].shape != account.start.shape:
                raise InvalidInput(
                    f"pair {account.pair.name!r} had width {len(saved['start'])}, the model's has {account.pair.width}."
                )
        for account in self._accounts:
            saved = state["accounts"][account.pair.name]
            to = account.start.device
            account.start, account.start_log_det = saved["start"].to(to), saved["start_log_det"].to(to)
            account.determinant_note = saved["determinant_note"]
            account.largest = saved["largest"].to(to)
            account.books = Books(*(saved[part].to(to) for part in ("ledger", "log_det", "sums", "update")))
        self._step, self._steps = int(state["step"]), list(state["steps"])
        self._fetched, self._waiting = list(state["records"].numpy().copy()), []
        self.problems = dict(state["problems"])

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """Advance the books, now or, where the gradients come from a closure, after it."""
        self._calls, self._pending = 0, []
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._prepare()
            return None
        watched = self._watched(closure)
        if len(args) > 1:
            return (args[0], watched, *args[2:]), kwargs
        return args, {**kwargs, "closure": watched}

    def _watched(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            loss = closure()
            self._prepare()
            return loss

        return call

    def _prepare(self) -> None:
        """Compute, but do not yet enter, the books after the step with the gradients at hand."""
        self._calls += 1
        if self._calls > 1:
            return
        with torch.no_grad(), self._guard(*self._accounts):
            settings = None if skipped(self._optimizer) else settings_of(self._optimizer)
            for account in self._accounts:
                pending = account.books
                with self._guard(account):
                    if settings is not None:
                        pending = account.step([setting_of(piece, settings) for piece in account.pair.pieces])
                    if (self._step + 1) % self.every == 0:
                        account.compare()
                self._pending.append(pending)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Enter the step into the books, and record."""
        self._step += 1
        if self._calls > 1:
            for account in self._accounts:
                self._lose(account, f"the optimizer evaluated its closure {self._calls} times in a step, SGD does once")
        for account, pending in zip(self._accounts, self._pending, strict=False):
            if account.pair.name not in self.problems:
                account.books = pending
        self._pending = []
        if self._step % self.every == 0:
            self._record()

    def _record(self) -> None:
        rows = []
        with torch.no_grad():
            for account in self._accounts:
                row = account.start.new_full((len(COLUMNS),), float("nan"))
                with self._guard(account):
                    row = account.measure()
                rows.append(row)
        self._steps.append(self._step)
        self._waiting.append(rows)
        on_host = all(row.device.type == "cpu" for row in rows)
        if on_host or len(self._waiting) >= _FETCH:
            with self._guard(*self._accounts):
                self._fetch()

    def _fetch(self) -> None:
        """Bring the waiting records to the host, and say of which pairs the numbers have ceased to be numbers."""
        waiting, self._waiting = self._waiting, []
        for rows in waiting:
            step = self._steps[len(self._fetched)]
            self._fetched.append(np.stack([row.cpu().numpy() for row in rows]))
            for account, row in zip(self._accounts, self._fetched[-1], strict=True):
                if not np.isfinite(row[_ERROR]):
                    self._lose(account, f"gradients or weights are not finite at step {step}")
                elif row[_CONTRADICTION] > account.unit**0.5:
                    self._warn(
                        account,
                        f"the gradients of step {step} contradict the pair, W1ᵀg1 ≠ g2W2ᵀ (relative difference "
                        f"{row[_DEFECT]:.1g}): something else than a product joins the two, or they are used elsewhere",
                    )

    @contextlib.contextmanager
    def _guard(self, *accounts: Account) -> Iterator[None]:
        """Nothing that goes wrong in the books may stop the training."""
        try:
            yield
        except Exception as error:
            for account in accounts:
                self._lose(account, f"{type(error).__name__}: {error}")

    def _lose(self, account: Account, problem: str) -> None:
        account.lose()
        if account.pair.name not in self.problems:
            self.problems[account.pair.name] = problem
            self._warn(account, f"{problem}; the pair's ledger is NaN from here on")

    def _warn(self, account: Account, problem: str) -> None:
        if account.pair.name in self._warned:
            return
        self._warned.add(account.pair.name)
        # a filter may turn warnings into errors, and those must not stop the training either
        with contextlib.suppress(LedgerWarning):
            warnings.warn(f"ledger of {account.pair.name}: {problem}.", LedgerWarning, stacklevel=2)
