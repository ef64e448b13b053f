"""The check of every cell before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rankfall import _checks
from rankfall._lyapunov import batch_ends
from rankfall._plan import check_arguments, method_for
from rankfall._simulate import check_memory
from rankfall.errors import InvalidInput
from rankfall.problem import Problem
from rankfall.sweep._build import make_method, make_network, make_problem
from rankfall.sweep._cell import Quantity
from rankfall.sweep._model import Model, applies
from rankfall.sweep._quantities import DEFAULT, MEASURES, make_quantities

if TYPE_CHECKING:
    from rankfall.sweep._study import Study

__all__ = ["check_cells"]


def check_cells(study: Study, names: Sequence[str], describe: Callable[[Sequence[int]], str]) -> tuple[Quantity, ...]:
    """Make the problem, network and method of every cell and ask whether they can be simulated; equal ones once.

    Returns the quantities in the shapes that the largest cell needs; of the default ones only those that some cell has.

    Raises:
        InvalidInput: A cell cannot be run, which is named; two cells are the same; or no cell has what is to be kept.
    """
    sizes: dict[str, int] = {}
    had: set[str] = set()
    keys: dict[str, tuple[int, ...]] = {}
    problems: dict[str, Problem] = {}
    current: tuple[int, ...] = ()
    places = study.places()
    try:
        for current in places:
            cell = study.cell(current)
            if cell.key in keys:
                raise InvalidInput(f"it is the same as the cell {describe(keys[cell.key])}.")
            keys[cell.key] = current
            model = _check(cell.settings, names, problems)
            _grow(sizes, cell.settings, model)
            had.update(name for name in names if name not in had and applies(MEASURES[name], model))
    except InvalidInput as error:
        words = describe(current)
        raise InvalidInput(f"in the cell {words}: {error}" if words else str(error)) from None
    missing = [name for name in names if name not in had]
    if study.keep["quantities"] is None:
        names = [name for name in names if name in had or name not in DEFAULT]
        missing = [name for name in missing if name not in DEFAULT]
    if missing:
        raise InvalidInput(f"no cell of this study has {missing[0]!r} ({_WHY[MEASURES[missing[0]].needs]}).")
    return tuple(make_quantities(names, sizes))


_WHY = {
    "determinant": "it needs two layers and a width of at least inputs + outputs, from a Gaussian start",
    "two layers": "it needs two layers",
    "accuracy": "it needs a loss of classification",
    "frame": "it needs two layers and a method that moves in steps",
    "growth": "it needs two layers and a method that moves in steps",
}


def _check(settings: Mapping[str, Any], names: Sequence[str], problems: dict[str, Problem]) -> Model:
    problem = _light_problem(settings["problem"], problems)
    network = make_network(settings["network"], problem.n_inputs, problem.n_outputs)
    model = Model(problem, network, method_for(network, make_method(settings["method"])))
    run = dict(settings["run"])
    replicates = _checks.whole_number(run.pop("replicates"), "replicates", at_least=2 if "stop" in settings else 1)
    if run.get("start") not in ("independent", "shared"):
        raise InvalidInput(f"run.start must be 'independent' or 'shared', got {run.get('start')!r}.")
    if run.pop("start") == "shared" and "stop" in settings:
        raise InvalidInput("[stop] adds replicates with starts of their own; it needs run.start = 'independent'.")
    most = settings["stop"]["at_most"] if "stop" in settings else replicates
    if most < replicates:
        raise InvalidInput(f"every cell begins with run.replicates = {replicates}; stop.at_most = {most} is fewer.")
    framed = model.is_framed
    wanted = {MEASURES[name].observable for name in names if applies(MEASURES[name], model)} - {""}
    if "lyapunov" in settings and framed:
        wanted.add("log_growth")
    arguments = {name: run.get(name) for name in ("duration", "steps", "dt")}
    observed, points, end, _, _ = check_arguments(
        problem, network, model.method, **arguments, save_points=run["save_points"],
        noise_precision=run["noise_precision"], observables=sorted(wanted), ledger="none",
    )  # fmt: skip
    times = points if isinstance(points, int) else len(points)
    if "log_growth" in wanted:
        batch_ends(end, **settings["lyapunov"])
        times += settings["lyapunov"]["batches"] + 1
    check_memory(network, times, observed, most, False)
    return model


def _light_problem(settings: Mapping[str, Any], known: dict[str, Problem]) -> Problem:
    """The problem without its data, which the checks do not look at: drawn ones are drawn for one sample only."""
    text = repr(settings)
    if text not in known:
        n = settings.get("n_samples")
        if settings["kind"] in ("gaussian", "classification"):
            _checks.whole_number(n, "n_samples")
            problem = replace(make_problem({**settings, "n_samples": 1}), n_samples=n)
        else:
            problem = make_problem(settings)
        known[text] = problem
    return known[text]


def _grow(sizes: dict[str, int], settings: Mapping[str, Any], model: Model) -> None:
    """Make the sizes of the dimensions at least those of this cell."""
    widths, points = model.network.widths, settings["run"]["save_points"]
    p, k = widths[0], widths[-1]
    here = {
        "time": points if isinstance(points, int) else len(points),
        "mode_W1": min(widths[0], widths[1]),
        "mode_W2": min(widths[1], widths[2]),
        "mode_Z": min(p + k, widths[1]),
        "mode": p + k,
    }
    for name, size in here.items():
        sizes[name] = max(size, sizes.get(name, 0))
