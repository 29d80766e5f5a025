"""TorchScript, 512 MB: ours beside torch.jit.load from bytes that ray.put has shared, in one run.

python benchmarks/torchscript.py
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import ray
import torch

from measure import clock, kilobytes
from ray_zerocopy import JITActorWrapper

ROUNDS = 3


@ray.remote(num_cpus=0)
class Actor:
    """Loads in one of the two ways."""

    def __init__(self) -> None:
        warnings.simplefilter("ignore")
        torch.jit.load(saved(torch.jit.script(torch.nn.Linear(2, 2))))

    def measure(self, model: Any) -> list[float]:
        def load() -> Any:
            return model.load() if isinstance(model, JITActorWrapper) else torch.jit.load(io.BytesIO(ray.get(model[0])))

        before = kilobytes("smaps_rollup", "Private_")
        first, self.model = clock(load)
        memory = (kilobytes("smaps_rollup", "Private_") - before) / 1e6
        x = torch.ones(1, 4096)
        with torch.no_grad():
            forward, _ = clock(lambda: self.model(x))
            steady = median(clock(lambda: self.model(x))[0] for _ in range(7))
        self.model = None
        later = median(clock(load)[0] for _ in range(3))
        return [*(1e3 * seconds for seconds in (first, later, forward, steady)), memory]


def saved(module: torch.jit.ScriptModule) -> io.BytesIO:
    """A module as a file in memory."""
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return file


def main() -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    ray.init(num_cpus=2, object_store_memory=3 * 10**9, include_dashboard=False, log_to_driver=False)
    torch.manual_seed(0)
    eager = torch.nn.Sequential(*[torch.nn.Linear(4096, 4096, bias=False) for _ in range(8)]).eval()
    traced = torch.jit.trace(eager, torch.ones(1, 4096))
    for _ in range(2):  # warm the store
        ray.put(b"x" * (1 << 30))
        time.sleep(0.5)
    columns = ["", "put, ms", "first load, ms", "later load, ms", "first forward, ms", "steady, ms", "private, MB"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, module in (("traced", traced), ("frozen", torch.jit.freeze(traced))):
        ways: dict[str, Callable[[], Any]] = {
            "ray-zerocopy": lambda module=module: JITActorWrapper(module),
            "torch.jit.load": lambda module=module: [ray.put(saved(module).getvalue())],
        }
        figures: dict[str, list[list[float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, put in ways.items():
                duration, model = clock(put)
                actor = Actor.remote()
                figures[way].append([1e3 * duration, *ray.get(actor.measure.remote(model))])
                ray.kill(actor)
                del model
                time.sleep(0.5)
        for way, rounds in figures.items():
            print(
                f"| {name}, {way} | "
                + " | ".join(f"{median(column):.1f}" for column in zip(*rounds, strict=True))
                + " |"
            )
    ray.shutdown()


if __name__ == "__main__":
    main()
