"""What the kernels of the logistic loss and the cross-entropy are made of, against NumPy and mpmath, in all widths."""

from __future__ import annotations

from functools import cache

import mpmath
import numpy as np
import pytest
from numba import njit

from kernels.ensembles import SEED, guarded
from kernels.test_random_numbers import BAND, philox_words
from rankfall._kernels import noise, vector
from rankfall._kernels.exponential import exponential
from rankfall._kernels.flips import flip_threshold
from rankfall._kernels.lane_products import add_own_products, add_shared_products
from rankfall._kernels.loss_increment import LossData, room_size
from rankfall._kernels.losses import CODES, flow_gradient
from rankfall._kernels.minibatch import batch_buffer, minibatch_increment
from rankfall._kernels.vector import WIDTHS

U = 2.0**-53
STREAM_FLIPS = 5 << 28
LOSSES = ["logistic", "cross_entropy"]
each_loss = pytest.mark.parametrize("loss", LOSSES)


def exponential_of(w):
    load, store = getattr(vector, f"load{w}"), getattr(vector, f"store{w}")

    @njit(error_model="numpy")
    def run(x, out):
        for i in range(0, len(x), w):
            store(out, i, exponential(load(x, i)))

    return run


@pytest.fixture(scope="module")
def exponentials():
    """Numbers from all of the range, most of them where softmax has them, and what every width makes of them."""
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [-np.exp(rng.uniform(-40, np.log(708), 4000)), rng.uniform(-5, 0, 2000), rng.uniform(-708, 709, 2000)]
    )
    found = []
    for w in WIDTHS:
        out = np.empty_like(x)
        exponential_of(w)(x, out)
        found.append(out)
    return x, found


def test_the_exponential_is_the_same_in_all_widths(exponentials):
    _, found = exponentials
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_the_exponential_is_good_to_one_unit_in_the_last_place(exponentials):
    x, found = exponentials
    with mpmath.workprec(120):
        exact = [mpmath.exp(mpmath.mpf(float(value))) for value in x]
        errors = [
            abs(mpmath.mpf(float(ours)) - e) / mpmath.mpf(float(np.spacing(ours)))
            for ours, e in zip(found[0], exact, strict=True)
        ]
    assert max(errors) < 1.0
    assert np.median([float(error) for error in errors]) > 0.1  # the distances are not those of a copy


def test_the_exponential_at_its_ends():
    x = np.array([0.0, -0.0, -np.inf, np.inf, np.nan, -708.0, -708.1, 709.1])
    out = np.empty(8)
    exponential_of(8)(x, out)
    np.testing.assert_array_equal(out[:5], [1.0, 1.0, 0.0, np.inf, np.nan])
    assert out[5] == pytest.approx(np.exp(-708.0), rel=1e-15)
    assert out[6] == 0.0 and out[7] == np.inf


# --- products in tiles ---


def products_of(w):
    splat = getattr(vector, f"splat{w}")

    @njit(error_model="numpy")
    def run(target, source, place, rows, depth, factors, columns, shared):
        if shared:
            add_shared_products(target, 0, source, place, rows, depth, factors, 0, columns, splat(1.0))
        else:
            add_own_products(target, 0, source, place, rows, depth, factors, 0, columns, splat(1.0))

    return run


@pytest.mark.parametrize("w", [1, 2, 8])
def test_products_are_exact_on_whole_numbers(w):
    """Every shape of tile and remainder; whole numbers leave no rounding to hide behind."""
    run = products_of(w)
    rng = np.random.default_rng(1)
    for rows in (1, 3, 4, 5, 8, 9):
        for depth in (1, 2, 7):
            for columns in (1, 3, 6, 19):
                for turned in (False, True):
                    f = rng.integers(-9, 9, (depth, columns, w)).astype(float)
                    start = rng.integers(-9, 9, (rows, columns, w)).astype(float)
                    shape = (depth, rows) if turned else (rows, depth)
                    one, own = (rng.integers(-9, 9, (*shape, *more)).astype(float) for more in ((), (w,)))
                    strides = (1, rows) if turned else (depth, 1)
                    for source, shared in ((one, True), (own, False)):
                        target, behind = guarded(start.size)
                        target[:] = start.ravel()
                        place = (0, *strides) if shared else (0, w * strides[0], w * strides[1])
                        run(target, source.ravel(), place, rows, depth, f.ravel(), columns, shared)
                        full = np.broadcast_to(source[..., None], own.shape) if shared else source
                        exact = start + np.einsum("caw,cjw->ajw" if turned else "acw,cjw->ajw", full, f)
                        np.testing.assert_array_equal(target.reshape(start.shape), exact)
                        assert (behind == 7.0).all()


# --- flips ---


@each_loss
@pytest.mark.parametrize("b", [1, 3, 8, 13])
def test_flips_are_those_of_the_published_generator(loss, b):
    k, delta = 3, 0.3
    for first_step in (0, (1 << 32) - 2):
        ours = noise.flips(SEED, 2, first_step, 4, b, k, delta, loss)
        each = k if loss == "logistic" else 2
        calls = np.arange(-(-b * each // 4))
        step = (first_step + np.arange(4))[:, None]
        words = philox_words(
            step & 0xFFFFFFFF, step >> 32, STREAM_FLIPS + calls, np.arange(2)[:, None, None], SEED
        ).reshape(2, 4, -1)
        words = words[:, :, : b * each].reshape(2, 4, b, each)
        flipped = words.astype(float) / 2.0**32 < delta
        if loss == "logistic":
            np.testing.assert_array_equal(ours, flipped)
        else:
            turned = 1 + words[..., 1].astype(int) * (k - 1) // 2**32
            np.testing.assert_array_equal(ours, np.where(flipped[..., 0], turned, 0))


def z_of_shares(counts, total, expected):
    """Deviations of counted shares from the expected ones, in standard errors."""
    return (counts / total - expected) / np.sqrt(expected * (1 - expected) / total)


def test_flips_have_the_frequencies_they_claim():
    """640,000 labels: a share of 0.2 is known to 0.25 %, so 5 % are 20 standard errors; of BAND = 5.5 an honest one
    leaves 4e-8 per comparison."""
    delta, k = 0.2, 4
    turned = noise.flips(3, 40, 0, 400, 40, k, delta, "cross_entropy")
    for shift in range(1, k):
        z = z_of_shares((turned == shift).sum(), turned.size, delta / (k - 1))
        assert abs(z) < BAND
        assert abs(z_of_shares((turned == shift).sum(), turned.size, 1.05 * delta / (k - 1))) > BAND
    flipped = noise.flips(3, 40, 0, 400, 10, k, delta, "logistic")
    share = flipped.mean(axis=(0, 1))  # by place and output
    each = z_of_shares(flipped.sum(axis=(0, 1)), flipped.shape[0] * flipped.shape[1], delta)
    assert share.shape == (10, k) and (np.abs(each) < BAND).all()
    assert abs(z_of_shares(flipped.sum(), flipped.size, 1.05 * delta)) > BAND
    # Independent of the step before, the replicate beside and the label beside: a joint share of δ² each.
    for a, b in (
        (flipped[:, 1:], flipped[:, :-1]),
        (flipped[1:], flipped[:-1]),
        (flipped[:, :, 1:], flipped[:, :, :-1]),
        (flipped[..., 1:], flipped[..., :-1]),
    ):
        assert abs(z_of_shares((a * b).sum(), a.size, delta**2)) < BAND


def test_flips_are_independent_of_the_choice_of_samples():
    """Their streams do not share a counter: whether place 0 is flipped says nothing about the sample that is there."""
    chosen, _ = noise.batches(5, 40, 0, 1000, 10, 2, 1)
    flipped = noise.flips(5, 40, 0, 1000, 2, 1, 0.5, "logistic")[..., 0]
    for sample in range(10):
        there = chosen == sample
        assert abs(z_of_shares((flipped * there).sum(), there.sum(), 0.5)) < BAND


def test_the_threshold_meets_the_probability():
    assert flip_threshold(0.0) == 0.0 and flip_threshold(0.5) == 2.0**31
    assert abs(flip_threshold(0.3) / 2.0**32 - 0.3) <= 2.0**-33


# --- the increment ---


@cache
def increment_of(w):
    splat = getattr(vector, f"splat{w}")

    @njit(error_model="numpy")
    def run(scratch, data, seed, replicate, step):
        k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
        minibatch_increment(scratch, 0, 0, data, k0, k1, np.uint64(replicate), step, splat(1.0))

    return run


@pytest.fixture(params=WIDTHS)
def increment(request):
    """(lanes, compiled minibatch_increment): sizes, losses and kinds are run-time values."""
    return request.param, increment_of(request.param)


H = 0.3
# (samples, p, k): tiles of eight samples with and without a remainder, every remainder of rows and columns.
SIZES = [(8, 1, 2), (19, 5, 3), (33, 4, 4), (26, 9, 1), (11, 6, 19)]
# kind → batch size, probability of a flip, beside the full gradient
KINDS = {
    "all": (None, 0.0, False),
    "all, flips": (None, 0.3, False),
    "batch": (5, 0.0, False),
    "batch, flips": (5, 0.3, False),
    "large batch, flips": (25, 0.3, False),
    "flips beside": (5, 0.4, True),
}


def example(n, p, k, loss):
    rng = np.random.default_rng([n, p, k])
    inputs = rng.standard_normal((n, p))
    if loss == "logistic":
        labels = rng.integers(0, 2, (n, k)).astype(float)
        labels[0] = 0.25  # soft ones as well
    else:
        labels = np.eye(k)[rng.integers(0, k, n)]
        labels[0] = rng.dirichlet(np.ones(k))
    return inputs, labels, 2.0 * rng.standard_normal((16, p, k))


def run_increment(w, run, inputs, labels, products, loss, kind, step=7):
    """H of the first sixteen replicates."""
    n, p = inputs.shape
    k = labels.shape[1]
    b, delta, beside = KINDS[kind]
    b = n if b is None else b
    found = []
    for first in range(0, 16, w):
        scratch, behind = guarded(2 * p * k * w)
        room, behind_room = guarded(room_size(p, k, w))
        scratch[: p * k * w] = products[first : first + w].transpose(1, 2, 0).ravel()
        data = LossData(
            inputs, labels, batch_buffer(b if b < n else 0, n, w), room, H / (n if beside else b),
            H / b if beside else 0.0, CODES[loss], flip_threshold(delta), b,
        )  # fmt: skip
        run(scratch, data, SEED, first, step)
        assert (behind == 7.0).all() and (behind_room == 7.0).all()
        found.append(scratch[p * k * w :].reshape(p, k, w).transpose(2, 0, 1))
    return np.concatenate(found)


def softly(scores, loss):
    if loss == "logistic":
        return 1 / (1 + np.exp(-scores))
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True)


def flipped_labels(labels, turned, loss):
    if loss == "logistic":
        return np.where(turned, 1 - labels, labels)
    return np.stack([np.roll(row, shift) for row, shift in zip(labels, turned, strict=True)])


def literal_increment(inputs, labels, products, loss, kind, step=7):
    """The same in NumPy from the drawn numbers, and a bound of what rounding may make of the difference.

    A score is off by (p + 1) u Σ|x||P|, the link by that (it has slope 1 at most) and 10 u; a residual is multiplied
    and added to the others: n + 3 roundings. Twice, as both programs round.
    """
    n, k = len(inputs), labels.shape[1]
    b, delta, beside = KINDS[kind]
    whole, b = b is None, n if b is None else b
    chosen = noise.batches(SEED, 16, step, 1, n, b, 1)[0][:, 0]
    turned = noise.flips(SEED, 16, step, 1, b, k, delta, loss)[:, 0]
    exact, bounds = [], []
    for product, rows, turn in zip(products, chosen, turned, strict=True):
        rows = np.arange(n) if whole else rows
        x, y = inputs[rows], labels[rows]
        noisy = flipped_labels(y, turn, loss)
        if beside:
            h = H / n * inputs.T @ (labels - softly(inputs @ product, loss)) + H / b * x.T @ (noisy - y)
            gain, seen = H / n, inputs
        else:
            h, gain, seen = H / b * x.T @ (noisy - softly(x @ product, loss)), H / b, x
        path = (inputs.shape[1] + 1) * np.abs(seen) @ np.abs(product)
        if loss == "cross_entropy":
            path = np.broadcast_to(path.max(axis=1, keepdims=True), path.shape)
        bound = gain * np.abs(seen).T @ (path + n + 13)
        if beside:
            bound = bound + H / b * np.abs(x).T @ np.full(y.shape, b + 3.0)
        exact.append(h)
        bounds.append(2 * U * bound)
    return np.array(exact), np.array(bounds)


@each_loss
@pytest.mark.parametrize("kind", KINDS)
def test_the_increment_is_the_literal_one(increment, loss, kind):
    for n, p, k in SIZES:
        if (loss == "cross_entropy" and k < 2) or (KINDS[kind][0] or 0) >= n:
            continue
        inputs, labels, products = example(n, p, k, loss)
        ours = run_increment(*increment, inputs, labels, products, loss, kind)
        exact, bound = literal_increment(inputs, labels, products, loss, kind)
        assert (np.abs(ours - exact) <= bound).all()
        # it would be seen if a label, the gain or the step were another one
        assert (np.abs(1.000001 * ours - exact) > bound).any()
        if kind != "all":
            other = literal_increment(inputs, labels, products, loss, kind, step=8)[0]
            assert not np.allclose(ours, other, rtol=1e-6)


def test_widths_agree_to_the_last_bit():
    found = {}
    for w in WIDTHS:
        for loss in LOSSES:
            for kind in KINDS:
                bits = run_increment(w, increment_of(w), *example(33, 5, 3, loss), loss, kind).tobytes()
                found.setdefault((loss, kind), []).append(bits)
    for case, bits in found.items():
        assert len(set(bits)) == 1, case


@each_loss
def test_huge_scores_neither_overflow_nor_become_nan(increment, loss):
    inputs, labels, products = example(19, 5, 3, loss)
    ours = run_increment(*increment, inputs, labels, 1e6 * products, loss, "all")
    assert np.isfinite(ours).all()
    scores = inputs @ (1e6 * products)
    hard = (scores > 0) if loss == "logistic" else scores == scores.max(axis=-1, keepdims=True)
    exact = H / 19 * np.einsum("ni,rnj->rij", inputs, labels - hard)
    # scores of 1e6 differ by far more than 40, where e^{−40} = 4e-18 is lost; sums of 19 residuals
    assert np.abs(ours - exact).max() <= 2 * 22 * U * H * np.abs(inputs).max()


@pytest.mark.parametrize("loss", CODES)
def test_the_gradient_for_flows_is_the_literal_one(loss):
    inputs, labels, products = example(19, 5, 3, "logistic" if loss == "squared" else loss)
    cross, curvature = inputs.T @ labels / 19, np.abs(inputs).mean(axis=0)
    out = np.empty((5, 3))
    flow_gradient(products[0], cross, curvature, inputs, labels, CODES[loss], np.empty(3), np.empty(3), out)
    if loss == "squared":
        exact = cross - curvature[:, None] * products[0]
    else:
        exact = inputs.T @ (labels - softly(inputs @ products[0], loss)) / 19
    # sums of 19 terms of size 3 at most, each good to 30 roundings (score, link, products)
    assert np.abs(out - exact).max() <= 2 * 50 * U * 3 * np.abs(inputs).max()
