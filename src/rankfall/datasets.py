"""Problems from real data: scikit-learn's bundled sets, and tables that a user has in a file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rankfall import _checks
from rankfall.errors import InvalidInput
from rankfall.problem import Loss, Problem

__all__ = ["NAMES", "load", "read_matrix"]

Name = Literal["diabetes", "digits", "breast-cancer"]
NAMES: tuple[str, ...] = get_args(Name)


def load(name: str, *, constant: Literal["keep", "drop"] = "keep", loss: Loss = "squared") -> Problem:
    """Return one of scikit-learn's bundled data sets as a problem; nothing is downloaded.

    Inputs are standardised (mean 0, variance 1). A column without variance becomes zero and is kept by default, so
    that Σ of "digits" has rank 61 of 64; `constant="drop"` removes it. Labels: "diabetes" (n=442, p=10) is a
    regression on the standardised target, k = 1; "digits" (n=1797, p=64, k=10) and "breast-cancer" (n=569, p=30,
    k=2) have one-hot labels, centred because the network has no bias.

    The two classifications can be had with another loss: "cross_entropy" takes their one-hot labels as they are,
    "logistic" as well for "digits" (each class against the others) and one label 0 or 1 for "breast-cancer" (k = 1).

    Raises:
        InvalidInput: An unknown name or loss, a loss of classification for the regression "diabetes", or scikit-learn
            is not installed.

    Example:
        >>> import numpy as np, rankfall as rf
        >>> from rankfall import datasets
        >>> datasets.load("diabetes")
        Problem(n_samples=442, n_inputs=10, n_outputs=1, from data)
        >>> int(np.linalg.matrix_rank(datasets.load("digits").covariance))
        61
    """
    if name not in NAMES:
        raise InvalidInput(f"data must be one of {', '.join(NAMES)}, got {name!r}.")
    if loss not in get_args(Loss):
        raise InvalidInput(f"loss must be one of {', '.join(get_args(Loss))}, got {loss!r}.")
    if name == "diabetes" and loss != "squared":
        raise InvalidInput(
            f"diabetes is a regression and has no classes for loss={loss!r}; choose digits or breast-cancer."
        )
    if constant not in ("keep", "drop"):
        raise InvalidInput(f"constant must be 'keep' or 'drop', got {constant!r}.")
    check_available(name)
    from sklearn import datasets as bundled

    if name == "diabetes":
        # Unscaled: the scaled copy would be standardised a second time, which costs digits.
        features, target = bundled.load_diabetes(return_X_y=True, scaled=False)
        labels = standardise(np.asarray(target, dtype=np.float64)[:, None])
    else:
        features, target = (bundled.load_digits if name == "digits" else bundled.load_breast_cancer)(return_X_y=True)
        one_hot = (np.asarray(target)[:, None] == np.unique(target)[None, :]).astype(np.float64)
        labels = one_hot - one_hot.mean(axis=0) if loss == "squared" else one_hot
        if loss == "logistic" and name == "breast-cancer":
            labels = one_hot[:, 1:]
    features = np.asarray(features, dtype=np.float64)
    if constant == "drop":
        features = features[:, np.ptp(features, axis=0) > 0]
    return Problem.from_data(standardise(features), labels, loss=loss)


def check_available(name: str) -> None:
    """Raise `InvalidInput` where scikit-learn, which the data sets come with, is not installed."""
    import importlib.util

    if importlib.util.find_spec("sklearn") is None:
        raise InvalidInput(
            f"the data set {name!r} comes with scikit-learn, which is not installed; "
            "install it with: pip install 'rankfall[data]'"
        )


def standardise(columns: np.ndarray) -> np.ndarray:
    """Give every column mean 0 and variance 1; a constant column becomes exactly zero."""
    varies = np.ptp(columns, axis=0) > 0
    centred = np.where(varies, columns - columns.mean(axis=0), 0.0)
    return centred / np.where(varies, columns.std(axis=0), 1.0)


def read_matrix(path: str | Path, name: str) -> np.ndarray:
    """Read a matrix from a NumPy `.npy` file or from a text table (`.csv`, `.tsv`, `.txt`), never a pickle.

    A table may have one header line, and its cells may be separated by commas, semicolons, tabs or blanks. One
    column gives shape (rows, 1).

    Args:
        path: The file; its ending says which kind it is.
        name: What the matrix is, for the error messages.

    Raises:
        InvalidInput: The file is missing, of another kind, ragged, not numeric, not finite or too large.
    """
    file = Path(path)
    readers = {".npy": _read_npy, ".csv": _read_table, ".tsv": _read_table, ".txt": _read_table}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{name}: {file} must end in {', '.join(readers)}; save it as one of these.")
    try:
        array = reader(file, name)
    except FileNotFoundError:
        raise InvalidInput(f"{name}: there is no file {file}.") from None
    except OSError as error:
        raise InvalidInput(f"{name}: cannot read {file}: {error.strerror or error}.") from None
    except csv.Error as error:
        raise InvalidInput(f"{name}: {file} is not a table: {error}.") from None
    except MemoryError:
        raise InvalidInput(f"{name}: {file} does not fit in memory.") from None
    if np.iscomplexobj(array):
        raise InvalidInput(f"{name}: {file} holds complex numbers; save real ones.")
    return _checks.finite_matrix(array, f"{name} ({file})", columns_ok=True)


def _read_npy(file: Path, name: str) -> Any:
    with file.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise InvalidInput(f"{name}: {file} is not a .npy file; write one with numpy.save.")
        stream.seek(0)
        try:
            return np.load(stream, allow_pickle=False)
        except (ValueError, EOFError) as error:
            if "allow_pickle" in str(error):
                raise InvalidInput(
                    f"{name}: {file} holds Python objects, which are never unpickled; save a numeric array instead."
                ) from None
            raise InvalidInput(f"{name}: {file} is damaged or cut short ({error}).") from None


def _read_table(file: Path, name: str) -> np.ndarray:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name}: {file} is not a text table (not UTF-8).") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InvalidInput(f"{name}: {file} is empty.")
    separator = next((mark for mark in (";", "\t", ",") if mark in lines[0][1]), None)

    def cells(line: str) -> list[str]:
        return (
            line.split()
            if separator is None
            else [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
        )

    header = cells(lines[0][1])
    if not any(_is_number(cell) for cell in header):
        lines = lines[1:]
    if not lines:
        raise InvalidInput(f"{name}: {file} has a header but no rows.")
    table = np.empty((len(lines), len(header)))
    for row, (number, line) in enumerate(lines):
        values = cells(line)
        if len(values) != len(header):
            raise InvalidInput(
                f"{name}: line {number} of {file} has {len(values)} cells where line 1 has {len(header)}; "
                "every row needs the same number."
            )
        for column, value in enumerate(values):
            try:
                table[row, column] = float(value)
            except ValueError:
                raise InvalidInput(
                    f"{name}: line {number}, column {column + 1} of {file} is {value!r}, not a number."
                ) from None
    return table


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
