"""Plots of a result of run.py: memory against the number of actors, time to the first output by way, growth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

from ways import WAYS

matplotlib.use("svg")  # no display is needed
matplotlib.rcParams.update({"svg.hashsalt": "", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False})

COLORS = {
    "ours": "#d1495b", "flag": "#00798c", "put": "#8d96a3", "mmap": "#66a182", "safetensors": "#2e4057",
    "build": "#b8b8b8", "old": "#edae49",
}  # fmt: skip


def good(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rounds that have figures."""
    return [r for r in rounds if "failed" not in r and "skipped" not in r]


def groups(rounds: list[dict[str, Any]], count: str) -> list[dict[str, Any]]:
    """Figures of so many workers that started at once."""
    return good([r["groups"][count] for r in rounds])


def style(way: str) -> dict[str, Any]:
    """Ours is broad and lies below, so that the lines which coincide with it can be seen."""
    ours = way == "ours"
    return {
        "color": COLORS[way], "label": WAYS[way].title, "marker": "o", "markersize": 8 if ours else 4,
        "linewidth": 5 if ours else 1.8, "linestyle": "-" if ours else "--", "zorder": 2 if ours else 3,
    }  # fmt: skip


def memory(by_way: dict[str, list[dict[str, Any]]]) -> Any:
    """All that a node needs: private memory of the actors, and the one copy that they share."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    measured = {way: good(rounds) for way, rounds in by_way.items() if good(rounds)}
    some = next(iter(measured.values()))[0]
    for way, found in measured.items():
        counts = [count for count in some["groups"] if groups(found, count)]
        once = 0 if way == "build" else some["size"]  # in the store, or the file's pages
        totals = [(once + median(g["private"] for g in groups(found, n))) / 1e9 for n in counts]
        axes.plot([int(n) for n in counts], totals, **style(way))
    axes.set(
        xlabel="actors on one node", ylabel="memory, GB", ylim=0, xticks=[int(n) for n in some["groups"]],
        title=f"What N actors with a model of {some['size'] / 1e6:.0f} MB need",
    )  # fmt: skip
    axes.legend(frameon=False)
    return figure


def load(title: str, by_way: dict[str, list[dict[str, Any]]]) -> Any:
    """First load and first forward in a fresh worker, one bar for each way."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    ways = [way for way in by_way if way in WAYS and good(by_way[way])]
    for place, way in enumerate(reversed(ways)):
        found = good(by_way[way])
        first = 1e3 * median(v for r in found for v in r["first_load"])
        shared = any(r["isolation"] == "shared" for r in found)
        axes.barh(place, first, color=COLORS[way], height=0.65)
        note = "  a write changes every worker's model" if shared else ""
        axes.text(first * 1.1, place, f"{first:.{0 if first > 100 else 1}f} ms{note}", va="center")
    axes.set_yticks(range(len(ways)), [WAYS[way].title for way in reversed(ways)])
    axes.set(xscale="log", xlabel="ms, logarithmic", title=f"First load in a fresh worker: {title}")
    axes.set_xlim(1, axes.get_xlim()[1] * 5)
    return figure


def growth(by_model: dict[str, dict[str, list[dict[str, Any]]]]) -> Any:
    """Put and first load against size, and first load against the number of tensors."""
    points = [
        {
            "way": way, "MB": r["size"] / 1e6, "tensors": r["tensors"],
            "put": 1e3 * median(r["put"]), "load": 1e3 * median(r["first_load"]),
        }
        for by_way in by_model.values() for way, rounds in by_way.items() for r in good(rounds)
    ]  # fmt: skip
    usual = Counter(point["tensors"] for point in points).most_common(1)[0][0]
    by_size = [point for point in points if point["tensors"] == usual]
    by_tensors = [point for point in points if point["tensors"] != usual]
    panels = [("put", "put, by size", "MB", by_size), ("load", "first load, by size", "MB", by_size)]
    if by_tensors:
        size = f"{by_tensors[0]['MB']:.0f} MB"
        panels.append(("load", f"first load of {size}, by number of tensors", "tensors", by_tensors))
    figure, all_axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), constrained_layout=True)
    for axes, (y, title, x, chosen) in zip(all_axes, panels, strict=True):
        for way in dict.fromkeys(point["way"] for point in points):
            line = sorted((point[x], point[y]) for point in chosen if point["way"] == way)
            axes.plot(*zip(*line, strict=True), **style(way))
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel="ms", title=title)
    all_axes[0].legend(frameon=False)
    return figure


def draw(result: dict[str, Any], folder: Path) -> None:
    """All plots, as SVG files."""
    figures = {}
    for by_way in result["steps"]["scale"].values():
        figures["memory"] = memory(by_way)
    for name, by_way in list(result["steps"]["table"].items())[:1]:
        figures["load"] = load(result["titles"][name], by_way)
    if result["steps"]["growth"]:
        figures["growth"] = growth(result["steps"]["growth"])
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
