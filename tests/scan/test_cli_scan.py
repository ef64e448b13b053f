"""`rankfall scan`: what it prints, writes, refuses; its exit codes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file
from typer.testing import CliRunner

import rankfall as rf
from rankfall.cli import app
from scan.files import planted


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def model(tmp_path):
    generator = np.random.default_rng(3)
    arrays = {
        "model.layers.0.self_attn.q_proj.weight": generator.normal(size=(8, 8)),
        "model.layers.0.mlp.up.weight": planted([3.0, 1.0, 0.1, 0.01], 30, 20),
        "model.layers.0.q.lora_A.weight": generator.normal(size=(2, 9)),
        "model.layers.0.q.lora_B.weight": generator.normal(size=(7, 2)),
        "model.layers.0.norm.weight": np.ones(8),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_table(model):
    result = run("scan", model, "--measure", "stable_rank", "--measure", "numerical-rank")
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert "Names begin with model.layers.0.\n" in text
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if "  " in line}
    assert rows["Attention"][1:] == ["shape", "stable", "numerical", "used", "saves"]
    # Golden values of the library for (3, 1, 0.1, 0.01): stable 1.1122, effective 1.9714 of 20; rank 2 has 99 %.
    assert rows["mlp.up.weight"] == ["mlp.up.weight", "30×20", "1.11", "4", "10", "%", "500"]
    assert rows["q"][:2] == ["q", "7×9"] and "B·A of rank 2 at most" in text
    assert text.index("Attention") < text.index("LoRA pairs") < text.index("Other matrices")
    assert "3 matrices with 696 of the 704 parameters, stored in float64, measured in float64." in text
    assert "factors of 1 of them would save 500 (72 %)" in text
    assert "Tensors left out: 1 with one dimension" in text
    assert "scan: 100%" in result.stderr and "\x1b" not in result.output


def test_selection_and_order(model):
    words = (
        "--select",
        "q_proj|up",
        "--sort",
        "stable_rank",
        "--quiet",
        "--json",
        "-",
        "--plot",
        model.parent / "a.svg",
    )
    result = run("scan", model, *words)
    found = json.loads(result.stdout)
    assert [layer["name"].split(".")[-2] for layer in found["layers"]] == ["up", "q_proj"]
    assert result.stderr == f"Figure: {model.parent / 'a.svg'}\n"
    assert "singular_values" not in found["layers"][0]


def test_files(model, tmp_path):
    names = {"--json": "a.json", "--html": "a.html", "--plot": "a.png", "--data": "a.nc"}
    words = [word for option, name in names.items() for word in (option, tmp_path / name)]
    result = run("scan", model, *words, "--spectra", "-q")
    assert result.exit_code == 0, result.output
    for what, name in zip(("JSON", "Page", "Figure", "Dataset"), names.values(), strict=True):
        assert f"{what}: {tmp_path / name}" in result.stdout
    record = json.loads((tmp_path / "a.json").read_text())
    values = {layer["name"].split(".")[-2]: layer["singular_values"] for layer in record["layers"]}["up"]
    assert np.allclose(values[:4], [3.0, 1.0, 0.1, 0.01], rtol=0, atol=1e-13)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as data:
        assert data.identical(rf.scan.scan_checkpoint(model).to_dataset())


def test_page_is_whole_by_itself(model, tmp_path):
    run("scan", model, "--html", tmp_path / "a.html", "-q")
    text = (tmp_path / "a.html").read_text()
    links = re.findall(r"""(?:href|src|url)\s*[=(]\s*["']?([^"')>\s]+)""", text)
    assert links and all(link.startswith("#") for link in links)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert text.count('class="spark"') == 3 and "<h3>LoRA pairs (B·A)</h3>" in text
    assert "500" in text and "Spectrum of model.layers.0.mlp.up.weight" in text


def test_names_are_escaped(tmp_path):
    names = ("<script>alert(1)</script>.weight", 'a"b', "_hidden", r"$\frac{$", "--><b>", "line\nbreak")
    save_file({name: np.eye(3) for name in names}, tmp_path / "m.safetensors")
    result = run("scan", tmp_path / "m.safetensors", "--html", tmp_path / "a.html", "-q")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "a.html").read_text()
    assert text.count("<script") == 1 and "&lt;script&gt;alert(1)" in text and 'a"b' not in text and "<b>" not in text


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path):
    save_file({"a\x1b[31m\nb": np.eye(3)}, tmp_path / "m.safetensors")
    result = run("scan", tmp_path / "m.safetensors", "-q")
    assert result.exit_code == 0 and "\x1b" not in result.output
    assert any(line.startswith("a?[31m?b") for line in result.stdout.splitlines())


def test_not_finite_is_exit_code_one_and_the_rest_goes_on(tmp_path):
    bad = np.eye(3)
    bad[0, 0] = np.nan
    save_file({"bad": bad, "good": np.eye(3)}, tmp_path / "m.safetensors")
    result = run("scan", tmp_path / "m.safetensors", "--html", tmp_path / "a.html", "--plot", tmp_path / "a.svg", "-q")
    assert result.exit_code == 1
    assert (
        "1 of 9 entries are NaN or infinite" in result.stdout and "1 of 2 matrices are not finite: see" in result.stdout
    )
    assert re.search(r"good\s+3×3\s+3.00", result.stdout)
    assert "1 of 2 matrices are not finite" in result.stderr
    assert "1 of 2 matrices are not finite" in (tmp_path / "a.html").read_text()
    assert run("scan", tmp_path / "m.safetensors", "--select", "good").exit_code == 0


def test_nothing_but_bad_matrices_still_makes_a_page(tmp_path):
    save_file({"bad": np.full((3, 3), np.nan)}, tmp_path / "m.safetensors")
    result = run("scan", tmp_path / "m.safetensors", "--html", tmp_path / "a.html", "-q")
    assert result.exit_code == 1 and (tmp_path / "a.html").exists(), result.output


@pytest.mark.parametrize(
    "words, message",
    [
        (("--measure", "stabel"), "did you mean stable_rank"),
        (("--select", "nothing"), "fits none of the matrices"),
        (("--sort", "efective"), "cannot sort by 'efective'; did you mean effective_rank"),
        (("--heads", "many"), "--heads takes a number, or config"),
        (("--heads", "1001"), "heads=1001 splits nothing in"),
        (("--html", "a.txt"), "--html must end in .html or .htm"),
        (("--plot", "a.gif"), "--plot must end in .svg or .png or .pdf"),
        (("--json", "no/such/folder.json"), "there is no folder no/such"),
        (("--method", "qr"), "Invalid value for '--method'"),
        (("--over-time",), "checkpoints over time are a folder"),
    ],
)
def test_refusals(model, words, message):
    result = run("scan", model, *words)
    assert result.exit_code == 2
    assert message in re.sub(r"[\s│]+", " ", result.stderr)
    assert result.stdout == "" and "scan:" not in result.stderr  # before any work


def test_missing_and_damaged_files(tmp_path):
    assert run("scan", tmp_path / "no.safetensors").exit_code == 2
    (tmp_path / "m.safetensors").write_bytes(b"12345678901")
    result = run("scan", tmp_path / "m.safetensors")
    assert result.exit_code == 2 and "no sound safetensors file" in result.stderr


def test_steps(tmp_path):
    for step, rank in ((100, 1), (0, 3)):
        save_file({"w": planted(np.ones(rank), 5, 5), "v": np.eye(4)}, tmp_path / f"step-{step}.safetensors")
    result = run(
        "scan", tmp_path, "--html", tmp_path / "a.html", "--plot", tmp_path / "a.pdf", "-q", "--measure", "all"
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"w\s+0\s+5×5\s+3 .*\nw\s+100\s+5×5\s+1 ", result.stdout)
    assert "Rank against training step" in (tmp_path / "a.html").read_text()
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_checkpoints_beside_a_model_are_mentioned(tmp_path):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"w": np.eye(step + 2)}, tmp_path / f"checkpoint-{step}" / "model.safetensors")
    save_file({"w": np.eye(9)}, tmp_path / "model.safetensors")
    result = run("scan", tmp_path)
    assert "9×9" in result.stdout and "holds 2 checkpoints over time as well; --over-time" in result.stderr
    result = run("scan", tmp_path, "--over-time")
    assert "3×3" in result.stdout and "4×4" in result.stdout and "as well" not in result.stderr


def test_interruption_prints_what_is_finished(model, monkeypatch):
    from rankfall.scan import _scan

    begun = []
    plain = _scan.spectrum

    def slow(*words, **options):
        begun.append(words)
        if len(begun) > 1:
            raise KeyboardInterrupt
        return plain(*words, **options)

    monkeypatch.setattr(_scan, "spectrum", slow)
    result = run("scan", model, "--threads", "1", "-q")
    assert result.exit_code == 130
    assert "stopped after" in result.stderr and "Stopped before the end" in result.stdout


def test_help_shows_examples():
    result = run("scan", "--help")
    assert result.exit_code == 0 and "rankfall scan model.safetensors" in result.stdout
