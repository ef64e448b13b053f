"""The tutorials as Jupyter notebooks: `python docs/notebooks.py FOLDER`, or `make notebooks`.

The same tutorial gives the same bytes. A notebook holds the tutorial's cells as they are, without outputs; in front of
them is one that installs rankfall where it is not there, e.g. on Colab.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

__all__ = ["TUTORIALS", "install_cell", "make_notebook", "write_notebooks"]

TUTORIALS = sorted((Path(__file__).parent / "tutorials").glob("*.md"))
# What a tutorial imports beside what rankfall brings, and the extra that brings it.
_EXTRAS = {"torch": "torch", "sklearn": "data"}


def install_cell(code: str) -> str:
    """The first cell, for a tutorial with this code."""
    extras = [extra for module, extra in _EXTRAS.items() if re.search(rf"^(import|from) {module}\b", code, re.M)]
    package = "rankfall" + (f"[{','.join(extras)}]" if extras else "")
    return f'try:\n    import rankfall\nexcept ImportError:\n    %pip install --quiet "{package}"'


def make_notebook(text: str) -> Any:
    """The notebook of a tutorial in MyST Markdown."""
    without_settings = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE)
    notebook = jupytext.reads(without_settings, fmt="md:myst")
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(install_cell(code)))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # instead of a random one
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def write_notebooks(folder: Path) -> list[Path]:
    """Write all of them; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for tutorial in TUTORIALS:
        target = folder / f"{tutorial.stem}.ipynb"
        target.write_text(nbformat.writes(make_notebook(tutorial.read_text(encoding="utf-8"))) + "\n", encoding="utf-8")
        written.append(target)
    return written


if __name__ == "__main__":
    for file in write_notebooks(Path(sys.argv[1])):
        print(file)
