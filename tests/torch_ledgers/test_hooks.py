"""The ledger is a guest: it changes nothing, stops nothing, and leaves nothing behind."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rankfall.errors import InvalidInput  # noqa: E402
from rankfall.torch import Ledger, LedgerWarning  # noqa: E402
from torch_ledgers.models import Adapted, Block, PackedHeads, WideHeads, batches, loss_of  # noqa: E402

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.2, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "fused": lambda p: torch.optim.SGD(p, lr=0.2, weight_decay=0.01, fused=True),
    "one by one": lambda p: torch.optim.SGD(p, lr=0.2, weight_decay=0.01, foreach=False),
}


def train(model, optimizer, steps, seed=0, closure=False):
    dtype = next(model.parameters()).dtype
    for x, labels in batches(steps, seed, dtype=dtype):

        def backward(x=x, labels=labels):
            optimizer.zero_grad()
            loss = loss_of(model, x, labels)
            loss.backward()
            return loss

        if closure:
            optimizer.step(backward)
        else:
            backward()
            optimizer.step()


def chain(dtype=torch.float64):
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.Linear(12, 3)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_weights_are_the_same_bit_for_bit(kind, dtype):
    results = []
    for watched in (False, True):
        torch.manual_seed(3)
        model = Block(WideHeads(12)).to(dtype)
        model.mlp.append(torch.nn.Dropout(0.2))  # draws random numbers: the ledger must draw none
        optimizer = OPTIMIZERS[kind](model.parameters())
        if watched:
            ledger = Ledger(model, optimizer, query_key=True, every=3)
        train(model, optimizer, 40)
        results.append([p.detach().clone() for p in model.parameters()] + [torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert ledger.history().sizes["step"] == 14


def snapshot(model, optimizer):
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    modules = [sorted(vars(module)) for module in model.modules()]
    inner = [
        len(found)
        for module in model.modules()
        for name, found in vars(module).items()
        if name.endswith("hooks") and isinstance(found, dict)
    ]
    parameters = [[*sorted(vars(p)), len(p._backward_hooks or ())] for p in model.parameters()]
    return modules, inner, parameters, [len(getattr(optimizer, name)) for name in hooks], sorted(vars(optimizer))


def test_nothing_is_left_behind():
    model = Block(PackedHeads()).double()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    train(model, optimizer, 1)
    before = snapshot(model, optimizer)
    ledger = Ledger(model, optimizer)
    watched = snapshot(model, optimizer)
    assert watched[:3] == before[:3] and watched[4] == before[4]  # neither modules nor parameters are touched
    assert watched[3] == [1, 1]
    train(model, optimizer, 3)
    ledger.remove()
    assert snapshot(model, optimizer) == before
    train(model, optimizer, 3)
    ledger.remove()  # a second time does no harm
    assert ledger.history().step.values.tolist() == [0, 1, 2, 3]
    assert ledger.verdicts()[0].passed


def test_two_ledgers_and_a_copy_of_the_optimizer():
    model = chain()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    first, second = Ledger(model, optimizer), Ledger(model, optimizer, every=2)
    copy.deepcopy(optimizer)
    train(model, optimizer, 4)
    assert first.history().sizes["step"] == 5 and second.history().sizes["step"] == 3
    assert np.array_equal(first.history().balance_error[::2], second.history().balance_error)


@pytest.mark.parametrize("keyword", [False, True])
def test_closures(keyword):
    model, other = chain(), chain()
    optimizer, plain = (OPTIMIZERS["sgd"](m.parameters()) for m in (model, other))
    ledger = Ledger(model, optimizer)
    if keyword:
        step = optimizer.step
        optimizer.step = lambda closure: step(closure=closure)
    train(model, optimizer, 30, closure=True)
    train(other, plain, 30)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(verdict.passed for verdict in ledger.verdicts())
    assert float(ledger.history().balance_error.max()) < 1e-13


def test_several_evaluations_in_a_step_are_reported_and_do_not_stop_the_training():
    model, other = chain(), chain()
    optimizer, plain = (torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=4) for m in (model, other))
    with pytest.warns(LedgerWarning, match="closure .* times") as caught:
        ledger = Ledger(model, optimizer)
        train(model, optimizer, 3, closure=True)
    assert len(caught) == 1
    train(other, plain, 3, closure=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert np.isnan(ledger.history().balance_error[-1]).all() and np.isfinite(ledger.history().balance[-1]).all()


def test_gradients_that_are_not_numbers():
    model = chain()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    ledger = Ledger(model, optimizer)
    train(model, optimizer, 5)
    with pytest.warns(LedgerWarning, match="ledger is NaN from here on") as caught:
        for _ in range(3):
            loss_of(model, *next(batches(1))).backward()
            model[0].weight.grad[0, 0] = torch.nan
            optimizer.step()
    assert len(caught) == 1 and set(ledger.problems) == {"0 → 1"}
    error = ledger.history().balance_error[:, 0]
    assert np.isfinite(error[:6]).all() and np.isnan(error[6:]).all()
    verdicts = ledger.verdicts()
    # what came before is judged, and the verdict says that there was more
    assert all(v.passed and "finite" in v.note for v in verdicts)


def test_an_error_in_the_books_does_not_stop_the_training(monkeypatch):
    """Not even where warnings are errors, as they are in these tests."""
    model, other = chain(), chain()
    optimizer, plain = (OPTIMIZERS["sgd"](m.parameters()) for m in (model, other))
    ledger = Ledger(model, optimizer)
    monkeypatch.setattr(ledger._accounts[0], "step", lambda settings: 1 / 0)
    monkeypatch.setattr(ledger._accounts[0], "measure", lambda: 1 / 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 3)
    train(other, plain, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert ledger.problems == {"0 → 1": "ZeroDivisionError: division by zero"}
    assert np.isnan(ledger.history().balance_error[1:]).all()


def test_a_parameter_that_leaves_the_optimizer():
    model = chain()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    ledger = Ledger(model, optimizer)
    optimizer.param_groups[0]["params"] = list(model[1].parameters())
    with pytest.warns(LedgerWarning, match=r"'0\.weight' is no longer"):
        train(model, optimizer, 2)
    assert "0 → 1" in ledger.problems


def test_a_step_that_fails_is_not_entered():
    model = chain()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    ledger = Ledger(model, optimizer)
    train(model, optimizer, 3)
    handle = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(model, optimizer, 1)
    handle.remove()
    train(model, optimizer, 3)
    assert ledger.history().sizes["step"] == 7
    assert float(ledger.history().balance_error.max()) < 1e-14


def test_steps_without_gradients():
    """A pair that a step does not use stays where it is, weight decay or not."""
    model = torch.nn.ModuleDict({"a": chain(), "b": chain()})
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    ledger = Ledger(model, optimizer)
    for index, (x, labels) in enumerate(batches(20)):
        optimizer.zero_grad()
        loss_of(model["b" if index % 3 else "a"], x, labels).backward()
        optimizer.step()
    assert float(ledger.history().balance_error.max()) < 1e-14
    assert all(verdict.passed for verdict in ledger.verdicts())


def test_scaled_gradients():
    """A fused optimizer unscales the gradients within the step, and skips it where they overflowed."""
    model, other = chain(torch.float32), chain(torch.float32)
    optimizer, plain = (OPTIMIZERS["fused"](m.parameters()) for m in (model, other))
    ledger = Ledger(model, optimizer)
    for m, o in ((model, optimizer), (other, plain)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for index, (x, labels) in enumerate(batches(40, dtype=torch.float32)):
            o.zero_grad()
            loss = loss_of(m, x, labels) * (torch.inf if index == 20 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(o)
            scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert not ledger.problems
    assert [str(v) for v in ledger.verdicts(terms=80) if not v.passed] == []
    assert float(ledger.history().balance_drift[-1, 0]) > 1e-2


def test_half_precision_weights():
    model = chain(torch.bfloat16)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    ledger = Ledger(model, optimizer)
    train(model, optimizer, 30)
    # u = 2⁻⁹: rounding explains what is left
    assert all(verdict.passed is not False for verdict in ledger.verdicts(terms=80))
    assert np.isfinite(ledger.history().balance_error).all()


def test_continuing():
    runs = []
    for interrupted in (False, True):
        model = Block(WideHeads(12)).double()
        torch.manual_seed(5)
        for p in model.parameters():
            torch.nn.init.normal_(p, 0.0, 0.3)
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        ledger = Ledger(model, optimizer, query_key=True)
        train(model, optimizer, 10)
        if interrupted:
            file = io.BytesIO()
            torch.save({"model": model.state_dict(), "ledger": ledger.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            model = Block(WideHeads(12)).double()
            model.load_state_dict(saved["model"])
            optimizer = OPTIMIZERS["sgd"](model.parameters())
            ledger = Ledger(model, optimizer, query_key=True)
            ledger.load_state_dict(saved["ledger"])
        train(model, optimizer, 10, seed=1)
        runs.append(ledger.history())
    assert runs[0].sizes["step"] == 21
    assert runs[0].identical(runs[1])


def test_states_that_do_not_fit():
    model = chain()
    ledger = Ledger(model, OPTIMIZERS["sgd"](model.parameters()))
    adapted = Adapted().double()
    optimizer = OPTIMIZERS["sgd"]([p for p in adapted.parameters() if p.requires_grad])
    other = Ledger(adapted, optimizer)
    with pytest.raises(InvalidInput, match="the state is of the pairs"):
        other.load_state_dict(ledger.state_dict())
    with pytest.raises(InvalidInput, match="format"):
        ledger.load_state_dict({})
    wider = torch.nn.Sequential(torch.nn.Linear(4, 13), torch.nn.Linear(13, 3)).double()
    with pytest.raises(InvalidInput, match="had width 12, the model's has 13"):
        Ledger(wider, OPTIMIZERS["sgd"](wider.parameters())).load_state_dict(ledger.state_dict())


def test_bad_arguments():
    model = chain()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    for every in (0, 1.5, True, "2"):
        with pytest.raises(InvalidInput, match="every must be a positive whole number"):
            Ledger(model, optimizer, every=every)
    with pytest.raises(InvalidInput, match=r"optimizer must be a torch\.optim\.Optimizer, got list"):
        Ledger(model, [])
    with pytest.raises(InvalidInput, match=r"model must be a torch\.nn\.Module"):
        Ledger(model.parameters(), optimizer)
    with pytest.raises(InvalidInput, match="terms must be"):
        Ledger(model, optimizer).verdicts(terms=0)
    with pytest.raises(InvalidInput, match="not in the optimizer"):
        Ledger(model, OPTIMIZERS["sgd"](model[0].parameters()), pairs=[("0", "1")])
    with pytest.raises(InvalidInput, match=r"no pairs of matrices were found(.|\n)*not in the optimizer"):
        Ledger(model, OPTIMIZERS["sgd"](model[0].parameters()))
    relu = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    with pytest.raises(InvalidInput, match=r"no pairs of matrices were found.*name them"):
        Ledger(relu, OPTIMIZERS["sgd"](relu.parameters()))
    assert len(optimizer._optimizer_step_pre_hooks) == 1  # of the one that was built


def test_the_determinant_can_be_left_out():
    model = chain()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    ledger = Ledger(model, optimizer, determinant=False)
    train(model, optimizer, 3)
    assert ledger.history().log_det.isnull().all() and len(ledger.verdicts()) == 1
    assert ledger.history().determinant_note.values.tolist() == ["switched off"]


def test_a_start_without_full_rank_has_no_determinant():
    """A bias of zero is a zero row of Z."""
    model = chain()
    with torch.no_grad():
        model[0].bias.zero_()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    ledger = Ledger(model, optimizer)
    train(model, optimizer, 3)
    assert "full row rank" in ledger.history().determinant_note.values[0]
    assert [verdict.passed for verdict in ledger.verdicts()] == [True]
