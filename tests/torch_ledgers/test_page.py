"""docs/torch-ledgers.md runs, and the example says what it should."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]


def test_examples_of_the_page():
    result = doctest.testfile(str(ROOT / "docs" / "torch-ledgers.md"), module_relative=False, encoding="utf-8")
    assert result.failed == 0 and result.attempted >= 10


def test_variables_of_the_page():
    from rankfall.torch._report import _WORDS

    text = (ROOT / "docs" / "torch-ledgers.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows[:5]))) == set(_WORDS)


def test_the_adapter_example(capsys):
    runpy.run_path(str(ROOT / "examples" / "adapter_ledger.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.count("PASS") == 2
    lines = [line for line in out.splitlines() if line.startswith(("SGD", "AdamW"))]
    rows = {line[:18].strip(): [float(number) for number in line[18:].split()] for line in lines}
    sgd, momentum, adam = (rows[name] for name in ("SGD", "SGD, momentum 0.9", "AdamW"))
    # both move Q and the volume; only SGD's share is in its ledger
    assert sgd[2] > 1.0 and sgd[3] < 1e-4 and sgd[4] < -10.0 and abs(sgd[5]) < 1e-3
    assert momentum[3] > 1.0 and momentum[5] < -10.0
    assert adam[3] > 1.0 and abs(adam[5]) > 0.1
