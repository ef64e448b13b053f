"""The experiment of the repulsion: its parts, its claims and its figure; and that its claims can fail."""

import numpy as np
import pytest

import rankfall as rf
from rankfall.experiments import _repulsion_claims as claims
from rankfall.experiments import repulsion
from rankfall.experiments._target import Work
from rankfall.report import render_figure

SMALL = {"replicates": 5, "ensemble": 2000, "save_points": 43}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = repulsion.Settings.choose(quick=True, **SMALL)
    target = repulsion.target(settings)
    work = Work(threads=None, progress=False, checkpoint=tmp_path_factory.mktemp("work") / "x.checkpoint")
    return target, {part.name: part.compute(work) for part in target.parts}


def test_parts_claims_and_laws_pass(made):
    target, results = made
    found = target.claims(results)
    assert [verdict.law for verdict in found] == [
        "sum of the drifts",
        "drift of the eigenvalues",
        "noise of the eigenvalues",
        "repulsion is a coth",
        "eigenvalues on their own",
        "det M decays all the same",
        "with the repulsion W1 loses rank",
        "without it most runs keep it",
        "repulsion drives apart",
        "noise alone only spreads",
    ]
    assert all(verdict.passed for verdict in found), "\n".join(map(str, found))
    assert all(verdict.passed is not False for part in target.parts for verdict in part.laws(results[part.name]))


def test_the_process_loses_the_singular_values_that_the_networks_lose(made):
    _, results = made
    shares = {}
    for name in ("networks", "with-repulsion"):
        values = results[name].singular_values_W1.values
        shares[name] = np.log10(values[:, -1] / values[:, 0])
    assert (shares["networks"].max(0)[2:] < -2).all() and (shares["networks"].min(0)[:2] > -1).all()
    # the noise is the same: what the scheme's order leaves of it is far below the decades that matter
    np.testing.assert_allclose(shares["with-repulsion"], shares["networks"], atol=0.5)


def test_claims_fail_where_they_should(made):
    _, results = made
    kept, free = results["with-repulsion"], results["without-repulsion"]
    swapped = claims.rank_claims(free, kept)
    assert [verdict.passed for verdict in swapped] == [None, None] and swapped[1].measured == 0.0
    assert not claims.rank_claims(kept, kept)[1].passed
    early = claims.rank_claims(kept.isel(time=slice(3)), free.isel(time=slice(3)))
    assert [verdict.passed for verdict in early] == [None, None]
    alike, apart = results["alike"], results["alike-without-repulsion"]
    assert [verdict.passed for verdict in claims.spread_claims(apart, alike)] == [False, False]
    assert not claims.same_determinant(kept, free.assign(log_det=free.log_det + 1e-6)).passed
    run = results["networks"]
    assert not claims.sum_rule(run.assign(force_noise=run.force_noise * (1 + 1e-9))).passed
    found = results["ensemble"]
    wrong = found.assign(push=1.5 * found.push, agreement_p=found.agreement_p * 1e-9)
    wrong.attrs |= {"drift_p": 1e-5, "covariance_p": found.attrs["covariance_p_wrong"]}
    assert [verdict.passed for verdict in claims.ensemble_claims(wrong)] == [False] * 4


def test_figure_is_drawn_for_either_width_and_for_what_there_is(made):
    target, results = made
    for columns in (1, 2):
        assert render_figure(target.figure(results, columns), "png").startswith(b"\x89PNG")
    assert target.figure({}, 2) is None
    for name in results:
        part = {name: results[name]}
        assert target.figure(part, 2) is not None
        target.claims(part)
    assert "1 of the 7 eigenvalues of M carries the decay" in target.caption(results)
    assert target.caption({}) and target.notes(results)


def test_partial_runs_after_an_interruption(made):
    target, results = made
    start = {name: each.isel(time=slice(1)) for name, each in results.items() if "time" in each.dims}
    assert target.figure(start, 2) is not None
    assert all(verdict.passed is not False for verdict in target.claims(start))


def test_an_interrupted_ensemble_is_no_result(tmp_path):
    def stop(state):
        if state.stage == "running":
            raise KeyboardInterrupt

    part = repulsion.target(repulsion.Settings.choose(quick=True, **SMALL)).parts[-1]
    with pytest.raises(KeyboardInterrupt) as caught:
        part.compute(Work(threads=1, progress=stop, checkpoint=tmp_path / "x"))
    assert not isinstance(caught.value, rf.SimulationInterrupted)


def test_settings():
    assert repulsion.Settings.choose(seed=None).replicates > repulsion.Settings.choose(quick=True).replicates
    options = repulsion.target(repulsion.Settings.choose(quick=True, duration=7.5)).options
    assert options[options.index("--duration") + 1] == "7.5"
    for bad, message in (
        ({"speed": 1}, "speed: no such setting"),
        ({"width": 4}, "width must be at least n_inputs . n_outputs = 7"),
        ({"label_noise": 0.0}, "label_noise must be greater than 0"),
        ({"ensemble": 10}, "ensemble must be at least 200"),
    ):
        with pytest.raises(rf.InvalidInput, match=message):
            repulsion.Settings.choose(**bad)
