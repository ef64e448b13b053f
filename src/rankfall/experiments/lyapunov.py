"""How fast every singular value dies, and how many survive: Lyapunov spectra over noise, size and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import rankfall as rf
from rankfall import _checks, laws
from rankfall.experiments import _lyapunov_claims as claims
from rankfall.experiments._target import Part, Target, Work

if TYPE_CHECKING:
    import xarray as xr

    from rankfall.laws import Verdict

__all__ = ["Settings", "target"]

# Share of a run that is left out at its beginning.
_BURN_IN = 0.2
# Strong noise costs less per unit of 1/σ², and shows modes that die slowly: such runs are up to so many times longer.
_LONGER = 8.0


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of the report.

    Inputs are whitened and all singular values of a teacher are 1, so that σ² is the noise relative to the teacher.

    Attributes:
        sizes: (p, k) of the grid, the first one of which is shown in detail.
        ratios: Numbers of inputs p that are compared at two outputs.
        intensities: σ² of the grid, ascending.
        duration: Length of the runs at the weakest noise in units of 1/σ²; at stronger noise up to 8 times as much.
        replicates: Trajectories per run.
        seed: Of starts and noise.
    """

    sizes: tuple[tuple[int, int], ...]
    ratios: tuple[int, ...]
    intensities: tuple[float, ...]
    duration: float
    replicates: int
    seed: int

    @classmethod
    def choose(cls, *, quick: bool = False, **chosen: Any) -> Settings:
        """Take the defaults, a smaller grid if `quick`, and whatever else is given; None counts as not given.

        Raises:
            InvalidInput: Not a setting, or out of range.

        Example:
            >>> from rankfall.experiments import lyapunov
            >>> lyapunov.Settings.choose(quick=True).sizes
            ((5, 2), (2, 2))
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise rf.InvalidInput(f"{', '.join(unknown)}: no such setting of this experiment.")
        return replace(_QUICK if quick else _FULL, **given)._checked()

    def _checked(self) -> Settings:
        try:
            sizes = tuple((_whole(p), _whole(k)) for p, k in self.sizes)
            ratios = tuple(sorted({_whole(p) for p in self.ratios}))
            noises = tuple(sorted({_checks.real_number(x, "intensities", above=0.0) for x in self.intensities}))
        except (TypeError, ValueError) as error:
            if isinstance(error, rf.InvalidInput):
                raise
            raise rf.InvalidInput(
                "sizes must be pairs of inputs and outputs, ratios and intensities lists of numbers."
            ) from None
        if not sizes or not ratios or not noises:
            raise rf.InvalidInput("sizes, ratios and intensities need at least one entry each.")
        return replace(
            self,
            sizes=tuple(dict.fromkeys(sizes)),
            ratios=ratios,
            intensities=noises,
            duration=_checks.real_number(self.duration, "duration", above=0.0),
            replicates=_checks.whole_number(self.replicates, "replicates", at_least=2),
            seed=_checks.seed_number(self.seed),
        )


def _whole(value: Any) -> int:
    return _checks.whole_number(value, "a size")


_FULL = Settings(
    sizes=((5, 2), (2, 2), (4, 1), (3, 3), (4, 4)),
    ratios=(2, 3, 5, 8, 10),
    intensities=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    duration=600.0,
    replicates=32,
    seed=0,
)
_QUICK = replace(
    _FULL, sizes=((5, 2), (2, 2)), ratios=(2, 3, 5), intensities=(0.05, 0.2, 2.0), duration=200.0, replicates=16
)


def target(settings: Settings) -> Target:
    """The figure: decay over hundreds of orders of magnitude, exponents against noise, shape and teacher, the grid."""
    from rankfall.experiments import _lyapunov_figure as figure

    first = settings.sizes[0]
    parts = [Part("decay", f"singular values, p = {first[0]}, k = {first[1]}", partial(_decay, settings), laws.check)]
    for p, k in settings.sizes:
        cells = [(p, k, rank, s) for rank in range(min(p, k) + 1) for s in settings.intensities]
        parts.append(_grid_part(settings, f"grid-{p}x{k}", f"spectra, p = {p}, k = {k}", cells))
    cells = [(p, 2, 1, settings.intensities[0]) for p in settings.ratios]
    parts.append(_grid_part(settings, "ratio", "spectra against p/k", cells))
    return Target(
        name="lyapunov",
        title="Every singular value dies or survives at a rate of its own",
        lead=(
            "Under stochastic gradient flow log σ_i(Z_t) falls along a straight line. The slopes, the Lyapunov "
            "exponents, are measured with a frame that is moved by the same steps and re-orthonormalised as it goes, "
            "so that nothing underflows; their sum is known exactly. How many of them are zero is the rank that "
            "survives: the rank of the teacher where the noise is weak, and something else where it is not."
        ),
        settings=asdict(settings),
        parts=parts,
        claims=partial(claims.claims, settings),
        figure=partial(figure.draw, settings),
        caption=partial(figure.caption, settings),
        notes=partial(claims.notes, settings),
    )


def _grid_part(settings: Settings, name: str, title: str, cells: Sequence[tuple[int, int, int, float]]) -> Part:
    return Part(name, title, partial(_spectra, settings, tuple(cells)), _sum_rules)


def _problem(p: int, k: int, rank: int) -> rf.Problem:
    """Whitened inputs and a teacher whose singular values are 1."""
    teacher = np.zeros((p, k))
    teacher[np.arange(rank), np.arange(rank)] = 1.0
    return rf.Problem.from_statistics(np.eye(p), teacher)


def _flow(intensity: float) -> rf.StochasticGradientFlow:
    return rf.StochasticGradientFlow(label_noise=intensity, step_size=1.0)


def _network(p: int, k: int) -> rf.LinearNetwork:
    return rf.LinearNetwork.gaussian(p, p + k, k, scale=0.5)


def _decay(settings: Settings, work: Work) -> xr.Dataset:
    """One long run of the first size at the weakest noise, with all singular values as logarithms."""
    (p, k), intensity = settings.sizes[0], settings.intensities[0]
    return rf.simulate(
        _problem(p, k, min(p, k)),
        _network(p, k),
        _flow(intensity),
        duration=settings.duration / intensity,
        replicates=settings.replicates,
        seed=settings.seed + 1,  # not the noise of the grid, whose exponents it is compared with
        save_points=121,
        observables=["log_growth", "log_singular_values_Z", "log_singular_values_W1"],
        threads=work.threads,
        progress=work.progress,
        checkpoint=work.checkpoint,
    )


def _spectra(settings: Settings, cells: tuple[tuple[int, int, int, float], ...], work: Work) -> xr.Dataset:
    """The spectra of all cells in one dataset; what is not there after Ctrl-C is NaN."""
    import xarray as xr

    modes = max(p + k for p, k, _, _ in cells)
    count = len(cells)
    exponents, errors = np.full((count, modes), np.nan), np.full((count, modes), np.nan)
    ranks = np.full((count, 2), -1)
    sums, diverged = np.full((count, 4), np.nan), np.zeros(count, dtype=int)
    words = [""] * count

    def dataset() -> xr.Dataset:
        table = np.array(cells)
        return xr.Dataset(
            {
                "n_inputs": ("cell", table[:, 0].astype(int)),
                "n_outputs": ("cell", table[:, 1].astype(int)),
                "teacher_rank": ("cell", table[:, 2].astype(int)),
                "intensity": ("cell", table[:, 3], {"long_name": "σ²"}),
                "exponents": (("cell", "mode"), exponents, {"long_name": "Lyapunov exponents divided by σ²"}),
                "standard_error": (("cell", "mode"), errors),
                "final_rank": (("cell", "bound"), ranks, {"long_name": "least and largest final rank, −1 unknown"}),
                "sum_rule": (("cell", "what"), sums),
                "undecided": ("cell", np.array(words)),
                "diverged": ("cell", diverged, {"long_name": "replicates that diverged"}),
            },
            coords={"what": ["predicted", "measured", "error", "tolerance"], "bound": ["lowest", "highest"]},
        )

    for i, (p, k, rank, intensity) in enumerate(cells):
        try:
            found = rf.lyapunov_spectrum(
                _problem(p, k, rank),
                _network(p, k),
                _flow(intensity),
                duration=settings.duration * min(_LONGER, intensity / settings.intensities[0]) / intensity,
                replicates=settings.replicates,
                seed=settings.seed,
                burn_in=_BURN_IN,
                threads=work.threads,
                progress=work.progress,
            )
        except KeyboardInterrupt:
            if i == 0:
                raise
            raise rf.SimulationInterrupted(f"stopped after {i} of {count} spectra", dataset()) from None
        exponents[i, : p + k] = found["exponents"].values / intensity
        errors[i, : p + k] = found["standard_error"].values / intensity
        ranks[i] = found.attrs["final_rank_lowest"], found.attrs["final_rank_highest"]
        words[i] = found.attrs["final_rank_note"]
        diverged[i] = sum(str(outcome).startswith("diverged") for outcome in found["outcome"].values)
        verdict = laws.lyapunov.check(found)[0]
        sums[i] = verdict.predicted, verdict.measured, verdict.error, verdict.tolerance
    return dataset()


def _sum_rules(result: xr.Dataset) -> list[Verdict]:
    """The sum rule in the cell that comes closest to breaking it."""
    return claims.sum_rule(result)
