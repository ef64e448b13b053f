import io

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.image import imread

from rankfall.report import figures, overview, render_figure, reproduction, style

LN10 = np.log(10.0)


def lines_of(axes, *, colour=None, dashes=None):
    found = [line for line in axes.lines if len(line.get_xdata())]
    if colour is not None:
        found = [line for line in found if line.get_color() == colour]
    if dashes is not None:
        found = [line for line in found if line.get_linestyle() == dashes]
    return found


def test_left_panel_shows_every_replicate_the_median_and_the_law(made_run):
    quiet, noisy = made_run(noise=0.0), made_run(noise=2.0)
    left, _ = reproduction({0.0: quiet, 2.0: noisy}).axes
    bundles = [collection for collection in left.collections if hasattr(collection, "get_segments")]
    assert [len(bundle.get_segments()) for bundle in bundles] == [6, 6]
    drawn = np.array([segment[:, 1] for segment in bundles[1].get_segments()])
    assert np.allclose(drawn, noisy["log_det"].values / LN10)
    (median,) = [line for line in lines_of(left, colour=style.NOISE_COLOURS[0]) if np.isfinite(line.get_ydata()).any()]
    assert np.allclose(median.get_ydata(), np.median(noisy["log_det"].values, axis=0) / LN10)
    laws = lines_of(left, colour=style.INK)
    assert len(laws) == 2
    slope = np.polyfit(laws[1].get_xdata(), laws[1].get_ydata() * LN10, 1)[0]
    assert slope == pytest.approx(-2 * 2 * 0.02 * 5)
    assert np.ptp(laws[0].get_ydata()) == 0


def test_legend_and_labels_name_both_runs(made_run):
    left, right = reproduction({0.0: made_run(noise=0.0), 2.0: made_run(noise=2.0)}).axes
    for axes in (left, right):
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts[:2] == ["δ = 0 (gradient flow)", "δ = 2"]
        assert axes.get_xlabel() == "time"
    assert [text.get_text() for text in left.get_legend().get_texts()][2:] == ["law"]
    assert left.get_ylabel() == "det M"
    assert right.get_yscale() == "log"


def test_ticks_of_the_determinant_are_powers_of_ten_even_beyond_float64(made_run):
    # e^-20000 is no float64; the axis shows its exponent.
    run = made_run(noise=2.0, duration=50_000.0, decay=1e-4)
    figure = reproduction({2.0: run})
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert any(label.startswith("$10^{-") and len(label) > len("$10^{-999}$") for label in labels)


def test_a_constant_determinant_looks_constant(made_run):
    left, _ = reproduction({0.0: made_run(noise=0.0, replicates=1)}).axes
    assert np.ptp(left.get_ylim()) >= 4


def test_what_float64_cannot_resolve_is_dotted(made_run):
    run = made_run(noise=2.0, decay=0.5)  # e^-50 at the end, far below 1e-14
    known = figures.resolved(run)
    assert known[:, 0].all() and not known[:, -1].any()
    left, _ = reproduction({2.0: run}).axes
    solid, dotted = lines_of(left, colour=style.NOISE_COLOURS[0])
    assert dotted.get_linestyle() == ":"
    assert np.array_equal(np.isfinite(solid.get_ydata()), known[0])
    last = np.flatnonzero(known[0])[-1]
    assert np.array_equal(np.flatnonzero(np.isfinite(dotted.get_ydata())), np.arange(last, 21))
    assert "beyond float64" in [text.get_text() for text in left.get_legend().get_texts()]


@pytest.mark.parametrize("inputs, drawn_modes", [(5, range(5)), (7, range(7)), (13, [0, 1, 2, 3, 4, 8, 9, 10, 11, 12])])
def test_right_panel_draws_the_medians_of_the_five_largest_and_five_smallest(made_run, inputs, drawn_modes):
    run = made_run(noise=2.0, n_inputs=inputs, width=20)
    _, right = reproduction({2.0: run}).axes
    drawn = lines_of(right)
    expected = np.median(run["singular_values_W1"].values, axis=0)
    assert np.allclose([line.get_ydata() for line in drawn], expected[:, list(drawn_modes)].T)
    assert right.get_title(loc="left") == "Singular values of W1"
    assert right.get_ylabel() == ("σᵢ" if inputs <= 10 else "σᵢ (5 largest, 5 smallest)")


def test_rounding_noise_is_not_drawn_as_a_singular_value(made_run):
    run = made_run(noise=2.0, decay=1.0)
    _, right = reproduction({2.0: run}).axes
    lowest = min(np.nanmin(line.get_ydata()) for line in lines_of(right))
    assert lowest > 1e-15


def test_narrow_networks_show_the_balance_and_say_why(made_run):
    figure = reproduction({0.0: made_run(noise=0.0, width=4), 2.0: made_run(noise=2.0, width=4)})
    assert figure.axes[0].get_title(loc="left").startswith("Balance")
    assert "the width 4 is below p + k = 7" in figure.get_suptitle()
    figure = overview(made_run(noise=2.0, width=4))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Singular values of W2",
        "Singular values of W1",
        "Loss",
        "Balance Q = W1ᵀW1 − W2W2ᵀ",
    ]
    assert "det M = 0 at all times" in figure.get_suptitle()


def test_overview_of_a_descent_shows_its_ledger(made_run):
    run = made_run(noise=0.0, method="GradientDescent")
    run["ledger_log_det"] = ("replicate", "time"), np.broadcast_to(-0.01 * run["time"].values, (6, 21)).copy()
    run["ledger_balance"] = run["balance"] * 1.0
    determinant, _, _, balance = overview(run).axes
    (dashed,) = lines_of(determinant, colour=style.INK)
    assert np.allclose(np.diff(dashed.get_ydata()) * LN10, -0.05)
    assert "ledger" in [text.get_text() for text in determinant.get_legend().get_texts()]
    assert len(lines_of(balance, colour=style.INK)) == 1
    assert determinant.get_xlabel() == "time (steps × step size)"


def test_euler_runs_are_compared_with_their_ledger_not_with_the_law(made_run):
    run = made_run(noise=2.0)
    run.attrs["settings"] = run.attrs["settings"].replace("geometric", "euler")
    assert figures.log_det_change(run) is None
    run["ledger_log_det"] = run["log_det"] * 0.0 - 1.0
    assert (figures.log_det_change(run) == -1.0).all()


def test_diverged_and_unfinished_replicates_are_left_out(made_run):
    run = made_run(noise=2.0)
    for name in ("loss", "log_det", "singular_values_W1", "singular_values_Z", "balance"):
        run[name].values[0, 5:] = np.nan
        run[name].values[:, -3:] = np.nan
    left, right = reproduction({2.0: run}).axes
    median = lines_of(left, colour=style.NOISE_COLOURS[0])[0].get_ydata()
    assert np.allclose(median[6:-3], np.median(run["log_det"].values[1:], axis=0)[6:-3] / LN10)
    assert np.isnan(lines_of(right)[0].get_ydata()[-3:]).all()
    for figure in (reproduction({2.0: run}), overview(run)):
        assert render_figure(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("replicates, points", [(1, 1), (1, 2), (2, 1), (600, 2)])
def test_odd_sizes_can_be_drawn(made_run, replicates, points):
    run = made_run(replicates=replicates, points=points)
    for figure in (reproduction({2.0: run}), overview(run), overview(run, columns=1)):
        assert len(render_figure(figure, "svg")) > 1000


def test_rendering_is_deterministic_and_ignores_the_users_style(made_run):
    run = made_run()
    first = {kind: render_figure(overview(run), kind) for kind in ("svg", "png", "pdf")}
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.hashsalt": "other"}):
        assert {kind: render_figure(overview(run), kind) for kind in first} == first
    assert b"<dc:date>" not in first["svg"]
    with pytest.raises(ValueError, match="svg, pdf, png, got 'gif'"):
        render_figure(overview(run), "gif")


def test_global_state_of_matplotlib_is_left_alone(made_run):
    before = dict(matplotlib.rcParams)
    render_figure(reproduction({2.0: made_run()}), "svg")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def test_png_has_the_size_of_two_columns(made_run):
    height, width, _ = imread(io.BytesIO(render_figure(reproduction({2.0: made_run()}), "png"))).shape
    assert (width, height) == (round(6.9 * 220), round(2.9 * 220))
