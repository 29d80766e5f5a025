"""One round: one way to share one model, measured in a cluster of its own. Prints the figures as JSON.

python benchmarks/measure.py ours bert-base
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import ray
import torch

import models
from ways import WAYS

ACTORS = 3
PUTS = LOADS = 5


def clock(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that an action takes, and its result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def kilobytes(file: str, *names: str) -> int:
    """Sum of some lines of a file of /proc/self, in bytes."""
    with open(f"/proc/self/{file}") as lines:
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


class Peak:
    """The most anonymous memory that this process has while the block runs, sampled every millisecond."""

    def __enter__(self) -> Peak:
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


@ray.remote(num_cpus=1)
class Actor:
    """A worker that loads, runs and writes."""

    def __init__(self, way: str) -> None:
        from transformers.models.bert import modeling_bert  # noqa: F401  what every worker pays anyway

        self.way = WAYS[way].code
        torch.set_num_threads(2)
        self.models: list[torch.nn.Module] = []

    def ready(self) -> None:
        ray.put(b"warm")

    def load(self, put: Any) -> dict[str, float]:
        gc.collect()
        before = kilobytes("smaps_rollup", "Private_")
        seconds, model = clock(lambda: self.way.load(put))
        self.models.append(model)
        return {"load": seconds, "private": kilobytes("smaps_rollup", "Private_") - before}

    def load_again(self, put: Any) -> list[float]:
        seconds = []
        for _ in range(LOADS):
            duration, model = clock(lambda: self.way.load(put))
            seconds.append(duration)
            self.models.append(model)
        return seconds

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            first, output = clock(lambda: self.models[0](**inputs))
            steady = median(clock(lambda: self.models[0](**inputs))[0] for _ in range(5))
        return {"first": first, "steady": steady, "output": next(iter(output.values())).numpy()}

    def write(self) -> None:
        with torch.no_grad():
            next(self.models[0].parameters()).add_(1)

    def digest(self) -> float:
        return float(next(self.models[0].parameters()).double().sum())


def copy_time(model: torch.nn.Module, size: int) -> float:
    """Seconds that one thread needs to copy the model's own bytes into memory that is there already."""
    target = np.ones(size, np.uint8)
    parts = [(t.data_ptr(), t.nbytes) for t in models.tensors(model)]

    def copy() -> None:
        address = target.ctypes.data
        for source, length in parts:
            ctypes.memmove(address, source, length)
            address += length

    return median(clock(copy)[0] for _ in range(7))


def warm_store(size: int) -> None:
    """Write to the store's pages once: they are not there before, and making them takes longer than the put."""
    source = np.ones(size, np.uint8)
    for _ in range(4):
        references = [ray.put(source) for _ in range(2)]
        del references
        time.sleep(0.5)


def run(way: str, model_name: str) -> dict[str, Any]:
    """Measure one round."""
    model, inputs = models.build(model_name)
    size = models.size(model)
    memcpy = copy_time(model, size)
    warm_store(size)
    code = WAYS[way].code
    put, put_times = None, []
    for _ in range(PUTS):
        del put
        time.sleep(0.5)  # until the store has its memory back
        seconds, put = clock(lambda: code.put(model))
        put_times.append(seconds)
    del put
    time.sleep(0.5)
    with Peak() as peak:
        put = code.put(model)
    time.sleep(1)
    used = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]

    actors = [Actor.remote(way) for _ in range(ACTORS)]
    ray.get([actor.ready.remote() for actor in actors])
    firsts = [ray.get(actor.load.remote(put)) for actor in actors]
    forwards = [ray.get(actor.forward.remote(inputs)) for actor in actors]
    later = ray.get(actors[0].load_again.remote(put))
    with torch.no_grad():
        expected = next(iter(model(**inputs).values())).numpy()
    before = ray.get(actors[1].digest.remote())
    ray.get(actors[0].write.remote())
    return {
        "size": size,
        "memcpy": memcpy,
        "put": put_times,
        "driver_peak": peak.extra,
        "store": used,
        "first_load": [first["load"] for first in firsts],
        "later_load": later,
        "private": [first["private"] for first in firsts],
        "first_forward": [forward["first"] for forward in forwards],
        "steady_forward": [forward["steady"] for forward in forwards],
        "isolated": ray.get(actors[1].digest.remote()) == before,
        "same_output": all(np.allclose(f["output"], expected, rtol=1e-4, atol=1e-5) for f in forwards),
    }


def main() -> None:
    """Run one round and print it."""
    way, model_name = sys.argv[1:]
    ray.init(
        num_cpus=ACTORS, object_store_memory=3 * 10**9, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": WAYS[way].environment},
    )  # fmt: skip
    try:
        result = run(way, model_name)
    finally:
        ray.shutdown()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
