"""The same measures on tensors: values, devices, precision and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rankfall as rf
from rankfall.ranks import COUNTS, MEASURES
from ranks.oracle import GOLDEN, SMOOTH, exact_gradient, tolerance

torch = pytest.importorskip("torch")

DIFFERENTIABLE = (*SMOOTH, "log_determinant")


@pytest.mark.parametrize("measure", MEASURES)
def test_tensors_give_what_arrays_give(measure):
    values = np.random.default_rng(0).gamma(0.5, size=(3, 2, 20))
    values[0, 0, 3] = 0.0
    values[1] = 0.0
    values[2, 1, 4] = np.nan
    for dtype in (np.float64, np.float32):
        given = values.astype(dtype)
        result = MEASURES[measure](torch.from_numpy(given))
        assert isinstance(result, torch.Tensor) and result.shape == (3, 2)
        right = MEASURES[measure](given)
        assert result.numpy().dtype == right.dtype
        np.testing.assert_allclose(result.numpy(), right, rtol=2 * tolerance(20, float(np.finfo(dtype).eps)))


@pytest.mark.parametrize("measure", MEASURES)
def test_half_precision_is_computed_in_single(measure):
    for dtype in (torch.float16, torch.bfloat16):
        values = torch.tensor([300.0, 200.0, 2.0], dtype=dtype)  # 300² overflows float16
        result = MEASURES[measure](values)
        assert result.dtype == torch.float32
        assert result == MEASURES[measure](values.float())
    assert MEASURES[measure](torch.tensor([2, 1])).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_matrices(dtype):
    matrix = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = rf.ranks.singular_values(matrix)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    right = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    eps = torch.finfo(values.dtype).eps
    np.testing.assert_allclose(values.numpy(), right, rtol=0, atol=20 * eps * right.max())
    report = rf.ranks.report(matrix[0])
    assert report.given_dtype == str(dtype).removeprefix("torch.")
    assert report.dtype == str(values.dtype).removeprefix("torch.")
    assert type(report["srank"]) is int and type(report["stable_rank"]) is float
    ratio = rf.ranks.participation_ratio_from_matrix(matrix)
    np.testing.assert_allclose(ratio.numpy(), rf.ranks.participation_ratio(right), rtol=40 * eps)
    found = rf.ranks.stable_rank_from_matrix(matrix, rf.ranks.random_start(matrix, 0), iterations=300)
    np.testing.assert_allclose(found.value.numpy(), rf.ranks.stable_rank(right), rtol=40 * eps)
    assert found.vector.dtype == values.dtype


def test_the_power_iteration_gives_what_it_gives_in_numpy():
    matrix = np.random.default_rng(1).normal(size=(2, 7, 9))
    tensor = torch.from_numpy(matrix)
    ours = rf.ranks.stable_rank_from_matrix(matrix, rf.ranks.random_start(matrix, 5), iterations=6, failure=0.01)
    theirs = rf.ranks.stable_rank_from_matrix(tensor, rf.ranks.random_start(tensor, 5), iterations=6, failure=0.01)
    for name in ("value", "lower", "error", "vector"):
        np.testing.assert_allclose(getattr(theirs, name).numpy(), getattr(ours, name), rtol=1e-12, atol=1e-13)
    with pytest.raises(rf.InvalidInput, match="start must be of the same library as matrix, got numpy and torch"):
        rf.ranks.stable_rank_from_matrix(tensor, np.ones(7))


def test_nothing_is_copied_to_the_host():
    """A tensor on torch's meta device has no values: whoever looks at one, or copies it, fails."""
    values, matrix = torch.empty(3, 5, device="meta"), torch.empty(2, 3, 5, device="meta")
    for measure in MEASURES.values():
        result = measure(values)
        assert result.device.type == "meta" and result.shape == (3,)
    assert rf.ranks.singular_values(matrix).shape == (2, 3)
    assert rf.ranks.participation_ratio_from_matrix(matrix).device.type == "meta"
    found = rf.ranks.stable_rank_from_matrix(matrix, torch.empty(3, device="meta"), failure=0.1)
    assert found.value.device.type == found.lower.device.type == found.vector.device.type == "meta"


@pytest.mark.parametrize("measure", MEASURES)
def test_negative_values_on_an_accelerator_give_nan(measure, monkeypatch):
    monkeypatch.setattr("rankfall.ranks._values.on_host", lambda array: False)
    result = MEASURES[measure](torch.tensor([[3.0, -1.0], [2.0, 1.0], [-2.0, -1.0]]))
    assert result.isnan().tolist() == [True, False, True]


def test_refused():
    with pytest.raises(rf.InvalidInput, match="must not be negative, but the least is -1"):
        rf.ranks.srank(torch.tensor([1.0, -1.0]))
    with pytest.raises(rf.InvalidInput, match="must be real, got complex64"):
        rf.ranks.singular_values(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(rf.InvalidInput, match="2 of 4 entries are NaN or infinite"):
        rf.ranks.report(torch.tensor([[1.0, math.nan], [math.inf, 1.0]]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_matrix_leaves_the_batch_alone(bad):
    matrix = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone = rf.ranks.singular_values(matrix)
    matrix[1, 2, 2] = bad
    values = rf.ranks.singular_values(matrix)
    assert values[1].isnan().all()
    assert torch.equal(values[[0, 2]], alone[[0, 2]])


def test_atol_alone_keeps_rtol():
    """torch's matrix_rank drops its relative tolerance then, and counts what is rounding."""
    matrix = torch.diag(torch.tensor([1.0, 1e-9]))
    assert torch.linalg.matrix_rank(matrix) == 1
    assert torch.linalg.matrix_rank(matrix, atol=1e-12) == 2
    assert rf.ranks.numerical_rank(rf.ranks.singular_values(matrix), atol=1e-12) == 1


def test_rank_of_what_was_rounded_to_bfloat16():
    factors = torch.randn(2, 80, 3, generator=torch.Generator().manual_seed(3))
    matrix = (factors[0] @ factors[1].mT).bfloat16()
    values = rf.ranks.singular_values(matrix)
    assert rf.ranks.numerical_rank(values, shape=matrix.shape) > 70
    assert rf.ranks.numerical_rank(values, atol=2**-8 * float(matrix.double().norm())) == 3


def test_autocast_does_not_reach_in():
    matrix = torch.randn(30, 20, generator=torch.Generator().manual_seed(2))
    start = rf.ranks.random_start(matrix, 0)

    def measured():
        found = rf.ranks.stable_rank_from_matrix(matrix, start, iterations=5)
        return torch.stack([rf.ranks.participation_ratio_from_matrix(matrix), found.value, found.lower])

    outside = measured()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (matrix @ matrix.mT).dtype == torch.bfloat16
        assert torch.equal(measured(), outside)


def test_arguments_are_left_as_they_are():
    values = torch.tensor(GOLDEN, requires_grad=True)
    before = values.detach().clone()
    for name, measure in MEASURES.items():
        result = measure(values)
        assert result.requires_grad == (name not in COUNTS)
        assert values.requires_grad and torch.equal(values, before)
    matrix = torch.nn.Parameter(torch.eye(3))
    report = rf.ranks.report(matrix)
    assert not report.singular_values.requires_grad and not rf.ranks.report(matrix[None])["stable_rank"].requires_grad
    assert matrix.requires_grad and matrix.grad is None


@pytest.mark.parametrize("measure", DIFFERENTIABLE)
def test_gradients_of_values(measure):
    values = torch.tensor(np.random.default_rng(3).uniform(0.1, 2.0, size=(3, 5)), requires_grad=True)
    assert torch.autograd.gradcheck(MEASURES[measure], values)


@pytest.mark.parametrize("measure", [name for name in DIFFERENTIABLE if name != "stable_rank"])
def test_gradients_of_repeated_values(measure):
    values = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MEASURES[measure], values)


@pytest.mark.parametrize("measure", DIFFERENTIABLE)
def test_gradients_of_matrices(measure):
    matrix = torch.tensor(np.random.default_rng(4).normal(size=(2, 4, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: MEASURES[measure](rf.ranks.singular_values(m)), matrix)


def test_gradients_without_an_svd():
    deficient = np.random.default_rng(5).normal(size=(4, 2)) @ np.random.default_rng(6).normal(size=(2, 3))
    for given in (deficient, np.eye(4, 3), np.random.default_rng(7).normal(size=(2, 3, 5))):
        matrix = torch.tensor(given, requires_grad=True)
        assert torch.autograd.gradcheck(rf.ranks.participation_ratio_from_matrix, matrix)


def gradient(measure, values):
    given = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    MEASURES[measure](given).sum().backward()
    return given.grad.numpy()


@pytest.mark.parametrize("values", [GOLDEN, (2.0, 1.0, 1e-9), (1.0, 0.5, 1e-30, 1e-100), (3e100, 1e100, 1e80)], ids=str)
@pytest.mark.parametrize("measure", DIFFERENTIABLE)
def test_gradients_at_50_digits(measure, values):
    right = np.array(exact_gradient(measure, values))
    found = gradient(measure, values)
    if measure == "log_determinant":  # 2/σ and nothing else
        np.testing.assert_allclose(found, right, rtol=1e-15)
    # Each is a sum of some ten terms no larger than the largest derivative times a logarithm, each with some ten
    # roundings.
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, right, rtol=0, atol=100 * 2.3e-16 * np.abs(right).max() * 4)


@pytest.mark.parametrize("measure", DIFFERENTIABLE)
def test_gradients_with_zero_values(measure):
    """Finite everywhere; right for the others; at zero right where it exists, and 0 where it is infinite."""
    values = (2.0, 0.0, 1.0, 0.0)
    found = gradient(measure, values)
    assert np.isfinite(found).all()
    if measure in ("nuclear_rank", "rankme", "stable_rank", "participation_ratio"):
        right = exact_gradient(measure, values)
    else:
        others = exact_gradient(measure, (2.0, 1.0))
        right = [others[0], 0.0, others[1], 0.0]
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-13 * np.abs(right).max())


@pytest.mark.parametrize("measure", DIFFERENTIABLE)
def test_gradients_of_zero_matrices_are_zero(measure):
    values = torch.tensor([[0.0, 0.0], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    result = MEASURES[measure](values)
    result[torch.isfinite(result)].sum().backward()
    assert torch.equal(values.grad[0], torch.zeros(2, dtype=torch.float64))
    np.testing.assert_allclose(values.grad[1], gradient(measure, (2.0, 1.0)), rtol=1e-14)
    matrix = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    MEASURES[measure](rf.ranks.singular_values(matrix)).backward()
    assert torch.equal(matrix.grad, torch.zeros(3, 2, dtype=torch.float64))
