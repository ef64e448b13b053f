"""Flipped labels and the rank of a classifier: a two-layer linear network with softmax on the digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import rankfall as rf
from rankfall import _checks, datasets, laws
from rankfall.experiments._target import Part, Results, Target, Work

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from rankfall.laws import Verdict

__all__ = ["FALLEN", "Settings", "accuracy_claim", "count_alive", "fading_claim", "rank_claims", "target"]

# A mode has fallen when its singular value is below this share of what it was at the start.
FALLEN = 1e-2
# Mini-batch noise has faded when det M falls at less than this share of the rate that flipped labels drive.
FADED = 0.02
# How much accuracy flipped labels may cost.
COST = 0.1

DESCENT, BATCHES, FLIPS = "gradient-descent", "mini-batches", "flipped-labels"
TITLES = {DESCENT: "gradient descent", BATCHES: "mini-batches", FLIPS: "mini-batches, flipped labels"}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of the report.

    Attributes:
        components: p, how many principal components of the standardised digits are the inputs, each of variance 1.
        scale: Standard deviation of the starting weights.
        step_size: η, the same in all three runs.
        batch_size: b of the two runs with mini-batches.
        label_noise: Probability with which a label of a batch is replaced by another class.
        steps: Steps of every run.
        replicates: Trajectories per run; the runs share their starting weights.
        save_points: How many times are kept.
        seed: Of starts, batches and flips.
    """

    components: int = 40
    scale: float = 0.1
    step_size: float = 0.1
    batch_size: int = 16
    label_noise: float = 0.3
    steps: int = 40_000
    replicates: int = 8
    save_points: int = 161
    seed: int = 0

    @classmethod
    def choose(cls, *, quick: bool = False, **chosen: Any) -> Settings:
        """Take the defaults, a shorter run of smaller batches if `quick`, and whatever else is given.

        An option given as None counts as not given.

        Raises:
            InvalidInput: Not an option, or out of range.

        Example:
            >>> from rankfall.experiments import classification
            >>> classification.Settings.choose(quick=True, steps=100).steps
            100
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise rf.InvalidInput(f"{', '.join(unknown)}: no such setting of this experiment.")
        # Half the batch is twice the noise: the modes fall in half the time.
        defaults = cls(steps=25_000, batch_size=8, replicates=4, save_points=101) if quick else cls()
        return replace(defaults, **given)._checked()

    def _checked(self) -> Settings:
        probability = _checks.real_number(self.label_noise, "label_noise", above=0.0)
        if probability >= 1.0:
            raise rf.InvalidInput(f"label_noise is a probability and must be below 1, got {probability:g}.")
        return replace(
            self,
            components=_checks.whole_number(self.components, "components", at_most=61),
            scale=_checks.real_number(self.scale, "scale", above=0.0),
            step_size=_checks.real_number(self.step_size, "step_size", above=0.0),
            batch_size=_checks.whole_number(self.batch_size, "batch_size", at_most=1797),
            label_noise=probability,
            steps=_checks.whole_number(self.steps, "steps"),
            replicates=_checks.whole_number(self.replicates, "replicates"),
            save_points=_checks.whole_number(self.save_points, "save_points", at_least=2),
            seed=_checks.seed_number(self.seed),
        )

    def problem(self) -> rf.Problem:
        """The digits with the cross-entropy, on their principal components."""
        digits = datasets.load("digits", loss="cross_entropy")
        assert digits.inputs is not None
        variances, directions = digits.eigenbasis()
        largest = np.argsort(variances)[::-1][: self.components]
        return rf.Problem.from_data(
            digits.inputs @ directions[:, largest] / np.sqrt(variances[largest]), digits.labels, loss="cross_entropy"
        )

    def methods(self) -> dict[str, Any]:
        """The three descents, by the name of their part."""
        return {
            DESCENT: rf.GradientDescent(self.step_size),
            BATCHES: rf.StochasticGradientDescent(self.step_size, self.batch_size),
            FLIPS: rf.StochasticGradientDescent(self.step_size, self.batch_size, self.label_noise),
        }


def target(settings: Settings) -> Target:
    """Three descents on the digits: what flipped labels do to the rank that mini-batches alone do not.

    Raises:
        InvalidInput: scikit-learn, which the digits come with, is not installed: said before any other target's work.
    """
    datasets.check_available("digits")

    def compute(method: Any) -> Callable[[Work], xr.Dataset]:
        def run(work: Work) -> xr.Dataset:
            problem = settings.problem()
            p, k = problem.n_inputs, problem.n_outputs
            return rf.simulate(
                problem,
                rf.LinearNetwork.gaussian(p, p + k + 2, k, settings.scale),
                method,
                steps=settings.steps,
                replicates=settings.replicates,
                seed=settings.seed,
                save_points=settings.save_points,
                ledger="both",
                threads=work.threads,
                progress=work.progress,
                checkpoint=work.checkpoint,
            )

        return run

    words = [word for name, value in asdict(settings).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return Target(
        name="classification",
        title="Flipped labels lower the rank of a softmax classifier; mini-batches alone do not",
        lead="A two-layer linear network with cross-entropy learns the digits of scikit-learn (1797 images, 10 "
        f"classes): by gradient descent, by mini-batches of {settings.batch_size}, and by such mini-batches with "
        f"{settings.label_noise:.0%} of the labels replaced by another class, afresh at every step. The determinant "
        "of M = ZZᵀ follows its exact ledger in all three; only flipped labels keep it falling and take singular "
        "values of W1 to zero.",
        settings=asdict(settings),
        parts=[Part(name, TITLES[name], compute(method), laws.check) for name, method in settings.methods().items()],
        claims=_claims,
        figure=_figure,
        caption=lambda results: _caption(settings, results),
        notes=lambda results: _notes(settings, results),
        options=words,
    )


def count_alive(run: xr.Dataset) -> np.ndarray:
    """How many singular values of W1 are at least a hundredth of their start, shape (replicate, time)."""
    values = run["singular_values_W1"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sum(values >= FALLEN * values[:, :1], axis=-1)


def rank_claims(results: Results) -> list[Verdict]:
    """How many modes of W1 are left at the end, as the median over the replicates.

    Softmax does not see a shift that all scores share, so that G has zero row sums and rank k − 1 at most: with flipped
    labels k − 1 modes are expected to stay, all of them without.
    """
    found = []
    for name, run in results.items():
        p, k = int(run.attrs["n_inputs"]), int(run.attrs["n_outputs"])
        expected = min(p, k - 1) if name == FLIPS else p
        alive = count_alive(run)[:, -1]
        left = float(np.median(alive))
        early = name == FLIPS and left > expected
        found.append(
            laws.Verdict(
                law=f"modes left, {TITLES[name]}",
                statement=f"{expected} of {p} singular values of W1 are at least a hundredth of their start at the end "
                "(median over replicates)",
                predicted=float(expected),
                measured=left,
                error=abs(left - expected),
                tolerance=0.0,
                passed=None if early else left == expected,
                n_checked=len(alive),
                note=f"{left - expected:g} more have not fallen yet: more steps are needed" if early else "",
            )
        )
    return found


def fading_claim(results: Results) -> list[Verdict]:
    """Whether mini-batch noise fades: the rate of log det M over the last fifth, against that with flipped labels."""
    if BATCHES not in results or FLIPS not in results:
        return []
    rates = {}
    for name in (BATCHES, FLIPS):
        ledger, time = results[name]["ledger_log_det"].values, results[name]["time"].values
        since = len(time) - max(2, len(time) // 5)
        rates[name] = float(np.median((ledger[:, -1] - ledger[:, since]) / (time[-1] - time[since])))
    share = rates[BATCHES] / rates[FLIPS]
    accuracy = float(np.median(results[BATCHES]["accuracy"].values[:, -1]))
    faded = share <= FADED
    return [
        laws.Verdict(
            law="mini-batch noise fades",
            statement="as the samples are fitted, the noise of mini-batches dies and det M stops falling: at the end "
            f"it falls at most at {FADED:.0%} of the rate with flipped labels",
            predicted=0.0,
            measured=share,
            error=share,
            tolerance=FADED,
            passed=True if faded else None,
            n_checked=results[BATCHES].sizes["replicate"],
            note=f"accuracy {accuracy:.4g} without flips"
            + ("" if faded else ": samples that are not fitted keep the noise up, or the run is too short"),
        )
    ]


def accuracy_claim(results: Results) -> list[Verdict]:
    """What flipped labels cost in accuracy on the samples themselves, against gradient descent."""
    if DESCENT not in results or FLIPS not in results:
        return []
    plain, flipped = (float(np.median(results[name]["accuracy"].values[:, -1])) for name in (DESCENT, FLIPS))
    return [
        laws.Verdict(
            law="accuracy kept",
            statement="the low-rank network classifies nearly as well: its accuracy on the samples is at most "
            f"{COST:g} below that of gradient descent (medians over replicates)",
            predicted=plain,
            measured=flipped,
            error=max(0.0, plain - flipped),
            tolerance=COST,
            passed=plain - flipped <= COST,
            n_checked=results[FLIPS].sizes["replicate"],
        )
    ]


def _finished(results: Results) -> Results:
    return {
        name: run
        for name, run in results.items()
        if run.sizes["time"] > 1 and bool((run["outcome"] == "completed").all())
    }


def _claims(results: Results) -> list[Verdict]:
    done = _finished(results)
    return [*rank_claims(done), *fading_claim(done), *accuracy_claim(done)]


def _figure(results: Results, columns: Literal[1, 2]) -> Figure | None:
    from rankfall.experiments._classification_figure import draw

    shown = {name: run for name, run in results.items() if run.sizes["time"] > 1}
    return draw(shown, columns) if shown else None


def _caption(settings: Settings, results: Results) -> str:
    text = (
        f"Two-layer linear network, {settings.components} inputs (principal components of the standardised digits, "
        f"scaled to variance 1), width {settings.components + 12} ≥ p + k = {settings.components + 10}, 10 outputs, "
        f"cross-entropy, η = {settings.step_size:g}, {settings.replicates} replicates. (a) det M with its ledger "
        "dashed; dotted where float64 no longer resolves it. (b) Medians of all singular values of W1 with flipped "
        "labels, and in the other runs the largest and the smallest. (c) How many of them are at least a hundredth of "
        "their start. (d) Accuracy on the samples. "
    )
    fading = fading_claim(_finished(results))
    if fading and not fading[0].passed:
        text += (
            f"Without flips det M does not come to rest here: it still falls at {fading[0].measured:.1%} of the rate "
            "with flips. "
        )
    return text.strip()


def _notes(settings: Settings, results: Results) -> list[str]:
    return [
        f"det M exists because the width is at least p + k; {settings.components} components are used of the 61 that "
        "vary, for speed.",
        "Softmax does not see a shift that all scores share: G has zero row sums and rank k − 1 = 9 at most, which is "
        "how many modes of W1 a classifier needs.",
        "Accuracy is measured on the samples that are trained on; nothing is said about new ones.",
    ]
