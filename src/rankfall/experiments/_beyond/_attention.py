"""The exact ledgers of the attention heads of a transformer whose seeds are trained beside each other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping

import torch
import xarray as xr

from rankfall.experiments._beyond._classifier import SMOOTHED, Schedule
from rankfall.experiments._beyond._experiment import GD
from rankfall.experiments._beyond._vectorised import Parameters
from rankfall.experiments._beyond.images import SIDE
from rankfall.torch import Ledger, LedgerWarning

__all__ = ["ADAMW", "MAPS", "AdamW", "AttentionBooks"]

# The projections under the names that `linear_pairs` knows.
MAPS = ("q_proj", "k_proj", "v_proj", "out_proj")
_RECORDS = 100
_KEPT = ("balance", "balance_drift", "balance_error", "log_det", "log_det_drift", "log_det_error", "product_defect")
ADAMW = "adamw"


class AdamW:
    """A step of torch's AdamW with its default settings, for all seeds at once: it treats every weight by itself."""

    def __init__(self) -> None:
        self._weights: dict[str, torch.Tensor] = {}
        self._optimizer: torch.optim.AdamW

    def __call__(self, parameters: Parameters, slopes: Parameters) -> dict[str, torch.Tensor]:
        if not self._weights:
            self._weights = {name: values.detach().clone() for name, values in parameters.items()}
            self._optimizer = torch.optim.AdamW(self._weights.values())
        for name, values in self._weights.items():
            values.grad = slopes[name]
        self._optimizer.step()
        return dict(self._weights)


class _Attention(torch.nn.Module):
    """The projections of one seed; what lies between them is computed elsewhere."""

    def __init__(self, heads: int, head_width: int, start: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head_width
        for name in MAPS:
            outputs, inputs = start[f"attention.{name}.weight"].shape
            setattr(self, name, torch.nn.Linear(inputs, outputs, device="meta"))  # without drawing weights


class AttentionBooks:
    """A `Ledger` on a module and an optimizer of torch's that take the same steps as the first of the stacked seeds.

    The gradients come from the stacked computation; the module's own optimizer moves its weights, and the ledger hears
    its hooks.

    Args:
        heads: Heads.
        head_width: Width of each.
        start: Weights of the first seed, "attention.q_proj.weight" and so on.
        schedule: Step size, and how long.
        arm: Which it is; AdamW has an optimizer of its own.
    """

    def __init__(
        self, heads: int, head_width: int, start: Mapping[str, torch.Tensor], schedule: Schedule, arm: str
    ) -> None:
        self.module = torch.nn.Module()
        self.module.attention = _Attention(heads, head_width, start)
        own = {name: start[name].clone() for name, _ in self.module.named_parameters()}
        self.module.load_state_dict(own, assign=True)
        parameters = self.module.parameters()
        self._optimizer = (
            torch.optim.AdamW(parameters) if arm == ADAMW else torch.optim.SGD(parameters, lr=schedule.step_size)
        )
        self._adaptive = arm == ADAMW
        self._terms = SIDE * (schedule.samples if arm in (GD, SMOOTHED) else schedule.batch_size)
        self._ledger = Ledger(self.module, self._optimizer, every=max(1, schedule.steps // _RECORDS), query_key=True)

    def step(self, slopes: Parameters) -> None:
        """Take the step of the first seed."""
        for name, parameter in self.module.named_parameters():
            parameter.grad = slopes[name][0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)  # a seed that diverges; the verdicts say so
            self._optimizer.step()

    def enter(self, run: xr.Dataset) -> xr.Dataset:
        """Add the records to the dataset of an arm, over ledger_step and pair, and the verdicts as an attribute."""
        history = self._ledger.history().rename(step="ledger_step").sel(pair=run["pair"].values)
        run = run.assign(
            {f"ledger_{name}": (history[name].dims, history[name].values, history[name].attrs) for name in _KEPT}
        )
        run = run.assign_coords(ledger_step=history["ledger_step"].values)
        if not self._adaptive:
            run.attrs["ledger_verdicts"] = json.dumps(
                [verdict.to_dict() for verdict in self._ledger.verdicts(terms=self._terms)]
            )
        return run
