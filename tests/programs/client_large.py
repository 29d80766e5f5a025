"""Through Ray Client: a model of more than 2 GB, which is also the most that one message can have."""

from __future__ import annotations

import resource
from typing import Any

import ray
import torch

from helpers import Worker, connect
from ray_zerocopy import ModelWrapper

SIZE = 2_300_000_000


def ends(model: Any) -> tuple[int, int, float]:
    return len(model["large"]), int(model["large"][-1]), float(model["small"].sum())


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


connect()
large = torch.zeros(SIZE, dtype=torch.uint8)
large[-1] = 7
large[:: 1 << 20] = torch.arange(len(large[:: 1 << 20])).to(torch.uint8)
before = resident()
wrapper = ModelWrapper.from_model({"large": large, "small": torch.ones(300)})
more = resident() - before
worker = Worker.options(num_cpus=0).remote()
assert ray.get(worker.run.remote(lambda wrapper: ends(wrapper.load()), wrapper)) == (SIZE, 7, 300.0)
found = ray.get(worker.run.remote(lambda wrapper: wrapper.load()["large"][:: 1 << 20].clone(), wrapper))
assert torch.equal(found, large[:: 1 << 20])
assert more < 200 << 20, f"{more >> 20} MB more in this process"
