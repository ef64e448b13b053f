"""What is concluded from ranks that are made up: every outcome, and that a negative is never a failure."""

import numpy as np
import pytest
import xarray as xr

pytest.importorskip("torch")

from rankfall.experiments._beyond import _claims, _figure, _summary
from rankfall.experiments._beyond._experiment import Experiment, three_arms
from rankfall.report import render_figure


def made_up(ends, *, start=8.0, outcome="completed", matrices=2, thing="weights"):
    """A run whose rank goes from `start` to `ends` of it, seed by seed."""
    ends = np.asarray(ends, dtype=float)
    shares = 1 + (ends[:, None] - 1) * np.array([0.0, 0.5, 1.0])
    extra = {"features": ["layer"], "weights": ["matrix"], "Jacobian": []}[thing]
    ranks = start * shares.reshape(*shares.shape, *[1] * len(extra)) * np.ones([matrices] * len(extra))
    return xr.Dataset(
        {
            _claims.THINGS[thing]: (("seed", "step", *extra), ranks),
            "loss": (("seed", "step"), np.ones(shares.shape)),
            "outcome": ("seed", [outcome] * len(ends)),
        },
        coords={"seed": range(len(ends)), "step": [0, 10, 20]},
        attrs={"steps": 20},
    )


def experiment(name="toy", **changes):
    return Experiment(name, name.capitalize(), "", three_arms(lambda arm, work: None), **changes)


STAYED, FELL = [1.0, 0.99, 1.02, 0.95, 1.1], [0.5, 0.6, 0.4, 0.7, 0.3]


@pytest.mark.parametrize(
    "quiet, noisy, outcome, words",
    [
        (STAYED, FELL, "holds", "label noise leaves 0.50 (0.30–0.70), gradient descent 1.00 (0.95–1.10)"),
        (
            FELL,
            [0.1, 0.2, 0.1, 0.2, 0.1],
            "falls without noise",
            "alone lowers it too, label noise further in every seed",
        ),
        (FELL, [0.6, 0.2, 0.1, 0.2, 0.1], "falls without noise", "label noise further in 4 of 5 seeds"),
        (STAYED, [0.95] * 5, "stays with noise", "it stays with label noise as well, below gradient descent in 4 of 5"),
        (FELL, STAYED, "neither", "gradient descent lowers it, and label noise keeps it"),
        ([0.95, 1, 1, 1, 1], [0.96, 0.5, 0.5, 0.5, 0.5], "open", "leaves less in 4 of 5 seeds, 5 of 5"),
        (STAYED[:4], FELL[:4], "open", "leaves less in 4 of 4 seeds, 5 of 5"),
        ([np.nan] * 5, FELL, "open", "nothing that is finite"),
    ],
)
def test_outcomes(quiet, noisy, outcome, words):
    results = {"gd": made_up(quiet), "label-noise": made_up(noisy)}
    assert _claims.find(results, "weights").outcome == outcome
    verdict = _claims.claim(experiment(), results, "weights")
    assert verdict.passed is (True if outcome == "holds" else None)
    assert words in verdict.note and verdict.law == "Toy: rank of the weights"
    assert ("does not hold here" in verdict.note) is (outcome not in ("holds", "open"))
    assert verdict.negative is (outcome not in ("holds", "open"))
    assert (verdict.error == 0.0) is (outcome in ("holds", "open") and verdict.n_checked > 0)
    # the claims of the things that are not there are left out
    assert [each.law for each in _claims.claims(experiment(), results)] == [verdict.law]


def test_a_change_of_five_percent_at_the_limit_changes_the_outcome():
    """0.9 is the limit: 5 % of it below holds, 5 % above does not."""
    for share, outcome in ((0.9 * 0.95, "holds"), (0.9 * 1.05, "stays with noise")):
        results = {"gd": made_up(STAYED), "label-noise": made_up([share] * 5)}
        assert _claims.find(results, "weights").outcome == outcome


def test_the_mean_is_over_matrices_and_relative_to_each_start():
    run = made_up([0.5])
    run["effective_rank_weights"][0, :, 0] = [100.0, 100.0, 100.0]  # a large matrix that stays
    run["effective_rank_weights"][0, :, 1] = [4.0, 3.0, 2.0]
    np.testing.assert_allclose(_claims.ratios(run, "weights"), [[1.0, 0.875, 0.75]], rtol=1e-12)


def test_a_seed_that_diverged_is_left_out_and_named():
    noisy = made_up([*FELL, np.nan])
    noisy["outcome"] = ("seed", ["completed"] * 5 + ["diverged at step 20"])
    results = {"gd": made_up([*STAYED, 1.0]), "label-noise": noisy}
    found = _claims.find(results, "weights")
    assert (found.outcome, found.below, found.compared) == ("holds", 5, 5)
    notes = _summary.general_notes([experiment()], {"toy": results})
    assert notes[1] == "Left out, because they diverged: Toy, label-noise: seed 5 diverged at step 20."


def test_nothing_is_concluded_from_a_part_of_a_run():
    whole, partial = made_up(FELL), made_up(FELL, outcome="interrupted at step 20")
    for results in ({}, {"gd": whole}, {"gd": whole, "label-noise": partial}, {"gd": partial, "label-noise": whole}):
        assert _claims.claims(experiment(), results) == []
        assert _summary.verdict_sentences([experiment()], {"toy": results}) == []


def test_without_gradient_descent_sgd_is_the_arm_without_noise():
    results = {"sgd": made_up(STAYED), "label-noise": made_up(FELL)}
    verdict = _claims.claim(experiment(), results, "weights")
    assert verdict.passed is True and "in every seed below SGD" in verdict.statement


def test_extra_claims_follow():
    results = {"gd": made_up(STAYED), "label-noise": made_up(FELL)}
    more = experiment(extra_claims=lambda given: [sorted(given)])
    assert _claims.claims(more, results)[-1] == ["gd", "label-noise"]


def test_the_summary_names_what_does_not_hold():
    rows = [experiment("one"), experiment("two")]
    results = {
        "one": {"gd": made_up(STAYED), "label-noise": made_up(FELL)},
        "two": {"gd": made_up(STAYED), "label-noise": made_up(STAYED)},
    }
    assert _summary.verdict_sentences(rows, results) == [
        "“With label noise the rank falls, without it stays” holds in 1 of 2 panels (✓).",
        "It stays with label noise as well (“both stay”): Two (weights).",
    ]


def test_counts_add_up_the_matrices_of_the_seeds_that_are_left():
    run = made_up([*FELL, np.nan])
    alive = np.full((6, 3, 2), 5.0)
    alive[:, 1:, 1] = 2.0
    alive[5, 1:] = np.nan
    run["alive_weights"] = (("seed", "step", "matrix"), alive)
    run["rank_jacobian"] = (("seed", "step"), np.array([[9.0, 9.0, 4.0]] * 6))
    assert _summary.counts({"gd": made_up(STAYED), "label-noise": run}) == [
        "Singular values by counting, start → end, medians: above 1% of the largest, weights label-noise 10 → 7; "
        "above 0.0001 of it, as Andriushchenko et al. count, Jacobian label-noise 9 → 4."
    ]
    assert _summary.counts({}) == []


def test_mini_batches_that_lower_the_rank_are_named():
    results = {"gd": made_up(STAYED), "sgd": made_up(FELL), "label-noise": made_up(FELL)}
    assert _summary.verdict_sentences([experiment()], {"toy": results})[1:] == [
        "The noise of the batches alone lowers the rank as well, though gradient descent keeps it: Toy, "
        "mini-batches (SGD) (weights)."
    ]
    results["gd"] = made_up(FELL)
    assert not any("batches" in each for each in _summary.verdict_sentences([experiment()], {"toy": results}))


@pytest.mark.parametrize("columns, panels", [(1, 6), (2, 8)])
def test_the_figure_shows_what_is_there(columns, panels):
    rows = [experiment("one"), experiment("two"), experiment("empty")]
    partial = made_up([*FELL, np.nan], outcome="interrupted at step 20").isel(step=slice(2))
    results = {"one": {"gd": made_up(STAYED), "label-noise": made_up(FELL)}, "two": {"sgd": partial}}
    figure = _figure.draw(rows, results, columns)
    assert len(figure.axes) == panels
    marks = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert marks == ["✓ holds"]
    assert sum(axes.axison for axes in figure.axes) == panels - 4  # features and Jacobian are not there
    last = figure.axes[3 if columns == 1 else 4].lines[-1]
    assert last.get_xdata().tolist() == [0.0, 0.5]  # it was interrupted half way
    assert render_figure(figure, "png").startswith(b"\x89PNG")
    assert _figure.draw(rows, {}, columns) is None
    assert _figure.draw(rows, {"one": {"gd": made_up(STAYED).isel(step=[0])}}, columns) is None


def test_every_outcome_has_a_mark():
    assert set(_figure.MARKS) == set(_claims.Outcome.__args__)
