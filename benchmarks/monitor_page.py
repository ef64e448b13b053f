"""The section of docs/benchmarks.md on the monitor of ranks."""

from __future__ import annotations

from typing import Any

from benchmarks import page

Results = dict[str, Any]


def section(r: Results) -> str:
    default, account, small = r["contenders"][0], r["account"], r["small"]
    step, machine = r["step_seconds"]["cpu"], r["machine"]
    overhead = default["cpu"]["overhead"]
    met = "**not measured**" if overhead is None else "met" if overhead <= r["goal"] else "**missed**"
    identical = "the same bit for bit" if r["weights_identical"] else "**not the same**"
    same = (
        "by rankfall and by torch-module-monitor with a metric that takes the singular values. Their largest relative "
        f"difference is {max(r['same_values'].values()):.0e} (a decomposition in float32)."
        if r["same_values"] is not None
        else "without torch-module-monitor, which was not installed."
    )
    head = [
        "",
        "measured at step",
        "overhead, processor time",
        "from sums",
        "by the clock",
        "s per measurement",
        "ms per other step",
    ]
    return "\n".join(
        [
            "## Following ranks during training\n",
            f"{machine['processor']}, {machine['date']}, torch {machine['versions']['torch']}, load "
            f"{machine['load_before']} before, {r['load_after']} after.\n",
            f"`RankMonitor` on a transformer of {r['parameters'] / 1e6:.1f} million parameters (width 384, 6 blocks, "
            f"AdamW, float32), batches of {r['batch'][0]} × {r['batch'][1]} tokens, {r['threads']} thread: "
            f"{step:.2f} s of processor time a step without a monitor, {r['step_seconds']['wall']:.2f} s by the clock. "
            "Every row is a training of its own on the same data, and they take turns in blocks of steps; afterwards "
            f"the weights are {identical}. The overhead is what measured steps take beyond the median of plain ones, "
            f"one in {r['every']} being measured, and what the others do; that from the sums of all times as they "
            "were, in which every disturbed step counts, is beside it. With the default measures; goal: under "
            f"{_percent(r['goal'])}: {met}, {_percent(overhead)}.\n",
            page.table(head, map(_row, r["contenders"])),
            "The default is three measures of weights, gradients, updates and activations of everything, attention by "
            f"head, within the budget of {_percent(r['budget'])}. The other rows are the comparison: the effective "
            f"rank of weights, gradients and outputs of the linear layers and embeddings alone, {same}\n",
            "Single measurements, processor time beyond a plain step, the least of some; torch-module-monitor is told "
            "the metric by its user, so a faster one is shown as well:\n",
            page.table(
                ["one measurement", "s", "steps"],
                (
                    [row["name"], f"{row['cpu_seconds']:.3f}", f"{row['cpu_seconds'] / step:.2f}"]
                    for row in r["one_measurement"]
                ),
            ),
            "The budget, by the monitor's own account after every step from the first measurement on: "
            f"{_account(account)}. A model with steps of {1000 * small['step_seconds']:.1f} ms that is to be measured "
            f"every {small['every']} steps, which the budget does not allow: {_account(small)}.\n",
        ]
    )


def _row(contender: Results) -> list[str]:
    cpu, steps = contender["cpu"], ", ".join(map(str, contender["measured_steps"]))
    each = cpu["seconds_per_measurement"]
    return [
        contender["name"],
        f"{steps or 'none'} of {contender['steps']}",
        _percent(cpu["overhead"]),
        _percent(cpu["overhead_of_sums"]),
        _percent(contender["wall"]["overhead"]),
        "" if each is None else f"{each:.2f}",
        f"{1000 * cpu['seconds_per_step_between']:.1f}",
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _account(a: Results) -> str:
    kept = "" if a["within_a_tenth"] else ", **more than a tenth above**"
    times = "1 measurement" if a["measurements"] == 1 else f"{a['measurements']} measurements"
    return (
        f"{times} in {a['steps']:,} steps, {_percent(a['share'])} at the end and {_percent(a['largest_share'])} at "
        f"most of {_percent(a['budget'])}{kept}"
    )
