"""The instruments: clocks, and memory as the kernel counts it."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import ray

import models

BLOCK = 1 << 29  # bytes; larger than any cache
SMALL = 1 << 16
STEP = 1 << 26


def clock(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that an action takes, and its result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def repeat(action: Callable[[], float], times: int, limit: float = 5) -> list[float]:
    """What some runs of an action return, which is seconds; fewer runs when they have taken too long together."""
    found: list[float] = []
    while len(found) < times and sum(found) < limit:
        found.append(action())
    return found


def kilobytes(file: str, *names: str, process: int | str = "self") -> int:
    """Sum of some lines of a process's file in /proc, in bytes."""
    with open(f"/proc/{process}/{file}") as lines:
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


def private(process: int | str = "self") -> int:
    """Bytes that a process alone has, this one as a rule: anonymous memory (written copies included) and page tables.

    Not what the kernel calls private: that has the pages of a shared file which no other process has touched so far.
    """
    gc.collect()
    return kilobytes("smaps_rollup", "Anonymous:", process=process) + kilobytes("status", "VmPTE:", process=process)


def available() -> int:
    """Bytes of memory that the machine has left."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def calm() -> None:
    """Wait, for ``BENCH_CALM_SECONDS`` (20) at most, until nearly nothing runs on this machine; Ray starts workers
    ahead for some time, and they import.

    Whoever was measured first would pay for it.
    """

    def ticks() -> tuple[int, int]:
        with open("/proc/stat") as lines:
            used = [int(number) for number in next(lines).split()[1:9]]
        return used[3] + used[4], sum(used)  # idle and waiting for a disk; all

    end = time.monotonic() + float(os.environ.get("BENCH_CALM_SECONDS", "20"))
    quiet = False
    while not quiet and time.monotonic() < end:
        idle, total = ticks()
        time.sleep(0.5)
        idle_now, total_now = ticks()
        quiet = idle_now - idle >= 0.95 * (total_now - total)


def warm_store() -> None:
    """Write to every page of the store, from this process.

    The pages are not there before they are written for the first time, and each process has page tables of its own to
    fill: either takes longer than a put, and a driver that has put something before has paid it.
    """
    block = np.ones(STEP, np.uint8)
    blocks = [ray.put(block) for _ in range(int(ray.cluster_resources()["object_store_memory"]) // STEP - 1)]
    del blocks


class Peak:
    """The most anonymous memory that this process has while the block runs, sampled every millisecond."""

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier put has freed would hide what this one takes
        self.start = self.most = kilobytes("status", "RssAnon:")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.001):
            self.most = max(self.most, kilobytes("status", "RssAnon:"))

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.extra = self.most - self.start


def copy_time(model: Any) -> float:
    """Seconds that one thread needs to copy the model's own bytes into memory that is there already.

    Small storages are taken as one block, or the calls from Python would be what is measured.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in models.tensors(model).values()}
    target = np.ones(min(sum(storages.values()), BLOCK), np.uint8)
    small = np.ones(sum(length for length in storages.values() if length < SMALL), np.uint8)
    sources = {address: length for address, length in storages.items() if length >= SMALL}
    sources[small.ctypes.data] = small.nbytes

    def copy() -> None:
        used = 0
        for source, length in sources.items():
            for start in range(0, length, target.nbytes):
                part = min(target.nbytes, length - start)
                if used + part > target.nbytes:
                    used = 0
                ctypes.memmove(target.ctypes.data + used, source + start, part)
                used += part

    return median(repeat(lambda: clock(copy)[0], 5))
