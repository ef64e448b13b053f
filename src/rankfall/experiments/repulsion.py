"""Why the rank falls: the repulsion between the eigenvalues of M, measured, and switched off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import rankfall as rf
from rankfall import _checks, laws
from rankfall.experiments import _repulsion_claims as claims
from rankfall.experiments._repulsion_ensemble import measure
from rankfall.experiments._target import Part, Results, Target, Work

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from rankfall.laws import Verdict

__all__ = ["Settings", "target"]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers.

    Attributes:
        n_samples: n of the Gaussian data.
        n_inputs: p.
        n_outputs: k.
        width: l, at least p + k.
        label_noise: δ of the stochastic flow.
        step_size: η; σ² = η δ.
        duration: Flow time of the three runs.
        replicates: Trajectories of each; all three have the same starts and the same noise.
        save_points: How many times are kept.
        ensemble: Trajectories of the ensemble in which the law is measured.
        seed: Of data, starts and noise.
    """

    n_samples: int = 1000
    n_inputs: int = 5
    n_outputs: int = 2
    width: int = 10
    label_noise: float = 2.0
    step_size: float = 0.01
    duration: float = 420.0
    replicates: int = 48
    save_points: int = 141
    ensemble: int = 20_000
    seed: int = 0

    @classmethod
    def choose(cls, *, quick: bool = False, **chosen: Any) -> Settings:
        """Take the defaults, fewer trajectories if `quick`, and whatever else is given (None counts as not given).

        Raises:
            InvalidInput: Not an option, or out of range.

        Example:
            >>> from rankfall.experiments import repulsion
            >>> repulsion.Settings.choose(quick=True, seed=3).seed
            3
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise rf.InvalidInput(f"{', '.join(unknown)}: no such setting of this experiment.")
        defaults = cls(replicates=8, ensemble=4_000) if quick else cls()
        return replace(defaults, **given)._checked()

    def _checked(self) -> Settings:
        counts = {
            name: _checks.whole_number(getattr(self, name), name)
            for name in ("n_samples", "n_inputs", "n_outputs", "width", "replicates")
        }
        if counts["width"] < counts["n_inputs"] + counts["n_outputs"]:
            raise rf.InvalidInput(
                f"width must be at least n_inputs + n_outputs = {counts['n_inputs'] + counts['n_outputs']}, so that "
                f"det M is not zero from the start; got {counts['width']}."
            )
        return replace(
            self,
            **counts,
            label_noise=_checks.real_number(self.label_noise, "label_noise", above=0.0),
            step_size=_checks.real_number(self.step_size, "step_size", above=0.0),
            duration=_checks.real_number(self.duration, "duration", above=0.0),
            save_points=_checks.whole_number(self.save_points, "save_points", at_least=3),
            ensemble=_checks.whole_number(self.ensemble, "ensemble", at_least=200),
            seed=_checks.seed_number(self.seed),
        )

    def problem(self) -> rf.Problem:
        """What is learned."""
        return rf.Problem.gaussian(self.n_samples, self.n_inputs, self.n_outputs, seed=self.seed)

    def network(self) -> rf.LinearNetwork:
        """Where the weights start."""
        return rf.LinearNetwork.gaussian(self.n_inputs, self.width, self.n_outputs)

    def method(self) -> rf.StochasticGradientFlow:
        """How they move."""
        return rf.StochasticGradientFlow(self.label_noise, self.step_size)


def target(settings: Settings) -> Target:
    """The experiment: networks, their eigenvalues on their own with and without repulsion, and an ensemble."""
    common: dict[str, Any] = {
        "duration": settings.duration,
        "replicates": settings.replicates,
        "seed": settings.seed,
        "save_points": settings.save_points,
    }

    def networks(work: Work) -> xr.Dataset:
        return rf.simulate(
            settings.problem(),
            settings.network(),
            settings.method(),
            observables=["eigenvalue_forces"],
            threads=work.threads,
            progress=work.progress,
            checkpoint=work.checkpoint,
            **common,
        )

    def process(repulsion: bool) -> Callable[[Work], xr.Dataset]:
        def compute(work: Work) -> xr.Dataset:
            return rf.eigenvalue_process(
                settings.problem(),
                settings.network(),
                settings.method(),
                repulsion=repulsion,
                threads=work.threads,
                progress=work.progress,
                **common,
            )

        return compute

    def alike(repulsion: bool) -> Callable[[Work], xr.Dataset]:
        def compute(work: Work) -> xr.Dataset:
            return rf.eigenvalue_process(
                rf.Problem.from_statistics(np.eye(3), np.zeros((3, 3))),
                rf.LinearNetwork.gaussian(3, 6, 3, 0.5),
                rf.StochasticGradientFlow(label_noise=10.0, step_size=0.01),
                duration=240.0,
                dt=0.04,
                replicates=48,
                seed=(settings.seed + 1) % 2**64,
                save_points=61,
                repulsion=repulsion,
                threads=work.threads,
                progress=work.progress,
            )

        return compute

    def figure(results: Results, columns: Literal[1, 2]) -> Figure | None:
        from rankfall.experiments._repulsion_figure import draw

        return draw(results, columns)

    return Target(
        name="repulsion",
        title="The eigenvalues of M repel each other, and that drives the rank down",
        lead=(
            "Under label noise the logarithms of the eigenvalues of M follow an equation of their own: a gradient "
            "force, a pull of the noise that shrinks all of them, and between any two a repulsion 2 n coth(gap/2). We "
            "record the forces along runs of the networks, measure the repulsion in an ensemble, and then simulate "
            "eigenvalues and eigenvectors without the weights twice, from the same starts with the same noise: as they "
            "are, and with the repulsion switched off. det M decays exactly as before. But the eigenvalues are no "
            "longer driven apart, and W1 keeps all its singular values in most runs, where every run lost some before."
        ),
        settings=asdict(settings),
        parts=[
            Part("networks", "Networks, stochastic gradient flow", networks, laws.check),
            Part("with-repulsion", "Eigenvalues on their own", process(True)),
            Part("without-repulsion", "Eigenvalues on their own, repulsion off", process(False)),
            Part("alike", "No teacher, white inputs", alike(True)),
            Part("alike-without-repulsion", "No teacher, white inputs, repulsion off", alike(False)),
            Part("ensemble", "Ensemble in which the law is measured", lambda work: measure(settings, work)),
        ],
        claims=_claims,
        figure=figure,
        caption=_caption,
        notes=_notes,
        options=_options(settings),
    )


def _options(settings: Settings) -> tuple[str, ...]:
    words: list[str] = []
    for name, value in asdict(settings).items():
        words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    return tuple(words)


def _claims(results: Results) -> list[Verdict]:
    found: list[Verdict] = []
    if "networks" in results:
        found.append(claims.sum_rule(results["networks"]))
    if "push" in results.get("ensemble", {}):
        found += claims.ensemble_claims(results["ensemble"])
    if "with-repulsion" in results and "without-repulsion" in results:
        kept, free = results["with-repulsion"], results["without-repulsion"]
        found += [claims.same_determinant(kept, free), *claims.rank_claims(kept, free)]
    if "alike" in results and "alike-without-repulsion" in results:
        found += claims.spread_claims(results["alike"], results["alike-without-repulsion"])
    return found


def _caption(results: Results) -> str:
    words = (
        "a: the first third of one run, eigenvalues of M coloured by the repulsion that all others together exert "
        "(arrows: where the repulsion alone would take a mode in the time that the arrow spans); grey: two more runs. "
        "b: the repulsion between neighbours, measured as the mean increment of their gap that the other forces leave, "
        "in units of 4n; bars are two standard errors, the line is coth(gap/2), dashed its limit 1: the push never "
        "fades. c, d: singular values of W1, every run faint and medians bold, when eigenvalues and eigenvectors are "
        "simulated on their own with the repulsion and with it switched off, from the same starts with the same noise; "
        "dashed: the geometric mean of the singular values of Z, which is det M to the power 1/(2p + 2k), the same in "
        "both. e: no teacher and white inputs, all directions alike: distance of the outermost eigenvalues, means; "
        "proportional to t with the repulsion, to √t without."
    )
    return words + claims.who_pays(results)


def _notes(results: Results) -> list[str]:
    return [
        "Switching the repulsion off removes the coth term from the equation of the eigenvalues and nothing else: its "
        "pushes cancel in pairs, so that det M decays all the same, and M becomes singular all the same. Where no "
        "direction is preferred (e) all eigenvalues then sink together: what separates them, and so turns shrinking "
        "into a loss of rank, is the repulsion.",
        "With a teacher the gradient separates eigenvalues as well: it holds those that the solution needs. Without "
        "the repulsion the eigenvalues can stay together, and the gradient then holds them all but one or two, which "
        "carry the decay (d). But it need not come to that: in some runs, and for stronger noise (σ² = 0.1 instead of "
        "0.02) in most, they part early, and then W1 loses rank without the repulsion too, sooner even. So the "
        "repulsion makes the loss certain; it is not the only way to it.",
    ]
