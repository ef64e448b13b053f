"""Which diffusion a method is, or is the discretisation of: dZ = (Ĝ − λ) Z dt + dN̂ Z of intensity σ²."""

from __future__ import annotations

from rankfall.errors import InvalidInput
from rankfall.methods import LabelNoiseDescent, Method, StochasticGradientDescent, StochasticGradientFlow
from rankfall.problem import Problem

__all__ = ["diffusion"]


def diffusion(problem: Problem, method: Method) -> tuple[float, float]:
    """Return intensity σ² and weight decay λ of the diffusion that a method follows in the limit of small steps.

    The flows are their own: σ² = η δ/b, or 0. A descent with label noise, on the full batch or by the noise's exact
    law, has the same σ²; gradient descent has 0.

    Raises:
        InvalidInput: Mini-batches, whose noise depends on the residuals, or a loss that is not the squared one.
    """
    if problem.loss != "squared":
        raise InvalidInput(
            f"the forces on the eigenvalues are those of the squared loss, the problem has the {problem.loss} loss; "
            "make the problem with loss='squared', or leave them out."
        )
    decay = float(getattr(method, "weight_decay", 0.0))
    if isinstance(method, StochasticGradientFlow):
        return method.intensity, decay
    if isinstance(method, LabelNoiseDescent):
        return method.step_size * method.label_noise / method.batch_size, decay
    if isinstance(method, StochasticGradientDescent):
        if method.batch_size != problem.n_samples:
            raise InvalidInput(
                "the forces on the eigenvalues are those of label noise; the noise of mini-batches (batch_size "
                f"{method.batch_size} of {problem.n_samples} samples) depends on the residuals as well. Use "
                "LabelNoiseDescent or StochasticGradientFlow, or all samples in a batch."
            )
        return method.step_size * method.label_noise / method.batch_size, decay
    return 0.0, decay
