"""Tools for PyTorch training: the only part of rankfall that imports torch.

`linear_pairs` finds the matrices of a model that are joined by nothing but a product, and `Ledger` follows the exact
laws of these pairs through the steps of an optimizer.
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
    from rankfall.torch._ledger import Ledger, LedgerWarning
    from rankfall.torch._pair import LinearPair, Piece
    from rankfall.torch._pairs import LinearPairs, linear_pairs

__all__ = [
    "Ledger",
    "LedgerWarning",
    "LinearPair",
    "LinearPairs",
    "Piece",
    "linear_pairs",
]

# Public name → module that defines it; imported on first use.
_HOMES = {
    "Ledger": "rankfall.torch._ledger",
    "LedgerWarning": "rankfall.torch._ledger",
    "LinearPair": "rankfall.torch._pair",
    "LinearPairs": "rankfall.torch._pairs",
    "Piece": "rankfall.torch._pair",
    "linear_pairs": "rankfall.torch._pairs",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rankfall.torch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
