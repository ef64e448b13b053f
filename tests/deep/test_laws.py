"""Verdicts on deep runs: one per law and pair, exact laws pass, 5 % off fails."""

from __future__ import annotations

import numpy as np
import pytest

import rankfall as rf
from deep.networks import METHODS, NETWORK, PROBLEM, run_of
from rankfall import laws


@pytest.mark.parametrize("name", METHODS)
def test_every_law_of_every_pair_holds(name):
    run = run_of(name, replicates=6)
    verdicts = laws.check(run, PROBLEM)
    flow = name.startswith("gradient flow")
    words = "law" if flow else "ledger"
    assert [verdict.law for verdict in verdicts] == [
        f"determinant {words}, layers 1–2",
        f"balance {words}, layers 1–2",
        f"balance {words}, layers 2–3",
    ]
    for verdict in verdicts:
        assert verdict.passed, verdict
        assert verdict.n_checked == 6
    assert "no determinant verdict: det M = 0 at all times because the width 4" in verdicts[2].note
    if not flow:
        assert "W3GᵢᵀGᵢW3ᵀ − W2ᵀGᵢGᵢᵀW2" in verdicts[2].statement


@pytest.mark.parametrize("name", ["label noise", "mini-batch", "stochastic flow"])
def test_a_wrong_constant_fails(name):
    """The ledgers' terms 5 % off: B is then 5 % of its change off, the determinant 5 % of its own."""
    run = run_of(name, replicates=4)
    wrong = run.assign(
        ledger_log_det=1.05 * run.ledger_log_det,
        ledger_balance_error=run.ledger_balance_error + 0.05 * run.balance_drift,
    )
    assert [verdict.passed for verdict in laws.check(wrong)] == [False, False, False]


def test_a_drift_of_gradient_flow_fails():
    run = run_of("gradient flow", replicates=4)
    drifted = run.assign(log_det=run.log_det + 1e-6 * run.time, balance_drift=run.balance_drift + 1e-6 * run.time)
    assert [verdict.passed for verdict in laws.check(drifted)] == [False, False, False]


def test_loose_tolerances_are_not_taken_for_violations():
    """An integrator that errs says by how much: the laws allow for it and no more."""
    run = rf.simulate(PROBLEM, NETWORK, rf.GradientFlow(1e-7), duration=2.0, replicates=4, seed=1, save_points=3)
    assert run.balance_drift.values[:, -1].max() > 1e-11  # it does err
    assert all(verdict.passed for verdict in laws.check(run))


def test_balanced_starts_have_no_determinant():
    network = rf.LinearNetwork.balanced(3, [8, 4], 2, scale=0.5)
    run = run_of("label noise", network, replicates=3)
    assert np.isneginf(run.log_det).all() and "ledger_log_det" not in run
    assert run.start_rank.values.tolist() == [2, 2]
    assert run.balance.values[:, 0].max() < 1e-14
    found = laws.check(run)
    assert [verdict.law for verdict in found] == ["balance ledger, layers 1–2", "balance ledger, layers 2–3"]
    assert all(verdict.passed for verdict in found)
    assert "the start has rank 2 of 7" in found[0].note


def test_single_laws_send_to_check():
    run = run_of("label noise")
    with pytest.raises(rf.LawNotApplicable, match=r"laws\.check"):
        laws.ledger.check(run)
    with pytest.raises(rf.InvalidInput, match="not the one of this run"):
        laws.check(run, rf.Problem.gaussian(60, 3, 2, seed=1))
    with pytest.raises(rf.NotARun, match="singular_values_Z2"):
        laws.check(run.drop_vars("singular_values_Z2"))


def test_without_ledgers_there_is_nothing_to_check():
    assert laws.check(run_of("label noise", ledger="none")) == []
    only = laws.check(run_of("label noise", ledger="determinant"))
    assert [verdict.law for verdict in only] == ["determinant ledger, layers 1–2"]
