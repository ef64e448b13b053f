"""The target "classification": settings, its three runs, and claims that can fail."""

import dataclasses

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments import classification
from rankfall.experiments._target import Work
from rankfall.experiments.classification import BATCHES, DESCENT, FLIPS, Settings

SMALL = {"components": 12, "steps": 6000, "replicates": 2, "save_points": 21, "batch_size": 4, "label_noise": 0.4}


@pytest.fixture(scope="module")
def target():
    return classification.target(Settings.choose(**SMALL))


@pytest.fixture(scope="module")
def results(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification")
    return {part.name: part.compute(Work(None, False, folder / "x.checkpoint")) for part in target.parts}


def test_settings():
    quick = Settings.choose(quick=True)
    assert quick.steps < Settings.choose().steps and quick.components == Settings.choose().components
    assert Settings.choose(label_noise=None) == Settings.choose()
    for wrong, message in (
        ({"colour": 1}, "colour: no such setting"),
        ({"label_noise": 1.0}, "must be below 1, got 1"),
        ({"label_noise": 0.0}, "greater than 0"),
        ({"components": 62}, "at most 61"),
        ({"steps": 0}, "at least 1"),
    ):
        with pytest.raises(rf.InvalidInput, match=message):
            Settings.choose(**wrong)


def test_the_inputs_are_uncorrelated_with_variance_one():
    problem = Settings.choose(**SMALL).problem()
    assert problem.loss == "cross_entropy" and (problem.n_inputs, problem.n_outputs) == (12, 10)
    # the eigenvectors are good to the condition of the twelve largest variances
    np.testing.assert_allclose(problem.covariance, np.eye(12), atol=1e-12)


def test_the_options_make_the_same_settings(target):
    words = dict(zip(target.options[::2], target.options[1::2], strict=True))
    kinds = {field.name: type(getattr(Settings(), field.name)) for field in dataclasses.fields(Settings)}
    chosen = {name: kind(words[f"--{name.replace('_', '-')}"]) for name, kind in kinds.items()}
    assert Settings.choose(**chosen) == Settings.choose(**SMALL)
    assert target.settings == dataclasses.asdict(Settings.choose(**SMALL))


def test_the_ledgers_hold_in_all_three_runs(target, results):
    for part in target.parts:
        verdicts = part.laws(results[part.name])
        assert [verdict.law for verdict in verdicts] == ["determinant ledger", "balance ledger"]
        assert all(verdict.passed for verdict in verdicts), [str(verdict) for verdict in verdicts]


def test_the_claims(target, results):
    """Twelve components do not tell all digits apart, so that mini-batch noise stays: said so, and not a failure."""
    claims = {verdict.law: verdict for verdict in target.claims(results)}
    assert claims["modes left, gradient descent"].passed and claims["modes left, gradient descent"].measured == 12
    assert claims["modes left, mini-batches, flipped labels"].passed
    assert claims["modes left, mini-batches, flipped labels"].measured == 9
    assert claims["mini-batch noise fades"].passed is None
    assert "samples that are not fitted keep the noise up" in claims["mini-batch noise fades"].note
    assert "det M does not come to rest here" in target.caption(results)
    assert len(claims) == 5


def test_claims_can_fail(results):
    swapped = {DESCENT: results[FLIPS], BATCHES: results[BATCHES], FLIPS: results[DESCENT]}
    verdicts = classification.rank_claims(swapped)
    assert verdicts[0].passed is False
    assert verdicts[2].passed is None and "more steps are needed" in verdicts[2].note
    few = {FLIPS: results[FLIPS].copy()}
    few[FLIPS]["singular_values_W1"] = few[FLIPS]["singular_values_W1"] * np.array([1.0] * 8 + [0.0] * 4)
    few[FLIPS]["singular_values_W1"][:, 0] = results[FLIPS]["singular_values_W1"][:, 0]
    assert classification.rank_claims(few)[0].passed is False
    poor = {**results, FLIPS: results[FLIPS].assign(accuracy=0.5 * results[FLIPS]["accuracy"])}
    assert classification.accuracy_claim(results)[0].measured > 2 * classification.accuracy_claim(poor)[0].tolerance
    assert classification.accuracy_claim(poor)[0].passed is False
    rested = results[BATCHES].copy()
    rested["ledger_log_det"] = 0.0 * rested["ledger_log_det"]
    assert classification.fading_claim({**results, BATCHES: rested})[0].passed is True


@pytest.mark.parametrize("columns", [1, 2])
def test_the_figure(target, results, columns):
    figure = target.figure(results, columns)
    assert [axes.get_title(loc="left")[:3] for axes in figure.axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert target.figure({}, columns) is None


def test_what_is_missing_or_interrupted_is_left_out(target, results):
    partial = results[FLIPS].isel(time=slice(5)).assign(outcome=("replicate", ["interrupted at t=1"] * 2))
    some = {DESCENT: results[DESCENT], FLIPS: partial}
    assert [verdict.law for verdict in target.claims(some)] == ["modes left, gradient descent"]
    assert target.claims({}) == []
    assert target.figure(some, 2) is not None
    assert target.caption(some) and target.notes({})
