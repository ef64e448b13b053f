"""Philox, Box–Muller and mini-batches: word for word against NumPy, and as samples of the law they claim.

All seeds are fixed. A statistic is compared with its expectation in units of its standard error; BAND = 5.5 of them is
left by a healthy generator with a chance of 4e-8 per comparison (normal law), 1.5e-3 for all 35,000 of this file.
Where a constant could be off, the test shows that 5 % would be far outside.
"""

from __future__ import annotations

from itertools import combinations
from math import factorial, prod

import numpy as np
import pytest
from scipy import stats

from rankfall._kernels.layout import NoiseGrouping
from rankfall._kernels.noise import batches, normals
from rankfall._kernels.philox import normal_pair_double, normal_pair_single, philox

BAND = 5.5
MASK = np.uint64(0xFFFFFFFF)
STREAM_BATCH, STREAM_BATCH_NOISE = 1 << 28, 2 << 28
PRECISIONS = pytest.mark.parametrize("double", [False, True], ids=["single", "double"])


# --- an implementation of its own, in NumPy ---


def philox_words(c0, c1, c2, c3, seed):
    """Philox4x32-10 as published (Salmon et al. 2011, section 3.3), on whole arrays; shape (…, 4)."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in np.broadcast_arrays(c0, c1, c2, c3))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ np.uint64(k0), b & MASK, (a >> 32) ^ c3 ^ np.uint64(k1), a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1)


def box_muller(uniform, angle, sign):
    """The exact transform of a number in (0, 1], an angle in units of π and a sign; and its radius."""
    radius = np.sqrt(-2 * np.log(uniform))
    # sin and cos of πa are taken where π·a is small, so that its rounding does not count: |a| ≤ ½
    cosine = np.where(np.abs(angle) < 0.25, np.cos(np.pi * angle), np.sin(np.pi * (0.5 - np.abs(angle))))
    return np.stack([radius * np.sin(np.pi * angle), radius * cosine * sign], -1), np.stack([radius, radius], -1)


def single_pair(x, y):
    """From two words, which single precision can hold only rounded: u = (x + ½)/2³² and a = y/2³² signed."""
    uniform = (x.astype(np.float32).astype(float) * 2.0**-32 + 2.0**-33).astype(np.float32).astype(float)
    angle = y.astype(np.uint32).view(np.int32).astype(np.float32).astype(float) * 2.0**-32
    return box_muller(uniform, angle, 1.0 - 2.0 * (y & np.uint64(1)).astype(float))


def double_pair(x0, x1, y0, y1):
    uniform = (((x0 << 32) | x1) >> 11).astype(float) * 2.0**-53 + 2.0**-54
    angle = ((y0 << 32) | y1).view(np.int64).astype(float) * 2.0**-64
    return box_muller(uniform, angle, 1.0 - 2.0 * (y1 & np.uint64(1)).astype(float))


def pairs_of(words, double):
    """The normals of Philox calls (…, 4) -> (…, 2 or 4) and their radii."""
    w = [np.ascontiguousarray(words[..., i]) for i in range(4)]
    if double:
        return double_pair(*w)
    (a, ra), (b, rb) = single_pair(w[0], w[1]), single_pair(w[2], w[3])
    return np.concatenate([a, b], -1), np.concatenate([ra, rb], -1)


# Rounding of the transform, relative to the radius r (the cosine loses relative accuracy near its zero, where an ulp of
# the angle counts): the polynomial of r² and its last two operations leave 3 u of r², amplified at most by 3 where
# −2 log u = e·log 4 + … cancels, hence 4.5 u of r; root, sine (3 u: polynomial, times a) or cosine and product 5 u.
# In all 10 u. The minimax polynomials of single precision are themselves good to u.
ROUNDING = {False: 10 * 2.0**-24, True: 10 * 2.0**-53}


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, words):
    """The vectors that come with Random123 (kat_vectors, philox4x32, 10 rounds)."""
    ours = philox(*(np.uint64(x) for x in (*counter, *key)))
    assert tuple(int(x) for x in ours) == words
    assert tuple(int(x) for x in philox_words(*counter, key[0] | key[1] << 32)) == words


@PRECISIONS
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("seed", [5, 5 + (9 << 32), 2**64 - 1])
def test_a_normal_is_a_function_of_seed_replicate_and_step(double, size, seed):
    """Replicate and step alone say which words are used; also beyond 2³² groups of steps, where a word is full."""
    grouping = NoiseGrouping(size, double)
    for first_step in (0, 7, (1 << 32) * grouping.steps - 3):
        steps = np.arange(first_step, first_step + 9)
        place = (steps % grouping.steps)[:, None] * size + np.arange(size)
        group, call = (steps // grouping.steps)[:, None], place // grouping.per_call
        replicate = np.arange(3, 5)[:, None, None]
        words = philox_words(group & 0xFFFFFFFF, group >> 32, call, replicate, seed)
        every, radius = pairs_of(words, double)
        index = np.broadcast_to((place % grouping.per_call)[..., None], (*every.shape[:-1], 1))
        expected = np.take_along_axis(every, index, -1)[..., 0]
        radius = np.take_along_axis(radius, index, -1)[..., 0]
        ours = normals(seed, 2, first_step, 9, size, double, first_replicate=3)
        assert (np.abs(ours - expected) <= ROUNDING[double] * radius).all()


@PRECISIONS
@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_the_first_step_is_an_offset(double, size):
    whole = normals(3, 4, 0, 40, size, double)
    for first, steps in ((7, 1), (7, 20), (39, 1), (0, 1)):
        assert np.array_equal(normals(3, 4, first, steps, size, double), whole[:, first : first + steps])
    assert np.array_equal(normals(3, 2, 0, 40, size, double, first_replicate=2), whole[2:])


def words(count, seed=12345):
    return philox_words(np.arange(count), 0, 0, 0, seed)


# Words at which something might give way: the ends of u and of the angle, quarter turns, where the exponent changes.
CORNERS = np.array(
    [0, 1, 2, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 0xB504F333, 3 << 30, 2**32 - 129, 2**32 - 2, 2**32 - 1],
    dtype=np.uint64,
)


def test_single_precision_is_box_muller_of_its_words():
    x, y = np.meshgrid(CORNERS, CORNERS)
    x = np.concatenate([x.ravel(), words(20_000)[:, 0]])
    y = np.concatenate([y.ravel(), words(20_000)[:, 1]])
    expected, radius = single_pair(x, y)
    ours = np.array([normal_pair_single(a, b) for a, b in zip(x, y, strict=True)], dtype=float)
    assert np.isfinite(ours).all()
    assert (np.abs(ours - expected) <= ROUNDING[False] * radius).all()
    assert np.abs(ours).max() == pytest.approx(np.sqrt(66 * np.log(2)), rel=1e-6)  # u = 2⁻³³, a = ½


def test_double_precision_is_box_muller_of_its_words():
    corners = np.stack(np.meshgrid(CORNERS, CORNERS[:6], CORNERS, CORNERS[:3]), -1).reshape(-1, 4)
    w = [np.ascontiguousarray(x) for x in np.concatenate([corners, words(20_000)]).T]
    expected, radius = double_pair(*w)
    ours = np.array([normal_pair_double(*x) for x in zip(*w, strict=True)])
    assert np.isfinite(ours).all()
    assert (np.abs(ours - expected) <= ROUNDING[True] * radius).all()
    assert np.abs(ours).max() == pytest.approx(np.sqrt(108 * np.log(2)), rel=1e-12)  # u = 2⁻⁵⁴


def test_both_precisions_are_the_same_transform():
    """Of the same u and angle: double's lower words are chosen so that it sees what single precision sees."""
    x, y = words(20_000)[:, 0], words(20_000)[:, 1]
    pairs, half = list(zip(x, y, strict=True)), np.uint64(1 << 31)
    double = np.array([normal_pair_double(a, half, b, b & np.uint64(1)) for a, b in pairs])
    single = np.array([normal_pair_single(a, b) for a, b in pairs], dtype=float)
    # Besides the roundings of the transform, single precision rounds u by 2⁻²⁵ u and the angle by 2⁻²⁵ a, a ≤ ½:
    # r² = −2 log u moves by 2⁻²⁴, r by 2⁻²⁵/r; the values by r·π/2·2⁻²⁵. For u near 1 r itself is only 2⁻¹² sure.
    radius = np.hypot(*double.T)
    moved = np.minimum(2.0**-24 / radius, 2.0**-12)
    assert (np.abs(single - double) <= (ROUNDING[False] * radius + 2.0**-24 * radius + moved)[:, None]).all()


# --- as samples ---


@pytest.fixture(scope="module", params=[False, True], ids=["single", "double"])
def sample(request):
    """(replicate, step, entry): 5 entries, so that steps share Philox calls in all possible ways."""
    return normals(2024, 64, 0, 12_800, 5, double=request.param)


def z_scores_of_moments(x):
    """Of the moments 1 to 6; E xⁿ = (n − 1)!! for even n, and 0."""
    scores, power = [], np.ones_like(x)
    for m in range(1, 7):
        power = power * x
        moment, square = (0 if n % 2 else prod(range(1, n, 2)) for n in (m, 2 * m))
        scores.append((power.mean() - moment) / np.sqrt((square - moment**2) / x.size))
    return np.array(scores)


def test_moments(sample):
    assert (np.abs(z_scores_of_moments(sample)) < BAND).all()
    for wrong in (0.95, 1.05):  # a standard deviation that is 5 % off: all even moments are hundreds of errors off
        assert (np.abs(z_scores_of_moments(wrong * sample)[1::2]) > 10 * BAND).all()
    assert np.abs(z_scores_of_moments(sample + 0.05)[0]) > 10 * BAND


def test_moments_of_every_entry_step_and_replicate(sample):
    """No place in a group of steps and no lane is special: mean and mean square along each axis."""
    square = (sample**2 - 1) / np.sqrt(2)
    for axes in ((0, 1), (1, 2)):
        n = sample.size / np.prod([s for i, s in enumerate(sample.shape) if i not in axes])
        for x in (sample, square):
            assert (np.abs(x.mean(axes)) * np.sqrt(n) < BAND).all()
    by_place = sample.reshape(64, -1, 20)  # a period of the grouping in both precisions
    for x in (by_place, by_place**2 - 1):
        assert (np.abs(x.mean((0, 1))) < BAND * x.std() / np.sqrt(sample.size / 20)).all()


def test_kolmogorov_smirnov(sample):
    """p > 1e-6 by itself is the false-alarm rate; a scale off by 5 % has p = 0 for all practical purposes."""
    x = sample.reshape(-1)[:1_000_000]
    assert stats.kstest(x, "norm").pvalue > 1e-6
    for wrong in (0.95, 1.05):
        assert stats.kstest(wrong * x[:200_000], "norm").pvalue < 1e-12


@pytest.mark.parametrize("threshold", [2.0, 3.0, 4.0])
def test_tails(sample, threshold):
    """Counts beyond ±threshold (130 at 4) are binomial: p > 1e-6 by the exact test."""
    tail = stats.norm.sf(threshold)
    for count in ((sample > threshold).sum(), (sample < -threshold).sum()):
        assert stats.binomtest(int(count), sample.size, tail).pvalue > 1e-6
    for wrong in (0.95, 1.05):
        count = int((wrong * sample > threshold).sum())
        assert stats.binomtest(count, sample.size, tail).pvalue < 1e-6


def test_directions_are_uniform(sample):
    """A pair of one call: its octant (the half circle and the random sign of the cosine), and radius and angle."""
    pair = sample.reshape(-1, 2)
    octant = (pair[:, 0] > 0) * 4 + (pair[:, 1] > 0) * 2 + (np.abs(pair[:, 0]) > np.abs(pair[:, 1]))
    assert stats.chisquare(np.bincount(octant, minlength=8)).pvalue > 1e-6
    tilted = 1.05 * pair[:, 0]
    wrong = (pair[:, 0] > 0) * 4 + (pair[:, 1] > 0) * 2 + (np.abs(tilted) > np.abs(pair[:, 1]))
    assert stats.chisquare(np.bincount(wrong, minlength=8)).pvalue < 1e-12
    # the radius does not know of the octant
    square = (pair**2).sum(1)
    groups = [square[octant == i] for i in range(8)]
    z = [(g.mean() - 2) / (2 / np.sqrt(len(g))) for g in groups]  # r² is exponential with mean and deviation 2
    assert np.abs(z).max() < BAND


def z_scores_of_correlations(x):
    """√n times the correlations between the columns of x, of values and of squares; above the diagonal."""
    scores = []
    for values in (x, (x**2 - 1) / np.sqrt(2)):
        scores.append((values.T @ values / np.sqrt(len(x)))[np.triu_indices(x.shape[1], 1)])
    return np.concatenate(scores)


def test_replicates_are_independent(sample):
    by_replicate = sample.transpose(1, 2, 0).reshape(-1, 64)  # 64,000 numbers of each
    assert np.abs(z_scores_of_correlations(by_replicate)).max() < BAND
    linked = by_replicate[:, :2].copy()
    linked[:, 1] = np.sqrt(1 - 0.05**2) * linked[:, 1] + 0.05 * linked[:, 0]
    assert np.abs(z_scores_of_correlations(linked)).max() > BAND  # a correlation of 5 % is seen


def test_entries_of_a_step_are_independent(sample):
    assert np.abs(z_scores_of_correlations(sample.reshape(-1, 5))).max() < BAND


def test_steps_are_independent(sample):
    """All pairs of entries of neighbouring steps (20 numbers in a row), and entries up to 100 steps apart."""
    assert np.abs(z_scores_of_correlations(sample.reshape(-1, 40))).max() < BAND
    for values in (sample, (sample**2 - 1) / np.sqrt(2)):
        for lag in (2, 3, 4, 5, 8, 16, 32, 64, 100):
            product = values[:, lag:] * values[:, :-lag]
            assert np.abs(product.mean()) * np.sqrt(product.size) < BAND


@PRECISIONS
def test_seeds_are_independent(double):
    """One bit of the seed, of 64, is enough for other numbers throughout; also against the neighbouring replicate."""
    seed = 0x0123456789ABCDEF
    seeds = [seed, *(seed ^ (1 << bit) for bit in range(64)), 0, 1, 1 << 32, 2**64 - 1]
    x = np.stack([normals(s, 4, 0, 2000, 3, double).ravel() for s in seeds], -1)
    assert np.abs(z_scores_of_correlations(x)).max() < BAND
    assert np.abs(z_scores_of_moments(x.ravel())).max() < BAND
    shifted = np.stack([x[:-6000, 0], *(x[6000:, i] for i in range(1, len(seeds)))], -1)
    assert np.abs(z_scores_of_correlations(shifted)).max() < BAND


def test_no_number_comes_twice():
    """Across seeds, replicates, steps and streams. In double precision 750,000 healthy normals agree in one pair with
    a chance of n²/2 · Σ p² ≈ 2e-5 (numbers near 1 lie 2⁻⁵³ apart, with density 0.3)."""
    parts = [normals(seed, 50, 0, 700, 3, double=True).ravel() for seed in (0, 1, 2, 1 << 32, 2 << 32)]
    parts += [batches(seed, 50, 0, 700, 9, 3, 2, double=True)[1].ravel() for seed in (0, 1)]
    every = np.concatenate(parts)
    assert len(every) == 5 * 105_000 + 2 * 210_000
    assert len(np.unique(every)) == len(every)


# --- mini-batches ---


def floyd(word, n, b):
    """Floyd's algorithm with given words (Bentley & Floyd, CACM 30, 1987)."""
    chosen = []
    for t in range(b):
        j = n - b + t
        u = int(word[t]) * (j + 1) >> 32
        chosen.append(j if u in chosen else u)
    return chosen


@pytest.mark.parametrize(("n", "b"), [(9, 1), (9, 4), (9, 9), (1000, 7)])
def test_a_batch_is_a_function_of_seed_replicate_and_step(n, b):
    seed, first_step, k = 5 + (9 << 32), (1 << 32) - 2, 2
    for double in (False, True):
        chosen, noise = batches(seed, 3, first_step, 4, n, b, k, double)
        for i, s in np.ndindex(3, 4):
            step, count = first_step + s, b * k
            calls = np.arange(-(-b // 4))
            word = philox_words(step & 0xFFFFFFFF, step >> 32, STREAM_BATCH + calls, i, seed).ravel()
            assert chosen[i, s].tolist() == floyd(word, n, b)
            calls = np.arange(-(-count // (2 if double else 4)))
            word = philox_words(step & 0xFFFFFFFF, step >> 32, STREAM_BATCH_NOISE + calls, i, seed)
            expected, radius = (x.ravel() for x in pairs_of(word, double))
            error = np.abs(noise[i, s].ravel() - expected[:count])
            assert (error <= ROUNDING[double] * radius[:count]).all()


N, B, REPLICATES, STEPS = 20, 6, 40, 2500


@pytest.fixture(scope="module")
def membership():
    """(replicate, step, sample): whether the sample is in the batch; 100,000 batches of 6 of 20."""
    chosen, _ = batches(7, REPLICATES, 0, STEPS, N, B, 1)
    member = np.zeros((REPLICATES, STEPS, N))
    np.put_along_axis(member, chosen, 1.0, -1)
    return member


def test_a_batch_has_no_repeats(membership):
    assert (membership.sum(-1) == B).all()


def chi_square(counts, batches_drawn):
    """χ² of n − 1 degrees: the indicators of a batch have variance q(1 − q) and correlation −1/(n − 1)."""
    q = B / N
    return ((counts - batches_drawn * q) ** 2).sum() / (batches_drawn * q * (1 - q)) * (N - 1) / N


def test_batches_are_uniform_over_the_samples(membership):
    counts = membership.sum((0, 1))
    p = stats.chi2.sf(chi_square(counts, REPLICATES * STEPS), N - 1)
    assert 1e-6 < p < 1 - 1e-6  # false-alarm rate 2e-6; too even is wrong as well
    wrong = counts * np.where(np.arange(N) < N // 2, 1.025, 0.975)  # one half 5 % more likely than the other
    assert stats.chi2.sf(chi_square(wrong, REPLICATES * STEPS), N - 1) < 1e-12


def test_pairs_of_samples_are_equally_likely(membership):
    """Inclusion of a pair: b(b − 1)/(n(n − 1)). (Independent draws would give q² = 0.09 instead of 0.0789.)"""
    m = membership.reshape(-1, N)
    together = (m.T @ m)[np.triu_indices(N, 1)] / len(m)
    chance = B * (B - 1) / (N * (N - 1))
    error = np.sqrt(chance * (1 - chance) / len(m))
    assert np.abs(together - chance).max() < BAND * error
    assert 0.05 * chance > 4 * error  # 5 % of a single pair is out of the band's half; q² is 13 errors away
    assert abs((B / N) ** 2 - chance) > 2 * BAND * error


def test_triples_of_samples_are_equally_likely(membership):
    """And of all sets of three, so that no step of the algorithm prefers any."""
    m = membership.reshape(-1, N).astype(np.float32)
    counts = np.array([m[:, i] * m[:, j] @ m for i, j in combinations(range(N), 2)])
    triples = np.concatenate([row[j + 1 :] for row, (_, j) in zip(counts, combinations(range(N), 2), strict=True)])
    assert len(triples) == factorial(N) // factorial(3) // factorial(N - 3)
    chance = prod((B - i) / (N - i) for i in range(3))
    assert np.abs(triples / len(m) - chance).max() < BAND * np.sqrt(chance * (1 - chance) / len(m))


def overlap_z(one, other):
    """Overlap of two batches: hypergeometric, mean b²/n."""
    overlap = (one * other).sum(-1)
    variance = B * (B / N) * (1 - B / N) * (N - B) / (N - 1)
    return (overlap.mean() - B * B / N) / np.sqrt(variance / overlap.size)


def test_batches_of_different_steps_and_replicates_are_independent(membership):
    for lag in (1, 2, 3, 4, 8, 64):
        assert abs(overlap_z(membership[:, lag:], membership[:, :-lag])) < BAND
    for lag in (1, 2, 4, 8, 20):
        assert abs(overlap_z(membership[lag:], membership[:-lag])) < BAND
    sticky = membership[:, 1:].copy()
    sticky[:, ::20] = membership[:, :-1][:, ::20]  # a batch kept for another step, once in 20
    assert overlap_z(sticky, membership[:, :-1]) > BAND
    # sample by sample from one step to the next
    a = (membership[:, 1:] - B / N).reshape(-1, N)
    b = (membership[:, :-1] - B / N).reshape(-1, N)
    z = a.T @ b / np.sqrt(len(a)) / (B / N * (1 - B / N))
    assert np.abs(z).max() < BAND


def test_a_batch_of_all_samples_is_all_samples():
    chosen, _ = batches(1, 5, 0, 20, 13, 13, 1)
    assert (np.sort(chosen, -1) == np.arange(13)).all()


@PRECISIONS
def test_noise_of_the_labels_is_normal_and_a_stream_of_its_own(double):
    chosen, noise = batches(11, 20, 0, 4000, 9, 3, 2, double)
    assert np.abs(z_scores_of_moments(noise.ravel())).max() < BAND
    assert (np.abs(z_scores_of_moments(1.05 * noise.ravel())[1::2]) > 2 * BAND).all()
    columns = noise.reshape(-1, 6)
    flow = normals(11, 20, 0, 4000, 6, double).reshape(-1, 6)
    assert np.abs(z_scores_of_correlations(np.concatenate([columns, flow], -1))).max() < BAND
    # nor does it know which samples were drawn
    centred = (chosen.reshape(-1, 3) - 4.0) / np.sqrt(60 / 9)
    z = centred.T @ columns / np.sqrt(len(columns))
    assert np.abs(z).max() < BAND
