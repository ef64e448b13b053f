"""docs/theory.md points at files, functions and tests that exist.

A link into src/ whose text is `module.name` or `module.Class.name` names something defined in that file, `file.py` the
file itself; a link into tests/ whose text is a sentence names the test function of these words.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "theory.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = [
    (" ".join(words.strip("`").split()), words.startswith("`"), target)
    for words, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
]
OUTSIDE = [link for link in LINKS if not link[2].startswith(("#", "http"))]


def place(target: str) -> Path:
    return (PAGE.parent / target).resolve()


def key(target: str) -> str:
    return place(target).relative_to(PAGE.parents[1]).as_posix()


def defined(path: Path) -> set[str]:
    """Names of the functions and classes of a module, and Class.name of methods and annotated or assigned fields."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    names.add(f"{node.name}.{part.name}")
                elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    names.add(f"{node.name}.{part.target.id}")
    return names


def missing(words: str, is_code: bool, target: str) -> str | None:
    """What a link names and is not there: a file, or file::name; None if all is there."""
    path = place(target)
    if not path.exists():
        return key(target)
    if path.is_dir() or (is_code and words == path.name):
        return None
    if key(target).startswith("src/") and is_code:
        module, _, name = words.partition(".")
        if module != path.stem:
            return f"{key(target)}::{words} (the file's module is {path.stem})"
        if name not in defined(path):
            return f"{key(target)}::{name}"
    elif key(target).startswith("tests/") and not is_code:
        name = "test_" + words.replace(" ", "_")
        if name not in {found.lower() for found in defined(path)} | defined(path):
            return f"{key(target)}::{name}"
    return None


def test_there_are_links_of_both_kinds():
    assert sum(target.startswith("../src/") for _, _, target in OUTSIDE) > 40
    assert sum(target.startswith("../tests/") for _, _, target in OUTSIDE) > 40
    assert missing("determinant.nothing", True, "../src/rankfall/laws/determinant.py") is not None
    assert missing("nothing of the kind", False, "../tests/laws/test_determinant.py") is not None


def test_every_link_outside_points_at_something():
    lost = [found for found in (missing(*link) for link in OUTSIDE) if found is not None]
    assert lost == []


def test_every_section_named_at_the_top_is_there():
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^## (.+)$", TEXT, re.M)
    }
    named = {target[1:] for _, _, target in LINKS if target.startswith("#")}
    assert named == anchors


def test_every_reference_is_cited_and_every_citation_has_one():
    body, listed = TEXT.split("## 14. References")
    numbers = {int(number) for number in re.findall(r"^(\d+)\. ", listed, re.M)}
    cited = {int(one) for group in re.findall(r"\[(\d+(?:, \d+)*)\](?!\()", body) for one in group.split(", ")}
    assert cited == numbers


def test_every_part_but_the_notation_names_code_and_tests():
    for section in re.split(r"^## ", TEXT, flags=re.M)[2:-1]:
        assert "- Implemented: " in section, section.splitlines()[0]
        if not section.startswith("1. "):
            assert "- Tested: " in section, section.splitlines()[0]
