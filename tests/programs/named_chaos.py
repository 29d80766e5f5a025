"""Processes die at random while models are published, made, replaced, deleted and loaded: named_chaos.py KILLS SEED

Afterwards every name stands for a model that loads with the weights that somebody published under it (or says that it
was lost with the keeper), and the store holds what the names say and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time

import ray
import torch
from ray.exceptions import RayActorError, RayError
from ray.experimental import internal_kv

from helpers import parent, settles, store_used, worker_processes
from ray_zerocopy import ModelWrapper, errors
from ray_zerocopy.stores import named, records

MB = 1 << 20
NAMES = ["red", "green", "blue"]


def model(value: int) -> torch.nn.Linear:
    made = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB
    with torch.no_grad():
        made.weight.fill_(value)
    return made


def slow_model(value: int) -> torch.nn.Linear:
    time.sleep(0.3)
    return model(value)


def value_of(loaded: torch.nn.Linear) -> int:
    weight = loaded.weight.detach()
    assert bool((weight == weight[0, 0]).all()), "weights of two models"
    return int(weight[0, 0])


# what may happen to a call while processes are killed
EXPECTED = (errors.ModelNotFoundError, errors.NameTakenError, errors.ImageLostError, errors.FactoryError)


TITLES = {"keeper": "ray::Keeper", "maker": "ray::ray_zerocopy", "caller": "ray::Caller"}


@ray.remote(num_cpus=0, max_restarts=-1)
class Caller:
    def pid(self) -> int:
        return os.getpid()

    def act(self, action: str, name: str, value: int) -> str:
        try:
            if action == "publish":
                ModelWrapper.from_model(model(value), name=name, lifetime="detached", replace=True)
            elif action == "bind":
                ModelWrapper.from_model(model(value), name=name, replace=True)
            elif action == "make":
                ModelWrapper.from_factory(
                    slow_model, value, name=name, lifetime="detached", get_if_exists=True, num_cpus=0
                )
            elif action == "load":
                return f"loaded {value_of(ModelWrapper.get(name).load())}"
            else:
                ModelWrapper.delete(name)
        except EXPECTED as error:
            return type(error).__name__
        return "done"


def main(kills: int, seed: int) -> None:
    dice = random.Random(seed)
    print("seed", seed, flush=True)
    ray.init(address="local", num_cpus=4, object_store_memory=300 * MB, include_dashboard=False, log_to_driver=False)
    callers = [Caller.remote() for _ in range(4)]
    pids = ray.get([caller.pid.remote() for caller in callers])
    raylet = parent(pids[0])
    published: dict[str, set[int]] = {name: set() for name in NAMES}
    killed, value, outcomes = {"keeper": 0, "maker": 0, "caller": 0}, 0, {}
    idle, calls, end = list(callers), {}, time.monotonic() + 600

    def collect(count: int, seconds: float) -> None:
        ready, _ = ray.wait(list(calls), num_returns=count, timeout=seconds)
        for call in ready:
            caller, action, name = calls.pop(call)
            idle.append(caller)
            try:
                outcome = ray.get(call)
            except RayActorError:
                outcome = "died"
            if outcome.startswith("loaded"):
                assert int(outcome.split()[1]) in published[name], f"{name} has weights that nobody published under it"
                outcome = "loaded"
            outcomes[action, outcome] = outcomes.get((action, outcome), 0) + 1

    while sum(killed.values()) < kills and time.monotonic() < end:
        while idle:
            value += 1
            action, name = dice.choice(["publish", "bind", "make", "make", "load", "delete"]), dice.choice(NAMES)
            if action in ("publish", "bind", "make"):
                published[name].add(value)
            caller = idle.pop()
            calls[caller.act.remote(action, name, value)] = caller, action, name
        collect(1, 60)  # so that much is done between two deaths
        collect(len(calls), dice.random())
        victim = dice.choice(["keeper", "keeper", "maker", "maker", "caller"])
        candidates = worker_processes(TITLES[victim], raylet)
        if candidates:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(candidates), signal.SIGKILL)
                killed[victim] += 1
                print(f"{time.monotonic() - end + 600:.1f} s", killed, flush=True)
    assert sum(killed.values()) == kills, "too slow"
    collect(len(calls), 120)
    assert not calls, f"still waiting: {[(action, name) for _, action, name in calls.values()]}"
    print(killed, outcomes, flush=True)
    done = sum(count for (_, outcome), count in outcomes.items() if outcome in ("done", "loaded"))
    assert done > kills / 2, "next to nothing was done between two deaths"

    def consistent() -> bool:
        rows = named.listed()
        held = sum(row["nbytes"] for row in rows if row["state"] == "ready")
        return abs(store_used() - held) < MB

    for row in named.listed():
        if row["state"] == "lost":
            continue
        with contextlib.suppress(errors.ModelNotFoundError):  # the version before the newest, or its maker just ended
            wrapper = ModelWrapper.get(row["name"], version=row["version"])
            assert value_of(wrapper.load()) in published[row["name"]]
    assert settles(consistent, 60), (store_used(), named.listed())
    for row in named.listed():
        with contextlib.suppress(errors.ModelNotFoundError):
            ModelWrapper.delete(row["name"])
    assert settles(lambda: store_used() < MB and not named.listed(), 60), (store_used(), named.listed())
    left = internal_kv._internal_kv_list(b"", namespace=records.TABLE)
    assert not left, left
    with contextlib.suppress(RayError):
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time()))
