"""docs/scan.md: its example runs, and what it says of options and names is so."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from typer.testing import CliRunner

from rankfall.cli import app
from rankfall.scan._torch_file import SUFFIXES

PAGE = Path(__file__).parents[2] / "docs" / "scan.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_example_of_the_page():
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.failed == 0 and result.attempted >= 10


def test_options_of_the_page_exist():
    text = CliRunner().invoke(app, ["scan", "--help"], env={"COLUMNS": "200"}).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    assert len(options) >= 6 and all(option in text for option in options)
    assert all(f"`{suffix}`" in TEXT for suffix in SUFFIXES)
