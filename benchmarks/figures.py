"""The page's figures as SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, PEERS, REDUCED = "#0b6e4f", "#8d99ae", "#e0a458"
_STYLE: Any = {
    "svg.hashsalt": "rankfall",  # the same bytes for the same data
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write(results: Path, docs: Path) -> None:
    """Write the figures for which there are results."""
    with plt.rc_context(_STYLE):
        for name, draw in (("headline", _headline), ("scaling", _scaling)):
            path = results / f"{name}.json"
            if path.exists():
                figure = draw(json.loads(path.read_text(encoding="utf-8")))
                figure.savefig(docs / f"benchmarks-{name}.svg", metadata={"Date": None}, bbox_inches="tight")
                plt.close(figure)


def _headline(r: dict[str, Any]) -> Any:
    rows = sorted(r["many"], key=lambda t: t["median"], reverse=True)
    figure, axes = plt.subplots(figsize=(7.5, 0.28 * len(rows) + 0.8))
    colours = [OURS if t["kind"] == "rankfall" else REDUCED if t["exact_reduction"] else PEERS for t in rows]
    axes.barh([t["name"] for t in rows], [t["median"] for t in rows], color=colours, height=0.7)
    axes.set(xscale="log", xlim=(1, None))
    for position, t in enumerate(rows):
        axes.text(
            t["median"] * 1.06,
            position,
            f"{t['median']:,.3g}" if t["median"] < 1000 else f"{t['median']:,.0f}",
            va="center",
            fontsize=8,
        )
    axes.set_xlabel("ns per step and trajectory (512 trajectories, 2 cores; shorter is better)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in (OURS, PEERS, REDUCED)]
    axes.legend(
        handles, ["rankfall", "other tools", "other tool, given the exact reduction"], frameon=False, fontsize=8
    )
    return figure


def _scaling(r: dict[str, Any]) -> Any:
    figure, panels = plt.subplots(2, 3, figsize=(9, 5.6), layout="constrained")
    titles = {
        "n_inputs": "inputs p (k = 2, l = 10)",
        "n_outputs": "outputs k (p = 5, l = 10)",
        "width": "width l (p = 5, k = 2)",
    }
    for axes, (name, title) in zip(panels.flat, titles.items(), strict=False):
        rows = r["axes"][name]
        axes.plot([row[name] for row in rows], [row["nanoseconds"] for row in rows], "o-", color=OURS, ms=4)
        axes.set(xscale="log", yscale="log", xlabel=title, ylim=(1, None))
    axes = panels[1, 0]
    axes.plot(
        [row["replicates"] for row in r["replicates"]],
        [row["nanoseconds"] for row in r["replicates"]],
        "o-",
        color=OURS,
        ms=4,
    )
    axes.set(xscale="log", yscale="log", xlabel="trajectories", ylim=(1, None))
    axes = panels[1, 1]
    axes.bar(
        [str(row["threads"]) for row in r["threads"]],
        [row["nanoseconds"] for row in r["threads"]],
        color=OURS,
        width=0.5,
    )
    axes.set(xlabel="threads")
    axes = panels[1, 2]
    labels = [f"{row['n_inputs']},{row['n_outputs']},{row['width']}" for row in r["peers"]]
    peers = [n for n in r["peers"][0] if n not in ("n_inputs", "n_outputs", "width", "replicates")]
    for name, marker in zip(peers, "osv^", strict=False):
        axes.plot(
            labels,
            [row[name] for row in r["peers"]],
            marker=marker,
            ms=4,
            label=name,
            color=OURS if name == "rankfall" else None,
        )
    axes.set(yscale="log", xlabel="p,k,l (64 trajectories)")
    axes.tick_params(axis="x", rotation=45)
    axes.legend(frameon=False, fontsize=7)
    for row in panels:
        row[0].set_ylabel("ns per step and trajectory")
    return figure
