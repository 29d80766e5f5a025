"""What a name costs: publishing, finding and loading a model that the cluster owns, beside one that this process owns.

    python benchmarks/lifetimes.py

All rows are of one run over one model of 436 MB (26 linear layers of 2048 x 2048, float32) in a warm store; the ways
take turns.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch

from measure import calm, clock, warm_store
from ray_zerocopy import ModelWrapper
from ray_zerocopy.stores import keeper
from report import spread

ROUNDS = 7
MANY = 200  # for what takes a millisecond or so


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(2048, 2048) for _ in range(26)])


def main() -> None:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=4 * 10**9,
        include_dashboard=False,
        log_to_driver=False,
    )
    whole = model()
    source = np.ones(sum(p.numel() * 4 for p in whole.parameters()), np.uint8)
    target = np.empty_like(source)
    warm_store()
    plain = ModelWrapper.from_model(whole)
    named = ModelWrapper.from_model(whole, name="model", lifetime="detached")
    calm()
    rows: dict[str, list[float]] = {}

    def measure(label: str, action: Callable[[], Any], rounds: int = 1) -> None:
        rows.setdefault(label, []).extend(1e3 * clock(action)[0] for _ in range(rounds))

    for _ in range(ROUNDS):
        measure("memcpy of the same bytes", lambda: np.copyto(target, source))
        measure("from_model", lambda: ModelWrapper.from_model(whole))
        measure(
            "from_model, detached",
            lambda: ModelWrapper.from_model(whole, name="other", lifetime="detached"),
        )
        ModelWrapper.delete("other")
        gc.collect()
        time.sleep(1)  # Ray frees memory in the background
    for _ in range(4):
        measure("a call of an actor without work", lambda: ray.get(keeper.actor().__ray_ready__.remote()), MANY // 4)
        measure("get", lambda: ModelWrapper.get("model"), MANY // 4)
        measure("latest", named.latest, MANY // 4)
        measure("load, plain", plain.load, MANY // 4)
        measure("load by name", named.load, MANY // 4)
    for number in range(3):
        name = f"made-{number}"
        measure("from_factory", lambda name=name: ModelWrapper.from_factory(model, name=name, lifetime="detached"))
    ray.kill(keeper.actor(), no_restart=False)
    for number in range(3):
        made = f"made-{number}"
        measure("load of a lost model of a factory", lambda made=made: ModelWrapper.get(made).load())
    measure("the factory's own work", model, 3)

    print("| | ms, median (least-most) |\n|---|---|")
    for label, values in rows.items():
        print(f"| {label} | {spread(values, 2)} |")
    ray.shutdown()


if __name__ == "__main__":
    main()
