"""What Ray's metrics endpoint says of loads and names, as JSON: a program, since it needs a cluster that reports often,
two connections one after the other, and a fork."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import ray
import torch

from ray_zerocopy import ModelWrapper, list_models
from ray_zerocopy.stores import metrics

_SERIES = re.compile(r"^(ray_zerocopy_\w+)\{(.*)\} (\S+)$")
_TAG = re.compile(r'(\w+)="([^"]*)"')
_WANTED = {"namespace", "name", "state", "pid", "le"}

metrics._EVERY = 1.0  # seconds, of this process and of the workers, which import this file's functions by value


def read() -> dict[str, float]:
    """All series of ours: name and tags -> the sum over the processes of the cluster."""
    found: dict[str, float] = {}
    for node in ray.nodes():
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}", timeout=10) as page:
            for line in page.read().decode().splitlines():
                match = _SERIES.match(line)
                if match:
                    tags = {key: value for key, value in _TAG.findall(match[2]) if key in _WANTED}
                    series = " ".join([match[1], *(f"{key}={value}" for key, value in sorted(tags.items()))])
                    found[series] = found.get(series, 0) + float(match[3])
    return found


def until(condition: Callable[[dict[str, float]], Any], seconds: float = 30) -> dict[str, float]:
    """What the endpoint says once a condition holds, or after some seconds."""
    end = time.monotonic() + seconds
    found: dict[str, float] = {}
    while time.monotonic() < end:
        try:
            found = read()
        except OSError:  # the agent starts after the node
            found = {}
        if condition(found):
            break
        time.sleep(0.3)
    return found


def recorders() -> int:
    return sum(thread.name == "ray_zerocopy.metrics" for thread in threading.enumerate())


@ray.remote(num_cpus=0)
class Replica:
    def load(self, wrapper: Any) -> int:
        from ray_zerocopy.stores import metrics

        metrics._EVERY = 1.0
        self.models = [wrapper.load() for _ in range(3)]
        return os.getpid()

    def drop(self) -> None:
        del self.models
        gc.collect()

    def recorders(self) -> int:
        import threading

        return sum(thread.name == "ray_zerocopy.metrics" for thread in threading.enumerate())


def cluster() -> None:
    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=200 << 20,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 1000},
    )


def main() -> None:
    said: dict[str, Any] = {}
    cluster()
    model = torch.nn.Linear(600, 600)
    said["before"] = recorders()
    wrapper = ModelWrapper.from_model(model, name="encoder", lifetime="detached", namespace="search")
    said["nbytes"] = wrapper.nbytes
    said["published"] = until(lambda found: found.get("ray_zerocopy_models name=encoder namespace=search state=ready"))

    replica: Any = Replica.remote()
    said["pid"] = ray.get(replica.load.remote(wrapper))
    private = f"ray_zerocopy_private_bytes pid={said['pid']}"
    said["loaded"] = until(
        lambda found: found.get("ray_zerocopy_loads_total name=encoder namespace=search") == 3 and found.get(private)
    )
    said["recorders with a model"] = ray.get(replica.recorders.remote())
    ray.get(replica.drop.remote())
    said["dropped"] = until(lambda found: found.get(private) == 0)
    end = time.monotonic() + 10
    while ray.get(replica.recorders.remote()) and time.monotonic() < end:
        time.sleep(0.2)
    said["recorders without"] = ray.get(replica.recorders.remote())

    ModelWrapper.from_model(model, name="encoder", namespace="search", lifetime="detached", replace=True)
    ModelWrapper.delete("encoder", "search")
    said["deleted"] = until(lambda found: not any(v for k, v in found.items() if k.startswith("ray_zerocopy_model")))
    said["left"] = len(list_models())

    unnamed = ModelWrapper.from_model(model)
    held = unnamed.load()
    child = os.fork()
    if not child:
        metrics.loaded(("", ""), 0.001, bytearray(1) and memoryview(b"1"))
        os._exit(recorders() + len(metrics._loads._notes))
    said["child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said["unnamed"] = until(lambda found: found.get("ray_zerocopy_loads_total name= namespace="))
    del held, unnamed
    gc.collect()
    ray.shutdown()
    memory = memoryview(b"1")
    while recorders():
        time.sleep(0.2)
    metrics.loaded(("", ""), 0.001, memory)
    said["not connected"] = recorders() + len(metrics._loads._notes)

    cluster()
    again = ModelWrapper.from_model(model).load()
    said["second connection"] = until(lambda found: found.get("ray_zerocopy_loads_total name= namespace="))
    del again
    ray.shutdown()
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
