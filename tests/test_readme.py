"""What the README shows works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def run_example(tmp_path, monkeypatch, capsys):
    """Runs the README's example of this number in an empty folder and returns what it prints."""

    def run(number):
        monkeypatch.chdir(tmp_path)
        code = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)[number]
        exec(compile(code, "README.md", "exec"), {})
        return capsys.readouterr().out

    return run


def test_the_first_example_certifies_a_run(run_example, tmp_path):
    assert "PASS determinant law" in run_example(0)
    assert (tmp_path / "run.nc").exists()


def test_the_second_example_finds_the_rank_of_the_teacher(run_example):
    lines = run_example(1).splitlines()
    assert any(line.strip() == "2" for line in lines)  # the teacher has rank k = 2
    assert "repulsion" in "\n".join(lines)


def test_the_third_example_follows_a_training(run_example):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    printed = run_example(2)
    assert "weights_effective_rank" in printed or "weights_stable_rank" in printed
    assert "PASS" in printed and "FAIL" not in printed


def test_all_examples_are_run():
    assert TEXT.count("```python") == 3


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)]+)\)", TEXT)
    assert len(links) >= 6
    for link in links:
        assert (ROOT / link).exists(), link


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"\bmake ([a-z-]+)", TEXT)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
