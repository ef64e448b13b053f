"""What the experiment of the repulsion claims, as verdicts on its data."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from scipy.stats import chi2

from rankfall import laws, runs
from rankfall.experiments._target import Results
from rankfall.experiments.claims import FALLEN
from rankfall.laws import Verdict

__all__ = ["ensemble_claims", "rank_claims", "same_determinant", "sum_rule", "who_pays"]

# Of a test: the report's numbers are fixed by its seed, and one seed in so many fails it without anything being wrong.
FALSE_ALARM_RATE = 1e-3


def sum_rule(run: xr.Dataset) -> Verdict:
    """The drifts of all log λ_i sum to −2kσ² tr Σ, at every save point where float64 resolves all modes.

    Tolerance: adding up m² numbers rounds by at most m² u Σ|x|; the vectors are orthonormal to some 10 u.
    """
    parts = laws.eigenvalues.decompose(run)
    predicted = laws.determinant.rate(runs.problem_of(run), runs.method_of(run))
    measured = parts["drift"].sum("mode_Z", skipna=False).values
    modes = parts.sizes["mode_Z"]
    size = abs(parts["pairs"]).sum(["mode_Z", "mode_Z_other"], skipna=False).values
    size = size + (abs(parts["gradient"]) + abs(parts["noise"])).sum("mode_Z", skipna=False).values
    tolerance = (modes**2 + 10.0) * np.finfo(float).eps * size
    errors = np.abs(measured - predicted)
    ratio = np.where(np.isfinite(errors), errors / tolerance, -math.inf)
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    known = np.isfinite(errors)
    left_out = int((~known).sum())
    return Verdict(
        law="sum of the drifts",
        statement="Σ drift of log λ_i = −2kσ² tr Σ, although each has a force of its own",
        predicted=predicted,
        measured=float(measured[worst]),
        error=float(errors[worst]),
        tolerance=float(tolerance[worst]),
        passed=bool(ratio[worst] <= 1.0) if known.any() else None,
        replicate=int(worst[0]) if known.any() else -1,
        n_checked=int(known.any(axis=1).sum()),
        time=float(parts["time"].values[worst[1]]),
        note=f"{left_out} of {known.size} save points left out: a mode is beyond float64" if left_out else "",
    )


def ensemble_claims(found: xr.Dataset) -> list[Verdict]:
    """The martingale test, the coth and the agreement of the process with the networks."""
    replicates = int(found.attrs["replicates"])
    known = np.isfinite(found["push"].values)
    predicted = 1.0 / np.tanh(0.5 * found["gap"].values)
    deviation = ((found["push"].values - predicted) / found["push_error"].values)[known]
    coth_p = float(chi2.sf(np.sum(deviation**2), max(len(deviation), 1)))
    agreement = float(min(1.0, found["agreement_p"].values.min() * found.sizes["mode_Z"]))
    return [
        _test(
            "drift of the eigenvalues",
            "log λ_i less its predicted drift has mean zero",
            found.attrs["drift_p"],
            replicates,
            f"a repulsion 5 % stronger would have p = {found.attrs['drift_p_wrong']:.1g}",
        ),
        _test(
            "noise of the eigenvalues",
            "its increments have the predicted covariance",
            found.attrs["covariance_p"],
            replicates,
            f"a covariance 5 % larger would have p = {found.attrs['covariance_p_wrong']:.1g}",
        ),
        _test(
            "repulsion is a coth",
            f"the push between neighbours is 4n coth(gap/2) in {int(known.sum())} ranges of gaps",
            coth_p,
            replicates,
            "",
        ),
        _test(
            "eigenvalues on their own",
            "log λ_i simulated without the weights are distributed as those of the networks "
            "(Kolmogorov–Smirnov for each mode)",
            agreement,
            replicates,
            "",
        ),
    ]


def _test(law: str, statement: str, p: float, replicates: int, note: str) -> Verdict:
    """A statistical claim: its error is −log₁₀ of the p-value, its tolerance 3."""
    level = -math.log10(max(p, 1e-300))
    words = f"p = {p:.2g}, rejected below {FALSE_ALARM_RATE:g}, the false-alarm rate"
    return Verdict(
        law=law,
        statement=statement,
        predicted=0.0,
        measured=level,
        error=level,
        tolerance=-math.log10(FALSE_ALARM_RATE),
        passed=bool(p >= FALSE_ALARM_RATE),
        n_checked=replicates,
        note="; ".join(part for part in (words, note) if part),
    )


def same_determinant(kept: xr.Dataset, free: xr.Dataset) -> Verdict:
    """Path by path log det M is the same with the repulsion and without.

    Each step rounds sums of m numbers of size up to S = max |log λ|: √steps · m · u · S, ten times.
    """
    ends = kept["log_det"].values, free["log_det"].values
    count = min(ends[0].shape[1], ends[1].shape[1])
    difference = np.abs(ends[0][:, :count] - ends[1][:, :count]).max(axis=1)
    steps = float(kept["step"].values[count - 1])
    size = float(np.nanmax(np.abs(free["log_eigenvalues"].values)))
    tolerance = 10.0 * math.sqrt(max(steps, 1.0)) * kept.sizes["mode_Z"] * np.finfo(float).eps * size
    worst = int(np.nanargmax(difference))
    return Verdict(
        law="det M decays all the same",
        statement="log det M is the same with the repulsion and without, path by path",
        predicted=float(ends[0][worst, count - 1]),
        measured=float(ends[1][worst, count - 1]),
        error=float(difference[worst]),
        tolerance=tolerance,
        passed=bool(difference[worst] <= tolerance),
        replicate=worst,
        n_checked=len(difference),
    )


def fallen(run: xr.Dataset) -> np.ndarray:
    """Median over the replicates of σ_i(W1) at the end over its start."""
    values = run["singular_values_W1"].values
    shares: np.ndarray = np.nanmedian(values[:, -1] / values[:, 0], axis=0)
    return shares


def rank_claims(kept: xr.Dataset, free: xr.Dataset) -> list[Verdict]:
    """With the repulsion singular values of W1 die, without it none does."""
    end = float(kept["time"].values[-1])
    found = []
    for run, name, wanted in (
        (kept, "with the repulsion W1 loses rank", True),
        (free, "without it W1 keeps it", False),
    ):
        shares = fallen(run)
        dead, smallest = int((shares < FALLEN).sum()), float(shares.min())
        if wanted:
            statement = "some singular values of W1 fall below a thousandth of their start (median over replicates)"
            passed = True if dead else None
            note = f"{dead} of {len(shares)}" if dead else f"not yet at t = {end:g}: it takes a longer duration"
        else:
            statement = "no singular value of W1 falls below a tenth of its start (median over replicates)"
            passed = bool(smallest >= 0.1)
            note = f"the smallest share is {smallest:.3g}, with the repulsion {fallen(kept).min():.3g}"
        found.append(
            Verdict(
                law=name,
                statement=statement,
                predicted=math.nan if wanted else 1.0,
                measured=smallest,
                error=smallest if wanted else 1.0 - smallest,
                tolerance=FALLEN if wanted else 0.9,
                passed=passed,
                n_checked=run.sizes["replicate"],
                note=note,
            )
        )
    return found


def who_pays(results: Results) -> str:
    """A sentence on how many eigenvalues of M carry the decay of det M without the repulsion, "" if not known."""
    if "without-repulsion" not in results:
        return ""
    logs = results["without-repulsion"]["log_eigenvalues"].median("replicate").values
    change = logs[-1] - logs[0]
    carrying = int((change < 0.1 * change.sum()).sum())
    return (
        f" Without the repulsion {carrying} of the {len(change)} eigenvalues of M carr{'ies' if carrying == 1 else 'y'} "
        "the decay of det M."
    )
