"""Plain SGD obeys the ledgers, and the ledgers are what an oracle computes from G."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rankfall.errors import LawNotApplicable  # noqa: E402
from rankfall.torch import Ledger, LedgerWarning  # noqa: E402
from torch_ledgers.models import (  # noqa: E402
    Adapted,
    Block,
    Chain,
    FusedHeads,
    PackedHeads,
    WideHeads,
    batches,
    loss_of,
    oracle_balance,
    oracle_gradients,
    oracle_log_det,
)

MODELS = {
    "separate, wide heads": lambda: Block(WideHeads(12)),
    "packed, narrow heads": lambda: Block(PackedHeads()),
    "fused, wide heads": lambda: Block(FusedHeads(11)),
    "adapter": Adapted,
    "chain": Chain,
}
# Over 1000 steps weight decay alone shrinks a matrix to e^(-1); a smallest singular value that falls further would
# amplify rounding in log det by its inverse, which is what `test_a_falling_rank_is_not_mistaken_for_an_error` looks at.
RATE, DECAY = 0.2, 0.005


def train(model, optimizer, steps, seed=0, after=None):
    dtype = next(model.parameters()).dtype
    for x, labels in batches(steps, seed, dtype=dtype):
        optimizer.zero_grad()
        loss_of(model, x, labels).backward()
        optimizer.step()
        if after is not None:
            after()


def made(name, dtype=torch.float64):
    torch.manual_seed(1)
    return MODELS[name]().to(dtype)


def start(name, dtype=torch.float64, **settings):
    model = made(name, dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, **{"lr": RATE, "weight_decay": DECAY, **settings})
    return model, optimizer, Ledger(model, optimizer, query_key=True)


@pytest.mark.parametrize("name", MODELS)
def test_the_oracle_is_the_model(name):
    model = made(name)
    (x, labels), *_ = batches(1)
    loss, G = oracle_gradients(model, x, labels)
    model_loss = loss_of(model, x, labels)
    assert abs(loss - model_loss.item()) < 1e-13  # a mean of 80 numbers of size 1
    model_loss.backward()
    for pair, (W1, W2) in model.factors().items():
        assert G[pair].norm() > 0.0 or pair == "lora"  # B = 0 only stops the gradient of A
        assert G[pair].shape == (W1.shape[0], W2.shape[1])
    ledger = Ledger(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE), query_key=True)
    assert {pair.name for pair in ledger.pairs} == set(model.factors())
    for pair in ledger.pairs:
        W1, W2 = model.factors()[pair.name]
        assert torch.equal(pair.W1, W1) and torch.equal(pair.W2, W2)
        # g1 = −GW2ᵀ and g2 = −W1ᵀG, by rounding of numbers of size 1
        torch.testing.assert_close(pair.g1, -G[pair.name] @ W2.T, atol=1e-14, rtol=0)
        torch.testing.assert_close(pair.g2, -W1.T @ G[pair.name], atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_the_books_are_those_of_the_oracle(name):
    """Q ← a²Q + η²(W2GᵀGW2ᵀ − W1ᵀGGᵀW1) and Σ log det² (aI + ηĜ), from G and the full (p+k)×(p+k) matrix."""
    model, optimizer, ledger = start(name)
    kept = 1.0 - RATE * DECAY
    Q = {pair: oracle_balance(*(m.detach() for m in both)) for pair, both in model.factors().items()}
    logs = dict.fromkeys(Q, 0.0)
    for x, labels in batches(60):
        _, G = oracle_gradients(model, x, labels)
        for pair, (W1, W2) in model.factors().items():
            g, W1, W2 = G[pair], W1.detach(), W2.detach()
            Q[pair] = kept**2 * Q[pair] + RATE**2 * (W2 @ g.T @ g @ W2.T - W1.T @ g @ g.T @ W1)
            p, k = g.shape
            step = torch.cat(
                [
                    torch.cat([kept * torch.eye(p, dtype=g.dtype), RATE * g], dim=1),
                    torch.cat([RATE * g.T, kept * torch.eye(k, dtype=g.dtype)], dim=1),
                ]
            )
            logs[pair] += 2.0 * torch.linalg.slogdet(step).logabsdet.item()
        optimizer.zero_grad()
        loss_of(model, x, labels).backward()
        optimizer.step()
    for account in ledger._accounts:
        pair = account.pair.name
        W1, W2 = (matrix.detach() for matrix in model.factors()[pair])
        # sums of 60 matrices with entries up to 10: a few hundred roundings of 1e-16 · 10
        torch.testing.assert_close(account.books.ledger, Q[pair], atol=1e-12, rtol=0)
        torch.testing.assert_close(Q[pair], oracle_balance(W1, W2), atol=1e-12, rtol=0)
        if account.pair.wide:
            assert account.books.log_det.item() == pytest.approx(logs[pair], abs=1e-12)
    last = ledger.history().isel(step=-1)
    for pair, (W1, W2) in model.factors().items():
        row = last.sel(pair=pair)
        assert float(row.balance) == pytest.approx(oracle_balance(W1, W2).norm().item(), abs=1e-12)
        if W1.shape[1] >= W1.shape[0] + W2.shape[1]:
            # the oracle forms ZZᵀ, which squares the condition number (here below 1e3)
            assert float(row.log_det) == pytest.approx(oracle_log_det(W1, W2).item(), abs=1e-8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_a_thousand_steps(name, dtype):
    model, optimizer, ledger = start(name, dtype)
    ledger.every = 50
    train(model, optimizer, 1000)
    history = ledger.history()
    assert list(history.step.values) == list(range(0, 1001, 50))
    wide = history.where(history.width >= history.n_inputs + history.n_outputs, drop=True)
    assert history.log_det.notnull().sum() == wide.sizes["pair"] * history.sizes["step"]
    if dtype == torch.float64:
        assert float(history.balance_error.max()) < 1e-10
        assert wide.sizes["pair"] == 0 or float(np.abs(wide.log_det_error).max()) < 1e-10
    # it is no news that nothing happens: the ledgers moved by far more than they may be off
    assert float(history.balance_drift.isel(step=-1).min()) > 1e-2
    verdicts = ledger.verdicts(terms=16 * 5)
    assert len(verdicts) == history.sizes["pair"] + wide.sizes["pair"]
    assert [str(v) for v in verdicts if not v.passed] == []
    assert not ledger.problems


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_a_falling_rank_is_not_mistaken_for_an_error(dtype):
    """Strong weight decay sends det(ZZᵀ) to e^(-217): the rounding of Z is amplified, and the tolerance knows."""
    model, optimizer, ledger = start("chain", dtype, weight_decay=0.05)
    ledger.every = 10
    train(model, optimizer, 1000)
    assert float(ledger.history().log_det[-1, 0]) < -150.0
    balance, determinant, _ = ledger.verdicts(terms=80)
    assert balance.passed and determinant.passed
    assert ("rounding hides" in determinant.note) == (dtype == torch.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("wrong", [{"rate": 1.05**0.5}, {"decay": 1.05}], ids=["rate²", "decay"])
def test_a_constant_five_percent_off_is_rejected(name, dtype, wrong, monkeypatch):
    """η² or λ of the ledgers 5 % too large."""
    from rankfall.torch import _ledger
    from rankfall.torch._account import Setting

    real = _ledger.settings_of

    def off(optimizer):
        found = real(optimizer)
        return {
            key: Setting(own.rate * wrong.get("rate", 1.0), 1.0 - (1.0 - own.kept) * wrong.get("decay", 1.0))
            for key, own in found.items()
        }

    monkeypatch.setattr(_ledger, "settings_of", off)
    model, optimizer, ledger = start(name, dtype, weight_decay=DECAY if "decay" in wrong else 0.0)
    train(model, optimizer, 300)
    verdicts = ledger.verdicts(terms=16 * 5)
    passed = [str(v) for v in verdicts if v.passed is not False]
    if "rate" in wrong and dtype == torch.float32:
        # scores have small gradients: 5 % of Σ η²‖g‖² ≈ 1e-4 is below what single precision resolves
        passed = [line for line in passed if "query-key" not in line]
    assert passed == []


def test_settings_of_their_own():
    """Biases without weight decay, another rate for the second matrix, a schedule, clipping and accumulation."""
    model = made("separate, wide heads")
    attention = model.attention
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    outputs = [attention.out_proj.weight, attention.k_proj.weight]
    known = {id(p) for p in biases + outputs}
    others = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.SGD(
        [
            {"params": others},
            {"params": biases, "weight_decay": 0.0},
            {"params": outputs, "lr": torch.tensor(0.3), "weight_decay": 0.02},
        ],
        lr=RATE,
        weight_decay=DECAY,
    )
    ledger = Ledger(model, optimizer, query_key=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 30, gamma=0.8)
    for index, (x, labels) in enumerate(batches(300)):
        (loss_of(model, x, labels) / 2).backward()
        if index % 2:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    history = ledger.history()
    assert history.sizes["step"] == 151
    assert float(history.balance_error.max()) < 1e-12 < 0.1 < float(history.balance_drift.max())
    assert float(np.abs(history.log_det_error).max()) < 1e-11 < 0.1 < float(np.abs(history.log_det_drift).max())
    assert all(verdict.passed for verdict in ledger.verdicts())


def test_maximising():
    model = made("separate, wide heads")
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    groups = [{"params": others, "weight_decay": DECAY}, {"params": biases, "weight_decay": 0.0}]
    ledger = Ledger(model, optimizer := torch.optim.SGD(groups, lr=RATE, maximize=True), query_key=True)
    for x, labels in batches(50):
        optimizer.zero_grad()
        (-loss_of(model, x, labels)).backward()
        optimizer.step()
    assert float(ledger.history().balance_error.max()) < 1e-12
    assert float(np.abs(ledger.history().log_det_error).max()) < 1e-11


@pytest.mark.parametrize("kind", ["adam", "adamw", "momentum", "muon"])
def test_other_optimizers_leave_a_finding(kind):
    model = made("chain")
    parameters = list(model.parameters())
    if kind == "muon":
        muon = getattr(torch.optim, "Muon", None)
        if muon is None:
            pytest.skip("this PyTorch has no Muon")
        # Muon takes matrices only; a pair needs all its parameters in one optimizer
        for layer in (model.layers[0], model.layers[2], model.layers[3]):
            layer.bias = None
        optimizer = muon(model.parameters(), lr=0.02)
    else:
        optimizer = {
            "adam": lambda: torch.optim.Adam(parameters, lr=0.01),
            "adamw": lambda: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
            "momentum": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        }[kind]()
    ledger = Ledger(model, optimizer)
    train(model, optimizer, 50)
    history = ledger.history()
    last = history.isel(step=slice(2, None))  # the first step of SGD with momentum is one without
    assert np.isfinite(history.balance_error).all() and float(last.balance_error.min()) > 1e-6
    wide = history.sel(pair=ledger.pairs[0].name)
    assert np.isfinite(wide.log_det_error).all() and abs(float(wide.log_det_error[-1])) > 1e-2
    # the pairs are pairs all the same
    assert float(history.product_defect.max()) < 1e-12
    with pytest.raises(LawNotApplicable, match=type(optimizer).__name__):
        ledger.verdicts()


def test_a_false_pair_is_told_from_an_optimizer():
    """A ReLU between two layers: the gradients say so at once, whatever the optimizer; SGD's verdict fails."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with pytest.warns(LedgerWarning, match=r"0 → 2.*W1ᵀg1 ≠ g2W2ᵀ"):
        ledger = Ledger(model, optimizer, pairs=[("0", "2")])
        train(model, optimizer, 200)
    assert float(ledger.history().product_defect.max()) > 1e-2
    verdicts = ledger.verdicts()
    assert [verdict.passed for verdict in verdicts] == [False, False]
    assert "W1ᵀg1" in verdicts[0].note


def test_a_bias_that_is_left_out_is_seen():
    """Why the bias belongs to W1: without it the two gradients disagree."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.Linear(12, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with pytest.warns(LedgerWarning, match="W1ᵀg1 ≠ g2W2ᵀ"):
        ledger = Ledger(model, optimizer, pairs=[("0.weight", "1.weight")])
        train(model, optimizer, 100)
    assert ledger.verdicts()[0].passed is False


def slow_descent():
    """Full batch, tiny rate, single precision: an update hardly differs from the last one."""
    model = made("packed, narrow heads", torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    ledger = Ledger(model, optimizer, every=200)
    ((x, labels),) = batches(1, dtype=torch.float32)
    for _ in range(3000):
        optimizer.zero_grad()
        loss_of(model, x, labels).backward()
        optimizer.step()
    return ledger


def test_updates_that_repeat_round_alike_and_do_not_fail(monkeypatch):
    ledger = slow_descent()
    assert [str(v) for v in ledger.verdicts(terms=80) if v.passed is False] == []
    # and the term of the tolerance that stands for them is needed: independent roundings do not explain the error
    from rankfall.torch._account import COLUMNS

    for record in ledger._fetched:
        record[:, COLUMNS.index("still")] = 0.0
    assert any(v.passed is False for v in ledger.verdicts(terms=80))


def test_gradients_that_are_rounding_contradict_no_pair():
    """Saturated in single precision, the gradients of a learned batch are noise; the pair is one all the same."""
    model = made("chain", torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ledger = Ledger(model, optimizer)
    ((x, labels),) = batches(1, size=1, dtype=torch.float32)
    with torch.no_grad():
        model.layers[3].weight *= 4.0
    for _ in range(300):
        optimizer.zero_grad()
        (loss_of(model, x, labels) + loss_of(model, x, labels)).backward()
        optimizer.step()
    assert not ledger.problems
    for parameter in model.parameters():  # nothing but rounding
        parameter.grad.copy_(1e-9 * torch.randn_like(parameter))
    optimizer.step()  # a warning would be an error here
    assert float(ledger.history().product_defect[-1].max()) > 1e-2
