"""The documentation: every example runs, every page is reachable, every link and every docstring can be rendered."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
CELL = re.compile(r"```\{code-cell\} python\n(.*?)```", flags=re.DOTALL)
BLOCK = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)


def run(page, code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(plt, "show", lambda: None)
    names = {"__name__": "__main__"}
    try:
        for cell in code:
            exec(compile(cell, page.name, "exec"), names)
    finally:
        plt.close("all")


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_runs(page, tmp_path, monkeypatch, capsys):
    cells = CELL.findall(page.read_text(encoding="utf-8"))
    assert cells
    run(page, cells, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    # The one law that is shown failing is wrong on purpose.
    assert printed.count("FAIL") == (1 if page.stem == "own-law" else 0)


def test_examples_of_the_first_page_run(tmp_path, monkeypatch, capsys):
    page = DOCS / "start.md"
    run(page, BLOCK.findall(page.read_text(encoding="utf-8")), tmp_path, monkeypatch)
    assert "PASS determinant law" in capsys.readouterr().out


def test_the_site_builds_without_a_warning(tmp_path):
    """The tutorials' cells are not run here: the tests above do."""
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-D", "nb_execution_mode=off", "-b", "html"]
    # Cells that were not run have no language for their output.
    command += ["-D", "suppress_warnings=myst-nb.lexer"]
    done = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"', page)
    assert not loaded, "the page asks other machines for parts of itself"
