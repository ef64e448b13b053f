"""The measures of one spectrum, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from rankfall._checks import real_number
from rankfall.errors import InvalidInput
from rankfall.ranks import COUNTS, MEASURES
from rankfall.scan._spectrum import Ends, Spectrum

__all__ = [
    "DEFAULT_MEASURES",
    "OF_ENDS",
    "Measured",
    "check_energy",
    "check_measures",
    "did_you_mean",
    "measure",
    "nothing_measured",
]

DEFAULT_MEASURES = ("stable_rank", "effective_rank", "energy_rank", "numerical_rank")
_ALWAYS = ("effective_rank", "energy_rank")  # for the share that is used and for what factors would save

# What needs no more than σ₁, ‖W‖_F and a threshold.
OF_ENDS = ("stable_rank", "numerical_rank")

Value = int | float


class Measured:
    """What is computed from a spectrum.

    Attributes:
        values: Measure → value.
        share: Effective rank over the number of singular values.
        rank: Least rank that keeps the wanted energy.
    """

    def __init__(self, values: Mapping[str, Value], share: float, rank: int | None) -> None:
        self.values, self.share, self.rank = values, share, rank


def measure(found: Spectrum | Ends, shape: tuple[int, int], names: Iterable[str], energy: float) -> Measured:
    """Compute measures of a finite spectrum.

    The numerical rank counts what is above the error of the method as well as above the usual max(m, n)·eps·σ₁, with
    eps of the numbers that the matrix was given in.
    """
    if isinstance(found, Ends):
        known: dict[str, Value] = {
            "stable_rank": (found.norm / found.largest) ** 2 if found.largest else 0.0,
            "numerical_rank": found.rank,
        }
        return Measured({name: known[name] for name in names}, float("nan"), None)
    relative = max(shape) * found.precision
    arguments: dict[str, dict[str, float]] = {
        "numerical_rank": {"rtol": relative, "atol": found.error},
        "energy_rank": {"q": energy},
    }
    values: dict[str, Value] = {}
    for name in (*names, *_ALWAYS):
        if name not in values:
            value = float(MEASURES[name](found.values, **arguments.get(name, {})))
            values[name] = int(value) if name in COUNTS else value
    wanted = {name: values[name] for name in names}
    return Measured(wanted, values["effective_rank"] / len(found.values), int(values["energy_rank"]))


def nothing_measured(names: Iterable[str]) -> Measured:
    """Stands where the matrix is not finite."""
    return Measured({name: float("nan") for name in names}, float("nan"), None)


def check_measures(names: Iterable[str] | str | None, spectra: bool = True) -> tuple[str, ...]:
    """Return the names of measures in the order asked for; "all" stands for all of them.

    Raises:
        InvalidInput: An unknown name, or a measure that needs the spectra that are not wanted.
    """
    if not isinstance(spectra, bool):
        raise InvalidInput(f"spectra must be True or False, got {spectra!r}.")
    default = DEFAULT_MEASURES if spectra else OF_ENDS
    if names is None:
        return default
    given = [names] if isinstance(names, str) else list(names)
    chosen: dict[str, None] = {}
    for name in given:
        plain = str(name).strip().lower().replace("-", "_").replace(" ", "_")
        if plain == "all":
            chosen |= dict.fromkeys(MEASURES)
        elif plain in MEASURES or f"{plain}_rank" in MEASURES:  # the table calls them by the short names
            chosen[plain if plain in MEASURES else f"{plain}_rank"] = None
        else:
            raise InvalidInput(f"there is no measure {name!r}{did_you_mean(plain, [*MEASURES, 'all'])}.")
    needing = [name for name in chosen if name not in OF_ENDS]
    if needing and not spectra:
        raise InvalidInput(
            f"without spectra there are {' and '.join(OF_ENDS)} alone, and {', '.join(needing)} cannot be had. Leave "
            "out the measures, or let the spectra be computed."
        )
    return tuple(chosen) or default


def check_energy(energy: float) -> float:
    """Return the fraction of the energy that a factorisation keeps.

    Raises:
        InvalidInput: Not strictly between 0 and 1.
    """
    fraction = real_number(energy, "energy")
    if not 0.0 < fraction < 1.0:
        raise InvalidInput(f"energy must lie strictly between 0 and 1, got {fraction:g}.")
    return fraction


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that says which names there are, the closest one first if there is a close one.

    Example:
        >>> did_you_mean("stabel_rank", ["stable_rank", "srank"])
        '; did you mean stable_rank? There are stable_rank, srank'
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}? There are {', '.join(names)}" if close else f"; choose {', '.join(names)}"
