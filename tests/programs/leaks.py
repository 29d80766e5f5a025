"""What loads, puts and calls leave behind: leaks.py LOADS PUTS CALLS

Private memory, mappings, descriptors, threads and the store are measured at the start, on the way and at the end, once
everything has been warmed up; none may grow.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path

import torch

from helpers import allocated, anonymous_bytes, ray_cluster, settles
from ray_zerocopy import ModelWrapper

MB = 1 << 20
X = torch.ones(1, 300)


def model() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 300)).eval()


def state() -> dict[str, float]:
    gc.collect()
    return {
        "private MB": anonymous_bytes() / MB,
        "mappings": Path("/proc/self/maps").read_text().count("\n"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "store MB": allocated() / MB,
    }


def repeat(what: str, count: int, action) -> None:
    for _ in range(max(count // 10, 1)):
        action()
    rows = [state()]
    start = time.monotonic()
    for number in range(count):
        action()
        if (number + 1) % max(count // 4, 1) == 0:
            rows.append(state())
    print(f"{count} {what} in {time.monotonic() - start:.0f} s", flush=True)
    for name in rows[0]:
        print(f"  {name:12}", *(f"{row[name]:9.1f}" for row in rows), flush=True)
    first, last = rows[0], rows[-1]
    more = (last["private MB"] - first["private MB"]) * MB
    assert more < 4 * MB + 200 * count, f"{more / count:.0f} bytes of private memory more each time"
    for name, more in {"mappings": 60, "descriptors": 10, "threads": 4}.items():
        assert last[name] - first[name] <= more, f"{name} grow"
    # Ray frees with a delay
    assert settles(lambda: allocated() / MB <= first["store MB"] + 4), f"{allocated() / MB:.1f} MB in the store"


def main(loads: int, puts: int, calls: int) -> None:
    wrapper = ModelWrapper.from_model(model())
    repeat("loads", loads, lambda: wrapper.load()(X))
    repeat("puts", puts, lambda: ModelWrapper.from_model(model()))
    wrapped = ModelWrapper.for_tasks(model())
    repeat("calls", calls, lambda: wrapped(X))


with ray_cluster(num_cpus=2, object_store_memory=200 * MB):
    main(*map(int, sys.argv[1:]))
    assert settles(lambda: allocated() < MB), allocated()
