"""Six models in a store that holds three, wrapped and loaded by two drivers at once: pressure.py LOADS [SEED]

Three actors of each driver load them in a random order. Ray spills and restores; each model that is loaded has the
bits that were put, or the load says that it could not be brought in time.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter

import ray
import torch

from helpers import allocated, ray_cluster, settles
from ray_zerocopy import ModelWrapper, errors

MB = 1 << 20
SIZE = 25 * MB


def model(value: int) -> torch.nn.Linear:
    made = torch.nn.Linear(1000, SIZE // 4 // 1000, bias=False)
    torch.nn.init.constant_(made.weight, value)
    return made


@ray.remote(num_cpus=0)
class Loader:
    def __init__(self) -> None:
        self.held = None

    def load(self, wrapper, value: int, keep: bool) -> str:
        self.held = None
        try:
            loaded = wrapper.load(timeout=60)
        except errors.LoadTimeoutError:
            return "late"
        if not bool((loaded.weight == value).all()):
            return "WRONG"
        self.held = loaded if keep else None
        return "equal"


def drive(loads: int, seed: int) -> None:
    dice = random.Random(seed)
    values = [seed * 10 + number for number in range(3)]
    wrappers = [ModelWrapper.from_model(model(value)) for value in values]
    loaders = [Loader.remote() for _ in range(3)]
    outcomes: Counter[str] = Counter()
    for _ in range(loads // 3):
        chosen = [dice.randrange(3) for _ in loaders]
        calls = [
            loader.load.remote(wrappers[which], values[which], dice.random() < 0.5)
            for loader, which in zip(loaders, chosen)
        ]
        outcomes.update(ray.get(calls))
    print(f"seed {seed}: {dict(outcomes)}", flush=True)
    assert set(outcomes) <= {"equal", "late"} and outcomes["equal"] > loads // 2, outcomes
    for loader in loaders:
        ray.kill(loader)
    del wrappers  # the next one fits only when others have gone
    large = model(7)
    assert torch.equal(ModelWrapper.from_model(large).load().weight, large.weight)


if __name__ == "__main__":
    if len(sys.argv) > 3:  # the second driver
        ray.init(sys.argv[3], log_to_driver=False, logging_level="ERROR")
        drive(int(sys.argv[1]), int(sys.argv[2]))
        ray.shutdown()
        sys.exit()
    with ray_cluster(object_store_memory=80 * MB):
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time()) % 100_000
        address = ray.get_runtime_context().gcs_address
        other = subprocess.Popen([sys.executable, __file__, sys.argv[1], str(seed + 1), address])
        drive(int(sys.argv[1]), seed)
        assert other.wait(600) == 0
        assert settles(lambda: allocated() < MB, 60), allocated()
