"""TorchScript (512 MB) and an exported program (128 MB): ours beside torch.jit.load and torch.export.load from bytes
that ray.put has shared, in one run. The first forward of an exported program has its ``.module()`` in it.

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
from ray_zerocopy import ModelWrapper

ROUNDS = 3


@ray.remote(num_cpus=0)
class Actor:
    """Loads in one of the two ways."""

    def __init__(self) -> None:
        warnings.simplefilter("ignore")
        # what either way makes torch load, once per process: most of a second for exported programs
        torch.jit.load(saved(torch.jit.script(torch.nn.Linear(2, 2))))
        x = torch.ones(1, 2)
        torch.export.load(saved(torch.export.export(torch.nn.Linear(2, 2), (x,)))).module()(x)

    def measure(self, model: Any, width: int) -> list[float]:
        def load() -> Any:
            return model.load() if isinstance(model, ModelWrapper) else model[0](io.BytesIO(ray.get(model[1])))

        def module() -> Any:
            return self.model.module() if isinstance(self.model, torch.export.ExportedProgram) else self.model

        before = kilobytes("smaps_rollup", "Private_")
        first, self.model = clock(load)
        memory = (kilobytes("smaps_rollup", "Private_") - before) / 1e6
        x = torch.ones(1, width)
        with torch.no_grad():
            forward, (run, _) = clock(lambda: (run := module(), run(x)))
            steady = median(clock(lambda: run(x))[0] for _ in range(7))
        self.model = run = None
        later = median(clock(load)[0] for _ in range(3))
        return [*(1e3 * seconds for seconds in (first, later, forward, steady)), memory]


def saved(model: Any) -> io.BytesIO:
    """A TorchScript module or an exported program as a file in memory."""
    file = io.BytesIO()
    (torch.jit if isinstance(model, torch.jit.ScriptModule) else torch.export).save(model, file)
    file.seek(0)
    return file


def mlp(width: int) -> torch.nn.Module:
    """Eight square layers."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(width, width, bias=False) for _ in range(8)]).eval()


def main() -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    ray.init(address="local", num_cpus=2, object_store_memory=3 * 10**9, include_dashboard=False, log_to_driver=False)
    traced = torch.jit.trace(mlp(4096), torch.ones(1, 4096))
    models: dict[str, tuple[Any, Callable[..., Any], int]] = {
        "traced": (traced, torch.jit.load, 4096),
        "frozen": (torch.jit.freeze(traced), torch.jit.load, 4096),
        "exported": (torch.export.export(mlp(2048), (torch.ones(1, 2048),)), torch.export.load, 2048),
    }
    for _ in range(2):  # warm the store
        ray.put(b"x" * (1 << 30))
        time.sleep(0.5)
    columns = ["", "put, ms", "first load, ms", "later load, ms", "first forward, ms", "steady, ms", "private, MB"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, (model, loader, width) in models.items():
        ways: dict[str, Callable[[], Any]] = {
            "ray-zerocopy": lambda model=model: ModelWrapper.from_model(model),
            f"{'torch.export' if name == 'exported' else 'torch.jit'}.load": (
                lambda model=model, loader=loader: (loader, ray.put(saved(model).getvalue()))
            ),
        }
        figures: dict[str, list[list[float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, put in ways.items():
                duration, stored = clock(put)
                actor = Actor.remote()
                figures[way].append([1e3 * duration, *ray.get(actor.measure.remote(stored, width))])
                ray.kill(actor)
                del stored
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
