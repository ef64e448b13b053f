import sys

import numpy as np
import pytest

import rankfall as rf
from rankfall import datasets

SIZES = {"diabetes": (442, 10, 1, 10), "digits": (1797, 64, 10, 61), "breast-cancer": (569, 30, 2, 30)}


@pytest.mark.parametrize("name", datasets.NAMES)
def test_bundled_sets_are_standardised_and_have_the_documented_sizes(name):
    problem = datasets.load(name)
    n, p, k, rank = SIZES[name]
    assert (problem.n_samples, problem.n_inputs, problem.n_outputs) == (n, p, k)
    variances = np.diag(problem.covariance)
    assert np.isclose(variances, 1.0).sum() == rank
    assert (variances[~np.isclose(variances, 1.0)] == 0.0).all()
    assert np.linalg.matrix_rank(problem.covariance, hermitian=True) == rank
    assert np.abs(problem.inputs.mean(axis=0)).max() < 1e-12
    assert np.abs(problem.labels.mean(axis=0)).max() < 1e-12


def test_constant_columns_can_be_dropped():
    assert datasets.load("digits", constant="drop").n_inputs == 61
    assert datasets.load("diabetes", constant="drop").n_inputs == 10


def test_one_hot_labels_differ_from_zero_one_only_by_their_mean():
    labels = datasets.load("breast-cancer").labels
    assert np.allclose(np.ptp(labels, axis=0), 1.0)
    assert np.allclose(labels.sum(axis=1), 0.0)


def test_wrong_names_are_refused():
    with pytest.raises(rf.InvalidInput, match="diabetes, digits, breast-cancer, got 'iris'"):
        datasets.load("iris")
    with pytest.raises(rf.InvalidInput, match="constant must be"):
        datasets.load("digits", constant="maybe")


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(rf.InvalidInput, match=r"pip install 'rankfall\[data\]'"):
        datasets.load("digits")


def test_standardise_leaves_constant_columns_exactly_zero():
    # 0.1 summed many times has a mean that is not 0.1: the column must not become noise of unit variance.
    columns = np.column_stack([np.full(1000, 0.1), np.arange(1000.0)])
    result = datasets.standardise(columns)
    assert (result[:, 0] == 0).all()
    assert result[:, 1].std() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("a,b\n1,2\n3,4", [[1, 2], [3, 4]]),
        ('"height (cm)";"b"\n1;2\n', [[1, 2]]),
        ("x\ty\n1e-3\t-2\n\n", [[0.001, -2]]),
        ("1 2\n 3   4\n", [[1, 2], [3, 4]]),
        ("\ufeff1\r\n2\r\n", [[1], [2]]),
        ("label\n5\n6\n", [[5], [6]]),
    ],
)
def test_tables_are_read_with_and_without_header(tmp_path, text, expected):
    file = tmp_path / "table.csv"
    file.write_bytes(text.encode())
    assert np.array_equal(datasets.read_matrix(file, "inputs"), np.array(expected, dtype=float))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("a,b\n", "header but no rows"),
        ("1,2\n3\n", "line 2 of .* has 1 cells where line 1 has 2"),
        ("1,2\n\n3,four\n", "line 3, column 2 of .* is 'four', not a number"),
        ("1,2\n3,\n", "is '', not a number"),
        ("1,x\n3,4\n", "line 1, column 2"),
        ("1,nan\n3,4\n", r"1 of 4 entries are NaN or infinite, the first at \(0, 1\)"),
        ("1,2\n3,1e999\n", "NaN or infinite"),
        ("1,2\n3," + "9" * 200_000, "is not a table"),
    ],
)
def test_broken_tables_say_where(tmp_path, text, message):
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(rf.InvalidInput, match=message):
        datasets.read_matrix(file, "inputs")


def test_npy_files_are_read_and_pickles_are_not(tmp_path):
    np.save(tmp_path / "good.npy", np.arange(6.0).reshape(2, 3))
    assert datasets.read_matrix(tmp_path / "good.npy", "inputs").shape == (2, 3)
    np.save(tmp_path / "vector.npy", np.arange(6))
    assert datasets.read_matrix(tmp_path / "vector.npy", "labels").shape == (6, 1)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(rf.InvalidInput, match="never unpickled"):
        datasets.read_matrix(tmp_path / "objects.npy", "inputs")
    np.save(tmp_path / "complex.npy", np.ones((2, 2)) * 1j)
    with pytest.raises(rf.InvalidInput, match="complex"):
        datasets.read_matrix(tmp_path / "complex.npy", "inputs")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-8])
    with pytest.raises(rf.InvalidInput, match="damaged or cut short"):
        datasets.read_matrix(tmp_path / "cut.npy", "inputs")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 not an array")
    with pytest.raises(rf.InvalidInput, match=r"is not a \.npy file"):
        datasets.read_matrix(tmp_path / "zip.npy", "inputs")
    (tmp_path / "text.csv").write_bytes(b"\xff\xfe\x00,1")
    with pytest.raises(rf.InvalidInput, match="not UTF-8"):
        datasets.read_matrix(tmp_path / "text.csv", "inputs")


def test_missing_files_folders_and_other_endings(tmp_path):
    with pytest.raises(rf.InvalidInput, match="labels: there is no file"):
        datasets.read_matrix(tmp_path / "none.npy", "labels")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(rf.InvalidInput, match="cannot read"):
        datasets.read_matrix(tmp_path / "folder.csv", "labels")
    with pytest.raises(rf.InvalidInput, match=r"must end in \.npy, \.csv, \.tsv, \.txt"):
        datasets.read_matrix(tmp_path / "data.pkl", "labels")
