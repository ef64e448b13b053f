"""What the adapters' verdicts and notes say, on datasets made for the purpose."""

import json

import numpy as np
import pytest
import xarray as xr

pytest.importorskip("torch")

from rankfall.experiments._beyond._adapter_claims import claims, notes
from rankfall.laws import Verdict

QUIET = [[8.0, 6.0]] * 5


def arm(product, *, outcome="completed", verdicts=(), drift=4.0, error=1e-6, spectrum=(2.0, 0.6), rank=3.0):
    """A run of two save points whose effective rank of BA ends at `product`, shape (seed, pair)."""
    product = np.asarray(product)
    seeds = len(product)
    last = np.stack([np.zeros((seeds, 2)), product], axis=1)
    pairs = ("seed", "step", "pair")

    def ends(first, second):
        return pairs, np.broadcast_to(np.array([first, second])[:, None], (seeds, 2, 2)).astype(float)

    modes = np.broadcast_to(np.array([(1.0, 0.5), spectrum])[:, None], (seeds, 2, 2, 2)).astype(float)
    return xr.Dataset(
        {
            "effective_rank_product": (pairs, last),
            "alive_product": ends(0, 9),
            "singular_values_A": ((*pairs, "mode"), modes),
            "singular_values_product": ((*pairs, "mode"), modes),
            "balance": ends(2, 5),
            "balance_drift": ends(0, drift),
            "balance_error": ends(0, error),
            **{
                f"effective_rank_{thing}": (("seed", "step"), np.broadcast_to([4.0, rank], (seeds, 2)))
                for thing in ("weights", "features", "jacobian")
            },
            "loss": (("seed", "step"), 1.0 + 0.0 * last.sum(-1)),
            "test_accuracy": (("seed", "step"), np.full((seeds, 2), 0.875)),
            "outcome": ("seed", [outcome] * seeds),
        },
        coords={"pair": ["query", "value"], "step": [0, 10], "mode": [1, 2]},
        attrs={"ledger": json.dumps([verdict.to_dict() for verdict in verdicts])},
    )


def of(verdicts, word):
    return next((verdict for verdict in verdicts if word in verdict.law), None)


def pair(passed, error, note=""):
    return Verdict("balance", "…", 3.0, 3.0, error, 1e-4, passed, n_checked=1, time=10.0, note=note)


@pytest.mark.parametrize(
    "noisy, passed, words",
    [
        ([[6.0, 5.0]] * 5, True, "query 8.00 without noise and 6.00 with it, value 6.00 without noise and 5.00"),
        ([[9.0, 6.0]] * 5, None, "does not hold here"),
        ([[7.0, 5.9]] * 5, None, "does not hold here"),  # 0.92 of it: lower, but not by a tenth
        ([[6.0, 5.0]] * 4 + [[9.0, 9.0]], None, "open: so in 4 of 5 seeds"),
        ([[6.0, 5.0]] * 4, None, "open: so in 4 of 4 seeds"),
        ([[6.0, 5.0]] * 4 + [[np.nan, np.nan]], None, "open: so in 4 of 4 seeds"),
        ([[np.nan, np.nan]] * 5, None, "open: so in 0 of 0 seeds"),
    ],
)
def test_the_rank_of_the_product(noisy, passed, words):
    verdict = of(claims("X", {"gd": arm(QUIET[: len(noisy)]), "label-noise": arm(noisy)}), "against gradient descent")
    assert verdict.passed is passed and words in verdict.note
    assert verdict.negative is words.startswith("does not hold")
    assert verdict.n_checked == np.isfinite(noisy).all(1).sum()
    if verdict.n_checked:
        shares = np.mean(noisy, axis=1) / 7.0
        assert verdict.measured == pytest.approx(np.nanmedian(shares))


def test_label_noise_is_compared_with_its_own_loss_and_adamw_with_itself():
    runs = {"gd-smoothed": arm([[5.0, 5.0]] * 5), "label-noise": arm([[4.0, 4.0]] * 5)}
    (found,) = claims("X", runs)
    assert "smoothed labels, its loss without its noise" in found.law and found.measured == pytest.approx(0.8)
    runs = {"gd": arm(QUIET), "adamw": arm([[4.0, 4.0]] * 5), "adamw-label-noise": arm([[3.0, 3.0]] * 5)}
    found = claims("X", runs)
    assert [verdict.law for verdict in found] == ["X: rank of BA, AdamW with label noise against AdamW"]
    assert found[0].passed and found[0].measured == pytest.approx(0.75)


def test_an_interrupted_arm_is_not_judged():
    runs = {"gd": arm(QUIET), "label-noise": arm(QUIET, outcome="interrupted at step 10")}
    assert claims("X", runs) == [] and claims("X", {}) == []
    runs["label-noise"] = arm(QUIET).isel(step=[0])
    assert claims("X", runs) == [] and len(notes(16, runs)) == 2  # of the descent alone


def test_the_ledgers_together():
    good, better = pair(True, 5e-5), pair(True, 1e-6)
    verdict = of(
        claims("X", {"gd": arm(QUIET, verdicts=[better, good]), "sgd": arm(QUIET, verdicts=[better])}), "ledger"
    )
    assert verdict.passed is True and (verdict.error, verdict.n_checked, verdict.time) == (5e-5, 3, 10.0)
    broken = of(claims("X", {"gd": arm(QUIET, verdicts=[good, pair(False, 3e-4)])}), "ledger")
    assert broken.passed is False and broken.error == 3e-4 and "1 pairs broke it" in broken.note
    lost = [good, pair(None, float("nan"), "gradients or weights are not finite at step 4")]
    some = of(claims("X", {"gd": arm(QUIET, verdicts=lost)}), "ledger")
    assert some.passed is True and "1 pairs could not be checked: gradients or weights are not finite" in some.note
    none = of(claims("X", {"gd": arm(QUIET, verdicts=lost[1:])}), "ledger")
    assert none.passed is None and none.n_checked == 0


def test_notes():
    runs = {
        "gd": arm(QUIET),
        "gd-smoothed": arm(QUIET),
        "label-noise": arm(QUIET, spectrum=(8.0, 0.51), rank=2.0),
        "adamw": arm(QUIET, drift=6.0, error=5.4),
        "sgd": arm([[np.nan, np.nan]] * 5),
    }
    text = "\n".join(notes(16, runs))
    for words in (
        "of 16 directions BA uses",
        "gd 9 and 9, σ₁ 2 and 2, 87.5%; ",
        "label-noise 9 and 9, σ₁ 8 and 8, 87.5%",
        "no singular value of A ends below its start",
        "weights 0.75 and 0.50, features 0.75 and 0.50, Jacobian 0.75 and 0.50",
        "moves it by 2 times what it was; its distance from the ledger of plain SGD is 2.5e-07 times that",
        "AdamW moves Q by 3 times what it was; its distance from the ledger of plain SGD is 0.9 times that",
    ):
        assert words in text, words
    assert "sgd " not in text  # nothing is left of it
    fallen = notes(16, runs | {"label-noise": arm(QUIET, spectrum=(8.0, 0.1))})
    assert "fall to 0.2 of their start" in "\n".join(fallen)
    assert notes(16, {}) == []
