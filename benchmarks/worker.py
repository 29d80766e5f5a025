"""What runs in the workers that the benchmarks start."""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
import ray
import torch

import models
from measure import clock, private, repeat
from ways import WAYS

LOADS = FORWARDS = 5


def prepare(way: str, model: str, threads: int) -> None:
    """Import what the model and the way need, as every program has done by the time it loads a model."""
    models.warm(model)
    WAYS[way].code.prepare()
    torch.set_num_threads(threads)


@ray.remote(num_cpus=0)
class Actor:
    """A fresh worker that loads, runs and writes."""

    def __init__(self, way: str, model: str, threads: int) -> None:
        prepare(way, model, threads)
        self.code = WAYS[way].code
        self.inputs = models.spec(model).inputs()
        self.models: list[Any] = []

    def ready(self) -> str:
        """Wait for the imports; the version of ray-zerocopy that is there."""
        ray.put(b"warm")
        return version("ray-zerocopy")

    def load(self, put: Any) -> dict[str, float]:
        """The first load of this process."""
        before = private()
        seconds, model = clock(lambda: self.code.load(put))
        self.models.append(model)
        return {"load": seconds, "private": private() - before}

    def load_again(self, put: Any) -> list[float]:
        """Later ones, beside the first model."""

        def load() -> float:
            seconds, model = clock(lambda: self.code.load(put))
            self.models = [self.models[0], model]
            return seconds

        return repeat(load, LOADS)

    def forward(self) -> dict[str, Any]:
        """The first forward, then others."""
        first, output = clock(lambda: models.run(self.models[0], self.inputs))
        steady = median(repeat(lambda: clock(lambda: models.run(self.models[0], self.inputs))[0], FORWARDS))
        return {"first": first, "steady": steady, "output": output.float().numpy()}

    def start(self, put: Any) -> dict[str, Any]:
        """Load and run once; when that was done, by the machine's clock."""
        before = private()
        model = self.code.load(put)
        output = models.run(model, self.inputs)
        done = time.monotonic()
        self.models.append(model)
        return {"done": done, "private": private() - before, "output": output.float().numpy()}

    def write(self) -> str:
        """Change a weight in place."""
        try:
            with torch.no_grad():
                next(iter(models.tensors(self.models[0]).values())).add_(1)
        except RuntimeError as refusal:
            return f"refused: {refusal}"
        return "done"

    def digest(self) -> float:
        """That weight's sum."""
        return float(next(iter(models.tensors(self.models[0]).values())).double().sum())


@ray.remote(num_cpus=0)
class Toucher:
    """A fresh worker that gets one array: what no way to share memory can be faster than."""

    def ready(self) -> None:
        ray.put(b"warm")

    def get(self, put: Any) -> dict[str, float]:
        first, array = clock(lambda: ray.get(put[0]))
        pages = array[:: os.sysconf("SC_PAGE_SIZE")]
        cold, _ = clock(pages.sum)
        warm, _ = clock(pages.sum)
        later, _ = clock(lambda: ray.get(put[0]))
        return {"get": first, "get_again": later, "pages": cold - warm}


class Batches:
    """What Ray Data runs on each batch."""

    def __init__(self, way: str, model: str, put: Any) -> None:
        prepare(way, model, 1)
        self.model = WAYS[way].code.load(put)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        output = models.run(self.model, {"ids": torch.from_numpy(batch["data"])})
        return {"id": batch["data"][:, 0], "score": output[:, 0, 0].numpy()}
