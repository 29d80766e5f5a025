"""Tables and plots of a result of run.py.

python benchmarks/report.py RESULT.json       # writes beside it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import plots
from plots import good, groups
from ways import WAYS

Rounds = list[dict[str, Any]]
Figure = Callable[[Rounds], list[float]]


def values(name: str, scale: float = 1) -> Figure:
    """All values of a figure, of all workers and rounds."""

    def collect(rounds: Rounds) -> list[float]:
        found = [r.get(name, []) for r in rounds]
        return [scale * v for value in found for v in (value if isinstance(value, list) else [value])]

    return collect


def first_output(rounds: Rounds) -> list[float]:
    """Load and first forward, in milliseconds."""
    return [1e3 * (a + b) for r in rounds for a, b in zip(r["first_load"], r["first_forward"], strict=True)]


ROWS: dict[str, tuple[Figure, int]] = {
    "put, ms": (values("put", 1e3), 1),
    "extra driver memory, MB": (values("driver_peak", 1e-6), 1),
    "store / model": (lambda rounds: [r["store"] / r["size"] for r in rounds], 2),
    "first load, ms": (values("first_load", 1e3), 1),
    "later load, ms": (values("later_load", 1e3), 1),
    "first forward, ms": (values("first_forward", 1e3), 1),
    "steady forward, ms": (values("steady_forward", 1e3), 1),
    "load + first forward, ms": (first_output, 1),
    "private memory per actor, MB": (values("private", 1e-6), 1),
}
PUT_ROWS = ("put, ms", "extra driver memory, MB")  # mean nothing where nothing is put
SAFE = ("private", "refused", "ends the writer")


def title(way: str) -> str:
    return WAYS[way].title


def spread(numbers: list[float], digits: int) -> str:
    """Median, and in brackets the least and the most."""
    middle = f"{median(numbers):.{digits}f}"
    return f"{middle} ({min(numbers):.{digits}f}-{max(numbers):.{digits}f})" if len(numbers) > 1 else middle


def lines(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def best(cells: dict[str, list[float]], digits: int, most: bool = False) -> list[str]:
    """A row of a table, with the best in bold."""
    medians = {way: round(median(numbers), digits) for way, numbers in cells.items() if numbers}
    top = (max if most else min)(medians.values(), default=None)
    texts = {way: spread(numbers, digits) if numbers else "-" for way, numbers in cells.items()}
    return [f"**{text}**" if way in medians and medians[way] == top else text for way, text in texts.items()]


def verdict(found: set[str], fine: tuple[str, ...]) -> str:
    text = ", ".join(sorted(found))
    return text if found <= set(fine) else f"**{text.upper()}**"


def model_table(by_way: dict[str, Rounds]) -> str:
    """All figures of one model."""
    ways = {way: good(rounds) for way, rounds in by_way.items() if way in WAYS and good(rounds)}
    # one measure for all ways: what disturbs a copy beside one of them must not help it
    memcpy = median(values("memcpy")([r for rounds in by_way.values() for r in good(rounds)]))
    ratios = {way: [] if way == "build" else [t / memcpy for t in values("put")(r)] for way, r in ways.items()}
    rows = [["put / memcpy", *best(ratios, 2)]]
    for name, (figure, digits) in ROWS.items():
        cells = {way: [] if way == "build" and name in PUT_ROWS else figure(rounds) for way, rounds in ways.items()}
        rows.append([name, *best(cells, digits)])
    for name, key, fine in (("a write in one worker", "isolation", SAFE), ("output", "output", ("equal",))):
        rows.append([name, *(verdict({r[key] for r in rounds}, fine) for rounds in ways.values())])
    return lines(["", *map(title, ways)], rows)


def limits_line(by_way: dict[str, Rounds]) -> str:
    """What bounds all ways."""
    rounds = good(by_way.get("limits", []))
    if not rounds:
        return ""
    shown = {
        "one thread's memcpy": "memcpy", "ray.put of one array": "put", "ray.get of it, first time": "get",
        "again": "get_again", "filling the page tables": "pages",
    }  # fmt: skip
    return "Limits for this size, ms: " + ", ".join(
        f"{text} {spread(values(key, 1e3)(rounds), 1)}" for text, key in shown.items()
    )


def scale_table(by_way: dict[str, Rounds]) -> str:
    """Workers that start at once."""
    ways = {way: good(rounds) for way, rounds in by_way.items() if good(rounds)}
    counts = next(iter(ways.values()))[0]["groups"]
    rows = []
    for text, key, scale, digits in (
        ("private memory, MB", "private", 1e-6, 1),
        ("first output, s", "first", 1, 2),
        ("all outputs, s", "all", 1, 2),
    ):
        for count in counts:
            cells = {way: [scale * group[key] for group in groups(rounds, count)] for way, rounds in ways.items()}
            rows.append([f"{text}, {count} actors", *best(cells, digits)])
    return lines(["", *map(title, ways)], rows)


def data_table(by_way: dict[str, Rounds]) -> str:
    """Ray Data jobs."""
    ways = {way: good(rounds) for way, rounds in by_way.items() if good(rounds)}
    speed = {way: [r["rows"] / r["seconds"] for r in rounds] for way, rounds in ways.items()}
    return lines(["", *map(title, ways)], [["rows/s, start of the workers included", *best(speed, 1, most=True)]])


def growth_table(growth: dict[str, dict[str, Rounds]]) -> str:
    """Figures by size and number of tensors."""
    ways = list(dict.fromkeys(way for by_way in growth.values() for way in by_way))
    rows = []
    for by_way in growth.values():
        measured = {way: good(by_way.get(way, [])) for way in ways}
        known = next((rounds[0] for rounds in measured.values() if rounds), None)
        if known is None:
            continue
        for name in ("put, ms", "first load, ms", "later load, ms"):
            figure, digits = ROWS[name]
            cells = {way: figure(rounds) if rounds else [] for way, rounds in measured.items()}
            rows.append([f"{known['size'] / 1e6:.0f} MB in {known['tensors']} tensors: {name}", *best(cells, digits)])
    return lines(["", *map(title, ways)], rows)


def troubles(result: dict[str, Any]) -> list[str]:
    """What was not measured, and why."""
    found = [f"{name}: {reason}" for name, reason in result["skipped"].items()]
    if left_out := result["machine"]["steps_left_out"]:
        found.append(f"{left_out} steps of further rounds: no time was left")
    for step, by_model in result["steps"].items():
        for name, by_way in by_model.items():
            for way, rounds in by_way.items():
                inner = [g for r in rounds for g in r.get("groups", {}).values()]
                reasons = {r.get("failed") or r.get("skipped") for r in [*rounds, *inner]} - {None}
                shown = title(way) if way in WAYS else way
                found += [f"{step}, {name}, {shown}: {reason}" for reason in sorted(reasons)]
    return found


def markdown(result: dict[str, Any]) -> str:
    """Everything."""
    machine, steps = result["machine"], result["steps"]
    huge = machine["huge_pages_shmem"]
    programs = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    parts = [
        "# Benchmarks",
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB "
        f"of memory, Linux {machine['kernel']}, huge pages for shared memory: {huge}; {programs}. "
        f"Load average when it began: {machine['load_before']}. `run.py --plan {machine['plan']}`, "
        f"{machine['seconds']} s.",
        "Ways took turns; fresh workers with their libraries imported; a store that is warm, also for the driver (the "
        "first put of a process takes longer, with every way). Median (least-most) of all workers and rounds, the best "
        "of each row in bold, whoever it is. Only ratios within a table carry over.",
    ]
    for name, by_way in steps["table"].items():
        size = next((r["size"] for rounds in by_way.values() for r in good(rounds)), 0)
        parts += [f"## {result['titles'][name]}, {size / 1e6:.0f} MB", model_table(by_way), limits_line(by_way)]
    for by_way in steps["scale"].values():
        size = next(r["size"] for rounds in by_way.values() for r in good(rounds))
        parts += [
            f"## Many actors at once, a model of {size / 1e6:.0f} MB",
            "Private memory of all actors together after their first output (the copy that the ways share not "
            "counted). Time from the order to load until the output of the first actor, and of all.",
            "![Memory](memory.svg)",
            scale_table(by_way),
        ]
    for by_way in steps["data"].values():
        parts += ["## A Ray Data job, two actors", data_table(by_way)]
    if steps["growth"]:
        parts += ["## Growth", "![Growth](growth.svg)", growth_table(steps["growth"])]
    if any(troubles(result)):
        parts += ["## Not measured", "\n".join(f"- {line}" for line in troubles(result))]
    parts.insert(3, "![Load](load.svg)")
    return "\n\n".join(filter(None, parts)) + "\n"


def write(path: Path) -> str:
    """Tables and plots beside a result; the tables."""
    result = json.loads(path.read_text())
    text = markdown(result)
    path.with_suffix(".md").write_text(text)
    plots.draw(result, path.parent)
    return text


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
