"""What stands in the figures of a sweep: every number is compared with the results it was drawn from."""

import numpy as np
import pytest
from made_up_sweep import made_up_results
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, TwoSlopeNorm, to_hex
from matplotlib.contour import ContourSet
from matplotlib.patches import Rectangle

from rankfall.errors import InvalidInput, NotARun
from rankfall.report import render_figure
from rankfall.report._sweep_axes import axis_of, scale_of
from rankfall.report._sweep_choice import choose
from rankfall.report.sweep_figure import sweep_figure

NOISE = [0.01, 0.1, 1.0, 10.0]
WIDTH = [4, 8, 16, 32, 64]


def panels(figure):
    """The panels without the colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def meshes(figure):
    return [item for axes in panels(figure) for item in axes.collections if isinstance(item, QuadMesh)]


def curves(axes):
    """Colour → x and y of each line of a panel, marks at its foot left out."""
    return {
        to_hex(line.get_color()): (line.get_xdata(), line.get_ydata())
        for line in axes.lines
        if not str(line.get_label()).startswith("_failed") and not str(line.get_label()).startswith("_not computed")
    }


def test_a_map_shows_the_values_and_beside_them_their_errors():
    results = made_up_results({"noise": NOISE, "width": WIDTH})
    figure = sweep_figure(results, x="noise", y="width", color="final_rank")
    values, errors = meshes(figure)
    np.testing.assert_array_equal(values.get_array(), results["final_rank"].values.T)
    np.testing.assert_array_equal(errors.get_array(), results["final_rank_standard_error"].values.T)
    left, right = panels(figure)
    for axes in (left, right):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("noise", "width")
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    # edges halfway between the values on their own scale: powers of ten end at half powers
    corners = values.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], 10.0 ** np.array([-2.5, -1.5, -0.5, 0.5, 1.5]), rtol=1e-12)
    np.testing.assert_allclose(corners[:, 0, 1], 2.0 ** np.array([1.5, 2.5, 3.5, 4.5, 5.5, 6.5]), rtol=1e-12)
    np.testing.assert_allclose(left.get_xlim(), 10.0 ** np.array([-2.5, 1.5]))
    bars = [axes.get_ylabel() for axes in figure.axes if axes not in (left, right)]
    assert bars == ["final rank", "standard error"]
    assert figure.get_suptitle() == "made up: rank at the end"


def test_the_axes_of_a_map_may_be_exchanged():
    results = made_up_results({"noise": NOISE, "width": WIDTH})
    values = meshes(sweep_figure(results, x="width", y="noise", color="final_rank"))[0]
    np.testing.assert_array_equal(values.get_array(), results["final_rank"].values)


def test_contours_of_a_rank_are_the_borders_between_whole_ranks():
    results = made_up_results({"noise": NOISE, "width": WIDTH})
    results["final_rank"] = results["final_rank"] / 10  # from 0 to 4.3
    figure = sweep_figure(results, x="noise", y="width")
    (contours,) = [item for axes in panels(figure) for item in axes.collections if isinstance(item, ContourSet)]
    assert contours.levels.tolist() == [0.5, 1.5, 2.5, 3.5]
    # at the first noise the value is the index of the width: the borders are halfway, on the scale of the axis
    for path, border in zip(contours.get_paths(), [2**2.5, 2**3.5, 2**4.5, 2**5.5], strict=True):
        at_first = path.vertices[np.isclose(path.vertices[:, 0], NOISE[0])]
        np.testing.assert_allclose(at_first[:, 1], [border], rtol=1e-9)


def test_missing_cells_are_hatched_each_in_its_place():
    failed, left, empty = [(0, 4), (3, 0)], [(2, 2)], [(1, 1)]
    results = made_up_results({"noise": NOISE, "width": WIDTH}, failed=failed, left=left, empty=empty)
    figure = sweep_figure(results)
    choice = choose(results)
    assert (choice.kind, choice.x.name, choice.y.name) == ("map", "width", "noise")
    axes = panels(figure)[0]
    hatched = {
        (patch.get_label(), np.searchsorted(NOISE, patch.get_y()), np.searchsorted(WIDTH, patch.get_x()))
        for patch in axes.patches
        if isinstance(patch, Rectangle) and patch.get_hatch()
    }
    assert hatched == {("failed", *failed[0]), ("failed", *failed[1]), ("not computed yet", *left[0])}
    assert np.ma.getmaskarray(meshes(figure)[0].get_array()).sum() == 4
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["failed", "not computed yet", "computed, but no value"]
    assert not sweep_figure(made_up_results({"noise": NOISE, "width": WIDTH})).legends


def test_lines_with_bands_one_colour_per_value():
    results = made_up_results({"noise": NOISE, "width": WIDTH}, failed=[(1, 2)], left=[(3, 4)])
    figure = sweep_figure(results, x="noise", y="final_rank", color="width")
    (axes,) = panels(figure)
    found = list(curves(axes).values())
    assert len(found) == 5
    for number, (x, y) in enumerate(found):
        np.testing.assert_array_equal(x, NOISE)
        np.testing.assert_array_equal(y, results["final_rank"].values[:, number])
    bands = list(axes.collections)
    assert len(bands) == 5
    value, error = results["final_rank"].values[:, 1], results["final_rank_standard_error"].values[:, 1]
    corners = bands[1].get_paths()[0].vertices[:, 1]
    assert set(np.round(corners, 9)) == set(np.round([*(value - 2 * error), *(value + 2 * error)], 9))
    marks = {
        str(line.get_label()): (line.get_xdata().tolist(), to_hex(line.get_color()))
        for line in axes.lines
        if str(line.get_label()) in ("_failed", "_not computed yet")
    }
    colours = list(curves(axes))
    assert marks == {"_failed": ([0.1], colours[2]), "_not computed yet": ([10.0], colours[4])}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:5] == ["4", "8", "16", "32", "64"] and "±2 standard errors" in texts and "failed" in texts
    assert figure.legends[0].get_title().get_text() == "width"
    # the marks stand below every line
    low, high = axes.get_ylim()
    highest_mark = max(line.get_ydata()[0] for line in axes.lines if str(line.get_label()) in marks)
    assert low + (high - low) * highest_mark < np.nanmin(results["final_rank"].values)


def test_the_law_is_dashed_where_the_store_knows_it():
    law = (("noise",), np.array([1.0, 2.0, 3.0, 4.0]))
    results = made_up_results({"noise": NOISE}, extra={"final_rank_predicted": law})
    figure = sweep_figure(results)
    (axes,) = panels(figure)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(dashed[0].get_ydata(), law[1])
    assert "law" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_time_series_are_drawn_against_their_own_times():
    time = np.outer([1.0, 2.0, 5.0], np.arange(30))
    loss = np.exp(-time)
    extra = {"loss": (("noise", "time"), loss), "save_time": (("noise", "time"), time)}
    results = made_up_results({"noise": [0.1, 1.0, 10.0]}, extra=extra)
    figure = sweep_figure(results, y="loss")
    (axes,) = panels(figure)
    for number, (x, y) in enumerate(curves(axes).values()):
        np.testing.assert_array_equal(x, time[number])
        np.testing.assert_array_equal(y, loss[number])
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "time"


def test_a_series_of_a_failed_cell_has_one_mark_and_bands_of_a_loss_are_those_of_its_logarithm():
    time = np.outer([1.0, 2.0, 5.0], np.arange(30))
    loss = np.exp(-time)
    loss[1] = time[1] = np.nan
    extra = {
        "loss": (("noise", "time"), loss),
        "loss_standard_error": (("noise", "time"), loss),
        "save_time": (("noise", "time"), time),
    }
    results = made_up_results({"noise": [0.1, 1.0, 10.0]}, extra=extra, failed=[(1,)])
    (axes,) = panels(sweep_figure(results, y="loss"))
    (mark,) = [line for line in axes.lines if str(line.get_label()) == "_failed"]
    assert len(mark.get_xdata()) == 1 and mark.get_transform() == axes.transAxes
    first = axes.collections[0].get_paths()[0].vertices
    expected = np.concatenate([loss[0] * np.exp(2), loss[0] * np.exp(-2)])
    assert set(np.round(np.log(first[:, 1]), 9)) == set(np.round(np.log(expected), 9))


def test_contours_of_many_decades_are_few_and_lie_on_the_scale_of_the_colours():
    results = made_up_results({"noise": NOISE, "width": WIDTH})
    results["final_rank"] = 10.0 ** results["final_rank"].copy()  # 43 decades
    figure = sweep_figure(results, x="noise", y="width")
    (contours,) = [item for axes in panels(figure) for item in axes.collections if isinstance(item, ContourSet)]
    assert 3 <= len(contours.levels) <= 7
    level = contours.levels[0]  # 10^7: at the first noise the width's exponent rises by ten from 4 to 8
    path = contours.get_paths()[0].vertices
    at_first = path[np.isclose(path[:, 0], NOISE[0]), 1]
    np.testing.assert_allclose(at_first, [4 * 2 ** (level / 10)], rtol=1e-9)


def test_small_multiples_share_scale_and_colours():
    results = made_up_results({"noise": NOISE, "width": WIDTH, "depth": [2, 3, 4]})
    figure = sweep_figure(results, x="noise", y="width", color="final_rank")
    top = [axes for axes in panels(figure) if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in top] == ["depth = 2", "depth = 3", "depth = 4"]
    values = meshes(figure)[:3]
    for number, mesh in enumerate(values):
        np.testing.assert_array_equal(mesh.get_array(), results["final_rank"].values[:, :, number].T)
        assert (mesh.norm.vmin, mesh.norm.vmax) == (0.0, 243.0)
    lines = sweep_figure(results, y="final_rank", x="noise", color="width", panels=["depth"])
    for number, axes in enumerate(panels(lines)):
        drawn = np.array([y for _, y in curves(axes).values()])
        np.testing.assert_array_equal(drawn, results["final_rank"].values[:, :, number].T)
    grid = sweep_figure(results, y="final_rank", x="noise", panels=["width", "depth"])
    assert len(panels(grid)) == 4 * 3  # of five widths the four that are spread over all
    titles = [axes.get_title(loc="left") for axes in panels(grid)]
    assert titles[0] == "width = 4, depth = 2" and titles[-1] == "width = 64, depth = 4"
    np.testing.assert_array_equal(panels(grid)[-1].lines[0].get_ydata(), results["final_rank"].values[:, 4, 2])
    assert "4 of 5 values of width" in grid.get_supxlabel()


def test_what_is_held_fixed_is_said():
    results = made_up_results({"noise": NOISE, "width": WIDTH, "depth": [2, 3], "start": ["gaussian", "balanced"]})
    figure = sweep_figure(results, x="noise", y="width", at={"depth": "3", "start": "balanced"})
    np.testing.assert_array_equal(meshes(figure)[0].get_array(), results["final_rank"].values[:, :, 1, 1].T)
    assert figure.get_supxlabel() == "depth = 3; start = balanced"
    silent = sweep_figure(results, x="noise", y="final_rank", color="width", panels=["depth"])
    assert silent.get_supxlabel() == "start = gaussian (of 2; choose with --at start=VALUE)"


def test_values_in_any_order_are_drawn_in_order():
    results = made_up_results({"noise": [1.0, 0.01, 10.0, 0.1], "width": [8, 4, 16]})
    values = meshes(sweep_figure(results, x="noise", y="width"))[0].get_array()
    np.testing.assert_array_equal(values, results["final_rank"].sortby(["noise", "width"]).values.T)
    fixed = sweep_figure(results, x="width", at={"noise": "0.01"})
    np.testing.assert_array_equal(
        panels(fixed)[0].lines[0].get_ydata(), results.sortby("width")["final_rank"].sel(noise=0.01).values
    )


def test_zipped_axes_go_by_any_of_their_coordinates():
    coords = {"inputs": ("shape", [2, 4, 6]), "outputs": ("shape", [6, 4, 2])}
    results = made_up_results({"shape": ["a", "b", "c"], "noise": NOISE}, coords=coords)
    figure = sweep_figure(results, x="outputs", y="noise")
    np.testing.assert_array_equal(meshes(figure)[0].get_array(), results["final_rank"].values[::-1].T)
    assert panels(figure)[0].get_xlabel() == "outputs"
    with pytest.raises(InvalidInput, match="used twice"):
        sweep_figure(results, x="inputs", y="outputs")


@pytest.mark.parametrize(
    ("axes", "kind", "x", "y", "lines", "across"),
    [
        ({"noise": NOISE}, "lines", "noise", None, None, None),
        ({"noise": NOISE, "width": WIDTH}, "map", "width", "noise", None, None),
        ({"noise": NOISE, "width": [4, 8]}, "lines", "noise", None, "width", None),
        ({"start": ["a", "b", "c"], "noise": NOISE}, "lines", "noise", None, "start", None),
        ({"noise": NOISE, "width": WIDTH, "start": ["a", "b"]}, "map", "width", "noise", None, "start"),
        ({"noise": NOISE, "width": [3], "start": ["a", "b"]}, "lines", "noise", None, "start", None),
        ({"start": ["a", "b"]}, "lines", "start", None, None, None),
        ({"noise": [1.0]}, "lines", "noise", None, None, None),
    ],
)
def test_sensible_choices_without_options(axes, kind, x, y, lines, across):
    choice = choose(made_up_results(axes))
    names = [None if axis is None else axis.name for axis in (choice.x, choice.y, choice.lines)]
    assert [choice.kind, *names] == [kind, x, y, lines]
    assert [axis.name for axis in choice.panels] == ([across] if across else [])
    assert choice.quantity == "final_rank"


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 2, 3, 4], "linear"),
        ([1, 2, 4, 8], "log"),
        ([0.1, 0.316227766017, 1.0, 3.16227766017], "log"),
        ([1.0, 3.0, 10.0, 30.0], "log"),  # powers as people write them
        ([0.0, 0.5, 1.0], "linear"),
        ([-1.0, 1.0, 10.0], "linear"),
        ([0.0, 0.01, 0.1, 1.0, 10.0], "ordinal"),  # zero in front of powers
        ([0.0, 0.25, 0.5, 1.0], "linear"),
        ([4, 64], "log"),
        ([4, 8], "linear"),
        ([8, 1, 2, 4], "log"),
        ([3, 3, 4], "ordinal"),
        (["a", "b"], "ordinal"),
        ([True, False], "ordinal"),
        ([5], "linear"),
    ],
)
def test_the_scale_is_read_off_the_spacing(values, scale):
    assert scale_of(np.array(values)) == scale


def test_colours_are_logarithmic_over_orders_of_magnitude_and_two_sided_around_zero():
    results = made_up_results({"noise": NOISE, "width": WIDTH})
    results["final_rank"] = 10.0 ** (results["final_rank"] / 10)
    assert isinstance(meshes(sweep_figure(results))[0].norm, LogNorm)
    results = made_up_results({"noise": NOISE, "width": WIDTH})
    results["final_rank"] = results["final_rank"] - 20
    norm = meshes(sweep_figure(results))[0].norm
    assert isinstance(norm, TwoSlopeNorm) and norm.vmin == -norm.vmax
    many = made_up_results({"noise": np.geomspace(0.01, 10, 20), "width": [1, 2]})
    figure = sweep_figure(many, x="width", color="noise")
    assert [axes.get_ylabel() for axes in figure.axes if axes not in panels(figure)] == ["noise"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": "nois"}, "did you mean noise"),
        ({"y": "widht"}, "did you mean width"),
        ({"color": "final_rnk"}, "did you mean final_rank"),
        ({"panels": ["dept"]}, "no such name"),
        ({"x": "final_rank"}, "must be an axis"),
        ({"x": "status"}, "no such name"),
        ({"y": "final_rank", "color": "wall_time"}, "both are results"),
        ({"y": "noise", "color": "width"}, "both are axes"),
        ({"x": "noise", "y": "noise"}, "used twice"),
        ({"x": "noise", "at": {"noise": "1"}}, "used twice"),
        ({"at": {"noise": "2"}}, r"no such value; noise has 0\.01, 0\.1, 1, 10"),
        ({"at": {"noise": "loud"}}, "no such value"),
        ({"panels": ["noise", "width", "noise"]}, "at most two"),
        ({"x": "time"}, "does not depend on time|no such name"),
    ],
)
def test_names_and_combinations_that_are_no_figure(options, words):
    with pytest.raises(InvalidInput, match=words):
        sweep_figure(made_up_results({"noise": NOISE, "width": WIDTH}), **options)


def test_a_result_without_the_axis_says_which_it_has():
    results = made_up_results({"noise": NOISE}, extra={"loss": (("noise", "time"), np.ones((4, 5)))})
    with pytest.raises(InvalidInput, match=r"final_rank does not depend on time; it has the axes noise"):
        sweep_figure(results, x="time", y="final_rank")
    assert choose(results, x="time").quantity == "loss"


def test_a_single_cell_and_nothing_at_all():
    assert len(panels(sweep_figure(made_up_results({"noise": [1.0]})))) == 1
    with pytest.raises(NotARun):
        sweep_figure(made_up_results({}))


def test_a_sweep_of_one_cell_shows_what_has_an_axis_of_its_own():
    results = made_up_results({}, extra={"sv": (("mode_W1",), np.array([3.0, 2.0, 1.0]))})
    choice = choose(results)
    assert (choice.quantity, choice.x.name) == ("sv", "mode_W1")
    with pytest.raises(InvalidInput, match="final_rank of a sweep of one cell is one number"):
        choose(results, y="final_rank")
    with pytest.raises(InvalidInput, match="final_rank does not depend on mode_W1"):
        choose(results, x="mode_W1", y="final_rank")


def test_errors_that_are_all_zero_are_not_coloured_from_below_zero():
    results = made_up_results({"noise": NOISE, "width": WIDTH})
    results["final_rank_standard_error"] = 0.0 * results.final_rank_standard_error
    for image in (collection for axes in sweep_figure(results).axes[:2] for collection in axes.collections):
        if (image.get_array() == 0.0).all():
            break
    else:
        raise AssertionError("the standard errors are not drawn")
    assert image.get_clim() == (0.0, 1.0)
    assert render_figure(sweep_figure(results), "png")


@pytest.mark.parametrize("columns", [1, 2])
def test_a_sweep_of_which_nothing_is_computed_yet_can_be_drawn(columns):
    every = [(i, j) for i in range(4) for j in range(5)]
    results = made_up_results({"noise": NOISE, "width": WIDTH}, left=every)
    for options in ({}, {"y": "final_rank"}):
        assert render_figure(sweep_figure(results, columns=columns, **options), "png")


def test_the_same_results_give_the_same_bytes():
    results = made_up_results({"noise": NOISE, "width": WIDTH, "depth": [2, 3]}, failed=[(0, 0, 0)])
    assert render_figure(sweep_figure(results), "svg") == render_figure(sweep_figure(results), "svg")


def test_a_hostile_name_is_only_text():
    results = made_up_results({"noise": NOISE}, name="$\\frac{" + "x" * 500 + "\x1b[31m")
    assert render_figure(sweep_figure(results), "png")


def test_modes_count_from_one():
    results = made_up_results({"noise": NOISE}, extra={"sv": (("noise", "mode_W1"), np.ones((4, 3)))})
    assert axis_of(results, "mode_W1").values.tolist() == [1, 2, 3]
    figure = sweep_figure(results, x="noise", y="sv")
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == ["1", "2", "3"]
