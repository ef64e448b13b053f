"""The stated bounds on singular values from Gram matrices, and the estimate of ranks that rests on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankfall.torch import RankMonitor
from rankfall.torch._moments import Moments
from rankfall.torch._spectra import gram_of, resolution, singular_values_from_gram
from torch_monitor.small import mlp, numpy_measures, train

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}


def graded(rows, columns, decay, seed):
    """A matrix with singular values 1, decay, decay², …, in float64."""
    generator = np.random.default_rng(seed)
    k = min(rows, columns)
    left, _ = np.linalg.qr(generator.normal(size=(rows, k)))
    right, _ = np.linalg.qr(generator.normal(size=(columns, k)))
    return left * decay ** np.arange(k) @ right.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(20, 50), (64, 30), (3, 5000), (210, 100)])
def test_bound(dtype, rows, columns):
    """Matrices from flat to steep spectra; 5000 columns are converted in two pieces, 100 rows in two."""
    k, l = sorted((rows, columns))
    for seed, decay in enumerate((1.0, 0.9, 0.5, 0.1)):
        matrix = torch.from_numpy(graded(rows, columns, decay, seed)).to(dtype)
        right = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
        found = singular_values_from_gram(gram_of([matrix], dtype))[0].double().numpy()
        bound = (l + 10 * k) * UNIT[dtype] * (right**2).sum()
        # NumPy's own error, k·u₆₄·σ₁ in σ, is nothing against the float32 bound, and within the float64 one squared.
        assert (np.abs(found**2 - right**2) <= bound).all()
        assert (found[found > 0] > 0.999 * resolution(k, l, dtype) * np.sqrt((right**2).sum())).all()


def test_the_bound_is_not_idle():
    """With steep spectra the small singular values from float32 are really lost, so a test of 1e-7 would fail."""
    matrix = torch.from_numpy(graded(20, 50, 0.1, 0)).float()
    found = singular_values_from_gram(gram_of([matrix], torch.float32))[0]
    assert (found[5:] == 0).all() and (found[:2] > 0).all()
    fine = singular_values_from_gram(gram_of([matrix], torch.float64))[0]
    assert int((fine > 0).sum()) > int((found > 0).sum())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_entries(scale):
    matrix = torch.from_numpy(graded(8, 12, 0.7, 1) * scale).float()
    for dtype in (torch.float32, torch.float64):
        gram = gram_of([matrix, torch.zeros_like(matrix)], dtype)
        right = numpy_measures(matrix)
        assert float(gram.norm[0]) == pytest.approx(right["norm"], rel=1e-5)
        values = singular_values_from_gram(gram)
        np.testing.assert_allclose(values[0, :3].double(), right["spectrum"][:3], rtol=1e-5)
        assert (values[1] == 0).all()


def test_one_bad_matrix_spoils_no_other():
    good = torch.from_numpy(graded(8, 12, 0.7, 1)).float()
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoilt = good.clone()
        spoilt[1, 2] = bad
        values = singular_values_from_gram(gram_of([spoilt, good], torch.float64))
        assert values[0].isnan().all()
        np.testing.assert_allclose(values[1], np.linalg.svd(good.double().numpy(), compute_uv=False), rtol=1e-6)


def test_monitor_in_single_precision():
    model = mlp(6, 9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = RankMonitor(model, optimizer, every=1, budget=None, method="gram_float32", measures="effective_rank")
    seen = train(model, optimizer, 1)
    for thing in ("weights", "gradients", "updates"):
        right = numpy_measures(seen[0][thing]["0.weight"])["effective_rank"]
        found = float(monitor.history()[f"{thing}_effective_rank"].sel(layer="0", step=1))
        # Singular values err by at most √((9 + 60)·6e-8) = 0.2 % of the norm each.
        assert found == pytest.approx(right, rel=0.05)
    assert "6.0e-8" in monitor.history().attrs["error"]


def test_moments_do_not_depend_on_how_samples_come():
    samples = torch.from_numpy(graded(100, 7, 0.8, 0)).float()
    whole, parts = Moments(), Moments()
    whole.add(samples, torch.float64)
    for part in samples.split(13):
        parts.add(part, torch.float64)
    assert whole.count == parts.count == 100
    torch.testing.assert_close(whole.total, parts.total, rtol=1e-12, atol=1e-14)
    exact = samples.double().numpy().T @ samples.double().numpy()
    np.testing.assert_allclose(whole.total, exact, rtol=1e-12, atol=1e-14)
