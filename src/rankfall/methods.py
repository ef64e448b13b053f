"""How the weights move: settings only, nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from rankfall import _checks
from rankfall.errors import InvalidInput

__all__ = [
    "GradientDescent",
    "GradientFlow",
    "LabelNoiseDescent",
    "Method",
    "StochasticGradientDescent",
    "StochasticGradientFlow",
]

Integrator = Literal["geometric", "euler"]


def _check(method: object, **bounds: str) -> None:
    """Normalise the named fields of a frozen method: 'step' > 0, 'variance' ≥ 0, 'count' ≥ 1, 'decay' in [0, 1/η)."""
    for name, kind in bounds.items():
        value = getattr(method, name)
        checked: float | int
        if kind == "step":
            checked = _checks.real_number(value, name, above=0.0)
        elif kind == "count":
            checked = _checks.whole_number(value, name)
        else:
            checked = _checks.real_number(value, name, at_least=0.0)
        object.__setattr__(method, name, checked)
    decay = getattr(method, "weight_decay", 0.0)
    step = getattr(method, "step_size", 0.0)
    if decay * step >= 1.0:
        raise InvalidInput(
            f"weight_decay · step_size must be below 1, got {decay:g} · {step:g} = {decay * step:g}: "
            "one step would wipe out or flip all weights."
        )


@dataclass(frozen=True)
class GradientFlow:
    """Gradient flow dZ = Ĝ Z dt, followed by a commutator-free Lie-group method of order 4 with step control.

    Each factor is exp of a symmetric [[0, H], [Hᵀ, 0]], so det M and Q are conserved to rounding whatever the step.
    Coefficients: Celledoni, Marthinsen & Owren, "Commutator-free Lie group methods", FGCS 19 (2003). Networks of more
    than two layers are followed by DOP853 instead, which conserves them to its tolerance.

    Attributes:
        tolerance: Allowed local error of a step, relative to ‖Z‖. The default keeps the weights within 1e-8 of the
            exact flow (relative, whole run).
    """

    tolerance: float = 1e-12

    def __post_init__(self) -> None:
        _check(self, tolerance="step")
        if not 1e-15 <= self.tolerance <= 1e-2:
            raise InvalidInput(f"tolerance must lie in [1e-15, 1e-2], got {self.tolerance:g}.")


@dataclass(frozen=True)
class StochasticGradientFlow:
    """Stochastic gradient flow dZ = Ĝ Z dt + dN̂ Z of intensity σ² = step_size · label_noise / batch_size.

    Attributes:
        label_noise: Variance δ ≥ 0 of the fresh noise on the labels.
        step_size: η > 0 of the descent that the flow is the limit of; sets the intensity, not the time step (`dt`).
        batch_size: b ≥ 1, labels per step of that descent.
        integrator: "geometric" (Lie-group step, determinant law to rounding at any stable dt) or "euler"
            (Euler–Maruyama). Both have strong order 1/2 (the noise does not commute) and weak order 1. Networks of
            more than two layers take "euler" whatever is asked; the run says so.
    """

    label_noise: float
    step_size: float
    batch_size: int = 1
    integrator: Integrator = "geometric"

    def __post_init__(self) -> None:
        _check(self, label_noise="variance", step_size="step", batch_size="count")
        if self.integrator not in get_args(Integrator):
            raise InvalidInput(f"integrator must be 'geometric' or 'euler', got {self.integrator!r}.")

    @property
    def intensity(self) -> float:
        """σ² = η δ / b."""
        return self.step_size * self.label_noise / self.batch_size


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent on both layers at once, Z ← ((1 − ηλ) I + ηĜ) Z.

    Attributes:
        step_size: η > 0.
        weight_decay: λ ≥ 0, coupled (the gradient of λ‖Z‖²/2).
    """

    step_size: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self, step_size="step", weight_decay="variance")


@dataclass(frozen=True)
class LabelNoiseDescent:
    """Gradient descent with the full gradient plus the noise of `batch_size` noisy labels.

    G is replaced by G + √(δ/b) L_Σ N with N of iid standard normal entries: the exact law of fresh label noise on a
    batch of b inputs with covariance Σ, drawn from the sufficient statistics alone.

    Where the problem's loss is not squared, label noise means flipped labels: G + (1/b) Σ_{i∈B} x_i (ỹ_i − y_i)ᵀ with b
    samples B, drawn afresh at every step, whose labels are each replaced with probability δ (see
    `StochasticGradientDescent`).

    Attributes:
        step_size: η > 0.
        label_noise: Variance δ ≥ 0; probability δ < 1 of a flip where the loss is not squared.
        batch_size: b ≥ 1.
        weight_decay: λ ≥ 0, coupled.
    """

    step_size: float
    label_noise: float
    batch_size: int = 1
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self, step_size="step", label_noise="variance", batch_size="count", weight_decay="variance")


@dataclass(frozen=True)
class StochasticGradientDescent:
    """Mini-batch descent: each step draws `batch_size` different samples of the data, with or without label noise.

    Where the problem's loss is not squared, label noise means flipped labels: at every step each label of the batch
    is replaced with probability δ, for that step alone. Logistic: y by 1 − y, each output on its own. Cross-entropy:
    the class by one of the k − 1 others, with equal chances (the row of labels is turned by 1 … k − 1 columns, which is
    also what happens to rows of probabilities).

    Attributes:
        step_size: η > 0.
        batch_size: b, from 1 to n; drawn without replacement within a batch, independently between steps.
        label_noise: Variance δ ≥ 0 of the noise that is added to the labels of the batch, fresh at every step;
            probability δ < 1 of a flip where the loss is not squared.
        weight_decay: λ ≥ 0, coupled.
    """

    step_size: float
    batch_size: int
    label_noise: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self, step_size="step", batch_size="count", label_noise="variance", weight_decay="variance")


Flow: TypeAlias = GradientFlow | StochasticGradientFlow
Descent: TypeAlias = GradientDescent | LabelNoiseDescent | StochasticGradientDescent
Method: TypeAlias = Flow | Descent
