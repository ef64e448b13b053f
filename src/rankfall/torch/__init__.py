"""Tools for PyTorch training: the only part of rankfall that imports torch.

`linear_pairs` finds the matrices of a model that are joined by nothing but a product, and `Ledger` follows the exact
laws of these pairs through the steps of an optimizer.

`RankMonitor` follows the ranks of a model's weights, gradients, updates and activations during training.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "rankfall.torch needs PyTorch, which is not installed. Install it with: pip install 'rankfall[torch]'"
    ) from error

if TYPE_CHECKING:
    from rankfall.torch._alerts import Alert
    from rankfall.torch._budget import Spending
    from rankfall.torch._integrations import lightning_callback, transformers_callback
    from rankfall.torch._ledger import Ledger, LedgerWarning
    from rankfall.torch._loggers import CsvLogger, TensorBoardLogger
    from rankfall.torch._pair import LinearPair, Piece
    from rankfall.torch._pairs import LinearPairs, linear_pairs
    from rankfall.torch.monitor import RankMonitor

__all__ = [
    "Alert",
    "CsvLogger",
    "Ledger",
    "LedgerWarning",
    "LinearPair",
    "LinearPairs",
    "Piece",
    "RankMonitor",
    "Spending",
    "TensorBoardLogger",
    "lightning_callback",
    "linear_pairs",
    "transformers_callback",
]

# Public name → module that defines it; imported on first use.
_HOMES = {
    "Alert": "rankfall.torch._alerts",
    "CsvLogger": "rankfall.torch._loggers",
    "Ledger": "rankfall.torch._ledger",
    "LedgerWarning": "rankfall.torch._ledger",
    "lightning_callback": "rankfall.torch._integrations",
    "linear_pairs": "rankfall.torch._pairs",
    "LinearPair": "rankfall.torch._pair",
    "LinearPairs": "rankfall.torch._pairs",
    "Piece": "rankfall.torch._pair",
    "RankMonitor": "rankfall.torch.monitor",
    "Spending": "rankfall.torch._budget",
    "TensorBoardLogger": "rankfall.torch._loggers",
    "transformers_callback": "rankfall.torch._integrations",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rankfall.torch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
