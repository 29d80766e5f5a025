"""Calls as Ray tasks: ours beside a plain Ray task over a module that its worker already holds, in one run.

python benchmarks/tasks.py
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import ray
import torch
from tqdm import tqdm

from measure import clock, warm_store
from ray_zerocopy import ModelWrapper
from report import spread

WORKERS = 2
held: dict[int, torch.nn.Module] = {}


def build(width: int) -> torch.nn.Module:
    """Eight linear layers: 4096 wide 537 MB and tens of milliseconds for a forward, 64 wide next to nothing."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(width, width, bias=False) for _ in range(8)]).eval()


@ray.remote
def plain(width: int, x: torch.Tensor) -> torch.Tensor:
    """What a user writes who lets each worker keep a model of its own."""
    import tasks  # the worker's own module: a task's globals are copies

    if width not in tasks.held:
        tasks.held[width] = build(width)
    return tasks.held[width](x)


@ray.remote
def rebuilt(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a user writes who passes the reference of ``ray.put(model)`` to each task."""
    return model(x)


def ways(width: int) -> dict[str, Callable[[torch.Tensor], Any]]:
    """Ways to start a call, each of which returns an object reference."""
    model = build(width)
    wrapped = ModelWrapper.for_tasks(model)
    stored = ray.put(model)
    megabytes = 32e-6 * width * width
    print(f"the stand-in for a model of {megabytes:.1f} MB takes {len(ray.cloudpickle.dumps(wrapped))} bytes")
    return {
        "ray-zerocopy": wrapped.remote,
        "plain task, model held": lambda x: plain.remote(width, x),
        "task with ray.put(model)": lambda x: rebuilt.remote(stored, x),
    }


@ray.remote
def imports(x: torch.Tensor) -> torch.Tensor:
    """The start of a worker and of the libraries that either way needs."""
    import ray_zerocopy  # noqa: F401

    return x


def first_calls(rounds: int) -> dict[str, list[float]]:
    """Seconds for a call in a worker that did not run before, which Ray starts for an environment of its own."""
    x = torch.ones(1, 4096)
    wrapped: Any = ModelWrapper.for_tasks(build(4096))
    figures: dict[str, list[float]] = {"ray-zerocopy": [], "plain task that imports the same": []}
    for number in tqdm(range(rounds), desc="fresh workers"):
        for way, task in zip(figures, (wrapped, imports), strict=True):
            environment = {"env_vars": {"ROUND": f"{number} {way}"}}
            start = task.options(runtime_env=environment).remote
            figures[way].append(clock(lambda s=start, x=x: ray.get(s(x)))[0])
    return figures


def in_flight(start: Callable[[torch.Tensor], Any], x: torch.Tensor, count: int = 40) -> None:
    """Start many calls and wait for all."""
    ray.get([start(x) for _ in range(count)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ray.init(
        address="local", num_cpus=WORKERS, object_store_memory=3 * 10**9, include_dashboard=False, log_to_driver=False
    )
    warm_store()
    results: dict[str, dict[str, list[float]]] = {}
    for width, calls in ((4096, 5), (64, 50)):
        x = torch.ones(1, width)
        with torch.no_grad():
            model = build(width)
            model(x)
            forward = median(clock(lambda model=model, x=x: model(x))[0] for _ in range(7))
        del model
        each = ways(width)
        with torch.no_grad():
            for start in each.values():
                in_flight(start, x, 8)  # until both workers have loaded
        figures: dict[str, list[float]] = {f"{way}, {what}": [] for way in each for what in ("one call", "40 calls")}
        for _ in tqdm(range(options.rounds), desc=f"{width} wide"):
            for way, start in each.items():
                figures[f"{way}, one call"] += [clock(lambda s=start, x=x: ray.get(s(x)))[0] for _ in range(calls)]
                if way != "task with ray.put(model)":
                    figures[f"{way}, 40 calls"].append(clock(lambda s=start, x=x: in_flight(s, x))[0])
        results[f"{width} wide"] = figures
        print(f"\n{width} wide; one forward in this process takes {1e3 * forward:.2f} ms\n\n| | ms |\n|---|---|")
        for name, seconds in figures.items():
            if seconds:
                print(f"| {name} | {spread([1e3 * s for s in seconds], 2)} |")
        del each
        time.sleep(2)
    results["first call in a fresh worker"] = first_calls(options.rounds)
    print("\n| first call in a fresh worker, 537 MB | ms |\n|---|---|")
    for name, seconds in results["first call in a fresh worker"].items():
        print(f"| {name} | {spread([1e3 * s for s in seconds], 0)} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    ray.shutdown()


if __name__ == "__main__":
    main()
