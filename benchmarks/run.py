"""Compare the ways to share a model, interleaved over several rounds; prints a table of medians and spreads.

python benchmarks/run.py --rounds 4 --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from ways import WAYS

HERE = Path(__file__).parent


def measure(way: str, model: str) -> dict[str, Any]:
    """One round in a fresh process."""
    done = subprocess.run(
        [sys.executable, str(HERE / "measure.py"), way, model],
        env={**os.environ, **WAYS[way].environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int = 1) -> str:
    """Median, and in brackets the least and the most."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(rounds: dict[str, list[dict[str, Any]]]) -> str:
    """The figures as Markdown."""

    def collect(way: str, name: str, scale: float) -> list[float]:
        values = [r[name] for r in rounds[way]]
        return [scale * v for value in values for v in (value if isinstance(value, list) else [value])]

    rows = {
        "put / memcpy": lambda way: spread([t / r["memcpy"] for r in rounds[way] for t in r["put"]], 2),
        "put, ms": lambda way: spread(collect(way, "put", 1e3)),
        "extra driver memory, MB": lambda way: spread(collect(way, "driver_peak", 1e-6)),
        "store / model": lambda way: spread([r["store"] / r["size"] for r in rounds[way]], 3),
        "first load, ms": lambda way: spread(collect(way, "first_load", 1e3)),
        "later load, ms": lambda way: spread(collect(way, "later_load", 1e3)),
        "first forward, ms": lambda way: spread(collect(way, "first_forward", 1e3)),
        "steady forward, ms": lambda way: spread(collect(way, "steady_forward", 1e3)),
        "load + first forward, ms": lambda way: spread(
            [1e3 * (a + b) for r in rounds[way] for a, b in zip(r["first_load"], r["first_forward"], strict=True)]
        ),
        "private memory per actor, MB": lambda way: spread(collect(way, "private", 1e-6)),
        "a write stays private": lambda way: "yes" if all(r["isolated"] for r in rounds[way]) else "**NO**",
        "same output": lambda way: "yes" if all(r["same_output"] for r in rounds[way]) else "**NO**",
    }
    lines = ["| | " + " | ".join(WAYS[way].title for way in rounds) + " |", "|---" * (len(rounds) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(row(way) for way in rounds) + " |" for name, row in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bert-base")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    with tqdm(total=options.rounds * len(rounds)) as progress:
        for _ in range(options.rounds):
            for way in rounds:
                progress.set_description(f"{way}, {options.model}")
                rounds[way].append(measure(way, options.model))
                progress.update()
    facts = {name: version(name) for name in ("ray-zerocopy", "torch", "ray")}
    first = rounds[options.ways[0]][0]
    memcpy = [1e3 * r["memcpy"] for way in rounds for r in rounds[way]]
    about = f"{first['size'] / 1e6:.0f} MB, memcpy {spread(memcpy)} ms, {os.cpu_count()} cores"
    print(f"\n{options.model}, {about}, {facts}\n")
    print(table(rounds))
    if options.json:
        options.json.write_text(json.dumps({"model": options.model, "versions": facts, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
