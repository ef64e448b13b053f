"""Six runs to begin with, each with three sentences."""

from __future__ import annotations

from dataclasses import dataclass

from rankfall.explorer._settings import Settings

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """A run with a name and a story.

    Attributes:
        title: On the button.
        settings: What it runs.
        sentences: What it is, what to see, what to try.
        plot: The plot to look at first.
    """

    title: str
    settings: Settings
    sentences: tuple[str, str, str]
    plot: str


# By name in the address.
PRESETS: dict[str, Preset] = {
    "gradient-flow": Preset(
        "Gradient flow keeps the rank",
        Settings(method="gradient-flow", duration=10.0),
        (
            "Gradient flow learns the teacher without ever moving the determinant of M = ZZᵀ, Z = [W1; W2ᵀ].",
            "The loss falls to rounding, yet the line of det M is flat and no singular value of W1 dies.",
            "Then choose the next button: the same network, the same data, with noise on the labels.",
        ),
        "log_det",
    ),
    "noise": Preset(
        "Noise kills it",
        Settings(),
        (
            "Fresh noise on the labels at every step makes log det M fall along a straight line of slope −2kσ²tr Σ, on "
            "every trajectory and whatever the start.",
            "Something has to die: the small singular values of W1 fall one after the other, until as many are left as "
            "the network has outputs.",
            "Drag δ while it runs: twice the noise, twice the slope; at δ = 0 the rank stays.",
        ),
        "singular",
    ),
    "repulsion": Preset(
        "The repulsion",
        Settings(n_inputs=3, n_outputs=1, width=6, teacher_rank=1, label_noise=5.0, duration=80.0),
        (
            "Why the rank falls: noise makes the eigenvalues of M repel each other, the larger of two goes up and the "
            "smaller down.",
            "Each arrow points where this push alone would take an eigenvalue; together they sum to zero, so that the "
            "push spreads the spectrum while the noise lowers all of it.",
            "Step slowly with S and watch two that come close: their arrows grow.",
        ),
        "eigenvalues",
    ),
    "teacher": Preset(
        "Rank of the teacher survives",
        Settings(n_outputs=4, label_noise=2.0, duration=250.0),
        (
            "The network could keep four singular values, one for each output, but the teacher has rank two.",
            "Two singular values of W1 stay where the data need them and all others die: training finds the rank of "
            "what is to be learned.",
            "Change the rank of the teacher, r, and count what is left.",
        ),
        "singular",
    ),
    "narrow": Preset(
        "Narrow network",
        Settings(width=4, label_noise=5.0, duration=150.0),
        (
            "With fewer hidden units than inputs and outputs together det M is zero at all times; its law is silent.",
            "The balance Q = W1ᵀW1 − W2W2ᵀ still obeys an exact equation, step by step, and the sum of the Lyapunov "
            "exponents is exact for every width.",
            "Follow the balance onto its dashed line, and the rank of W1 down to the number of outputs.",
        ),
        "balance",
    ),
    "large-step": Preset(
        "Too large a step",
        Settings(method="gradient-descent", step_size=0.07, duration=4.0),
        (
            "No noise at all, but a step η beyond 2/sharpness: gradient descent cannot follow the flow and overshoots.",
            "Every step multiplies det M by Π(1 − η²σᵢ(G)²)², so that it falls in jumps as long as the gradient is "
            "large; the ledger adds them up exactly.",
            "Take a larger η until the trajectories diverge, a smaller one until det M stands still.",
        ),
        "log_det",
    ),
}
