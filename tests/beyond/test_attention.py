"""The ledgers of the transformer's heads: against another model and loop, with wrong gradients, and what is claimed."""

from functools import partial

import numpy as np
import pytest
import xarray as xr

from rankfall.experiments._target import Work

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from beyond.modules import Encoder, ordinary_loop  # noqa: E402
from rankfall.experiments._beyond import _attention_claims, images, transformer  # noqa: E402
from rankfall.experiments._beyond._attention import AdamW, AttentionBooks  # noqa: E402
from rankfall.experiments._beyond._attention_claims import ledger_claims  # noqa: E402
from rankfall.experiments._beyond._classifier import Schedule  # noqa: E402
from rankfall.experiments._beyond._vectorised import descend  # noqa: E402
from rankfall.torch import Ledger  # noqa: E402

SILENT = Work(threads=None, progress=False, checkpoint=None)
SCHEDULE = Schedule(
    step_size=0.1, flips=0.4, samples=40, tests=30, probe=30, jacobian_probe=2, batch_size=6, steps=25, save_points=3
)
NARROW = transformer.Transformer(features=8, heads=2, head_width=4, hidden=12)
WIDE = transformer.Transformer(features=5, heads=2, head_width=14, hidden=12)
PAIRS = [f"attention.{kind}[{head}]" for kind in ("value-output", "query-key") for head in range(2)]
train = partial(transformer.train, schedule=SCHEDULE, images=images.load(None), work=SILENT)


@pytest.mark.parametrize("arm", ["label-noise", "adamw"])
def test_the_same_ledgers_as_on_torchs_encoder_trained_by_a_loop(arm):
    run = train(NARROW, seeds=[4], arm=arm)
    model = Encoder(NARROW.start(4, 10))
    optimizer = torch.optim.AdamW(model.parameters()) if arm == "adamw" else torch.optim.SGD(model.parameters(), lr=0.1)
    ledger = Ledger(model, optimizer)
    ordinary_loop(model, 4, arm, optimizer)
    history = ledger.history().sel(pair=[f"block.self_attn.{pair.partition('.')[2]}" for pair in PAIRS])
    assert list(run["pair"].values) == PAIRS and list(run["ledger_step"]) == list(history["step"])
    # AdamW moves a weight whose gradient is rounding by its rate, 1e-3, in a direction that rounding decides
    close = {"rtol": 1e-3, "atol": 1e-3} if arm == "adamw" else {"rtol": 1e-4, "atol": 1e-6}
    for name in ("balance", "balance_drift"):
        np.testing.assert_allclose(run[f"ledger_{name}"], history[name], **close)
    if arm == "adamw":  # its own share, no rounding
        np.testing.assert_allclose(run["ledger_balance_error"], history["balance_error"], **close)
        assert float(run["ledger_balance_error"][-1].min()) > 0.01
        assert "ledger_verdicts" not in run.attrs
    else:
        assert bool((run["ledger_balance_error"].max("ledger_step") < 0.02 * run["ledger_balance_drift"][-1]).all())


@pytest.mark.parametrize("arm", ["gd", "sgd", "label-noise"])
def test_plain_descents_obey_their_ledgers(arm):
    run = train(WIDE, seeds=[1, 2], arm=arm)
    balance, determinant = ledger_claims({arm: run})
    assert balance.passed and balance.n_checked == 4 and 0 < balance.error <= balance.tolerance < 1e-4
    assert determinant.passed and determinant.n_checked >= 2 and determinant.error <= determinant.tolerance
    # the ledger's module is the first seed, whose pairs are also measured among the stacked ones
    np.testing.assert_allclose(run["ledger_log_det"][-1], run["pair_log_det"][0, -1], rtol=1e-6)
    np.testing.assert_allclose(run["ledger_log_det"][0], run["pair_log_det"][0, 0], rtol=1e-12)


def test_pairs_against_the_matrices_of_the_module():
    start = WIDE.start(3, 10)
    pairs = WIDE.pairs({name: values[None] for name, values in start.items()})
    first = torch.cat([start["attention.v_proj.weight"].T, start["attention.v_proj.bias"][None]])[:, 14:]
    second = start["attention.out_proj.weight"].T[14:]
    assert torch.equal(pairs["attention.value-output[1]"][0], torch.cat([first.T, second], dim=1))
    query, key = (
        torch.cat([start[f"attention.{name}.weight"], start[f"attention.{name}.bias"][:, None]], dim=1)[:14]
        for name in ("q_proj", "k_proj")
    )
    found = pairs["attention.query-key[0]"]
    assert torch.equal(found[0], torch.cat([query, key], dim=1))
    # the product is what a query and a key, each with a 1 for the shift, meet in
    np.testing.assert_allclose(WIDE.product(found)[0], (query.T @ key).double(), rtol=1e-4, atol=1e-6)


def _steps(books, move, start, count=30):
    """Gradients that a product of both matrices could have: ∂L/∂W1 = −GW2ᵀ, ∂L/∂W2 = −W1ᵀG of every head."""
    source = torch.Generator().manual_seed(0)
    stacked = {name: torch.stack([values, -values]) for name, values in start.items()}
    for _ in range(count):
        slopes = {name: torch.zeros_like(values) for name, values in stacked.items()}
        value, output = stacked["attention.v_proj.weight"], stacked["attention.out_proj.weight"]
        for head in range(2):
            rows = slice(14 * head, 14 * head + 14)
            pull = torch.randn(2, 5, 5, generator=source)
            slopes["attention.v_proj.weight"][:, rows] = output[..., rows].mT @ pull
            slopes["attention.out_proj.weight"][..., rows] = pull @ value[:, rows].mT
        books.step(slopes)
        stacked = move(stacked, slopes)
    return stacked


@pytest.mark.parametrize("arm", ["sgd", "adamw"])
def test_the_module_of_the_books_is_the_first_seed(arm):
    start = WIDE.start(0, 10)
    books = AttentionBooks(2, 14, start, SCHEDULE, arm)
    move = AdamW() if arm == "adamw" else partial(descend, step_size=0.1)
    stacked = _steps(books, move, start)
    for name, parameter in books.module.named_parameters():
        # one rounding of each step at most, should a processor contract a·b + c in one place and not in the other
        torch.testing.assert_close(stacked[name][0], parameter.detach(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(stacked["attention.v_proj.weight"][0], start["attention.v_proj.weight"])


@pytest.mark.parametrize("arm", ["gd", "label-noise"])
def test_gradients_that_are_off_by_a_twentieth_break_the_ledgers(arm, monkeypatch):
    right = AttentionBooks.step

    def wrong(self, slopes):
        right(self, {name: values * (1.05 if "v_proj" in name else 1.0) for name, values in slopes.items()})

    monkeypatch.setattr(AttentionBooks, "step", wrong)
    balance, determinant = ledger_claims({arm: train(WIDE, seeds=[1], arm=arm)})
    assert balance.passed is False and balance.error > 10 * balance.tolerance
    assert "attention.value-output" in balance.note
    assert determinant.passed is False


def _falling(rate, late, outcome="completed", seeds=5):
    """log det of a run that falls at `rate` until half of it and at `late` from then on."""
    steps = np.arange(0, 101, 10)
    fall = np.where(steps <= 50, rate * steps, rate * 50 + late * (steps - 50))
    values = np.arange(seeds)[:, None, None] - fall[None, :, None] * np.array([0.5, 1.5])
    return xr.Dataset(
        {"pair_log_det": (("seed", "step", "pair"), values), "outcome": ("seed", np.array([outcome] * seeds))},
        coords={"seed": np.arange(seeds), "step": steps},
    )


def test_what_is_claimed_of_the_determinant():
    noisy = _falling(0.2, 0.2)
    (holds,) = ledger_claims({"gd": _falling(0.2, 0.002), "label-noise": noisy})
    assert holds.passed is True and holds.measured == pytest.approx(0.01) and holds.n_checked == 5
    assert "log det changes by −10.1 (gradient descent), −20 (SGD with label noise)" in holds.note
    # a rate without noise that is a little too high, or noise that comes to rest: an honest negative, no failure
    for quiet, loud in ((_falling(0.2, 0.0045), noisy), (_falling(0.2, 0.002), _falling(0.2, 0.0))):
        (verdict,) = ledger_claims({"gd": quiet, "label-noise": loud})
        assert verdict.status == "NO" and verdict.note.startswith("does not hold here")
    assert ledger_claims({"gd": noisy}) == []
    assert ledger_claims({"gd": noisy, "label-noise": _falling(0.2, 0.2, "interrupted at step 3")}) == []


def _shrinking(share, seeds=5):
    """Effective rank of two pairs that ends at this share of its start."""
    rank = np.array([20.0, 20.0 * share])[None, :, None] * np.array([1.0, 0.5]) + np.zeros((seeds, 1, 1))
    return xr.Dataset(
        {"pair_effective_rank": (("seed", "step", "pair"), rank), "outcome": ("seed", np.array(["completed"] * seeds))},
        coords={"seed": np.arange(seeds), "step": [0, 1]},
    )


def test_the_rank_of_the_pairs_is_claimed_as_that_of_the_weights():
    verdicts = [
        _attention_claims._pair_ranks({"gd": _shrinking(quiet), "label-noise": _shrinking(noisy)})[0]
        for quiet, noisy in ((0.95, 0.6), (0.95, 0.95), (0.6, 0.5))
    ]
    assert [verdict.passed for verdict in verdicts] == [True, None, None]
    assert [verdict.measured for verdict in verdicts] == pytest.approx([0.6, 0.95, 0.5])
    assert verdicts[0].law == "rank of Z = [W1; W2ᵀ] of the heads' pairs"
    assert _attention_claims._pair_ranks({"gd": _shrinking(1.0)}) == []
