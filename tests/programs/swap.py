"""Twenty new versions of a model under constant load: swap.py ADDRESS SWAPS [DASHBOARD]

Of the actor in examples/hot_swap.py, or with a dashboard's address of the Serve deployment there, whose user_config changes.

Each answer must be exactly that of a published version, and of none that was older
than the one acknowledged when the request was sent. Another actor holds the first version all the time.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

import hot_swap
from helpers import Worker, allocated, settles
from ray_zerocopy import ModelWrapper
from serve_apps import SIZE, model

X = [float(value) for value in range(SIZE)]


def output(seed: int) -> list[float]:
    with torch.no_grad():
        answered: list[float] = model(seed)(torch.tensor(X)).tolist()
    return answered


def publish(seed: int, **options: Any) -> ModelWrapper[torch.nn.Linear]:
    return ModelWrapper.from_model(model(seed), name="swapped", lifetime="detached", replace=True, **options)


class Load:
    """Sends requests without a pause from two threads, and judges the answers."""

    def __init__(self, ask: Callable[[], list[float]], outputs: list[list[float]]) -> None:
        self.acknowledged, self.published = 1, 1
        self.failed: list[str] = []
        self.requests = 0
        self._ask, self._versions = ask, {tuple(each): number for number, each in enumerate(outputs)}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            least = self.acknowledged
            try:
                version = self._versions.get(tuple(self._ask()), -1)
                if not least <= version <= self.published:
                    self.failed.append(f"version {version}, not {least} to {self.published}")
            except Exception as error:
                self.failed.append(repr(error))
            self.requests += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class InServe:
    """The deployment, and its configuration as `serve deploy` would send it."""

    def __init__(self, dashboard: str) -> None:
        self._client = ServeSubmissionClient(dashboard)
        self.take(1)
        self._handle = serve.get_app_handle("hot-swap")

    def ask(self) -> list[float]:
        answered: list[float] = self._handle.remote(X).result(timeout_s=60)
        return answered

    def take(self, version: int) -> None:
        deployment = {"name": "Service", "num_replicas": 2, "user_config": {"version": version}}
        application = {"name": "hot-swap", "route_prefix": "/hot-swap", "import_path": "hot_swap:app"}
        self._client.deploy_applications(
            {"applications": [{**application, "args": {"model": "swapped"}, "deployments": [deployment]}]}
        )
        while self._client.get_serve_details()["applications"]["hot-swap"]["status"] != "RUNNING":
            time.sleep(0.05)

    def end(self) -> None:
        serve.delete("hot-swap")


class InActor:
    def __init__(self) -> None:
        self._actor = hot_swap.Follower.remote("swapped", period=0.05)

    def ask(self) -> list[float]:
        answered: list[float] = ray.get(self._actor.__call__.remote(X), timeout=60)
        return answered

    def take(self, version: int) -> None:
        while ray.get(self._actor.version.remote()) != version:
            time.sleep(0.01)

    def end(self) -> None:
        ray.kill(self._actor)


def main(address: str, swaps: int, dashboard: str | None = None) -> dict[str, Any]:
    ray.init(address=address, log_to_driver=False)
    before = allocated()
    wrapper = publish(1)
    holder = Worker.options(num_cpus=0).remote()
    ray.get(holder.keep.remote("first", wrapper.load))
    service = InServe(dashboard) if dashboard else InActor()
    assert service.ask() == output(1)
    load = Load(service.ask, [[], *(output(number) for number in range(1, swaps + 2))])
    publishing, swapping = [], []
    for number in range(2, swaps + 2):
        load.published = number
        start = time.perf_counter()
        wrapper = publish(number)
        publishing.append(time.perf_counter() - start)
        assert wrapper.version == number
        service.take(number)
        swapping.append(time.perf_counter() - start)
        load.acknowledged = number
        time.sleep(0.1)
    load.stop()
    with torch.no_grad():
        first = ray.get(holder.use.remote("first", lambda model: model(torch.tensor(X)).tolist()))
    assert first == output(1)
    image = wrapper.nbytes
    image = wrapper.nbytes

    def settled(images: int) -> bool:
        return settles(lambda: images - 0.3 < (allocated() - before) / image < images + 0.3)

    assert settled(2), (allocated(), before, image)  # the newest, and what the holder has
    ray.kill(holder)
    assert settled(1), (allocated(), before, image)
    service.end()
    wrapper.delete()
    assert settled(0), (allocated(), before, image)
    ray.shutdown()
    return {
        "swaps": swaps,
        "requests": load.requests,
        "failed": load.failed,
        "publish_ms": round(1e3 * statistics.median(publishing), 1),
        "swap_ms": round(1e3 * statistics.median(swapping), 1),
    }


_, address, swaps, *dashboard = sys.argv
print(json.dumps(main(address, int(swaps), *dashboard)))
