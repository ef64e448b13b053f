"""Activations of layers with more outputs than inputs, from what goes in: against NumPy on what comes out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rankfall.torch import RankMonitor
from rankfall.torch._moments import Moments
from rankfall.torch._spectra import singular_values_from_gram
from rankfall.torch._widening import Widening, pass_of
from torch_monitor.small import inputs, numpy_measures, seeded


def layer(n_in=10, n_out=40, *, bias=True, scale=1.0):
    torch.manual_seed(1)
    made = nn.Linear(n_in, n_out, bias=bias)
    with torch.no_grad():
        made.weight *= scale
    return made


def exact_values(module, samples):
    """Singular values of the outputs of float32 inputs and weights, the product in extended precision."""
    weight = module.weight.detach().numpy().astype(np.longdouble)
    out = samples.numpy().astype(np.longdouble) @ weight.T
    if module.bias is not None:
        out = out + module.bias.detach().numpy()
    return np.linalg.svd(out.astype(np.float64), compute_uv=False)


def low_rank(module):
    with torch.no_grad():
        module.weight.copy_(module.weight[:, :2] @ module.weight[:2])
        module.bias.zero_()
    return module


def nothing(module):
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
    return module


CASES = {
    "plain": (layer(), inputs(0, 90, 10)),
    "fewer samples than outputs": (layer(), inputs(0, 25, 10)),
    "no bias": (layer(bias=False), inputs(0, 90, 10)),
    "bias above everything": (layer(scale=1e-4), inputs(0, 90, 10)),
    "large mean": (layer(), inputs(0, 90, 10) + 30.0),
    "steep inputs": (layer(), inputs(0, 90, 10) * 0.1 ** torch.arange(10)),
    "weights of rank two": (low_rank(layer()), inputs(0, 90, 10)),
    "no weights": (nothing(layer()), inputs(0, 90, 10)),
    "no inputs": (layer(bias=False), torch.zeros(90, 10)),
    "more than one block of rows": (layer(130, 300), inputs(0, 400, 130)),
}


@pytest.mark.parametrize("case", CASES)
def test_bound(case):
    """Squares of singular values within the bound that is stated with them."""
    module, samples = CASES[case]
    found = pass_of(hooked(module), (samples,), module(samples))
    moments = Widening(found)
    for part in samples.split(33):
        moments.add(part)
    gram = moments.gram()
    values = singular_values_from_gram(gram)[0].numpy()
    right = exact_values(module, samples)[: len(values)]
    # NumPy's own error, some k·u·σ₁ in σ and twice that times σ₁ in σ², is one of the terms of the bound, 10q·u·‖Y‖².
    assert (np.abs(values**2 - right**2) <= float(gram.error)).all()
    # And the bound says something: it is far below one, and a per mille of an error in the weights is outside of it.
    assert float(gram.error) <= 1e-11 * (1 + (right**2).sum()) * (100 if case in ("steep inputs", "large mean") else 1)
    if right[0] > 0:
        wrong = copy.deepcopy(module)
        with torch.no_grad():
            wrong.weight *= 1.001
        assert abs(exact_values(wrong, samples)[0] ** 2 - values[0] ** 2) > float(gram.error)


def hooked(module):
    """With one forward hook, as while the monitor listens."""
    twin = copy.deepcopy(module)
    twin.register_forward_hook(lambda *given: None)
    return twin


def test_numerical_rank_of_low_rank_weights():
    module, samples = CASES["weights of rank two"]
    history = measured(module, [samples])
    assert history.activations_numerical_rank.values.tolist() == [[2.0]]


def measured(module, batches, **changed):
    model = nn.Sequential(copy.deepcopy(module))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"every": 1, "budget": None, "watch": ("activations",), "spectra": True, **changed}
    with RankMonitor(model, optimizer, **settings) as monitor:
        for batch in batches:
            model(batch)
        optimizer.step()
        assert not any("fail" in text for text in monitor.problems)
    return monitor.history()


@pytest.mark.parametrize("samples", [25, 90])
def test_all_measures_are_those_of_the_outputs(samples, monkeypatch):
    """Over two passes; singular values beyond the number of inputs are zeros as far as the outputs have any."""
    asked = []
    right_gram = Widening.gram
    monkeypatch.setattr(Widening, "gram", lambda self: asked.append(self.count) or right_gram(self))
    module, given = layer(), inputs(0, samples, 10)
    history = measured(module, given.split(20), measures=("stable_rank", "effective_rank", "numerical_rank", "rankme"))
    assert asked == [samples]  # the first 20 samples are more than 11 inputs
    right = numpy_measures(module(given).detach().double())
    for measure in ("norm", "stable_rank", "effective_rank"):
        # Rounding of the float32 outputs, which the inputs do not have: some 1e-7 of the norm.
        found = float(history[f"activations_{measure}"].squeeze())
        assert found == pytest.approx(right[measure], rel=1e-5), measure
    assert float(history.activations_numerical_rank.squeeze()) == 11
    assert float(history.activations_samples.squeeze()) == samples
    spectrum = history.activations_spectrum.values.squeeze()
    number = min(samples, 40)
    np.testing.assert_allclose(spectrum[:number], right["spectrum"], atol=2e-6 * right["norm"])
    assert (spectrum[11:number] == 0).all() and np.isnan(spectrum[number:]).all()


@pytest.mark.parametrize("mean", [1e2, 1e3])
def test_a_mean_that_the_bias_takes_away_is_not_taken_for_ranks(mean):
    """The inputs do not show what is left: NaN and a problem, never wrong ranks; then the outputs are looked at."""
    module, given = layer(), inputs(0, 400, 10) + mean
    with torch.no_grad():
        module.bias.copy_(-(module.weight.double() @ given.double().mean(0)))
    model = nn.Sequential(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    measures = ("stable_rank", "effective_rank", "numerical_rank")
    with RankMonitor(
        model, optimizer, every=1, budget=None, watch=("activations",), measures=measures, spectra=True
    ) as monitor:
        for _ in range(2):
            model(given)
            optimizer.step()
        assert [text for text in monitor.problems if "cancel" in text]
        history = monitor.history()
    right = numpy_measures(module(given).detach().double())
    for measure in ("norm", "stable_rank", "effective_rank"):
        first, second = history[f"activations_{measure}"].values.ravel()
        assert np.isnan(first) and second == pytest.approx(right[measure], rel=1e-9), measure


def test_weights_that_change_between_passes():
    """Then the outputs add up, in the same step and over several."""
    first, second = layer(), layer()
    with torch.no_grad():
        second.weight.add_(0.05 * inputs(5, 40, 10))
    samples = inputs(0, 90, 10)
    moments = Moments()
    for module, part in ((first, samples[:50]), (second, samples[50:])):
        moments.add(module(part), torch.float64, pass_of(hooked(module), (part,), module(part)))
    assert moments.total is not None and moments.count == 90
    values = singular_values_from_gram(moments.gram(torch.float64))[0].numpy()
    outputs = torch.cat([first(samples[:50]), second(samples[50:])])
    right = numpy_measures(outputs.detach().double())
    np.testing.assert_allclose(values, right["spectrum"], atol=2e-6 * right["norm"])


def test_a_first_pass_of_few_samples_keeps_them():
    module, samples = layer(), inputs(0, 8, 10)
    moments = Moments()
    moments.add(module(samples), torch.float64, pass_of(hooked(module), (samples,), module(samples)))
    values = singular_values_from_gram(moments.gram(torch.float64))[0].numpy()
    right = numpy_measures(module(samples).detach().double())
    np.testing.assert_allclose(values, right["spectrum"], rtol=1e-10)


def test_window_of_several_steps():
    model = nn.Sequential(layer())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = RankMonitor(model, optimizer, every=3, budget=None, watch="activations", activation_steps=3)
    seen = []
    for step in range(3):
        output = model(inputs(step, 30, 10))
        seen.append(output.detach())
        optimizer.zero_grad()
        output.square().mean().backward()
        optimizer.step()
    right = numpy_measures(torch.cat(seen))
    at = monitor.history().sel(layer="0", step=3)
    assert float(at.activations_effective_rank) == pytest.approx(right["effective_rank"], rel=1e-5)
    assert float(at.activations_samples) == 90


class Other(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


def truncated(tensor):
    """As TF32 reads its operands: ten bits after the leading one."""
    return (tensor.detach().view(torch.int32) & ~0x1FFF).view(torch.float32)


def test_what_may_not_be_a_product_is_refused():
    module, samples = layer(), inputs(0, 90, 10)
    plain = hooked(module)
    output = module(samples)
    assert pass_of(plain, (samples,), output) is not None
    assert pass_of(plain, (samples.view(3, 30, 10),), output.view(3, 30, 40)) is not None
    assert pass_of(plain, (), output) is None  # given by name
    assert pass_of(plain, (samples[:0],), output[:0]) is None
    assert pass_of(plain, (samples,), output.bfloat16()) is None
    assert pass_of(plain, (samples.double(),), output) is None
    assert pass_of(plain, (samples,), output.relu()) is None  # replaced by somebody
    assert pass_of(module, (samples,), output) is None  # no hook or another one
    narrow = nn.Linear(40, 10)
    assert pass_of(hooked(narrow), (output,), narrow(output)) is None
    other = hooked(Other(10, 40))
    assert pass_of(other, (samples,), other(samples)) is None
    patched = hooked(module)
    patched.forward = lambda x: module(x)
    assert pass_of(patched, (samples,), output) is None
    parametrized = hooked(module)
    nn.utils.parametrizations.orthogonal(parametrized)
    assert pass_of(parametrized, (samples,), parametrized(samples)) is None


@pytest.mark.parametrize("width", [10, 384, 2000])
def test_the_line_between_rounding_and_tf32(width):
    """Also where all terms have the same sign, which rounds worst."""
    module = nn.Linear(width, 2 * width + 1)
    samples = inputs(0, 2 * width, width)
    with torch.no_grad():
        for given in (samples, samples.abs()):
            if given is not samples:
                module.weight.abs_()
            assert pass_of(hooked(module), (given,), module(given)) is not None
            coarse = nn.functional.linear(truncated(given), truncated(module.weight), module.bias)
            assert pass_of(hooked(module), (given,), coarse) is None


def test_outputs_that_are_changed_in_place_after_the_layer():
    """The samples are kept as they were when the layer returned them."""
    model = seeded(lambda: nn.Sequential(nn.Linear(20, 10), nn.ReLU(inplace=True)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=1, budget=None, watch="activations", spectra=True)
    batch = inputs(0, 6, 20)
    right = numpy_measures(model[0](batch).detach())
    monitor.close()
    with RankMonitor(model, optimizer, every=1, budget=None, watch="activations", spectra=True) as monitor:
        model(batch)
        optimizer.step()
    found = monitor.history().activations_spectrum.values.squeeze()
    np.testing.assert_allclose(found[:6], right["spectrum"], rtol=1e-5)
    assert np.isnan(found[6:]).all()


def test_samples_become_moments_when_they_are_many():
    """Kept up to the number of features, then summed up; the same singular values in any case."""
    samples = inputs(0, 30, 12)
    moments, count = Moments(), 0
    for part in samples.split(7):
        moments.add(part, torch.float64)
        count += len(part)
        assert (moments.total is None) == (count <= 12)
        values = singular_values_from_gram(moments.gram(torch.float64))[0]
        right = np.linalg.svd(samples[:count].double().numpy(), compute_uv=False)
        np.testing.assert_allclose(values, right, rtol=1e-10)


def test_nan_in_a_widening_layer():
    samples = inputs(0, 90, 10)
    samples[57, 3] = float("nan")  # not one of those that are looked at
    history = measured(layer(), [samples])
    assert np.isnan(history.activations_effective_rank).all() and np.isnan(history.activations_norm).all()
    module = layer()
    with torch.no_grad():
        module.weight[1, 1] = float("inf")
    assert np.isnan(measured(module, [inputs(0, 90, 10)]).activations_effective_rank).all()
