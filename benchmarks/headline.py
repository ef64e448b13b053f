"""The headline comparison: 512 trajectories, and one, of label-noise descent at p=5, k=2, l=10."""

from __future__ import annotations

from functools import partial

from benchmarks import fma_peak, ours, same_work
from benchmarks.machine import cores, describe, load
from benchmarks.peers import diffrax_euler, jax_scan, numpy_loop, torch_loop, torchsde_euler
from benchmarks.timing import Contender, Prepare, Timing, interleave, seconds_of
from benchmarks.workload import Workload

SOLVER, HAND = "general solver", "written by hand"
MAIN = "rankfall, label-noise descent"
GEOMETRIC = "rankfall, geometric flow"
PEER_DIFFRAX_VMAP = ("diffrax, vmap", "diffrax, vmap, 2 threads")
TRAINING_LOOP = "PyTorch training loop on 1000 samples"


def best_layout(workload: Workload, *, reduced: bool, quick: bool) -> tuple[jax_scan.Layout, list[dict[str, object]]]:
    """Try every JAX layout briefly and return the fastest, with what each took."""
    steps, tried = (100 if quick else 400), []
    best: tuple[float, jax_scan.Layout] | None = None
    for layout in jax_scan.layouts(workload.replicates, reduced=reduced, quick=quick):
        run = jax_scan.ensemble_last(workload, steps, layout)
        run()
        nanoseconds = 1e9 * min(seconds_of(run) for _ in range(3)) / steps / workload.replicates
        tried.append({"layout": str(layout), "nanoseconds": round(nanoseconds, 1)})
        if best is None or nanoseconds < best[0]:
            best = (nanoseconds, layout)
    assert best is not None
    print(f"    best JAX layout{' with the exact reduction' if reduced else ''}: {best[1]}", flush=True)
    return best[1], tried


def ensemble_contenders(workload: Workload, literal: jax_scan.Layout, reduced: jax_scan.Layout) -> list[Contender]:
    count = workload.replicates
    long = partial(ours.contender, steps=100_000, replicates=count)

    def peer(
        name: str, kind: str, steps: int, prepare: Prepare, *, reduction: bool = False, note: str = ""
    ) -> Contender:
        return Contender(name, kind, reduction, count, steps, prepare, note)

    return [
        long(MAIN, note="default recording (200 save points) and ledger"),
        long("rankfall, the same, nothing recorded on the way", note="the kernel alone", save_points=2, ledger="none"),
        long("rankfall, the same, one thread", note="default recording", threads=1),
        long("rankfall, the same, float64 normals", note="default recording", noise_precision="double"),
        long("rankfall, the same, balance ledger", note="kept at every step", ledger="balance"),
        long(GEOMETRIC, note="default recording", method=ours.geometric),
        long("rankfall, Euler flow", note="default recording", method=ours.euler),
        peer(
            "JAX, ensemble last, best layout",
            HAND,
            2000,
            partial(jax_scan.ensemble_last, layout=literal),
            note=f"{literal}, 2 threads",
        ),
        peer(
            "JAX, ensemble last, given the exact reduction",
            HAND,
            4000,
            partial(jax_scan.ensemble_last, layout=reduced),
            reduction=True,
            note=f"{reduced}, 2 threads",
        ),
        peer("JAX, scan + vmap", HAND, 800, jax_scan.scan_vmap, note="as most people write it"),
        peer("JAX, scan + vmap, 2 threads", HAND, 800, partial(jax_scan.scan_vmap, threads=2)),
        peer("diffrax, vmap", SOLVER, 600, diffrax_euler.vmap, note="UnsafeBrownianPath, noise float32"),
        peer(
            "diffrax, vmap, 2 threads",
            SOLVER,
            800,
            partial(diffrax_euler.vmap, threads=2),
            note="UnsafeBrownianPath, noise float32, half of the ensemble per thread",
        ),
        peer(
            "diffrax, ensemble in the state, 2 threads",
            SOLVER,
            1000,
            diffrax_euler.ensemble_in_state,
            note="UnsafeBrownianPath, hand-laid state in chunks of 32, noise float32",
        ),
        peer(
            "diffrax, vmap, VirtualBrownianTree",
            SOLVER,
            100,
            partial(diffrax_euler.vmap, threads=2, path="tree"),
            note="the path that can be asked again, 2 threads",
        ),
        peer("torchsde, Euler, g_prod", SOLVER, 300, torchsde_euler.ensemble, note="2 threads"),
        peer("PyTorch on the statistics", HAND, 600, torch_loop.statistics_ensemble, note="no autograd, 2 threads"),
        peer("NumPy on the statistics", HAND, 600, numpy_loop.ensemble, note="stacked matrix products"),
    ]


def single_contenders() -> list[Contender]:
    def peer(name: str, kind: str, steps: int, prepare: Prepare, note: str = "") -> Contender:
        return Contender(name, kind, False, 1, steps, prepare, note)

    return [
        ours.contender(MAIN, steps=2_000_000, replicates=1, note="default recording (200 save points) and ledger"),
        ours.contender(GEOMETRIC, steps=2_000_000, replicates=1, note="default recording", method=ours.geometric),
        peer("JAX, scan", HAND, 20_000, jax_scan.scan_single, "noise for 1000 steps at once"),
        peer("diffrax", SOLVER, 10_000, diffrax_euler.single, "UnsafeBrownianPath"),
        peer(
            "torchsde, Euler, g_prod", SOLVER, 300, partial(torchsde_euler.ensemble, threads=1, alone=True), "1 thread"
        ),
        peer("NumPy on the statistics", HAND, 10_000, numpy_loop.single),
        peer("PyTorch on the statistics", HAND, 4_000, torch_loop.statistics_single, "no autograd, 1 thread"),
        peer(TRAINING_LOOP, HAND, 500, torch_loop.training_loop, "module, autograd, torch.optim.SGD, 1 thread"),
    ]


def run_lengths(workload: Workload, *, rounds: int, quick: bool) -> list[dict[str, object]]:
    """Cost of the same call against the length of the run and the number of save points."""
    lengths = (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    rows: list[dict[str, object]] = []
    for save_points in (2, 20, 200, 1000):
        contenders = [
            ours.contender(f"{n} steps, {save_points} save points", steps=n, replicates=512, save_points=save_points)
            for n in lengths
            if n >= save_points
        ]
        for timing in interleave(contenders, workload, rounds=rounds):
            rows.append({"steps": timing.steps, "save_points": save_points, "nanoseconds": round(timing.median, 3)})
    return rows


def targets(many: list[Timing], one: list[Timing], peak: float, workload: Workload) -> list[dict[str, object]]:
    """The project's own goals, and whether this run met them."""
    by_name = {t.contender.name: t for t in many}
    main, geometric = by_name[MAIN], by_name[GEOMETRIC]
    single = {t.contender.name: t for t in one}
    fraction = workload.multiply_adds / main.median / peak
    vmapped = min(by_name[name].times_slower_than(main) for name in PEER_DIFFRAX_VMAP)
    literal = [t for t in many if t.contender.name.startswith("JAX") and not t.contender.exact_reduction]
    layout = min(t.times_slower_than(main) for t in literal)
    reduced = by_name["JAX, ensemble last, given the exact reduction"].times_slower_than(main)
    loop = single[TRAINING_LOOP].times_slower_than(single[MAIN])
    return [
        _target("times faster than diffrax with vmap", vmapped, 50, at_least=True),
        _target("times faster than the best JAX layout (literal problem)", layout, 25, at_least=True),
        _target("times faster than the best JAX layout given the exact reduction", reduced, None, at_least=True),
        _target("of the measured multiply-add peak of both cores", fraction, 0.4, at_least=True),
        _target("ns per step and trajectory", main.median, 12, at_least=False),
        _target("times faster than the PyTorch training loop, one trajectory", loop, 2000, at_least=True),
        _target("geometric flow step in descent steps", geometric.times_slower_than(main), 3, at_least=False),
    ]


def _target(what: str, value: float, goal: float | None, *, at_least: bool) -> dict[str, object]:
    met = None if goal is None else (value >= goal) == at_least or value == goal
    return {"what": what, "value": round(value, 3), "goal": goal, "at_least": at_least, "met": met}


def measure(*, quick: bool) -> dict[str, object]:
    machine = describe()
    workload = Workload()
    rounds, shorten = (3, 5) if quick else (9, 1)
    peaks = {count: fma_peak.measure(count) for count in sorted({1, cores()})}
    literal, tried_literal = best_layout(workload, reduced=False, quick=quick)
    reduced, tried_reduced = best_layout(workload, reduced=True, quick=quick)
    many, one = ensemble_contenders(workload, literal, reduced), single_contenders()
    same = same_work.compare([*many, *one], workload)
    timings = interleave(many, workload, rounds=rounds, shorten=shorten)
    # Once more, behind the long measurement, so that a machine that changed its mind is seen.
    peaks_after = {count: fma_peak.measure(count) for count in peaks}
    alone = interleave(one, workload, rounds=rounds, shorten=shorten)
    peak = max(peaks[max(peaks)], peaks_after[max(peaks)])
    return {
        "machine": machine | {"load_after": load()},
        "workload": {
            name: getattr(workload, name) for name in (*workload.__dataclass_fields__, "rows", "multiply_adds")
        },
        "peak_multiply_adds_per_nanosecond": {str(c): round(v, 2) for c, v in peaks.items()},
        "peak_multiply_adds_per_nanosecond_after": {str(c): round(v, 2) for c, v in peaks_after.items()},
        "many": [t.to_dict() | {"times_slower": round(t.times_slower_than(timings[0]), 2)} for t in timings],
        "one": [t.to_dict() | {"times_slower": round(t.times_slower_than(alone[0]), 2)} for t in alone],
        "targets": targets(timings, alone, peak, workload),
        "run_lengths": run_lengths(workload, rounds=rounds, quick=quick),
        "jax_layouts": {"literal": tried_literal, "with_the_exact_reduction": tried_reduced},
        "same_work": same,
    }
