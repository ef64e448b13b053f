"""Scanning checkpoints: the rank of every weight matrix in a file, read tensor by tensor.

`scan_checkpoint` is the entrance; `docs/scan.md` shows it.
"""

from rankfall.scan._measuring import DEFAULT_MEASURES
from rankfall.scan._result import LayerReport, Scan
from rankfall.scan._scan import scan_checkpoint

__all__ = ["DEFAULT_MEASURES", "LayerReport", "Scan", "scan_checkpoint"]
