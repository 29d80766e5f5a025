"""Processes are killed at random moments while others infer from the same weights: kills.py KILLS [SEED]

Actors, the workers of tasks, and drivers die while they put, load, prefault, compute, or write into what they loaded.
Meanwhile two actors compute, and must get the same bits each time. Afterwards a new load is bit-equal, and the store
holds what is alive and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

from helpers import allocated, parent, settles, worker_processes
from ray_zerocopy import ModelWrapper, errors

MB = 1 << 20
ACTIONS = ["put", "load", "prefault", "forward", "write", "call"]


def model(seed: int = 0, width: int = 2000) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 7))


X = torch.linspace(-1, 1, 2000).expand(3, 2000)


@ray.remote(num_cpus=0, max_restarts=-1)
class Actor:
    def __init__(self, wrapper, wrapped) -> None:
        torch.set_num_threads(1)
        self.wrapper, self.wrapped, self.loaded = wrapper, wrapped, None

    def pid(self) -> int:
        return os.getpid()

    def act(self, action: str, number: int) -> torch.Tensor | None:
        if action == "put":
            own = ModelWrapper.from_model(model(number, 600)).load()
            assert torch.equal(own[0].weight, model(number, 600)[0].weight)
        elif action == "write":
            loaded = self.wrapper.load()
            with torch.no_grad():
                for parameter in loaded.parameters():
                    parameter.add_(number)
        elif action == "call":
            return self.wrapped(X).detach()
        else:
            if self.loaded is None or action != "forward":
                self.loaded = self.wrapper.load(prefault=action == "prefault")
            return self.loaded(X).detach()
        return None


DRIVER = """
import sys, torch, ray
sys.path.insert(0, {programs!r})
import kills
ray.init({address!r}, log_to_driver=False, logging_level="ERROR")
from ray_zerocopy import ModelWrapper
torch.set_num_threads(1)
while True:
    wrapper = ModelWrapper.from_model(kills.model(5, 1000))
    loaded = wrapper.load()
    with torch.no_grad():
        loaded[0].weight.zero_()
    wrapped = ModelWrapper.for_tasks(kills.model(6, 1000))
    wrapped.options(num_cpus=0)(torch.ones(1, 1000))
    print("turn", flush=True)
"""


def main(kills: int, seed: int) -> None:
    dice = random.Random(seed)
    print("seed", seed, flush=True)
    ray.init(address="local", num_cpus=2, object_store_memory=400 * MB, include_dashboard=False, log_to_driver=False)
    torch.set_num_threads(1)
    original = model()
    expected = original(X).detach()
    wrapper, wrapped = ModelWrapper.from_model(original), ModelWrapper.for_tasks(original)
    constant = [Actor.remote(wrapper, wrapped) for _ in range(2)]
    victims = [Actor.remote(wrapper, wrapped) for _ in range(4)]
    pids = ray.get([actor.pid.remote() for actor in (*constant, *victims)])
    raylet = parent(pids[0])
    spared = set(pids[:2])
    before = allocated()
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER.format(programs=os.path.dirname(__file__), address=address)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    drivers = [subprocess.Popen(command, **quiet)]

    killed: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    inferences, number = 0, 0
    pending = {actor.act.remote("forward", 0): (actor, True) for actor in constant}
    pending.update({actor.act.remote("load", 0): (actor, False) for actor in victims})
    end, next_kill = time.monotonic() + 3600, time.monotonic() + 3
    while killed.total() < kills and time.monotonic() < end:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=0.2)
        for reference in ready:
            actor, is_constant = pending.pop(reference)
            try:
                result = ray.get(reference)
                assert result is None or torch.equal(result, expected), "other bits"
                outcome = "equal" if result is not None else "done"
                inferences += is_constant
            except (RayActorError, WorkerCrashedError, errors.ImageLostError) as error:
                assert not is_constant, error
                outcome = type(error).__name__
            except RayTaskError as error:
                if not isinstance(error.cause, (WorkerCrashedError, RayActorError)):
                    raise
                outcome = "a call's worker died"
            outcomes[outcome] += 1
            number += 1
            action = "forward" if is_constant else dice.choice(ACTIONS)
            pending[actor.act.remote(action, number)] = actor, is_constant
        if time.monotonic() > next_kill:
            next_kill = time.monotonic() + dice.random() * 0.8
            kind = dice.choice(["actor", "actor", "task", "driver"])
            if kind == "driver":
                if dice.random() < 0.2 and drivers[-1].poll() is None:  # a driver takes seconds to start
                    drivers[-1].kill()
                    drivers[-1].wait()
                    drivers.append(subprocess.Popen(command, **quiet))
                    killed[kind] += 1
                continue
            title = "ray::Actor" if kind == "actor" else "ray::Sequential"
            candidates = [pid for pid in worker_processes(title, raylet) if pid not in spared]
            if candidates:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(candidates), signal.SIGKILL)
                    killed[kind] += 1
    print(dict(killed), dict(outcomes), f"{inferences} inferences meanwhile, all equal", flush=True)
    assert killed.total() == kills, "too slow"
    drivers[-1].kill()
    drivers[-1].wait()
    for actor in (*constant, *victims):
        ray.kill(actor)
    pending.clear()
    again = wrapper.load()
    for one, other in zip(original.state_dict().values(), again.state_dict().values()):
        assert torch.equal(one, other)
    del again, wrapped
    room = settles(lambda: allocated() <= before - wrapper.nbytes, 30)
    print(f"the store holds {allocated() / MB:.0f} MB, one model of {wrapper.nbytes / MB:.0f} MB is alive", flush=True)
    assert room, "killed processes have left something in the store"
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time()))
