"""The measures against 50 digits, and what they do at the edges."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

import rankfall as rf
from rankfall.ranks import COUNTS, MEASURES
from ranks.oracle import GOLDEN, SMOOTH, SPECTRA, exact, tolerance

GOLDEN_VALUES = {
    "numerical_rank": 4,
    "stable_rank": 1.1122,
    "effective_rank": 1.9714,
    "energy_effective_rank": 1.3948,
    "participation_ratio": 1.2220,
    "nuclear_rank": 1.6875,
    "srank": 3,
    "energy_rank": 2,
    "rankme": 1.9714,
    "log_determinant": -11.6183,  # 2 ln(3·1·0.1·0.01) = 2 ln 0.003
}


def fits(values, dtype):
    least, most = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    return all(value == 0 or least <= value <= most for value in values)


CASES = [
    pytest.param(name, dtype, id=f"{name}-{np.dtype(dtype)}")
    for name, values in SPECTRA.items()
    for dtype in (np.float64, np.float32)
    if fits(values, dtype)
]


def test_every_measure_has_a_golden_value():
    assert set(GOLDEN_VALUES) == set(MEASURES)
    assert set(MEASURES) == {*SMOOTH, *COUNTS, "log_determinant"}
    assert set(MEASURES) < set(rf.ranks.__all__)


@pytest.mark.parametrize("measure", MEASURES)
def test_golden(measure):
    assert round(float(MEASURES[measure](GOLDEN)), 4) == GOLDEN_VALUES[measure]


@pytest.mark.parametrize("spectrum, dtype", CASES)
@pytest.mark.parametrize("measure", SMOOTH)
def test_smooth_measures_at_50_digits(measure, spectrum, dtype):
    values = np.array(SPECTRA[spectrum], dtype=dtype)
    result = MEASURES[measure](values)
    assert result.dtype == dtype
    right = exact(measure, values)
    assert abs(mpmath.mpf(float(result)) - right) <= tolerance(len(values), np.finfo(dtype).eps) * right


@pytest.mark.parametrize("spectrum, dtype", [case for case in CASES if 0.0 not in SPECTRA[case.values[0]]])
def test_log_determinant_at_50_digits(spectrum, dtype):
    values = np.array(SPECTRA[spectrum], dtype=dtype)
    size = 2 * sum(abs(math.log(float(value))) for value in values)
    error = float(abs(mpmath.mpf(float(rf.ranks.log_determinant(values))) - exact("log_determinant", values)))
    # Each logarithm is off by an ulp, a sum of n terms by n−1 half ulps of what its terms add up to.
    assert error <= (len(values) + 2) * np.finfo(dtype).eps * size


@pytest.mark.parametrize("spectrum", [name for name in SPECTRA if name != "equal"])
@pytest.mark.parametrize("measure", ["srank", "energy_rank"])
def test_counts_at_50_digits(measure, spectrum):
    # No sum lies at the threshold in these spectra; "equal", where one does, has its own test.
    assert MEASURES[measure](SPECTRA[spectrum]) == exact(measure, SPECTRA[spectrum])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("height", [1.0, 0.7, 1e-30])
def test_a_sum_at_the_threshold_reaches_it(dtype, height):
    for n in (1, 2, 3, 7, 10, 40, 100, 300):
        values = np.full(n, height, dtype=dtype)
        for part in ("0.5", "0.6", "0.7", "0.8", "0.9", "0.95", "0.99"):
            least = math.ceil(Fraction(part) * n)
            assert rf.ranks.energy_rank(values, q=float(part)) == least, (n, part)
            assert rf.ranks.srank(values, delta=float(1 - Fraction(part))) == least, (n, part)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_decimals_at_the_threshold_reach_it(dtype):
    """Three decimals that sum to 1 and a threshold that is one of their sums: no float among them is exact."""
    hundredths = [(i, j, 100 - i - j) for i in range(34, 99) for j in range(1, min(i, 100 - i)) if 100 - i - j <= j]
    for first, second, third in hundredths:
        values = np.array([first, second, third], dtype=np.float64) / 100
        assert rf.ranks.srank(values.astype(dtype), delta=(second + third) / 100) == 1
        assert rf.ranks.srank(values.astype(dtype), delta=third / 100) == 2
        energies = np.sqrt(values).astype(dtype)
        assert rf.ranks.energy_rank(energies, q=first / 100) == 1
        assert rf.ranks.energy_rank(energies, q=(first + second) / 100) == 2


def test_the_fraction_is_the_decimal_that_was_typed():
    # 1 − 0.9999 in floating point is 1e-12 short of 0.0001, far more than the rounding of a sum of two.
    assert rf.ranks.energy_rank([math.sqrt(9999.0), 1.0], q=0.9999) == 1
    assert rf.ranks.energy_rank([math.sqrt(9998.0), math.sqrt(2.0)], q=0.9999) == 2


def test_a_part_left_out_may_be_far_below_the_rounding_of_the_whole():
    # Σ_{i≤2} = 1 + 1e-20 rounds to 1 and 1 − 1e-25 too; the sum of what is left out does not.
    assert rf.ranks.srank([1.0, 1e-20, 1e-30], delta=1e-25) == 2
    assert rf.ranks.srank([1.0, 1e-20, 1e-30], delta=1e-31) == 3


@pytest.mark.parametrize("part", [1e-9, 1 - 1e-9])
def test_one_value_is_always_needed(part):
    values = np.ones(4096, dtype=np.float32)  # whose rounding is far above 1e-9
    assert rf.ranks.srank(values, delta=part) >= 1
    assert rf.ranks.energy_rank(values, q=part) >= 1


def test_rankme_of_rank_one():
    """As published it is not 1: the constant in 4095 empty directions adds up."""
    one = np.zeros(4096)
    one[7] = 5.0
    assert round(float(rf.ranks.rankme(one)), 4) == 1.0066
    assert rf.ranks.effective_rank(one) == 1.0
    assert rf.ranks.rankme([2.0]) < 1.0
    assert rf.ranks.rankme(one, epsilon=0.0) == 1.0


@pytest.mark.parametrize("n", [1, 2, 30])
def test_identity(n):
    for measure in SMOOTH:
        right = n if measure != "rankme" else exact("rankme", [1.0] * n)
        assert float(MEASURES[measure](np.ones(n))) == pytest.approx(float(right), rel=tolerance(n, 2.3e-16))
    for measure in COUNTS:
        assert MEASURES[measure](np.ones(n)) == n
    assert rf.ranks.log_determinant(np.ones(n)) == 0.0


def test_rank_one():
    values = np.array([0.3, 0.0, 0.0, 0.0])
    for measure in (*SMOOTH, *COUNTS):
        right = 1.0 if measure != "rankme" else float(exact("rankme", values))
        assert MEASURES[measure](values) == pytest.approx(right, abs=4e-16)


@pytest.mark.parametrize("measure", MEASURES)
def test_zero_matrix(measure):
    for values in (np.zeros(3), np.zeros((2, 1)), np.zeros(4, dtype=np.float32)):
        result = MEASURES[measure](values)
        assert np.all(result == (-np.inf if measure == "log_determinant" else 0.0))
    # Beside others in a batch, too.
    assert np.isfinite(MEASURES[measure]([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])[[0, 2]]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("measure", MEASURES)
def test_nonfinite_gives_nan_there_alone(measure, bad):
    values = np.array([[3.0, 1.0, 0.1, 0.01], [3.0, bad, 0.1, 0.0], [bad, bad, bad, bad]])
    result = MEASURES[measure](values)
    assert result[0] == MEASURES[measure](GOLDEN)
    assert np.isnan(result[1:]).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_batches_and_order(measure):
    values = np.random.default_rng(3).gamma(0.5, size=(2, 3, 7))
    result = MEASURES[measure](values)
    assert result.shape == (2, 3)
    for place in np.ndindex(2, 3):
        # Sums in another layout may round differently.
        assert float(result[place]) == pytest.approx(float(MEASURES[measure](values[place])), rel=1e-14)
    turned = MEASURES[measure](values[..., ::-1])
    np.testing.assert_allclose(turned, result, rtol=1e-13)
    assert MEASURES[measure](np.ones((0, 3))).shape == (0,)


@pytest.mark.parametrize("measure", MEASURES)
def test_types(measure):
    import ml_dtypes

    function, values = MEASURES[measure], np.array([300.0, 200.0, 2.0])  # 300² overflows half precision
    wanted = function(values)
    for given, computed in (
        (values.astype(np.float16), np.float32),
        (values.astype(ml_dtypes.bfloat16), np.float32),
        (values.astype(np.float32), np.float32),
        (values, np.float64),
        (values.astype(np.int16), np.float64),
        (values.astype(np.uint64), np.float64),
        (values.tolist(), np.float64),
        ([300, 200, 2], np.float64),
    ):
        result = function(given)
        assert result.dtype == computed
        stored = np.asarray(given).astype(np.float64)
        assert result == pytest.approx(function(stored), rel=10 * float(np.finfo(computed).eps))
    assert function(np.array([True, True])) == function([1.0, 1.0])
    assert wanted.dtype == np.float64


def test_of_a_run(tmp_path):
    import xarray as xr

    singular_values = xr.DataArray(np.ones((2, 3, 5)), dims=("replicate", "time", "mode_W1"))
    assert (rf.ranks.stable_rank(singular_values) == 5.0).all()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "bad, message",
    [
        ([3.0, -1.0], "must not be negative, but the least is -1"),
        ([], r"at least one value along their last axis, got shape \(0,\)"),
        (3.0, r"got shape \(\)"),
        (np.array([1.0, 1j]), "must be real, got complex128"),
        ([[1.0], [1.0, 2.0]], "must be a numeric array, got list"),
        ("3", "must be a numeric array, got str"),
        (None, "must be a numeric array, got NoneType"),
        (np.ones(2, dtype=np.longdouble), "Convert it to float64"),
        (np.ma.masked_array([3.0, 1.0], mask=[False, True]), "must not be a masked array"),
    ],
)
def test_refused(measure, bad, message):
    with pytest.raises(rf.InvalidInput, match=message):
        MEASURES[measure](bad)


@pytest.mark.parametrize("name", ["delta", "q"])
@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 2.0, math.nan, "0.1", None])
def test_refused_parts(name, bad):
    measure = rf.ranks.srank if name == "delta" else rf.ranks.energy_rank
    with pytest.raises(rf.InvalidInput, match=name):
        measure(GOLDEN, **{name: bad})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rtol": -1.0}, "rtol must be at least 0"),
        ({"atol": math.inf}, "atol must be finite"),
        ({"shape": (3, 5)}, "a matrix with 4 singular values"),
        ({"shape": (4,)}, "a matrix with 4 singular values"),
    ],
)
def test_refused_tolerances(arguments, message):
    with pytest.raises(rf.InvalidInput, match=message):
        rf.ranks.numerical_rank(GOLDEN, **arguments)


def test_refused_epsilon():
    with pytest.raises(rf.InvalidInput, match="epsilon must be at least 0"):
        rf.ranks.rankme(GOLDEN, epsilon=-1e-7)


def test_numerical_rank_thresholds():
    count = rf.ranks.numerical_rank
    assert count(GOLDEN, rtol=0.1) == 2
    assert count(GOLDEN, atol=0.1) == 2  # strictly above
    assert count(GOLDEN, rtol=0.5, atol=0.05) == 1  # the larger threshold counts
    assert count(GOLDEN, rtol=0.001, atol=0.05) == 3
    assert count([1.0, 1e-15], shape=(2, 2)) == 2
    assert count([1.0, 1e-15], shape=(7, 3, 2, 400)) == 1
    assert count([1.0, 1e-15]) == 2  # as a square matrix
    assert count(np.array([1.0, 1e-5], dtype=np.float32), shape=(2, 400)) == 1
    assert count([1.0, 1e-300], rtol=0.0) == 2
    assert count([1.0, 0.0], rtol=0.0) == 1
