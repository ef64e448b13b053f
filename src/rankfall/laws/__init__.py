"""Exact laws of the dynamics, what each predicts, and checks of runs against them.

`check(run)` applies all that hold for the method and the width of a run and returns one `Verdict` per law.
"""

from rankfall.laws import balance, determinant, eigenvalues, gradient_flow, ledger, lyapunov, narrow
from rankfall.laws._check import check
from rankfall.laws._verdict import Verdict

__all__ = ["Verdict", "balance", "check", "determinant", "eigenvalues", "gradient_flow", "ledger", "lyapunov", "narrow"]
