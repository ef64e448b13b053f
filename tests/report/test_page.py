import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rankfall.laws import Verdict
from rankfall.report import Page, VerdictTable, page, render_figure, render_page, reproduction, style


def verdict(passed, law="a law", note=""):
    return Verdict(law, "x ≤ 1 & y < 2", -1.5, np.float64(2.0), 1e-13, 1e-9, passed, 3, 64, note)


def make_page(**changes):
    content = {
        "title": "A title",
        "lead": "What this is.",
        "claims": [verdict(True, "first claim")],
        "figure": None,
        "caption": "",
        "tables": [VerdictTable("δ = 2", [verdict(True), verdict(None, "other", "beyond float64 since t=12")])],
        "settings": {"width": "10"},
        "environment": {"numpy": "2.0"},
        "command": "rankfall reproduce --label-noise 2 --out 'my folder'",
        "files": [("figure.svg", "the figure")],
    }
    return Page(**(content | changes))


class Outline(html.parser.HTMLParser):
    """Collects addresses and checks that every element is closed."""

    VOID = ("meta", "br", "link", "img", "hr", "path", "use")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.text.append(data)


def outline(text):
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_page_needs_nothing_from_the_network(made_run):
    svg = render_figure(reproduction({0.0: made_run(noise=0.0), 2.0: made_run(replicates=300)}), "svg")
    text = render_page(make_page(figure=svg))
    for address in outline(text).addresses:
        assert address.startswith(("#", "data:image/png;base64,")) or address == "figure.svg"
    assert "@import" not in text and "url(http" not in text
    # One script, our own, that sorts tables; it asks for nothing.
    assert re.findall(r"<script[^>]*>", text) == ["<script>"] and "fetch" not in text and "import(" not in text
    assert len(text) < 3_000_000


def test_names_of_files_are_addresses_of_files_and_nothing_else():
    """A fragment, a query or a scheme in a name would lead elsewhere, or run."""
    text = render_page(make_page(files=[("run #1?.nc", "a run"), ("javascript:alert(1)", "not one")]))
    assert outline(text).addresses == ["run%20%231%3F.nc", "javascript%3Aalert%281%29"]
    assert "run #1?.nc" in text


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("sign, expected", [(1, ["2", "10", "—", "none"]), (-1, ["10", "2", "none", "—"])])
def test_what_is_no_number_is_sorted_last_in_either_direction(sign, expected):
    script = (Path(page.__file__).parent / "sort.js").read_text(encoding="utf-8")
    call = (
        "const document = { querySelectorAll: () => [] };\n" + script + "\n"
        "const cells = ['—', '10', 'none', '2'].map((textContent) => ({ textContent }));\n"
        f"cells.sort((a, b) => compare(a, b, {sign}));\n"
        "console.log(JSON.stringify(cells.map((cell) => cell.textContent)));"
    )
    found = subprocess.run(["node", "-e", call], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(found.stdout) == expected


def test_figure_follows_the_readers_colours(made_run):
    svg = render_figure(reproduction({2.0: made_run()}), "svg")
    text = page.inline_svg(svg)
    assert text.startswith("<svg role=")
    assert "<?xml" not in text and "<!DOCTYPE" not in text and "<metadata" not in text
    assert style.INK not in text and "var(--ink)" in text
    assert "#ffffff" not in text
    opening = text[: text.index(">")]
    assert "viewBox" in opening and not re.search(r'\b(width|height)="', opening)


def test_summary_comes_first_and_counts():
    text = render_page(make_page())
    assert text.index("What this is.") < text.index("2 of 3 checks passed, none failed, 1 undecided.")
    assert text.index("first claim") < text.index("beyond float64 since t=12") < text.index("figure.svg")
    assert text.count('class="mark passed"') == 2 and text.count('class="mark undecided"') == 1


def test_failures_cannot_be_overlooked():
    text = render_page(make_page(claims=[verdict(False)]))
    assert '<p class="banner bad">1 of 3 checks failed, 1 undecided.</p>' in text
    assert 'class="banner good"' not in text


def test_partial_reports_say_so_in_title_and_banner():
    text = render_page(make_page(partial="the run with δ = 2 was interrupted at t = 7"))
    assert "<title>A title (partial)</title>" in text
    assert "Partial report: the run with δ = 2 was interrupted at t = 7" in text
    assert 'class="banner good"' not in text


def test_nothing_checked_yet():
    assert "Nothing has been checked yet." in render_page(make_page(claims=[], tables=[]))


def test_texts_are_escaped():
    text = render_page(make_page(lead="<script>alert(1)</script>", settings={"a<b": '"quoted" & <i>'}))
    assert text.count("<script") == 1 and "&lt;script&gt;alert(1)" in text
    assert "a&lt;b" in text and "&lt;i&gt;" in text
    assert "x ≤ 1 &amp; y &lt; 2" in text
    outline(text)


def test_command_reads_as_typed():
    text = render_page(make_page())
    shown = re.search(r"<pre>(.*?)</pre>", text)[1]
    assert re.sub(r"</?span>", "", shown) == "rankfall reproduce --label-noise 2 --out &#39;my folder&#39;"


@pytest.mark.parametrize("value, expected", [(None, "—"), (float("nan"), "—"), (-1e-300, "−1e−300"), (3, "3")])
def test_numbers(value, expected):
    assert page.number(value) == expected


def test_what_does_not_hold_and_need_not_is_no_failure():
    no = Verdict("a claim", "the rank falls", 0.9, 1.0, 0.1, 0.0, None, negative=True)
    assert no.status == "NO" and no.to_dict()["status"] == "NO" and str(no).startswith("NO a claim")
    text = render_page(make_page(claims=[verdict(True), no, no], tables=[]))
    assert "1 of 3 checks passed, none failed, 2 do not hold and need not." in text
    assert text.count('class="mark no"') == 2 and 'class="mark undecided"' not in text
    text = render_page(make_page(claims=[no], tables=[]))
    assert "None of 1 checks passed, none failed, 1 does not hold and need not." in text


def test_the_figure_comes_before_a_table_of_many_screens():
    figure = b'<?xml version="1.0"?><svg width="1" height="1"></svg>'
    for count, first in ((3, "What is claimed"), (13, ">Figure<")):
        text = render_page(make_page(claims=[verdict(True)] * count, figure=figure))
        second = {"What is claimed": ">Figure<", ">Figure<": "What is claimed"}[first]
        assert text.index(first) < text.index(second)
