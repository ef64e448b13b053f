"""`rankfall doctor`: it finds what is wrong, says what to do, and a sound installation passes."""

import dataclasses
import json
from importlib import metadata

import pytest
from typer.testing import CliRunner

from rankfall import laws
from rankfall.cli import _health, app
from rankfall.errors import OutputError


def run(*words):
    return CliRunner().invoke(app, ["doctor", *words])


def test_a_sound_installation_passes_and_names_what_a_bug_report_needs():
    result = run("--json")
    assert result.exit_code == 0, result.output
    found = {line["topic"]: line for line in json.loads(result.stdout)}
    for topic in (
        "rankfall",
        "Python",
        "numba",
        "threads",
        "vector width",
        "kernel cache",
        "disk",
        "extra torch",
        "GPU",
    ):
        assert topic in found
    assert found["numpy"]["value"] == metadata.version("numpy")
    assert found["self-check: determinant ledger"]["value"].startswith("PASS")


def test_text_is_one_line_per_finding_and_a_sum():
    lines = run().stdout.splitlines()
    assert lines[-1] == "All is well."
    assert lines[0].split() == ["ok", "rankfall:", _health.__version__]


def test_a_failed_law_is_a_problem(monkeypatch):
    real = laws.check
    monkeypatch.setattr(
        laws, "check", lambda run: [dataclasses.replace(each, passed=False, error=1.0) for each in real(run)]
    )
    result = run()
    assert result.exit_code == 1
    assert "PROBLEM self-check: determinant ledger: FAIL" in result.stdout
    assert "1 problem." in result.stdout


def test_a_missing_library_is_named(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "zarr":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(_health.metadata, "version", version)
    result = run()
    assert result.exit_code == 1
    assert "PROBLEM zarr: missing. rankfall needs it: pip install zarr" in result.stdout


def test_an_unusable_cache_is_a_problem_and_the_rest_goes_on(monkeypatch):
    from rankfall._kernels import loader

    def refuse():
        raise OutputError("the kernel cache is not yours alone")

    monkeypatch.setattr(loader, "cache_folder", refuse)
    found = {finding.topic: finding for finding in _health.examine()}
    assert found["kernel cache"].level == "problem"
    assert "disk" in found


def test_an_extra_that_is_not_there_is_no_problem(monkeypatch):
    real = _health.importlib.util.find_spec
    monkeypatch.setattr(_health.importlib.util, "find_spec", lambda name: None if name == "distributed" else real(name))
    found = {finding.topic: finding for finding in _health._extras()}
    assert found["extra dask"].level == "note"
    assert "pip install 'rankfall[dask]'" in found["extra dask"].advice


@pytest.mark.parametrize("error", [RuntimeError("broken"), OSError("no such file")])
def test_a_check_that_breaks_is_reported_and_does_not_hide_the_others(monkeypatch, error):
    def broken():
        raise error
        yield

    monkeypatch.setattr(_health, "_processor", broken)
    found = {finding.topic: finding for finding in _health.examine()}
    assert found["processor"].level == "problem"
    assert str(error) in found["processor"].value
    assert "disk" in found
