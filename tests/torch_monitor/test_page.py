"""docs/monitor.md: its examples run, its loggers and alerts exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import rankfall.torch
from rankfall.torch._alerts import RULES
from rankfall.torch._measuring import METHODS
from rankfall.torch._selection import LARGEST_MOMENTS, THINGS
from torch_monitor import small  # noqa: F401  (one thread)

PAGE = Path(__file__).parents[2] / "docs" / "monitor.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_examples():
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.failed == 0 and result.attempted >= 15


def test_names_of_the_page_exist():
    for names in (THINGS, METHODS, RULES):
        assert all(f'`"{name}"`' in TEXT for name in names)
    assert f"more than {LARGEST_MOMENTS} features" in TEXT
    for name in re.findall(r"rankfall\.torch\.(\w+)", TEXT):
        assert hasattr(rankfall.torch, name)
    assert all(hasattr(rankfall.torch, name) for name in rankfall.torch.__all__)
