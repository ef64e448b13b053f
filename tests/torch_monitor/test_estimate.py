"""The guess of the first cost: its arithmetic, and that the first measurement waits for it."""

from __future__ import annotations

import pytest
import torch

from rankfall.torch import RankMonitor, _estimate
from rankfall.torch import monitor as module
from rankfall.torch._estimate import Rates, measured_rates
from rankfall.torch._measuring import Settings
from torch_monitor.small import mlp, square_loss, train


def test_groups_of_equal_shapes_cost_something_by_themselves():
    rates = Rates(product=0.0, spectrum=0.0, full=False, group=1.0)
    assert rates.matrices([(4, 3), (3, 4), (5, 3)]) == pytest.approx(1.5 * 2.0, rel=1e-3)
    assert rates.moments(4, 9) == pytest.approx(1.5, rel=1e-3)
    assert rates.widening(2, 4, 9) == pytest.approx(1.5, rel=1e-3)


class Times:
    """In the place of the module `time`."""

    wall, cpu = 5.0, 7.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.cpu


def test_a_processor_that_others_use(monkeypatch):
    times = Times()
    monkeypatch.setattr(_estimate, "time", times)
    slowdown = _estimate.Slowdown()
    assert slowdown.factor() == 1.0
    for wall, cpu, right in ((10.0, 10.0, 1.0), (10.0, 4.0, 2.5), (10.0, 20.0, 1.0), (10.0, 0.1, 4.0)):
        times.wall, times.cpu = 5.0 + wall, 7.0 + cpu
        assert slowdown.factor() == pytest.approx(right)


@pytest.mark.parametrize("method", ["gram", "svd"])
@pytest.mark.parametrize("measures", [("stable_rank",), ("effective_rank",)])
def test_rates_are_measured_without_random_numbers(method, measures):
    state = torch.get_rng_state()
    rates = measured_rates(Settings(measures=measures, method=method, spectrum=0), torch.device("cpu"))
    assert torch.equal(state, torch.get_rng_state())
    assert 0 < rates.product < rates.spectrum and rates.group > 0 and rates.full == (method == "svd")


def test_arithmetic():
    rates = Rates(product=1e-9, spectrum=1e-3, full=False)
    # One and a half times: a spectrum of 256 rows, the product, the entries, the matrix.
    right = 1.5 * (2**2.5 * 1e-3 + 1e-9 * 256**2 * 512 + 2e-9 * 256 * 512 + 1e-4)
    assert rates.matrices([(512, 256)]) == pytest.approx(right)
    assert rates.matrices([(512, 256)] * 3) == pytest.approx(3 * right)
    assert rates.moments(256, 1000) == pytest.approx(
        1.5 * (2**2.5 * 1e-3 + 1e-9 * 256**2 * 1000 + 2e-9 * 256 * 1256 + 1e-4)
    )
    # With fewer samples than features, or inputs than outputs, the decomposition is of as many.
    assert rates.moments(256, 128) == pytest.approx(
        1.5 * (1e-3 + 1e-9 * 128**2 * 256 + 2e-9 * 256 * (256 + 128) + 1e-4)
    )
    assert rates.widening(128, 256, 1000) == pytest.approx(
        1.5 * (1e-3 + 1e-9 * 128**2 * (1000 + 256 + 3 * 128) + 2e-9 * (128 * 1384 + 4 * 128 * 256) + 1e-4)
    )
    full = Rates(product=1e-9, spectrum=1e-3, full=True)
    assert full.matrices([(128, 256)]) == pytest.approx(1.5 * (2e-3 + 2e-9 * 128 * 256 + 1e-4))


def test_the_first_measurement_waits_until_its_estimate_fits(monkeypatch):
    """Rates of a very slow device: nothing is measured. Of an infinitely fast one: at the first possible step."""
    for product, expected in ((1.0, []), (0.0, [2])):
        monkeypatch.setattr(module, "measured_rates", lambda *given, p=product: Rates(p, 1e-3 * p, False))
        model = mlp(6, 9, 5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = RankMonitor(model, optimizer, every=1, budget=10.0, measures="stable_rank")
        assert model[0]._forward_hooks  # the first step only counts
        train(model, optimizer, 1)
        if not expected:
            assert not model[0]._forward_hooks
        train(model, optimizer, 5)
        assert monitor.history().step.values.tolist()[:1] == expected


def test_samples_are_counted(monkeypatch):
    found = {}
    monkeypatch.setattr(Rates, "moments", lambda self, width, samples: found.update({width: samples}) or 0.0)
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    RankMonitor(model, optimizer, every=3, budget=0.5, activation_steps=2)
    train(model, optimizer, 2)
    assert found == {9: 32, 5: 32}


def test_layers_that_widen_are_estimated_by_their_inputs(monkeypatch):
    """6 → 9 by its 6 inputs and the bias; 9 → 5 by its outputs; with 4 samples both by these."""
    for batch, widening, moments in ((16, {7: (9, 16)}, {5: 16}), (4, {}, {9: 4, 5: 4})):
        through: dict[int, tuple[int, int]] = {}
        outputs: dict[int, int] = {}
        with monkeypatch.context() as patch:
            patch.setattr(Rates, "widening", lambda self, q, d, n, t=through: t.update({q: (d, n)}) or 0.0)
            patch.setattr(Rates, "moments", lambda self, d, n, t=outputs: t.update({d: n}) or 0.0)
            model = mlp(6, 9, 5)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            RankMonitor(model, optimizer, every=3, budget=0.5)
            square_loss(model, 0, batch=batch).backward()
            optimizer.step()
        assert (through, outputs) == (widening, moments)
