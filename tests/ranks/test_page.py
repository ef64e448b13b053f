"""docs/ranks.md: its examples run, and its numbers are the computed ones."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import rankfall as rf
from rankfall.ranks import COUNTS, MEASURES
from ranks.oracle import GOLDEN

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ranks.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows(heading):
    """First and last cells of the table under a heading."""
    table = re.search(rf"^\| {heading} \|.*?\n\n", TEXT, flags=re.DOTALL | re.MULTILINE).group()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().split("\n")[2:]]
    return [(row[0], row[-1]) for row in cells]


def test_examples_of_the_page():
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.failed == 0 and result.attempted >= 10


def test_table_of_the_page(capsys):
    runpy.run_path(str(ROOT / "examples" / "rank_measures.py"), run_name="__main__")
    written = re.search(r"<!-- table -->\n(.*?)\n<!-- end of table -->", TEXT, flags=re.DOTALL).group(1)
    assert written.strip() == capsys.readouterr().out.strip()
    assert written.count("\n") >= len(MEASURES)


def test_golden_values_of_the_page():
    golden = {name.strip("`"): value for name, value in rows("measure") if value != "golden"}
    assert set(golden) == set(MEASURES)
    for name, measure in MEASURES.items():
        value = float(measure(GOLDEN))
        assert golden[name].replace("−", "-") == (f"{value:.0f}" if name in COUNTS else f"{value:.4f}")


def test_entropies_in_the_trap():
    written = []
    for value in (rf.ranks.effective_rank(GOLDEN), rf.ranks.energy_effective_rank(GOLDEN)):
        written += [f"{np.log(value):.4f}", f"{value:.4f}"]
    assert ", ".join(written) in TEXT


def test_every_question_has_a_measure():
    answers = " ".join(answer for _, answer in rows("question"))
    assert all(f"`{name}`" in answers for name in MEASURES)


def test_participation_of_few_samples():
    """The trap about samples: E[tr S]²/E[tr S²] = d/(1 + (d + 1)/n) for the second moments S of n normal samples."""
    n, d = 60, 40
    samples = np.random.default_rng(0).normal(size=(400, n, d))
    ratio = np.mean(rf.ranks.participation_ratio_from_matrix(samples))
    # One ratio varies by 2 %, the mean of 400 by 0.1 %; 1/n of difference to the page's rounder formula is allowed for.
    assert ratio == pytest.approx(d / (1 + d / n), rel=0.02)
    assert ratio < 0.7 * d


def test_nearly_singular():
    matrix = np.random.default_rng(1).normal(size=(6, 5)) @ np.random.default_rng(2).normal(size=(5, 6))
    values = rf.ranks.singular_values(matrix)
    noise = float(rf.ranks.log_determinant(values) - rf.ranks.log_determinant(values[:-1]))
    # eps·σ₁ up to a factor of 100 either way.
    assert abs(noise / 2 - np.log(2.2e-16 * values[0])) < np.log(100)
