"""The figure of gradient flow and its law: what is drawn is what went in."""

import numpy as np
import pytest

import rankfall as rf
from rankfall.laws import gradient_flow
from rankfall.report import learning, overview, render_figure, style


@pytest.fixture(scope="module")
def run():
    problem = rf.Problem.from_statistics(np.eye(3), np.diag([3.0, 2.0, 1.0])[:, :2])
    start = 0.1 * np.eye(3, 4), 0.1 * np.eye(4, 2)
    start[0][2] = 0.0  # balanced: the third input starts with nothing
    network = rf.LinearNetwork.from_weights(*start)
    return rf.simulate(problem, network, rf.GradientFlow(), duration=4.0, save_points=21, weights=True)


def curves(axes, colour):
    return [line for line in axes.lines if line.get_color() == colour and len(line.get_xdata()) > 1]


@pytest.mark.parametrize("columns", [1, 2])
def test_run_law_and_learning_times(run, columns):
    law = gradient_flow.predict(run)
    loss, layer, modes = learning(run, law, columns=columns).axes
    (drawn,) = curves(loss, style.QUIET_COLOUR)
    (dashed,) = curves(loss, style.INK)
    assert np.array_equal(drawn.get_ydata(), run.loss.values[0])
    assert np.array_equal(dashed.get_ydata(), law.loss.values[0])
    assert len(curves(layer, style.QUIET_COLOUR)) == len(curves(layer, style.INK)) == 3
    measured = np.array([line.get_ydata() for line in curves(modes, style.QUIET_COLOUR)]).T
    assert measured == pytest.approx(law.mode_strength.values[0], abs=1e-7)
    dots = [line for line in modes.lines if line.get_marker() == "o"]
    expected = gradient_flow.learning_times([3.0, 2.0], 0.01)
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx(expected, rel=1e-9)
    assert [float(dot.get_ydata()[0]) for dot in dots] == pytest.approx([1.5, 1.0])
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels == ["run", "closed form", "50% of a mode"]


def test_without_weights_or_a_closed_form_it_says_so(run):
    plain = run.drop_vars(["W1", "W2"])
    loss, _, modes = learning(plain, gradient_flow.predict(plain, numerically=True)).axes
    assert modes.get_title(loc="left") == "Modes of W1W2 (law)"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["run", "ODE solver"]
    assert not curves(modes, style.QUIET_COLOUR)


def test_where_there_are_no_modes_the_second_layer_is_drawn(run):
    law = gradient_flow.predict(run)
    _, _, layer = learning(run, law.assign(mode_target=law.mode_target * np.nan)).axes
    assert layer.get_title(loc="left") == "Singular values of W2"
    drawn = np.array([line.get_ydata() for line in curves(layer, style.QUIET_COLOUR)]).T
    assert np.array_equal(drawn, run.singular_values_W2.values[0])


def test_the_overview_shows_the_law_where_there_is_one(run):
    figure = overview(run, law=gradient_flow.predict(run))
    loss = figure.axes[2]
    assert any(np.array_equal(line.get_ydata(), gradient_flow.predict(run).loss.values[0]) for line in loss.lines)
    assert len(curves(overview(run).axes[1], style.INK)) == 0
    render_figure(figure, "png")
    balance = figure.axes[3]
    assert balance.get_yscale() == "linear"  # rounding of a conserved zero is not shown as growth
