"""Scans without spectra: the largest eigenvalue and the full rank are shown, not trusted, and as with full spectra."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import rankfall as rf
from rankfall.cli import app
from rankfall.report.scan_figure import scan_figure
from rankfall.scan import _ends, scan_checkpoint
from rankfall.scan._ends import ABOVE, all_above, largest_eigenvalue
from rankfall.scan._lapack import overwriting_definite, symmetric_times
from rankfall.scan._measuring import OF_ENDS
from rankfall.scan._spectrum import ends, ends_of_rows, spectrum
from scan.files import planted

UNIT = 2.0**-53


def gram_with(eigenvalues, seed=0):
    """Upper triangle of a symmetric matrix with these eigenvalues, rubbish below."""
    side = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(side, side)))
    return np.triu(basis * np.asarray(eigenvalues) @ basis.T) + np.tril(np.full((side, side), 7.0), -1)


SPECTRA = {
    "even": np.linspace(1, 1e-3, 100),
    "repeated": np.r_[np.ones(60), np.full(40, 0.5)],
    "close": np.r_[1.0, 1 - 1e-7, 1 - 2e-7, np.full(97, 0.3)],
    "steep": np.geomspace(1, 1e-12, 100),
    "rank one": np.r_[1.0, np.zeros(99)],
    "rank five": np.r_[np.linspace(1, 0.5, 5), np.zeros(95)],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_largest_eigenvalue_is_within_what_it_claims(name):
    truth = SPECTRA[name]
    gram = gram_with(truth * 3e5)
    kept = gram.copy()
    found = largest_eigenvalue(gram, np.empty_like(gram))
    assert np.array_equal(gram, kept)
    # Planting is off by n·u·λ₁, a Ritz value by as much: each step's rounding.
    room = 4 * len(truth) * UNIT
    assert found is not None and -ABOVE - room <= found / 3e5 - 1 <= room


@pytest.mark.parametrize("off", [0.5, 0.9999, 1 - 3 * ABOVE])
def test_a_ritz_value_too_low_is_not_believed(monkeypatch, off):
    """What Lanczos finds is shown by Cholesky to be the largest: an iteration stopped too early does not pass."""
    gram = gram_with(SPECTRA["even"])
    monkeypatch.setattr(_ends, "_ritz", lambda matrix: off)
    assert largest_eigenvalue(gram, np.empty_like(gram)) is None
    monkeypatch.setattr(_ends, "_ritz", lambda matrix: 1.0)
    assert largest_eigenvalue(gram, np.empty_like(gram)) == 1.0


def test_full_rank_is_shown_on_the_right_side():
    gram = gram_with(np.linspace(1, 1e-3, 50))
    work = np.empty_like(gram)
    assert all_above(gram, 0.99e-3, work) and not all_above(gram, 1.01e-3, work)
    assert all_above(gram, -1.0, work) and not all_above(gram, 1.0, work)


def test_routines_against_numpy():
    gram = gram_with(SPECTRA["even"])
    whole = np.triu(gram) + np.triu(gram, 1).T
    vector = np.random.default_rng(1).normal(size=100)
    assert np.abs(symmetric_times(gram, vector) - whole @ vector).max() <= 200 * UNIT * np.linalg.norm(vector)
    assert overwriting_definite(gram.copy())
    assert not overwriting_definite(gram - 0.01 * np.eye(100))
    for bad in (vector[:50], vector.astype(np.float32), np.ones((100, 1))):
        with pytest.raises(ValueError, match="wanted a vector of 100"):
            symmetric_times(gram, bad)
    with pytest.raises(ValueError, match="must be C-ordered"):
        symmetric_times(gram, np.ones(200)[::2])
    with pytest.raises(ValueError, match="wanted a square matrix"):
        overwriting_definite(np.ones((3, 4)))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    generator = np.random.default_rng(2)
    single = np.float32
    threshold = 500 * float(np.finfo(single).eps)
    arrays = {
        "tall": generator.normal(size=(900, 60)).astype(single),
        "wide": generator.normal(size=(48, 200)).astype(np.float16),
        "small": generator.normal(size=(20, 9)).astype(single),
        "low": planted(np.linspace(3, 1, 7), 80, 64).astype(single),
        "close": planted(np.r_[np.linspace(1, 0.1, 39), threshold], 500, 40).astype(single),
        "just full": planted(np.r_[np.linspace(1, 0.1, 39), 1.1 * threshold], 500, 40).astype(single),
        "just not": planted(np.r_[np.linspace(1, 0.1, 39), 0.9 * threshold], 500, 40).astype(single),
        "double": generator.normal(size=(50, 40)) * 1e200,
        "experts": generator.normal(size=(2, 70, 50)).astype(single),
        "zero": np.zeros((50, 40), dtype=single),
        "q.lora_A.weight": generator.normal(size=(4, 50)).astype(single),
        "q.lora_B.weight": generator.normal(size=(60, 4)).astype(single),
        "bad": np.full((50, 40), np.nan, dtype=single),
    }
    path = tmp_path_factory.mktemp("ends") / "m.safetensors"
    save_file(arrays, path)
    return path


@pytest.mark.parametrize("method", ["auto", "gram", "svd"])
def test_the_same_numbers_as_with_spectra(file, method):
    """σ₁ and ‖W‖_F within their errors, ranks exactly; δ/σ₁ and 1e-9 are what an eigenvalue may be off."""
    full = scan_checkpoint(file, method=method)
    scan = scan_checkpoint(file, method=method, spectra=False, measures=["numerical", "stable"])
    assert scan.measures == ("numerical_rank", "stable_rank") and len(scan) == len(full) == 13
    for layer, other in zip(scan, full, strict=True):
        assert (layer.name, layer.problem, layer.route, layer.note) == (
            other.name,
            other.problem,
            other.route,
            other.note,
        )
        assert layer.singular_values.shape == (0,) and np.isnan(layer.share) and layer.factor_rank is None
        if layer.problem:
            assert layer.name == "bad" and np.isnan([layer.spectral_norm, layer.error, layer["stable_rank"]]).all()
            continue
        assert layer["numerical_rank"] == other["numerical_rank"], layer.name
        assert layer.spectral_norm == pytest.approx(other.spectral_norm, rel=1e-9)
        assert abs(layer.spectral_norm - other.spectral_norm) <= layer.error + other.error
        assert layer.frobenius_norm == pytest.approx(other.frobenius_norm, rel=1e-12 if method != "svd" else 1e-6)
        assert layer["stable_rank"] == pytest.approx(other["stable_rank"], rel=3e-9 if method != "svd" else 1e-6)
    ranks = {layer.name: layer["numerical_rank"] for layer in scan}
    assert (ranks["low"], ranks["just full"], ranks["just not"], ranks["zero"], ranks["q"]) == (7, 40, 39, 0, 4)


def test_the_short_way_is_taken_where_the_rank_is_full(file, monkeypatch):
    """Otherwise the test above would compare a scan with itself."""
    from rankfall.scan import _gram

    sides = []
    plain = _gram.overwriting_eigenvalues

    def noting(matrix):
        sides.append(len(matrix))
        return plain(matrix)

    monkeypatch.setattr(_gram, "overwriting_eigenvalues", noting)
    scan_checkpoint(file, spectra=False, threads=1)
    # "small", "low", "close" (by rows, then as a whole), "just not", "zero", and none of the others.
    assert sorted(sides) == [9, 40, 40, 40, 40, 64]


def test_threads_and_blocks_change_no_bit(file):
    one, three = (scan_checkpoint(file, spectra=False, threads=number) for number in (1, 3))
    assert [layer.to_dict() for layer in one] == [layer.to_dict() for layer in three]
    matrix = np.random.default_rng(3).normal(size=(5000, 64)).astype(np.float32)
    assert ends_of_rows((matrix[i : i + 4096] for i in range(0, 5000, 4096)), matrix.shape, "auto") == ends(
        matrix, "auto"
    )
    assert ends(matrix, "auto").largest == pytest.approx(spectrum(matrix).largest, rel=1e-9)


def test_what_there_is_without_spectra(file, tmp_path):
    scan = scan_checkpoint(file, spectra=False)
    assert scan.measures == OF_ENDS
    data = scan.to_dataset()
    assert "singular_values" not in data and "share" not in data and "saved" not in data
    assert float(data["spectral_norm"].sel(layer="tall")) > 1
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    json.dumps(scan.to_dict(spectra=True), allow_nan=False)
    assert scan.sorted_by("stable")[0].name == "zero"
    with pytest.raises(rf.InvalidInput, match="cannot sort by 'share'"):
        scan.sorted_by("share")
    with pytest.raises(rf.InvalidInput, match="a scan without spectra has none to draw"):
        scan_figure(scan)
    for options, message in [
        (
            {"measures": "all"},
            "without spectra there are stable_rank and numerical_rank alone, and participation_ratio, ",
        ),
        ({"measures": ["stable", "energy"]}, "and energy_rank cannot be had"),
        ({"spectra": 0}, "spectra must be True or False, got 0"),
    ]:
        with pytest.raises(rf.InvalidInput, match=message):
            scan_checkpoint(file, **({"spectra": False} | options))


def test_norms_on_the_command_line(file):
    result = CliRunner().invoke(app, ["scan", str(file), "--norms", "-q"])
    assert result.exit_code == 1  # "bad"
    assert re.search(r"Other matrices +shape +stable +numerical +σ₁ +‖W‖\n", result.stdout)
    assert re.search(r"low +80×64 +[\d.]+ +7 +3 +\d", result.stdout)
    assert "every σ₁ is within" in result.stdout and "no savings" in result.stdout and "used" not in result.stdout
    for words in (["--html", "a.html"], ["--plot", "a.svg"], ["--spectra"], ["--measure", "effective"]):
        refused = CliRunner().invoke(app, ["scan", str(file), "--norms", *words])
        assert refused.exit_code == 2 and refused.stdout == ""
