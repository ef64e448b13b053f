"""docs/sweeps.md: its examples run, its study is one, and what it says of options and names is so."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rankfall as rf
from rankfall.cli import app
from rankfall.sweep._quantities import MEASURES

PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_examples_of_the_page():
    pytest.importorskip("distributed")
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.failed == 0 and result.attempted >= 18


def test_study_of_the_page(tmp_path):
    (text,) = blocks("toml")
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    study = rf.sweep.Study.from_toml(file)
    assert study.dims == {"noise": 5, "width": 3}
    assert {"rank", "log_det_slope_predicted"} <= {quantity.name for quantity in study.quantities()}
    result = CliRunner().invoke(app, ["sweep", str(file), "--dry-run"])
    assert result.exit_code == 0 and "15 cells" in result.stdout


def test_commands_and_options_of_the_page_exist():
    text = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "200"}).stdout
    ours = " ".join(line for block in blocks("sh") for line in block.splitlines() if line.startswith("rankfall sweep"))
    options = set(re.findall(r"--[a-z][a-z-]+", ours)) | {"--retry-failed", "--extend", "--wait", "--threads"}
    assert len(options) >= 8 and all(option in text for option in options)


def test_the_slurm_script_is_python_that_uses_what_exists():
    (script,) = [block for block in blocks("python") if "SLURMCluster" in block]
    tree = ast.parse(script)
    (call,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "run"
    ]
    assert {word.arg for word in call.keywords} <= set(rf.sweep.run.__kwdefaults__)


def test_the_slurm_cluster_can_be_made(monkeypatch, tmp_path):
    """Where dask-jobqueue is installed: the script of the page up to the sweep, and what Slurm would get."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    (script,) = [block for block in blocks("python") if "SLURMCluster" in block]
    options = re.search(r"SLURMCluster\((.*?)^\) as", script, flags=re.DOTALL | re.MULTILINE).group(1)
    with jobqueue.SLURMCluster(**eval(f"dict({options})"), scheduler_options={"dashboard_address": ":0"}) as cluster:
        job = cluster.job_script()
    assert "--nworkers 16" in job and "--nthreads 1" in job and "--lifetime 230m" in job


def test_names_of_the_page_exist():
    for name in re.findall(r"rf\.sweep\.(\w+)", TEXT):
        assert hasattr(rf.sweep, name), name
    for name in ("replicates_used", "diverged"):
        assert name in MEASURES and f"`{name}`" in TEXT
