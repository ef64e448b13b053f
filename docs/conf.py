"""Settings of the documentation (Sphinx): `make docs` builds it, and a warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.ext.autosummary import AutoLink

import rankfall

sys.path.insert(0, str(Path(__file__).parent))
import notebooks  # of this folder

project = "rankfall"
author = "The rankfall developers"
copyright = author
version = release = rankfall.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute"]
source_suffix = {".md": "myst-nb"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# Tutorials run when the pages are built; an unchanged one comes from the cache.
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# Whatever a page writes, it writes into a folder that is thrown away.
nb_execution_in_temp = True

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"rankfall {release}"
html_static_path = ["_static"]
html_css_files = ["rankfall.css"]
# No request leaves the reader's machine.
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}


# A single-quoted name in a docstring links to its object where there is one, and looks like code where there is none.
default_role = "name"


class _Name(AutoLink):
    """The role of single quotes."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        found, problems = super().run()
        return [
            nodes.literal("", node.astext()) if isinstance(node, nodes.emphasis) else node for node in found
        ], problems


_EMPHASIS = re.compile(r"(\*\*[^*]+\*\*|(?<![\w*])\*[^\s*](?:[^*]*[^\s*])?\*(?![\w*]))")


def _escaped(text: str) -> str:
    pieces = _EMPHASIS.split(text.replace("|", r"\|"))
    pieces[::2] = [piece.replace("*", r"\*") for piece in pieces[::2]]
    return "".join(pieces)


def _plain_text(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are read in terminals too: |x| is an absolute value there, and a lone * no emphasis."""
    in_example = False
    for number, line in enumerate(lines):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if in_example:  # its output as well
            continue
        parts = re.split(r"(`+[^`]*`+)", line)
        parts[::2] = [_escaped(part) for part in parts[::2]]
        lines[number] = "".join(parts)


def _link_notebook(app: Any, name: str, source: list[str]) -> None:
    """Below the heading of a tutorial: a link to its notebook."""
    if name.startswith("tutorials/") and app.builder.format == "html":
        link = f'<p class="notebook"><a href="../notebooks/{Path(name).name}.ipynb" download>As a notebook</a></p>'
        source[0] = re.sub(r"^(# .*)$", rf"\1\n\n{link}", source[0], count=1, flags=re.MULTILINE)


def _write_notebooks(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        notebooks.write_notebooks(Path(app.outdir) / "notebooks")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_role("name", _Name())
    app.connect("autodoc-process-docstring", _plain_text)
    app.connect("source-read", _link_notebook)
    app.connect("build-finished", _write_notebooks)
