"""Load and first forward with Ray's object store on huge pages, beside the ordinary store. Needs root, for a mount.

python benchmarks/huge_pages.py               # BERT-base; --models bert-base llama-1.1b

What it does by itself, and anybody can do for a cluster of their own:

    mount -t tmpfs -o huge=always,size=6G tmpfs /mnt/plasma
    ray start --head --plasma-directory=/mnt/plasma           # or ray.init(_plasma_directory="/mnt/plasma")
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

import models
import report
from measure import STEP
from plots import good
from run import ROOM, Job, cluster, grouped, run

WAYS = ["ours", "flag"]
STORES = ("ordinary store", "huge pages")


@contextmanager
def huge_pages(size: int) -> Iterator[str]:
    """A folder in memory with huge pages, for a while."""
    with tempfile.TemporaryDirectory(prefix="plasma-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"huge=always,size={size}", "tmpfs", folder]
        try:
            done = subprocess.run(mount, capture_output=True, text=True)
        except FileNotFoundError:
            raise SystemExit(
                "There is no mount command here: a store on huge pages needs a tmpfs of its own."
            ) from None
        if done.returncode:
            raise SystemExit(
                f"This machine does not let this user mount a tmpfs with huge pages ({done.stderr.strip()}). "
                "Run this as root, on a kernel with CONFIG_TRANSPARENT_HUGEPAGE."
            )
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)  # the raylet may take a moment to end


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bert-base"])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    store = int(max(map(models.outlined_size, options.models)) / ROOM) + 2 * STEP
    found: dict[str, dict[str, Any]] = {name: {} for name in STORES}
    steps = len(STORES) * options.rounds * len(WAYS) * len(options.models)
    bar = tqdm(total=steps, dynamic_ncols=True)
    with tempfile.TemporaryDirectory() as folder, huge_pages(store + STEP) as directory, bar as progress:
        for turn in range(options.rounds):
            for name in STORES:
                with cluster(store, directory if name == STORES[1] else None) as address:
                    for group in grouped(WAYS, turn):
                        job = Job("table", options.models, group, {"actors": 2, "puts": 2})
                        run(job, address, Path(folder), Path(folder, "drivers.log"), found[name], progress)
    for model in options.models:
        columns = {f"{report.title(way)}, {name}": good(found[name][model][way]) for way in WAYS for name in STORES}
        rows = []
        for row in ("first load, ms", "first forward, ms", "steady forward, ms", "load + first forward, ms"):
            figure, digits = report.ROWS[row]
            rows.append([row, *report.best({title: figure(rounds) for title, rounds in columns.items()}, digits)])
        print(f"\n{models.spec(model).title}\n\n{report.lines(['', *columns], rows)}")


if __name__ == "__main__":
    main()
