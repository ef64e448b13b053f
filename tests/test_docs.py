"""The documentation: every example runs, every page is reachable, every link and every docstring can be rendered."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import typer

import rankfall as rf
from rankfall.cli import app
from rankfall.experiments._catalogue import TARGETS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
GALLERY = DOCS / "gallery" / "index.md"
PAGES = sorted(DOCS.rglob("*.md"))
CELL = re.compile(r"^```\{code-cell\} python\n((?::[^\n]*\n)*)\n?(.*?)^```", flags=re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def cells_of(text):
    """The code of the cells that a reader sees."""
    return [code for options, code in CELL.findall(text) if "remove-cell" not in options]


def scripts_of(page):
    """The Python blocks of a page that are no sessions."""
    return [code for code in BLOCK.findall(page.read_text(encoding="utf-8")) if ">>>" not in code]


def sections_of(text):
    """Heading → text of each section."""
    found = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def run(page, code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(plt, "show", lambda: None)
    names = {"__name__": "__main__"}
    try:
        for cell in code:
            exec(compile(cell, page.name, "exec"), names)
    finally:
        plt.close("all")
    return names


def needs(code):
    """Skip where a package is not there that this code imports."""
    for module in ("torch", "sklearn"):
        if re.search(rf"^(import|from) {module}\b", code, flags=re.MULTILINE):
            found = pytest.importorskip(module)
            if module == "torch":
                found.set_num_threads(1)  # small matrices: threads would only wait for each other


def check_monitor(names):
    """With noise the first layer loses rank, without it hardly; the ledger is of this size, not of rounding's."""
    change = {}
    for name, history in names["histories"].items():
        rank = history.weights_effective_rank.sel(layer="0").values
        change[name] = rank[-1] / rank[0]
    assert change["clean labels"] > 0.95 and change["noisy labels"] < 0.8
    drift = {name: float(ledger.history().log_det_drift[-1, 0]) for name, ledger in names["ledgers"].items()}
    assert drift["noisy labels"] < -50 and abs(drift["clean labels"]) < 1


def check_scan(names):
    """Places, queries and keys are dominated by one direction, what tells tokens apart is not."""
    last = names["over_time"].stable_rank.isel(step=-1)
    found = {part: float(last.sel(layer=[each for each in last.layer.values if part in each]).item()) for part in PARTS}
    assert max(found[part] for part in ("places", "query", "key")) < 2.5
    assert min(found[part] for part in ("value", "embedding", "head")) > 4


PARTS = ("places", "query", "key", "value", "embedding", "head")


def check_phase_diagram(names):
    """Weak noise leaves the teacher's rank, strong noise one or two whatever the teacher."""
    rank = names["results"].final_rank
    assert (rank.isel(noise=0).sel(teacher_rank=[2, 3, 4]) == [2, 3, 4]).all()
    assert rank.isel(noise=-1).min() >= 1 and rank.isel(noise=-1).max() <= 2
    assert names["same"] == names["study"] and names["again"].reused == 45 and names["summary"].reused == 45


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_runs(page, tmp_path, monkeypatch, capsys):
    """And what the newer ones say of their figures is so."""
    cells = cells_of(page.read_text(encoding="utf-8"))
    assert cells
    needs("\n".join(cells))
    names = run(page, cells, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    # The one law that is shown failing is wrong on purpose.
    assert printed.count("FAIL") == (1 if page.stem == "own-law" else 0)
    check = globals().get(f"check_{page.stem.replace('-', '_')}")
    assert (check is not None) == (page.stem in ("monitor", "scan", "phase-diagram"))
    if check is not None:
        check(names)


@pytest.mark.parametrize("heading", sections_of(GALLERY.read_text(encoding="utf-8")))
def test_figure_of_the_gallery(heading, tmp_path, monkeypatch):
    """The code of each section stands on its own."""
    cells = cells_of(sections_of(GALLERY.read_text(encoding="utf-8"))[heading])
    assert len(cells) == 1
    needs(cells[0] + ("\nimport torch\nimport sklearn" if "beyond" in cells[0] or "classification" in cells[0] else ""))
    figure = run(GALLERY, cells, tmp_path, monkeypatch)["figure"]
    assert len(figure.axes) >= 2 and all(axes.has_data() or axes.texts for axes in figure.axes)


def test_the_gallery_has_every_target():
    text = GALLERY.read_text(encoding="utf-8")
    assert all(f"rankfall reproduce {name}" in text for name in TARGETS)
    # Each card leads to a section and shows its figure.
    cards = re.findall(r":link: (\S+)\n:link-type: ref\n```\{glue:\} (\w+)\n", text)
    assert len(cards) == len(sections_of(text))
    for label, key in cards:
        assert f"\n({label})=\n## " in text and f'glue("{key}", figure, display=False)' in text


# Pages with Python that is no session; a script for a cluster has a test of its own (tests/sweep_run/test_page.py).
SCRIPTS = [page for page in PAGES if scripts_of(page)]


@pytest.mark.parametrize("page", SCRIPTS, ids=lambda page: page.stem)
def test_scripts_of_the_pages_run(page, tmp_path, monkeypatch, capsys):
    scripts = [code for code in scripts_of(page) if "dask_jobqueue" not in code]
    run(page, scripts, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "FAIL" not in printed
    if page.stem == "start":
        assert "PASS determinant law" in printed


def test_every_page_with_a_session_has_a_test_that_runs_it():
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_page.py")]
    pages = [page for page in PAGES if ">>>" in page.read_text(encoding="utf-8")]
    assert len(pages) >= 4
    for page in pages:
        assert any(f'"docs" / "{page.name}"' in text and "doctest.testfile" in text for text in tests), page.name


def commands():
    """Name → options of every command."""
    group = typer.main.get_command(app)
    return {
        name: {word for parameter in command.params for word in [*parameter.opts, *parameter.secondary_opts]}
        for name, command in group.commands.items()
    }


def test_commands_of_the_pages_exist():
    known = commands()
    found = []
    for page in [*PAGES, ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        shell = "".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
        found += re.findall(r"^(?:rankfall|\S*/rankfall) ([a-z]\w*)(.*)$", shell, flags=re.MULTILINE)
        found += re.findall(r"`rankfall ([a-z]\w*)([^`]*)`", text)
    assert len(found) > 30
    for name, rest in found:
        assert name in known, name
        if name == "reproduce":
            target = re.match(r" ([a-z]+)\b", rest)
            assert target is None or target[1] in TARGETS, rest
        if name in known and not rest.startswith(" status"):
            options = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest.split("#")[0]))
            assert options <= known[name] | {"--help"}, (name, options - known[name])


# Named in a page before it is there.


@pytest.fixture(scope="module")
def notebooks():
    pytest.importorskip("jupytext")
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_notebook_holds_the_cells_of_its_tutorial(notebooks, page, tmp_path):
    for folder in ("once", "again"):
        notebooks.write_notebooks(tmp_path / folder)
    once, again = ((tmp_path / folder / f"{page.stem}.ipynb").read_bytes() for folder in ("once", "again"))
    assert once == again
    install, *cells = json.loads(once)["cells"]
    text = page.read_text(encoding="utf-8").split("\n---\n", 1)[1]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert code == [cell.strip() for cell in cells_of(text)]
    # With the cells put back between them, the prose is the page.
    assert "".join("".join(prose).split()) == "".join(CELL.sub("", text).split())
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert "%pip install" in install["source"][-1]
    for module, extra in (("torch", "torch"), ("sklearn", "data")):
        assert (re.search(rf"^(?:import|from) {module}\b", "\n".join(code), flags=re.M) is not None) == (
            extra in re.findall(r"\w+", install["source"][-1])
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages; the cells are not run here, the tests above do."""
    pytest.importorskip("myst_nb")
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-D", "nb_execution_mode=off", "-b", "html"]
    # Cells that were not run have no language for their output, and no figures for the cards of the gallery.
    command += ["-D", "suppress_warnings=myst-nb.lexer,myst-nb.glue,mystnb.glue"]
    doctrees = ["-d", str(folder.parent / "doctrees")]
    done = subprocess.run([*command, *doctrees, DOCS, folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_without_a_warning(site):
    """And its notebooks lie beside the tutorials."""
    for page in TUTORIALS:
        text = (site / "tutorials" / f"{page.stem}.html").read_text(encoding="utf-8")
        (link,) = re.findall(r'<a href="([^"]*\.ipynb)" download', text)
        assert (site / "tutorials" / link).resolve().is_file()


def test_no_page_asks_another_machine_for_anything(site):
    pages, sheets = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 20 and sheets
    for page in pages:
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|link|iframe|source|audio|video|object|embed|form)\b[^>]*>", text)
        loaded = [tag for tag in tags if re.search(r"""(?:src|href|data|action|srcset)=["'](?:https?:)?//""", tag)]
        loaded += re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^)]*""", text)
        assert not loaded, (page.name, loaded)
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"""(?:@import\s+|url\()\s*["']?(?:https?:)?//""", text), sheet.name


def test_every_public_name_has_its_place_in_the_reference(site):
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    known = {line.split()[0] for line in inventory.splitlines() if " py:" in line}
    rooms = ["", ".errors", ".datasets", ".runs", ".laws", ".ranks", ".scan", ".sweep", ".report", ".experiments"]
    if importlib.util.find_spec("torch"):
        rooms.append(".torch")
    for room in rooms:
        module = importlib.import_module(f"rankfall{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            home = thing.__name__ if inspect.ismodule(thing) else f"{getattr(thing, '__module__', '')}.{name}"
            # Where two rooms export the same thing one of them has it.
            homes = {f"rankfall{room}.{name}", f"rankfall.{name}", f"rankfall.errors.{name}", home}
            assert homes & known, f"{module.__name__}.{name} is in no page under docs/api"


def test_examples_of_docstrings_are_shown_as_they_are(site):
    text = (site / "api" / "laws.html").read_text(encoding="utf-8")
    assert "PASS determinant: log det M constant | predicted 2" in re.sub(r"<[^>]*>", "", text)


def test_every_module_of_laws_is_documented_whole(site):
    text = (site / "api" / "laws.html").read_text(encoding="utf-8")
    for name in rf.laws.__all__:
        module = getattr(rf.laws, name)
        if inspect.ismodule(module):
            assert all(f'id="rankfall.laws.{name}.{each}"' in text for each in module.__all__), name


def test_the_version_is_the_same_everywhere():
    for file, words in (("CITATION.cff", r"^version: (\S+)$"), ("README.md", r"^  version = \{(\S+)\},$")):
        found = re.findall(words, (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert found == [rf.__version__], file
