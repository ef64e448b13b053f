"""The sum rule of the exponents and the count of zeros: what they accept, what they reject, what they leave open."""

from __future__ import annotations

import numpy as np
import pytest

import rankfall as rf
from rankfall._kernels.frame import INTERVAL
from rankfall.laws import lyapunov
from small import METHODS, NARROW, PROBLEM, WIDE

FLOW = rf.StochasticGradientFlow(label_noise=2.0, step_size=0.02)


def growth_run(name="geometric", network=WIDE, **options):
    method, length = METHODS[name]
    kept = {} if name == "geometric" else {"ledger": "both"}
    return rf.simulate(
        PROBLEM, network, method, **{**length, "replicates": 9, "observables": ["log_growth"], **kept, **options}
    )


@pytest.mark.parametrize("network", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("gradient flow")])
def test_every_method_obeys_the_sum_rule(name, network):
    run = growth_run(name, network)
    (verdict,) = lyapunov.check(run)
    assert verdict.passed is True and verdict.n_checked == 9
    assert verdict.tolerance < 1e-8 * max(1e-2, abs(verdict.predicted))
    assert verdict.law in [v.law for v in rf.laws.check(run)]


def test_the_interval_is_that_of_the_kernels():
    assert lyapunov._INTERVAL == INTERVAL


@pytest.mark.parametrize("name", ["geometric", "label noise"])
def test_a_growth_that_is_off_is_seen(name):
    """By 1e-6 of one mode, a hundred thousandth of what an error of 5 % would do."""
    run = growth_run(name)
    wrong = run.copy(deep=True)
    wrong["log_growth"].values[3, 1:, 2] *= 1 + 1e-6
    verdict = lyapunov.check(wrong)[0]
    assert verdict.passed is False and verdict.replicate == 3


def test_a_wrong_constant_is_seen():
    run = growth_run(save_points=20)
    off = rf.Problem.from_statistics(PROBLEM.covariance, PROBLEM.cross_covariance)
    assert lyapunov.check(run, off)[0].passed is True
    scaled = run.assign(covariance=run["covariance"] * (1 + 1e-7))
    assert lyapunov.check(scaled)[0].passed is False


@pytest.mark.filterwarnings("ignore::rankfall.errors.StepSizeWarning")
@pytest.mark.parametrize(
    ("method", "seed"),
    [
        (rf.StochasticGradientDescent(0.05, 2, label_noise=1.0), 0),
        (rf.StochasticGradientDescent(0.05, 2, label_noise=1.0), 1),
        (rf.LabelNoiseDescent(label_noise=5.0, step_size=0.08), 2),
    ],
)
def test_large_steps_round_more_and_do_not_fail(method, seed):
    """At such steps ‖H‖ is above the 0.3 that the tolerance once took for granted, and some replicates diverge."""
    problem = rf.Problem.gaussian(n_samples=200, n_inputs=5, n_outputs=2, seed=0)
    network = rf.LinearNetwork.gaussian(n_inputs=5, width=9, n_outputs=2)
    run = rf.simulate(
        problem, network, method, steps=3000, replicates=16, seed=seed,
        observables=["log_growth"], ledger="determinant", save_points=30,
    )  # fmt: skip
    verdict = lyapunov.check_sum(run)
    assert verdict.passed
    # Still sharp: a sum that is off by a millionth of its fall is seen.
    run["log_growth"] *= 1 + 1e-6
    assert lyapunov.check_sum(run).passed is False


def test_predicted_sum_is_the_rate_of_half_the_determinant():
    expected = -2 * FLOW.intensity * np.trace(PROBLEM.covariance)
    assert lyapunov.predicted_sum(PROBLEM, FLOW) == pytest.approx(expected, rel=1e-14)
    with pytest.raises(rf.LawNotApplicable):
        lyapunov.predicted_sum(PROBLEM, rf.GradientDescent(0.1))


def test_runs_without_growth_or_ledger_are_named():
    plain = rf.simulate(PROBLEM, WIDE, FLOW, duration=1.0, dt=0.01, replicates=9, save_points=3)
    with pytest.raises(rf.LawNotApplicable, match="log_growth"):
        lyapunov.check(plain)
    assert lyapunov.check_sum not in [v.law for v in rf.laws.check(plain)]
    with pytest.raises(rf.LawNotApplicable, match="ledger_log_det"):
        lyapunov.check(growth_run("label noise", ledger="balance"))
    with pytest.raises(rf.NotARun):
        lyapunov.check(3)


RATES = np.array([1e-4, -2e-4, -0.9, -0.9, -3.6])
ERRORS = np.array([3e-4, 3e-4, 0.01, 0.01, 0.02])
RUN = {"span": 1e3, "replicates": 16}


def test_zeros_are_counted():
    found = lyapunov.final_rank(RATES, ERRORS, **RUN)
    assert found.rank == found.lowest == found.highest == 2
    assert found.survives.tolist() == [True, True, False, False, False]
    assert found.dies.tolist() == [False, False, True, True, True] and found.note == ""


def test_five_per_cent_of_the_mean_rate_is_no_zero():
    """The rule can fail: an exponent of −0.05 s is dead, not zero, in a run of this length."""
    moved = RATES.copy()
    moved[1] = 0.05 * RATES.mean()
    assert lyapunov.final_rank(moved, ERRORS, **RUN).rank == 1


def test_wide_bands_and_short_spans_are_undecided():
    wide = lyapunov.final_rank(RATES, 100 * ERRORS, **RUN)
    assert wide.rank is None and wide.note.startswith("mode 1: 0.0001 ± 0.099, single trajectories ± 0.12")
    # with s = 0.34: in a run of 200 a mode that dies at 0.05 s falls by e^-3.4 only
    assert lyapunov.final_rank([0.0, -0.02, -1.0], [1e-4, 1e-4, 1e-2], span=200.0).rank is None
    slow = lyapunov.final_rank([0.0, -0.02, -1.0], [1e-4, 1e-4, 1e-2], span=400.0)
    assert (slow.rank, slow.lowest, slow.highest) == (1, 1, 1)


def test_a_critical_mode_is_never_decided():
    """|B_t| of a Brownian motion: mean √(2/π) σ√t, spread √(1 − 2/π) σ√t, however long the run."""
    for span in (1e3, 1e5, 1e7):
        each = -np.abs(np.random.default_rng(0).standard_normal(64)) * np.sqrt(span) / span
        mu, error = each.mean(), each.std(ddof=1) / 8
        found = lyapunov.final_rank([0.0, mu, -1.0], [0.0, error, 1e-3], span=span, replicates=64)
        assert (found.rank, found.lowest, found.highest) == (None, 1, 2)
        assert mu + 3.3 * error < 0  # though its exponent is below zero beyond doubt
    # a mode that drifts down at the same pace and wanders as much is told apart by its length
    for span, rank in ((1e3, None), (1e5, 1)):
        found = lyapunov.final_rank([0.0, -0.03, -1.0], [0.0, span**-0.5 / 8, 1e-3], span=span, replicates=64)
        assert found.rank == rank


def test_few_degrees_of_freedom_widen_the_band():
    assert lyapunov.final_rank(RATES, 3 * ERRORS, **RUN).rank == 2
    assert lyapunov.final_rank(RATES, 3 * ERRORS, **RUN, degrees_of_freedom=3).rank is None


def test_unknown_errors_decide_nothing():
    found = lyapunov.final_rank([0.0, -1.0], [np.nan, np.nan], span=100.0)
    assert (found.rank, found.lowest, found.highest) == (None, 0, 2)


@pytest.mark.parametrize(
    ("exponents", "errors", "options", "words"),
    [
        ([0.0, -1.0], [0.1], {}, "two lists of one length"),
        ([], [], {}, "two lists of one length"),
        ([0.0], [0.1], {"confidence": 1.0}, "between 0 and 1"),
        ([0.0], [0.1], {"confidence": 0.0}, "confidence must be greater"),
        ([0.0], [0.1], {"span": 0.0}, "span must be greater"),
        ([0.0], [0.1], {"replicates": 0}, "replicates must be at least 1"),
    ],
)
def test_bad_input_of_the_count(exponents, errors, options, words):
    with pytest.raises(rf.InvalidInput, match=words):
        lyapunov.final_rank(exponents, errors, **{"span": 10.0, **options})
