"""The page of a sweep: its cells, its figures, what failed; nothing in it comes from elsewhere or runs."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

import rankfall as rf
from rankfall.cli import app
from rankfall.report.sweep_page import main_quantities


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two by three cells; the largest step diverges. The name would be markup if nobody escaped it."""
    study = rf.sweep.Study.from_mapping(
        {
            "name": "steps <b>and</b> noise",
            "seed": 1,
            "problem": {"n_samples": 40, "n_inputs": 2, "n_outputs": 1},
            "network": {"width": 4, "scale": 0.5},
            "method": {"name": "label-noise-descent"},
            "run": {"steps": 400, "replicates": 4, "save_points": 5},
            "axes": {"method.step_size": [0.01, 0.02, 9.0], "method.label_noise": [0.5, 1.0]},
            "keep": {"quantities": ["final_rank", "final_loss"]},
        }
    )
    path = tmp_path_factory.mktemp("sweep") / "results.zarr"
    summary = rf.sweep.run(study, path)
    assert summary.failed == 2
    return path


def test_the_page_of_a_sweep(store, tmp_path):
    page = tmp_path / "page.html"
    result = run("plot", store, "--out", page)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "4 of 6 cells done, 2 failed." in text
    assert "<b>and" not in text and "steps &lt;b&gt;and&lt;/b&gt; noise" in text
    assert re.findall(r"<script[^>]*>", text) == ["<script>"] and "http-equiv" not in text
    assert not re.search(r'(?:src|href)="https?:', text)
    results = rf.sweep.open_results(store)
    assert main_quantities(results) == ["final_rank", "final_loss"]
    # every number of the table is that of the store
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", text.split("<h2>Cells</h2>")[1].split("</table>")[0], flags=re.DOTALL)[1:]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert len(cells) == 6
    for place, (step, noise, rank, loss) in zip(np.ndindex(3, 2), cells, strict=True):
        assert (
            float(step) == results.step_size.values[place[0]] and float(noise) == results.label_noise.values[place[1]]
        )
        if place[0] == 2:
            assert rank == loss == "—"
            continue
        assert float(rank.split(" ± ")[0]) == pytest.approx(float(results.final_rank[place]), rel=1e-3)
        assert float(loss.split(" ± ")[0].replace("−", "-")) == pytest.approx(
            float(results.final_loss[place]), rel=1e-3
        )
    failures = text.split("<h2>Cells that failed</h2>")[1].split("</table>")[0]
    assert failures.count("<tr>") == 3 and "diverged" in failures
    assert f"rankfall plot {store} --out {page}" in text


def test_of_what_was_chosen(store, tmp_path):
    page = tmp_path / "page.html"
    assert run("plot", store, "--color", "final_loss", "--out", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure>") == 1 and "--color final_loss" in text
    result = run("plot", store, "--color", "final_los", "--out", tmp_path / "other.html")
    assert result.exit_code == 2 and "did you mean final_loss" in result.stderr
    assert not (tmp_path / "other.html").exists()


def test_a_run_has_no_such_page(tmp_path):
    result = run("plot", tmp_path / "run.nc", "--out", tmp_path / "page.html")
    assert result.exit_code == 2 and "must end in .svg, .png or .pdf, got" in result.stderr
