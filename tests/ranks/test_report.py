"""All measures of a matrix at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import rankfall as rf
from rankfall.ranks import COUNTS, MEASURES


def test_single_matrix():
    matrix = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    report = rf.ranks.report(matrix, rtol=0.5, delta=0.2, q=0.7)
    values = rf.ranks.singular_values(matrix)
    np.testing.assert_array_equal(report.singular_values, values)
    assert (report.shape, report.given_dtype, report.dtype) == ((4, 9), "float32", "float32")
    assert dict(report.settings) == {"rtol": 0.5, "atol": 0.0, "delta": 0.2, "q": 0.7}
    assert list(report.values) == list(MEASURES)
    arguments = {"numerical_rank": {"rtol": 0.5}, "srank": {"delta": 0.2}, "energy_rank": {"q": 0.7}}
    for name, measure in MEASURES.items():
        assert report[name] == measure(values, **arguments.get(name, {}))
        assert type(report[name]) is (int if name in COUNTS else float)


def test_the_shape_reaches_the_numerical_rank():
    matrix = np.zeros((2, 500))
    matrix[0, 0], matrix[1, 1] = 1.0, 1e-14
    assert rf.ranks.report(matrix)["numerical_rank"] == np.linalg.matrix_rank(matrix) == 1
    assert rf.ranks.numerical_rank(rf.ranks.singular_values(matrix)) == 2


def test_batch():
    matrices = np.random.default_rng(1).normal(size=(2, 3, 5, 4))
    report = rf.ranks.report(matrices)
    for name in MEASURES:
        assert report[name].shape == (2, 3)
        assert report[name].dtype == (np.int64 if name in COUNTS else np.float64)
        assert report[name][1, 2] == pytest.approx(rf.ranks.report(matrices[1, 2])[name], rel=1e-13)
    assert "numerical rank         4 to 4 in (2, 3)" in str(report)
    assert "2 × 3 × 5 × 4 float64" in str(report)
    assert "of no matrix" in str(rf.ranks.report(np.ones((0, 2, 2))))


def test_zero_matrix():
    report = rf.ranks.report(np.zeros((3, 2)))
    assert all(report[name] == 0 for name in MEASURES if name != "log_determinant")
    assert report["log_determinant"] == -np.inf


def test_types():
    for dtype, computed in ((np.float16, "float32"), (np.int8, "float64"), (np.bool_, "float64")):
        report = rf.ranks.report(np.eye(3, dtype=dtype))
        assert (report.given_dtype, report.dtype) == (np.dtype(dtype).name, computed)
        assert report["stable_rank"] == 3.0
    assert rf.ranks.report([[1, 2]]).given_dtype == "float64"


def test_one_row_or_column():
    for matrix in (np.array([[3.0, 4.0]]), np.array([[3.0], [4.0]])):
        report = rf.ranks.report(matrix)
        assert report.singular_values.tolist() == [5.0]
        for name in MEASURES:
            right = 2 * np.log(5.0) if name == "log_determinant" else 1.0
            # RankMe: exp(−p̃ ln p̃) with p̃ = 1 + 1e-7.
            assert report[name] == pytest.approx(right, abs=2e-7 if name == "rankme" else 1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_is_refused(bad):
    matrix = np.ones((3, 3))
    matrix[1] = bad
    with pytest.raises(rf.InvalidInput, match="3 of 9 entries are NaN or infinite"):
        rf.ranks.report(matrix)


@pytest.mark.parametrize("arguments", [{"q": 2.0}, {"delta": 0}, {"rtol": -1}, {"atol": "x"}, {"q": None}])
def test_bad_settings_are_refused(arguments):
    with pytest.raises(rf.InvalidInput, match=next(iter(arguments))):
        rf.ranks.report(np.eye(2), **arguments)


def test_frozen():
    report = rf.ranks.report(np.eye(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.dtype = "float16"
    with pytest.raises(TypeError):
        report.values["srank"] = 1
